"""How the long-running processes log: one JSON object a line on stderr.

The message is for people; `action` and the other `extra` fields are for machines.
"""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from raidhub_dagster.errors import ConfigurationError


def configure(level: str, process: str) -> None:
    """Sends all records of `level` and above to stderr, each with `time`, `level`, `process`.

    `level` as in LOG_LEVEL, any case. Raises ConfigurationError for an unknown one.
    """
    known = logging.getLevelNamesMapping()
    if level.upper() not in known:
        raise ConfigurationError(f"LOG_LEVEL: {level!r} is none of {', '.join(known).lower()}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"process": process},
            timestamp="time",
        )
    )
    logging.basicConfig(level=known[level.upper()], handlers=[handler], force=True)
    # They tell a lost connection in several lines, some with a traceback; whoever owns the
    # connection says it once, with the address and the pause until the next try.
    for library in ("pika", "clickhouse_connect", "urllib3"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
