"""The door of the `aquila` command: text is UTF-8, and whatever a user can cause ends in one line and an exit code.

Exit codes: 0 done, 2 wrong usage, 1 any other error, 130 Ctrl-C. The commands are put together in app.py, which is
imported inside `run`: importing takes a while, and Ctrl-C then is an end like any other.
"""

import io
import os
import signal
import sys
from types import FrameType
from typing import Literal, NoReturn, TextIO

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def run() -> NoReturn:
    """Entry point. What a user can mend is one line on stderr; other exceptions are bugs and show their traceback."""
    try:
        _handle_interrupts()
        _prepare_streams()
        _limit_spinning()
        sys.exit(_run())
    except SystemExit:
        raise
    except BaseException as error:
        if not _is_interrupt(error):
            raise
        _ignore_interrupts()  # another one now would tear the message
        _fail("interrupted", INTERRUPTED)
    finally:
        _ignore_interrupts()  # all is done: nothing is left to stop but Python's own goodbye


def _run() -> int | None:
    from typer import TyperException

    from aquila.cli.app import app
    from aquila.errors import AquilaError

    try:
        exit_code = app(standalone_mode=False)
        if exit_code == INTERRUPTED:  # typer caught it
            raise KeyboardInterrupt
        sys.stdout.flush()  # here, where a full disk and a closed pipe can still be reported
    except TyperException as error:
        message = error.format_message()
        if not message:  # a group without a command: its help is out already
            return error.exit_code
        _fail(f"{message.rstrip('.?')}; --help lists what there is", error.exit_code)
    except AquilaError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; check the path, its permissions and the free space", 1)
    except MemoryError:
        _fail("there is not enough memory for this; use a smaller model, or --dtype bf16", 1)
    return exit_code


def _handle_interrupts() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the caller wants it ignored, as nohup does
        signal.signal(signal.SIGINT, _interrupt)
        signal.signal(signal.SIGALRM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises `KeyboardInterrupt`, as soon as no module is being imported.

    Raised while torch initialises its C++ parts it would be swallowed, or abort the process.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            signal.setitimer(signal.ITIMER_REAL, 0.02)  # SIGALRM: asks again
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether `error` is what became of a Ctrl-C.

    While that waits for imports to end, a library whose system call it cut short may fail. Code that cleans up may
    raise another error from it, and C++ one of its own that has only the name left.
    """
    if signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        return True
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or str(error).startswith("KeyboardInterrupt"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _ignore_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def _prepare_streams() -> None:
    """Makes pipes and files speak UTF-8 whatever the locale; a terminal shows `?` for what it cannot.

    A stream that the caller closed becomes the null device, or the next file that is opened would take its number.
    """
    sys.stdin = sys.stdin or _null("r")
    sys.stdout = sys.stdout or _null("w")
    sys.stderr = sys.stderr or _null("w")
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper) and stream.isatty():
            stream.reconfigure(errors="replace")
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _limit_spinning() -> None:
    """Lets torch's idle threads sleep soon: where another process has the cores too, they spin each other to a halt.

    Measured with smollm2-135m on 2 cores, tokens/s alone and beside a second `aquila generate`: with OpenMP's own
    300,000 rounds 29 and 0.8, with 3,000 29 and 12, with none 23 and 17.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _null(mode: Literal["r", "w"]) -> TextIO:
    return open(os.devnull, mode, encoding="utf-8")


def _fail(message: str, exit_code: int) -> NoReturn:
    if "--debug" in sys.argv:
        raise
    if _is_interrupt(sys.exception()):
        message, exit_code = "interrupted", INTERRUPTED
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(exit_code)
