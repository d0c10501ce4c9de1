"""What developers use: hooks, an editor's container, Tilt, and what `raidhub dev` watches."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raidhub_dagster.commands import dev
from raidhub_dagster.stack.environment import Environment
from raidhub_dagster.stack.services import services as embedded
from tests.conftest import make_settings
from tests.support import images
from tests.support.images import ROOT

BIN = Path(sys.executable).parent


# --- raidhub dev ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("streaming/atlas/plan.py", {"atlas"}),
        ("streaming/hermes/topics/clan_crawl.py", {"hermes", "relay"}),
        ("streaming/cli.py", {"atlas", "hermes", "relay", "zeus"}),
        ("simulator/world.py", {"simulator"}),
        ("assets/clans.py", {"dagster-code"}),
        ("raidhub_dagster/jobs/clans.py", {"dagster-code"}),
        ("raidhub_dagster/pgcr/parse.py", {"atlas", "hermes", "relay", "zeus", "dagster-code"}),
        ("sql/postgres/queries/ledger.sql", {"atlas", "hermes", "relay", "zeus", "dagster-code"}),
        ("raidhub_dagster/commands/dev.py", set()),
        ("docs/stack.md", set()),
    ],
)
def test_a_change_concerns_who_loaded_the_file(path: str, names: set[str]) -> None:
    """Old code that goes on running looks like a change that does not work."""
    assert dev.readers([path]) == names


def test_changes_of_several_files_concern_all_their_readers() -> None:
    assert dev.readers(["assets/clans.py", "simulator/world.py"]) == {"dagster-code", "simulator"}


def test_what_is_watched_exists(tmp_path: Path) -> None:
    """A renamed folder would never be looked at again, a renamed service never started anew."""
    for beginning, _ in dev.READERS:
        assert (ROOT / beginning).exists(), beginning
    surroundings = Environment(make_settings(raidhub_home=tmp_path))
    surroundings.write()
    known = {service.name for service in embedded(surroundings)}
    assert set().union(*(names for _, names in dev.READERS)) <= known


# --- hooks ----------------------------------------------------------------------------------------


def hooks() -> list[dict[str, Any]]:
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    return [hook for repo in configuration["repos"] for hook in repo["hooks"]]


def test_pre_commit_accepts_the_hooks() -> None:
    done = subprocess.run(
        [str(BIN / "pre-commit"), "validate-config", ".pre-commit-config.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook["id"])
def test_a_hook_runs_a_pinned_tool_on_files_that_exist(hook: dict[str, Any]) -> None:
    """One that is fetched from elsewhere differs from CI; one that fits no file checks nothing."""
    assert hook["language"] == "system"
    folder, _, program = shlex.split(hook["entry"])[0].rpartition("/")
    assert folder == ".venv/bin"
    assert (BIN / program).exists()
    if "files" in hook:
        candidates = ("deploy/docker/Dockerfile", "compose.yaml", "assets/clans.py")
        fitting = [path for path in candidates if re.search(hook["files"], path)]
        assert fitting
        assert all((ROOT / path).exists() for path in fitting)


def test_hooks_are_what_make_lint_runs() -> None:
    """Who passes them is not stopped by CI for style, types or imports."""
    (recipe,) = re.findall(
        r"^lint: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )
    linted = set(re.findall(r"\$\(BIN\)/([\w-]+)", recipe))
    hooked = {shlex.split(hook["entry"])[0].rpartition("/")[2] for hook in hooks()}
    assert linted
    assert linted <= hooked


# --- editor, Tilt ---------------------------------------------------------------------------------


def test_the_editors_container_is_made_by_the_script_of_everybody() -> None:
    told = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert re.fullmatch(r"[\w./-]+:\d[\w.-]+", told["image"])
    assert (ROOT / told["postCreateCommand"]).stat().st_mode & 0o111
    base = make_settings().raidhub_port_base
    assert {int(port) for port in told["portsAttributes"]} == set(told["forwardPorts"])
    assert base in told["forwardPorts"]


def calls(name: str) -> list[dict[str, Any]]:
    """Arguments of each call of `name` in the Tiltfile, which is Python as far as it goes.

    Names are replaced by what they were set to; `os.getenv` by its default.
    """
    tree = ast.parse((ROOT / "Tiltfile").read_text("utf-8"))
    known: dict[str, Any] = {}

    def value(node: ast.expr) -> Any:
        match node:
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.Name(id=name):
                return known[name]
            case ast.Call(args=[_, default]):
                return value(default)
            case _:
                return ast.literal_eval(node)

    found = []

    def look(statements: list[ast.stmt]) -> None:
        for statement in statements:
            match statement:
                case ast.Assign(targets=[ast.Name(id=target)], value=assigned):
                    known[target] = value(assigned)
                case ast.For(target=ast.Name(id=target), iter=items, body=body):
                    for item in value(items):
                        known[target] = item
                        look(body)
                case ast.Expr(value=ast.Call(func=ast.Name(id=called), args=args, keywords=kw)):
                    if called == name:
                        given = {str(k.arg): value(k.value) for k in kw}
                        found.append({"": [value(arg) for arg in args], **given})

    look(tree.body)
    return found


def test_tilt_builds_and_shows_what_compose_runs() -> None:
    """Of a file that is written in another language than the rest, nobody notices a stale name."""
    (composed,) = calls("docker_compose")
    assert composed[""] == ["compose.yaml"]
    assert set(composed["profiles"]) <= {
        profile for service in images.services().values() for profile in service["profiles"]
    }
    assert sorted(shown[""][0] for shown in calls("dc_resource")) == sorted(images.services())
    built = {call[""][0]: call for call in calls("docker_build")}
    assert set(built) == {images.filled(service["image"]) for service in images.ours().values()}
    for image, call in built.items():
        assert ROOT / call["dockerfile"] == images.DOCKERFILE
        assert image.startswith(f"raidhub-{call['target']}:")
        target = call["target"]
        copied = {
            source
            for i in images.instructions()
            if i.name == "COPY"
            and "--from" not in i.text
            and ("dagster" not in i.stage or target == "dagster")
            for source in i.text.split()[:-1]
        }
        for source in copied:
            assert any(source == one or source.startswith(f"{one}/") for one in call["only"]), (
                f"{image}: a change of {source} would not be noticed"
            )
