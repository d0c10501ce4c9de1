"""Structs are opened before threads are: msgspec does it without a lock, and a race is a crash."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {"str", "int", "dict"}
# What runs one after another, in a run of Dagster's or in a command.
ALONE = {
    "raidhub_dagster/backup/manifest.py",
    "raidhub_dagster/manifest/index.py",
    "raidhub_dagster/manifest/records.py",
}


def calls_with_a_type(path: Path) -> set[str]:
    """What `msgspec.json.decode(..., type=X)` is given in `path`."""
    return {
        getattr(node.value, "id", "") or ast.unparse(node.value).partition("[")[0]
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "msgspec.json.decode"
        for node in call.keywords
        if node.arg == "type"
    }


def test_threads_decode_structs_with_decoders_made_at_import() -> None:
    files = [p for room in ("raidhub_dagster", "streaming") for p in (ROOT / room).rglob("*.py")]
    found = {str(p.relative_to(ROOT)): calls_with_a_type(p) - PLAIN for p in files}
    assert {path for path, types in found.items() if types} == ALONE


# Every step of Python's that opens a struct takes a while, as it does on a busy machine.
_RACE = """
import random, sys, threading, time
from datetime import UTC, datetime
from raidhub_dagster.clans.group import read_members
from raidhub_dagster.players.profile import read_history, read_profile

READERS = {
    "profile": lambda: read_profile(b'{"profile": {"data": {"userInfo": {}}}}', datetime.now(UTC)),
    "history": lambda: read_history(b'{"activities": [{"activityDetails": {"instanceId": "3"}}]}'),
    "members": lambda: read_members(b'{"results": [{"destinyUserInfo": {"membershipId": "4"}}]}'),
}
read = READERS[sys.argv[1]]

def slow(frame, event, argument):
    if "msgspec" in frame.f_code.co_filename:
        time.sleep(random.random() * 0.01)

threading.settrace(slow)
together = threading.Barrier(12)

def first():
    together.wait()
    time.sleep(random.random() * 0.05)
    read()

threads = [threading.Thread(target=first) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("reader", ["profile", "history", "members"])
def test_the_first_answers_of_all_threads_at_once_are_read(reader: str) -> None:
    """Hermes starts twenty slots on a full queue; it died in the first second, without a word."""
    done = subprocess.run([sys.executable, "-c", _RACE, reader], cwd=ROOT, check=False)
    assert done.returncode == 0
