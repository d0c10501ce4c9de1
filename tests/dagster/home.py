"""A DAGSTER_HOME of the repository's own dagster.yaml, for processes started by tests."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.typed import variables

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def dagster_environment(postgres: Mapping[str, Any], home: Path) -> dict[str, str]:
    """Variables for processes on that database; Dagster keeps its tables in the same one."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_bytes(
        (ROOT / "dagster.yaml")
        .read_bytes()
        .replace(b"database: dagster", f"database: {postgres['postgres_db']}".encode())
    )
    return variables(postgres) | {
        "DAGSTER_HOME": str(home),
        "RAIDHUB_HOME": str(home),
        # dagster.yaml names a class of ours, which is loaded before the working directory counts.
        "PYTHONPATH": str(ROOT),
    }


def run_job(
    name: str, environment: Mapping[str, str], config: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`dagster job execute`, as a person types it in the repository."""
    command = ["dagster", "job", "execute", "-m", "raidhub_dagster.definitions", "-j", name]
    return subprocess.run(
        [str(BIN / command[0]), *command[1:], *(["-c", str(config)] if config else [])],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
