"""Where log lines go. Modules use `logging.getLogger(__name__)`; the command line calls `setup_logging` once.

Lines go to stderr, so that stdout stays data: `message` at info, `warning: message` above, and with the name
of the logger at debug. With `json=True` each line is one object: time, level, logger, message.
"""

import logging
import sys
from datetime import UTC, datetime
from json import dumps


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno == logging.INFO:
            return text
        origin = f" {record.name}" if record.levelno < logging.INFO else ""
        return f"{record.levelname.lower()}{origin}: {text}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": super().format(record),
        }
        return dumps(line, ensure_ascii=False)


def setup_logging(level: str = "info", json: bool = False) -> None:
    """Sends our log lines at `level` and above to stderr, and those of other libraries from warning on.

    A second call replaces the first one's handler.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if json else _PlainFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("aquila").setLevel(level.upper())
