"""supervisord itself, started as a module: the usual one, but for what it does on a full disk.

It keeps what all processes print. When a line cannot be written it reports that on its own output,
which is on the same disk; the second error leaves its main loop, and its end takes every process
of the stack along. Here a line that cannot be kept is dropped, and keeping goes on once there is
room again.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisor import loggers, supervisord


def _drop(_handler: Any) -> None:
    """The line is lost; telling that would need the same disk."""


def _emit(handler: Any, record: Any) -> None:
    """Writes a line and rolls the file over when it is long; neither can fail."""
    loggers.FileHandler.emit(handler, record)
    with suppress(OSError):
        try:
            handler.doRollover()
        finally:
            # A roll-over that failed left the file closed: all later lines would be lost too.
            if handler.stream.closed:
                handler.stream = Path(handler.baseFilename).open("ab")  # noqa: SIM115  as long as the process


def bear_a_full_disk() -> None:
    """From here on no handler of supervisord's loggers raises."""
    loggers.Handler.handleError = _drop
    loggers.RotatingFileHandler.emit = _emit


if __name__ == "__main__":
    bear_a_full_disk()
    supervisord.main()
