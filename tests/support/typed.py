"""`raidhub ...` as a person types it: its environment, a process of its own, what it said."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raidhub_dagster.settings import Settings


def variables(given: Settings | Mapping[str, Any]) -> dict[str, str]:
    """The environment in which a process reads these settings; of Settings, those that were set."""
    values = given.model_dump(exclude_unset=True) if isinstance(given, Settings) else given
    return {
        name.upper(): str(getattr(value, "get_secret_value", lambda v=value: v)())
        for name, value in values.items()
    }


def command(*arguments: object) -> list[str]:
    """The command line of `raidhub` with these arguments, of the Python that runs the tests."""
    return [sys.executable, "-m", "raidhub_dagster", *map(str, arguments)]


def typed(
    *arguments: object,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = 120,
) -> subprocess.CompletedProcess[str]:
    """What the ended command left, whatever its exit code; by default here and with our variables.

    Raises subprocess.TimeoutExpired after `timeout_s`.
    """
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
