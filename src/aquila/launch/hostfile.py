"""Which machines a run uses, as DeepSpeed and the original write it: one `HOST slots=N` a line.

`#` begins a comment, blank lines count for nothing, the last line needs no newline. HOST may be `user@host:port` for
ssh; `[::1]:22` is an IPv6 address with a port. The first line is the head: rank 0 runs there.
"""

import re
import socket
from dataclasses import dataclass
from pathlib import Path

from aquila.errors import ConfigError

MAX_SLOTS = 1024
_HOST = re.compile(r"(?:(?P<user>[\w.-]+)@)?(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>\w[\w.-]*))(?::(?P<port>\d{1,5}))?")
_V6 = re.compile(r"[0-9A-Fa-f]*(:[0-9A-Fa-f]*){2,}")


@dataclass(frozen=True)
class Host:
    """A machine and the processes that it runs, one a device."""

    name: str  # or address
    slots: int
    user: str | None = None
    port: int | None = None

    @property
    def label(self) -> str:
        """How it is called on screen: as in the hostfile."""
        name = f"[{self.name}]" if ":" in self.name and self.port else self.name
        return (f"{self.user}@" if self.user else "") + name + (f":{self.port}" if self.port else "")

    def is_this_machine(self) -> bool:
        """Whether no ssh is needed: an address of this machine, written without user and port."""
        if self.user or self.port:
            return False
        if self.name in ("localhost", socket.gethostname()):
            return True
        try:
            family, _, _, _, address = socket.getaddrinfo(self.name, 0, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind(address)  # possible for own addresses only
        except OSError:
            return False
        return True


def read_hostfile(path: Path) -> list[Host]:
    """The machines of a hostfile in their order. `ConfigError` names the line that cannot be used."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such hostfile; write one line a machine, such as `192.168.0.1 slots=8`"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the hostfile as plain text") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_hostfile(text, where=str(path))


def parse_hostfile(text: str, *, where: str) -> list[Host]:
    """The machines in the text of a hostfile; `where` leads the messages."""
    hosts: dict[tuple[str, str | None, int | None], Host] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        host = _parse_line(words, f"{where}:{number}")
        key = (host.name, host.user, host.port)
        if key in hosts:
            raise ConfigError(f"{where}:{number}: {host.label} stands here twice; give all its devices in one line")
        hosts[key] = host
    if not hosts:
        raise ConfigError(f"{where}: names no machine; write one line a machine, such as `192.168.0.1 slots=8`")
    return list(hosts.values())


def _parse_line(words: list[str], where: str) -> Host:
    match = _HOST.fullmatch(words[0])
    name, port = words[0], None
    if _V6.fullmatch(words[0]):  # an address without brackets has no port
        user = None
    elif match:
        user, name = match["user"], match["v6"] or match["name"]
        port = int(match["port"]) if match["port"] else None
    if not (match or _V6.fullmatch(words[0])) or not (port is None or 0 < port < 1 << 16):
        raise ConfigError(f"{where}: {words[0]!r} is not a machine; write host, user@host or user@host:port")
    slots = None
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if key != "slots" or not equals:
            raise ConfigError(f"{where}: {word!r} is not known; after the host comes slots=N")
        if not value.isdecimal() or not 0 < int(value) <= MAX_SLOTS:
            raise ConfigError(f"{where}: slots={value} is not a number of devices from 1 to {MAX_SLOTS}")
        slots = int(value)
    if slots is None:
        raise ConfigError(f"{where}: {words[0]} has no slots; write `{words[0]} slots=N` with N its devices")
    return Host(name, slots, user, port)
