"""docs/security.md names files and tests: a claim whose proof was renamed is only a claim."""

import re
from pathlib import Path

import pytest

from raidhub_dagster.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`([\w./*]+)`", PAGE)))
TESTS = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py")))


@pytest.mark.parametrize("path", [name for name in NAMED if re.search(r"/.*\.\w+$", name)])
def test_a_file_is_there(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("name", [name for name in NAMED if re.fullmatch(r"test_\w+", name)])
def test_a_test_is_there(name: str) -> None:
    assert f"def {name}(" in TESTS


@pytest.mark.parametrize(
    "name", [name for name in NAMED if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", name)]
)
def test_a_setting_is_there(name: str) -> None:
    assert name.lower() in Settings.model_fields
