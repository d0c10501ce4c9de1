"""`raidhub demo` as a newcomer types it: at its end every group of assets shows something."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.system import free_base

ASSETS = """{ assetNodes {
    assetKey { path } isMaterializable assetMaterializations(limit: 1) { runId } } }"""


class Demo:
    """A folder with a stack of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = free_base()
        own = {"RAIDHUB_HOME": str(folder / ".raidhub"), "RAIDHUB_PORT_BASE": str(self.base)}
        self.environment = {**os.environ, **own}

    def raidhub(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "raidhub_dagster", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )


@pytest.fixture
def demo(server_folder: Path) -> Iterator[Demo]:
    folder = server_folder / "demo"  # PostgreSQL's user can walk there
    folder.mkdir()
    demo = Demo(folder)
    yield demo
    done = demo.raidhub("down")
    assert done.returncode == 0, done.stderr


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_the_demo_materializes_everything_that_dagster_writes(demo: Demo) -> None:
    """An empty group at the end is what a newcomer would take for a broken one."""
    done = demo.raidhub("demo", "--raids", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = requests.post(
        f"http://127.0.0.1:{demo.base}/graphql", json={"query": ASSETS}, timeout=60
    )
    nodes = [node for node in answer.json()["data"]["assetNodes"] if node["isMaterializable"]]
    assert nodes
    empty = [node["assetKey"]["path"] for node in nodes if not node["assetMaterializations"]]
    assert empty == []
