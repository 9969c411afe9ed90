"""What crosses the pipe: builtins come back as they were, subclasses as their base, and nothing else comes back."""

import collections
import enum
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquila.sandbox.inside.values import NotPlainError, from_json, to_json

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), st.complex_numbers()
)
hashables = st.one_of(st.booleans(), st.integers(), st.text(), st.tuples(st.integers(), st.text()))
plain = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(hashables, inner),
        st.sets(hashables),
        st.frozensets(hashables),
    ),
    max_leaves=20,
)


def same(a: object, b: object) -> bool:
    """Equal, and of equal types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))  # ty: ignore[invalid-argument-type]
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))  # ty: ignore[unresolved-attribute]
    if isinstance(a, complex):
        return repr(a) == repr(b)
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))  # ty: ignore[invalid-argument-type]


@given(plain)
def test_builtins_come_back_as_they_were(value):
    assert same(from_json(to_json(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        *(
            -(2**53),
            2**53 + 1,
            math.inf,
            -math.inf,
            math.nan,
            -0.0,
            5e-324,
            "\ud800",
            "\0",
            b"",
            bytearray(b"x"),
        ),
        *(
            range(1, 9, 2),
            collections.deque([1, "a"]),
            Fraction(-3, 10**30),
            Decimal("1.50"),
            (),
            {},
            set(),
            [[]],
            ((),),
        ),
        {1: "a", (1, 2): [None]},
    ],
)
def test_rare_values_come_back_as_they_were(value):
    found = from_json(to_json(value))
    assert same(found, value)
    assert repr(found) == repr(value)


def test_whole_numbers_have_no_limit():
    """Python itself refuses to write more than 4,300 decimal digits."""
    assert from_json(to_json([10**50_000, -(10**50_000)])) == [10**50_000, -(10**50_000)]


class Colour(enum.IntEnum):
    RED = 7


class Liar:
    """Overrides whatever a careless encoder would ask."""

    def __eq__(self, other):
        return True

    __hash__ = None

    def __iter__(self):
        return iter([42])

    def items(self):
        return [(42, 42)]

    def __repr__(self):
        return "42"

    __str__ = __repr__

    def __len__(self):
        return 42


def lying(base, *arguments):
    return type("Lie", (Liar, base), {})(*arguments)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lying(int, 3), 3),
        (lying(float, 0.5), 0.5),
        (lying(str, "x"), "x"),
        (lying(str, ""), ""),
        (lying(list, [1]), [1]),
        (lying(list, []), []),
        (lying(tuple, (1,)), (1,)),
        (lying(dict, {1: 2}), {1: 2}),
        (lying(set, {1}), {1}),
        (lying(bytes, b"x"), b"x"),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.namedtuple("Pair", "a b")(1, 2), (1, 2)),
        (Colour.RED, 7),
    ],
)
def test_subclasses_come_back_as_their_base(value, expected):
    assert same(from_json(to_json(value)), expected)


def test_views_and_iterators_keep_what_they_can_be_asked_for():
    letters = {"a": 1, "b": 2}
    assert from_json(to_json(letters.keys())) == {"a", "b"}
    assert list(from_json(to_json(letters.values()))) == [1, 2]
    assert from_json(to_json(letters.items())) == {("a", 1), ("b", 2)}
    assert list(from_json(to_json(x * x for x in range(3)))) == [0, 1, 4]
    assert from_json(to_json(map(str, [1]))) != ["1"]  # as in Python itself


@pytest.mark.parametrize("value", [object(), len, Liar(), Exception("x"), int, memoryview(b"x")])
def test_what_is_not_plain_is_refused(value):
    with pytest.raises(NotPlainError, match="a value of type"):
        to_json(value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            '{"x": 1}',
            "{}",
            '{"t": 1}',
            '{"i": "zz"}',
            '{"i": 3}',
            '{"d": [[1]]}',
            '{"d": [[[], 1]]}',
            '{"s": [[]]}',
        ),
        *(
            '{"b": "x"}',
            '{"c": ["1"]}',
            '{"q": ["1", "0"]}',
            '{"t": [], "s": []}',
            '{"r": []}',
            '{"y": 5}',
            '{"u": "x"}',
        ),
        "[" * 100_000,
        "1" * 10_000,
    ],
)
def test_anything_else_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011  whatever the reason
        from_json(text)
