"""`raidhub demo` as a newcomer types it: at its end every group of assets shows something."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.system import free_base
from tests.support.typed import typed

ASSETS = """{ assetNodes {
    assetKey { path } isMaterializable assetMaterializations(limit: 1) {
        metadataEntries { label ... on IntMetadataEntry { intValue }
                          ... on MarkdownMetadataEntry { mdStr } } } } }"""
# Of the first 200 raids some 4 to 9 players have a level, and 5 to 13 raids are excluded.
RAIDS = 250


class Demo:
    """A folder with a stack of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = free_base()
        own = {"RAIDHUB_HOME": str(folder / ".raidhub"), "RAIDHUB_PORT_BASE": str(self.base)}
        self.environment = {**os.environ, **own}

    def raidhub(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return typed(*arguments, folder=self.folder, environment=self.environment, timeout_s=900)


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
    """An empty group at the end is what a newcomer would take for a broken one.

    So would be levels of nobody and a blacklist of nothing: the world has cheaters.
    """
    done = demo.raidhub("demo", "--raids", str(RAIDS))
    assert done.returncode == 0, done.stdout + done.stderr
    answer = requests.post(
        f"http://127.0.0.1:{demo.base}/graphql", json={"query": ASSETS}, timeout=60
    )
    nodes = [node for node in answer.json()["data"]["assetNodes"] if node["isMaterializable"]]
    assert nodes
    empty = [node["assetKey"]["path"] for node in nodes if not node["assetMaterializations"]]
    assert empty == []
    report = {
        entry["label"]: entry.get("intValue", entry.get("mdStr"))
        for node in nodes
        if node["assetKey"]["path"] == ["postgres", "cheat_report"]
        for entry in node["assetMaterializations"][0]["metadataEntries"]
    }
    assert sum(report[f"players_of_level_{level}"] for level in (1, 2, 3, 4)) > 0
    assert report["blacklisted"] > 0
    assert "Players by level" in report["report"]
    assert "svg" in report["players_by_level"]
