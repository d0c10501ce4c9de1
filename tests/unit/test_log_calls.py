"""Every log call in the tree carries the word that machines search for."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("raidhub_dagster", "streaming", "assets", "sensors")
LEVELS = {"info", "warning", "error", "exception", "critical", "log"}
# Places where one call stands for several actions: it is given, each time as a text.
FREE = {
    ("raidhub_dagster/discord/alerts.py", "alert.kind"),
    ("raidhub_dagster/storage/clickhouse_sender.py", "action"),
    ("streaming/zeus/news.py", "news.what.value"),
}
# Said in more than one place because it is the same event; any other action is said in one.
SHARED = {
    "broker_unreachable",
    "crawl_started",
    "crawl_stopped",
    "migration_applied",
    "zeus_addresses",
}


# A table of constant texts, one for each kind of news; the text is the argument of one function.
TELLERS = {"streaming/zeus/news.py"}


class Call(NamedTuple):
    where: str  # file:line
    file: str
    level: str
    message: ast.expr
    extra: ast.expr | None


def _is_logger(node: ast.expr) -> bool:
    """`log`, `logger`, `self._log`, `context.log`, `logging` itself."""
    name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
    return name.lstrip("_") in {"log", "logger", "logging"}


def calls(text: str, file: str) -> Iterator[Call]:
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in LEVELS or not _is_logger(node.func.value):
            continue
        extra = next((k.value for k in node.keywords if k.arg == "extra"), None)
        message = node.args[1 if node.func.attr == "log" else 0]
        yield Call(f"{file}:{node.lineno}", file, node.func.attr, message, extra)


def action(call: Call) -> str | None:
    """The text of `action` in `extra`; of another expression its source."""
    if not isinstance(call.extra, ast.Dict):
        return None
    for key, value in zip(call.extra.keys, call.extra.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "action":
            return str(value.value) if isinstance(value, ast.Constant) else ast.unparse(value)
    return None


FOUND = [
    call
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
    for call in calls(path.read_text("utf-8"), str(path.relative_to(ROOT)))
]


def test_the_walk_finds_the_calls_of_the_tree() -> None:
    """The tests below would pass on a tree in which it found nothing."""
    assert len(FOUND) > 30
    assert {call.file.split("/")[0] for call in FOUND} >= {"raidhub_dagster", "streaming"}
    (call,) = calls('self._log.warning("x", extra={"rows": 1, "action": "a_b"})', "f")
    assert action(call) == "a_b"
    assert list(calls('self.log_to("x"); math.log(5); log.debug("x")', "f")) == []


@pytest.mark.parametrize("call", FOUND, ids=lambda call: call.where)
def test_a_line_has_an_action(call: Call) -> None:
    """Without it nobody can count the line, nor find it once its text was polished."""
    found = action(call)
    assert found is not None, f"{call.where}: no action in extra"
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", found) or (call.file, found) in FREE, call.where


def test_an_action_stands_for_one_event() -> None:
    """Whoever counts an action must not count two things."""
    places = Counter(action(call) for call in FOUND if (call.file, action(call)) not in FREE)
    assert {name for name, times in places.items() if times > 1} <= SHARED


@pytest.mark.parametrize("call", FOUND, ids=lambda call: call.where)
def test_a_message_is_a_constant(call: Call) -> None:
    """Aggregators group lines by the unformatted message; values belong into the arguments."""
    assert isinstance(call.message, ast.Constant) or call.file in TELLERS, call.where
