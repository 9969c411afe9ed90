"""The run-time type checker of the tests: shapes by jaxtyping, types by beartype, an int where a float is meant."""

from beartype import BeartypeConf, beartype

typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))
