"""Every command of docs/commands.md, typed once against a running stack; its run can be opened.

The daemon is left out: `dagster job execute` needs none, and a schedule or sensor that starts the
same job at that moment would be what a person has to wait for.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.dagster.home import BIN, ROOT
from tests.support.commands import DOCS, JobCommand, job_commands
from tests.support.system import FIRST_ID, System, system, wait_for

pytestmark = pytest.mark.soak

RAIDS = 150
SIMULATOR = f"--calm --fault latency_ms=2 --raid-share 0.2 --players 300 --head {FIRST_ID + 3000}"
ATLAS = "--workers 24 --block-size 100 --retry-scale 0.05"
COMMANDS = job_commands()
# Its own rows come from a model, and a model from months of raids.
A_REVIEW = """
INSERT INTO flagging.review_queue
    (membership_id, instance_id, score, worth, reasons, model_version)
SELECT membership_id, instance_id, 0.9, 1, '[]', 'test' FROM core.instance_player LIMIT 1
"""


class Shell:
    """What a person types in the root of the tree after `eval "$(raidhub env)"`."""

    def __init__(self, running: System, folder: Path) -> None:
        self.running = running
        self.folder = folder
        self.ui = f"http://127.0.0.1:{running.settings.raidhub_port_base}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        exported = running.raidhub("env")
        assert exported.returncode == 0, exported.stderr
        shown = subprocess.run(
            ["bash", "-c", 'eval "$1"; env -0', "bash", exported.stdout],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        self.environment = dict(line.split("=", 1) for line in shown.stdout.split("\0") if line)

    def type(self, line: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """Runs the line as it stands, with the tree's programs first on the path."""
        path = f"{BIN}:{self.environment['PATH']}"
        return subprocess.run(
            ["bash", "-c", line],
            cwd=cwd,
            env=self.environment | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    def ask(self, question: str, **variables: str) -> Any:
        body = {"query": question, "variables": variables}
        answer = requests.post(f"{self.ui}/graphql", json=body, timeout=60).json()
        assert "errors" not in answer, answer
        return answer["data"]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A stack that has crawled some raids, and crawls no more."""
    folder = tmp_path_factory.mktemp("commands")
    for parent in (folder.parent, folder.parent.parent):
        parent.chmod(0o711)  # PostgreSQL's other user must be able to walk in
    stack = system(
        folder,
        simulator=SIMULATOR,
        atlas=ATLAS,
        without=("dagster-daemon",),
        limit_s=600,
    )
    with stack as running:
        wait_for(
            f"{RAIDS} raids are stored",
            lambda: running.number("SELECT count(*) FROM core.instance") >= RAIDS,
            limit_s=300,
        )
        running.stop("atlas")
        running.execute(A_REVIEW)
        yield Shell(running, folder)


A_RAID = "SELECT min(instance_id) FROM core.instance"
A_PLAYER = "SELECT min(membership_id) FROM core.player"
# What the examples name of the real world, and the statement that answers its like here.
OURS = {
    "process_single_pgcr": ("id", A_RAID),
    "clear_player": ("players", A_PLAYER),
    "recheck_instance": ("instances", A_RAID),
    "recheck_player": ("players", A_PLAYER),
    "recheck_raised": ("players", A_PLAYER),
    "decide_review": ("ids", "SELECT min(id) FROM flagging.review_queue"),
}


def config_for(command: JobCommand, shell: Shell) -> Path | None:
    """The example, as a copy with an id of this world where it has one of the real world."""
    if command.config is None or command.job not in OURS:
        return command.config
    config = yaml.safe_load(command.config.read_text("utf-8"))
    values = config["ops"][command.job]["config"]
    field, statement = OURS[command.job]
    found = shell.running.number(statement)
    values[field] = [found] if isinstance(values[field], list) else found
    copy = shell.folder / command.config.name
    copy.write_text(yaml.safe_dump(config), "utf-8")
    return copy


@pytest.mark.parametrize(
    "command", COMMANDS, ids=[f"{c.job}{'-c' if c.config else ''}" for c in COMMANDS]
)
def test_a_command_of_the_page_succeeds_and_its_run_is_reachable(
    command: JobCommand, shell: Shell
) -> None:
    """Whoever comes from the old programs types these first; the link is what alerts send."""
    config = config_for(command, shell)
    line = f"dagster job execute -m raidhub_dagster.definitions -j {command.job}"
    began = time.monotonic()
    done = shell.type(f"{line} -c {config}" if config else line)
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.search(rf" {command.job} - ([0-9a-f-]{{36}}) - ", done.stderr + done.stdout)
    assert found, done.stderr[-2000:]
    run = found[1]
    told = shell.ask(
        "query Run($id: ID!) { runOrError(runId: $id)"
        " { __typename ... on Run { status pipelineName } } }",
        id=run,
    )["runOrError"]
    assert told == {"__typename": "Run", "status": "SUCCESS", "pipelineName": command.job}
    page = requests.get(f"{shell.ui}/runs/{run}", timeout=60)
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    print(f"{command.job}: {time.monotonic() - began:.0f} s, {shell.ui}/runs/{run}")


OTHERS = re.findall(
    r"`((?:dagster asset|raidhub (?:queues replay|migrate|seed|env))[^`]*)`",
    (DOCS / "commands.md").read_text("utf-8"),
)


@pytest.mark.parametrize("line", OTHERS)
def test_another_command_of_the_page_succeeds(line: str, shell: Shell) -> None:
    """Those that are no job; what lives long has tests of its own."""
    done = shell.type(line)
    assert done.returncode == 0, done.stderr[-4000:]


def test_the_recipes_in_a_shell_work(shell: Shell) -> None:
    """Two old commands have no counterpart but a line of psql: it must work as it stands."""
    page = (DOCS / "commands.md").read_text("utf-8")
    text, log = (b for b in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "psql" in b)

    newest = shell.running.number("SELECT max(instance_id) FROM core.instance")
    shown = shell.type(text.replace("16790000010", str(newest)))
    assert shown.returncode == 0, shown.stderr
    assert f'"instanceId":"{newest}"' in shown.stdout.replace(" ", "")

    ids = (FIRST_ID - 100, FIRST_ID - 50)
    (shell.folder / "missed.log").write_text("".join(f"{i}\n" for i in (*ids, ids[0])), "utf-8")
    imported = shell.type(log, cwd=shell.folder)
    assert imported.returncode == 0, imported.stderr
    waiting = "SELECT count(*) FROM streaming.missed_pgcr WHERE source = 'missed_log'"
    assert shell.running.number(waiting) == len(ids)
