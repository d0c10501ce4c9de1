"""The keeper of the stack's processes and its logs on a full disk."""

import subprocess
import sys
from pathlib import Path

# The limit stands for the full disk: both refuse the write. stderr is on the same disk.
_PROGRAM = """
import os, resource, sys
from supervisor import loggers
from raidhub_dagster.stack.supervisord import bear_a_full_disk

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def say(text):
    handler.emit(loggers.LogRecord(loggers.LevelsByName.INFO, text))

path = sys.argv[1]
if sys.argv[2] == "ours":
    bear_a_full_disk()
handler = loggers.RotatingFileHandler(path, "ab", maxBytes=100, backupCount=1)
os.dup2(os.open(path + ".stderr", os.O_CREAT | os.O_WRONLY), 2)
say("before\\n")
room(8)
for _ in range(40):
    say("lost, or kept in a buffer\\n")
room(resource.RLIM_INFINITY)
say("after\\n")
"""


def run(path: Path, whose: str) -> int:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path), whose], check=False
    ).returncode


def test_a_full_disk_costs_lines_and_not_the_stack(tmp_path: Path) -> None:
    """Supervisord's end is the end of all its processes; and once there is room, logs go on."""
    log = tmp_path / "log"
    assert run(log, "ours") == 0
    assert log.read_text("utf-8").endswith("after\n")


def test_as_it_comes_supervisord_ends_there(tmp_path: Path) -> None:
    """Should this fail after an update, our module is needed no more."""
    assert run(tmp_path / "log", "theirs") != 0
