"""What `aquila serve` was told, checked once."""

import ipaddress
from dataclasses import dataclass

from aquila.errors import ConfigError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Settings:
    """How a server serves.

    Attributes:
        host: address to listen on.
        port: 0 takes a free one.
        api_keys: any of them opens the doors; none: no key is asked for.
        cors_origins: web pages of other origins that may ask, `*` for all of them.
        allowed_hosts: names that clients may call this server by, besides its own; `*` for all.
        max_queue: completions that may wait beside those that run.
        max_body_bytes: a longer body is refused.
        max_image_body_bytes: the same for a body that may hold pictures.
        read_seconds: a request whose head takes longer to come is refused; so is one whose body takes that long and a
            second more for every 16 KiB of it.
        drain_seconds: how long running answers may take once the server is asked to stop.
        ping_seconds: an event stream that is silent for so long says that it lives.
        served_name: what clients call the model; its own name when None.
        template: name of a chat template, instead of the model's own.
        tools: names of tools that the page may run.
        legacy_flagai: answer the routes of FlagAI's server too.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_queue: int = 256
    max_body_bytes: int = 8 << 20
    max_image_body_bytes: int = 32 << 20
    read_seconds: float = 30.0
    drain_seconds: float = 30.0
    ping_seconds: float = 15.0
    served_name: str | None = None
    template: str | None = None
    tools: tuple[str, ...] = ()
    legacy_flagai: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port: {self.port} is not between 0 and 65535")
        if self.max_queue < 0:
            raise ConfigError(f"--max-queue: {self.max_queue} is negative; 0 lets nothing wait")
        if not self.read_seconds > 0:
            raise ConfigError(f"--read-timeout: {self.read_seconds} is not above 0")
        if self.drain_seconds < 0:
            raise ConfigError(f"--drain: {self.drain_seconds} is negative; 0 stops at once")
        for key in self.api_keys:
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigError("--api-key: a key is printable ASCII without spaces, and not empty")
        for origin in self.cors_origins:
            if origin != "*" and ("://" not in origin or origin.rstrip("/") != origin):
                raise ConfigError(f"--cors-origin: {origin!r} is no origin; write it as https://example.org:8080")

    @property
    def loopback(self) -> bool:
        """Only this machine can reach the server."""
        if self.host in LOOPBACK_NAMES:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
