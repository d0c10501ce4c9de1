"""A DAGSTER_HOME of the repository's own deploy/dagster.yaml, for processes started by tests."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def dagster_environment(postgres: Mapping[str, Any], home: Path) -> dict[str, str]:
    """Variables for processes on that database; Dagster keeps its tables in the same one."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_bytes((ROOT / "deploy" / "dagster.yaml").read_bytes())
    own = {f"DAGSTER_PG_{name}": postgres[f"postgres_{name.lower()}"] for name in _ADDRESS}
    raidhub = {name.upper(): value for name, value in postgres.items()}
    return {name: str(value) for name, value in (own | raidhub).items()} | {
        "DAGSTER_HOME": str(home)
    }


_ADDRESS = ("HOST", "PORT", "USER", "PASSWORD", "DB")


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
