"""`raidhub bench`: the benchmarks of a checkout; they live in tests/benchmarks."""

import os
import subprocess
import sys
from pathlib import Path

import click

_ROOT = Path(__file__).resolve().parents[2]


def _known() -> list[str]:
    """A module of tests/benchmarks that can be run is a benchmark."""
    folder = _ROOT / "tests" / "benchmarks"
    return sorted(p.stem for p in folder.glob("*.py") if "__main__" in p.read_text("utf-8"))


@click.command()
@click.argument("name", type=click.Choice(_known()))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object of the figures.")
def bench(name: str, as_json: bool) -> None:
    """Run the benchmark NAME on this machine; it starts what it needs and prints medians."""
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *(["--json"] if as_json else [])]
    done = subprocess.run(command, cwd=_ROOT, env=os.environ, check=False)  # noqa: S603  ours
    sys.exit(done.returncode)
