"""What a pull tells whoever started it. The command line draws it; the default only logs the messages."""

import logging

log = logging.getLogger(__name__)


class Progress:
    """Silent about bytes, messages to the log. Subclass it to draw bars."""

    def start(self, name: str, total_bytes: int | None, done_bytes: int) -> None:
        """A file begins, or begins again: `done_bytes` of it are already here."""

    def update(self, name: str, done_bytes: int) -> None:
        """That many bytes of the file are here now."""

    def finish(self, name: str) -> None:
        """The file is whole and verified."""

    def say(self, message: str) -> None:
        """Something a person would want to know: a wait, a retry, a source that was chosen."""
        log.info(message)
