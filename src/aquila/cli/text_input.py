"""Text from outside: bytes that must be UTF-8."""

from aquila.errors import ConfigError


def decode_utf8(data: bytes, where: str) -> str:
    """The text of `data`; `ConfigError` with the place of the first byte that is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; convert it first, "
            "for example with `iconv -f GB18030 -t UTF-8`"
        ) from None
