"""deploy/docker/Dockerfile, .dockerignore and compose.yaml as tests read them."""

import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from raidhub_dagster.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
COMPOSE = ROOT / "compose.yaml"
TARGETS = ("stream", "dagster")
# What our own processes read.
VARIABLES = frozenset(name for field in Settings.model_fields for name in Settings.names(field))


@dataclass(frozen=True)
class Instruction:
    """One of the Dockerfile's, in the stage it stands in; `text` is what follows its name."""

    stage: str
    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """Of the exec form. Raises ValueError for the shell form."""
        words: list[str] = json.loads(self.text)
        return words


@cache
def instructions() -> tuple[Instruction, ...]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE)
    stage, found = "", []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            stage = rest.rpartition(" AS ")[2]
        if name:
            found.append(Instruction(stage, name, rest.strip()))
    return tuple(found)


def of_target(target: str, name: str) -> list[Instruction]:
    """Instructions `name` of `target` and of the stages that it is made from, the first first."""
    bases = {i.stage: i.text.split()[0] for i in instructions() if i.name == "FROM"}
    chain = [target]
    while bases[chain[-1]] in bases:
        chain.append(bases[chain[-1]])
    return [
        i for stage in reversed(chain) for i in instructions() if (i.stage, i.name) == (stage, name)
    ]


def is_sent(path: str) -> bool:
    """True when the builder gets `path`: the last line of .dockerignore that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        again = pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        parts = path.split("/")
        whole = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if pattern.startswith("**/"):
            fits = any(fnmatch(part, pattern[3:]) for part in parts)
        else:  # a star stays within a folder
            fits = any(
                fnmatch(one, pattern) and one.count("/") == pattern.count("/") for one in whole
            )
        sent = again if fits else sent
    return sent


# --- locks ----------------------------------------------------------------------------------------


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, list[str]]:
    """Of a lock: each pinned line with its marker, and its hashes."""
    found: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("    --hash="):
            found[next(reversed(found))].append(line.strip(" \\"))
        else:
            found[line.removesuffix(" \\")] = []
    return found


def packages(lock: str) -> set[str]:
    """Normalised names of the distributions in deploy/docker/`lock`.lock."""
    return {normal(pin.partition("==")[0]) for pin in pins(DOCKERFILE.with_name(f"{lock}.lock"))}


@cache
def distributions() -> Mapping[str, list[str]]:
    """Which distributions a top-level module comes from."""
    found = importlib.metadata.packages_distributions()
    return {module: [normal(name) for name in names] for module, names in found.items()}


# --- compose --------------------------------------------------------------------------------------

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@cache
def services() -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    return found


def ours() -> Mapping[str, Mapping[str, Any]]:
    """Services that run one of our images."""
    return {n: s for n, s in services().items() if s["image"].startswith("raidhub-")}


def once() -> set[str]:
    """Services that end by themselves."""
    return {name for name, service in services().items() if service["restart"] == "no"}


def variables() -> Iterator[tuple[str, str, str]]:
    """Each `${NAME:-default}` of the file: name, operator (empty, - or ?), rest."""
    yield from _VARIABLE.findall(COMPOSE.read_text("utf-8"))


def filled(value: object, **given: str) -> str:
    """`value` as compose reads it with the variables `given` and the defaults of the file."""
    text = _VARIABLE.sub(
        lambda m: given.get(m[1], m[3] if m[2] == "-" else f"<{m[1]}>"), str(value)
    )
    return text.replace("$$", "$")
