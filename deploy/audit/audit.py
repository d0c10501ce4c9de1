"""Known vulnerabilities of what requirements.lock pins: pip-audit's answer, read with distrust.

    python deploy/audit/audit.py [-- OPTIONS OF pip-audit]

pip-audit says "no known vulnerabilities" and exits 0 when its service knows none of the packages,
as behind a mirror without that service. Here a package that nobody looked at is a failure, and so
is an exception that is overdue. Exit 0: all looked at, nothing known. 1: a finding, or nobody could
look. 2: ignored.toml is no good. A mirror of OSV is given as `-- -s osv --osv-url ADDRESS`.
"""

import datetime
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_HERE = Path(__file__).resolve().parent
_LOCK = _HERE.parents[1] / "requirements.lock"
_SHOWN = 5
_KEYS = {"id": str, "package": str, "reason": str, "until": datetime.date}


class WrongListError(Exception):
    """ignored.toml, by its entry."""


@dataclass(frozen=True)
class Ignored:
    """One vulnerability that is passed over until a day."""

    id: str
    package: str
    reason: str
    until: datetime.date


def pinned(lock: str) -> set[str]:
    """Names of the packages that the lock installs on this kind of machine."""
    lines = (line.removesuffix("\\").strip() for line in lock.splitlines())
    found = [Requirement(line) for line in lines if line and line[0] not in "#-"]
    return {canonicalize_name(r.name) for r in found if r.marker is None or r.marker.evaluate()}


def read_ignored(text: str) -> list[Ignored]:
    """The list of exceptions. Raises WrongListError naming the entry and what it lacks."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WrongListError(f"it is no TOML: {error}") from None
    entries = document.pop("ignored", None)
    if document or not isinstance(entries, list):
        raise WrongListError("it holds a list named `ignored` and nothing else")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or set(entry) != set(_KEYS):
            raise WrongListError(f"entry {number} must have {', '.join(_KEYS)}")
        for key, kind in _KEYS.items():
            if type(entry[key]) is not kind or not entry[key]:
                raise WrongListError(f"entry {number}: {key} must be a {kind.__name__}")
    return [Ignored(**entry) for entry in entries]


def problems(
    report: Mapping[str, Any], names: set[str], ignored: Sequence[Ignored], today: datetime.date
) -> Iterator[str]:
    """What keeps the audit from being green, a line each; `report` is pip-audit's JSON."""
    looked = {
        canonicalize_name(package["name"]): package
        for package in report["dependencies"]
        if "skip_reason" not in package
    }
    if unseen := sorted(names - looked.keys()):
        shown = ", ".join(unseen[:_SHOWN]) + (", ..." if len(unseen) > _SHOWN else "")
        yield (
            f"{len(unseen)} of {len(names)} packages were not looked at: {shown}. The index has no"
            " vulnerability service; run this where it has, or with a mirror of OSV"
        )
    used = set()
    for name, package in looked.items():
        for found in package["vulns"]:
            known = {found["id"], *found["aliases"]}
            excuse = next((i for i in ignored if i.id in known and i.package == name), None)
            if excuse is not None:
                used.add(excuse)
                continue
            cure = ", ".join(found["fix_versions"]) or "no version yet"
            text = " ".join(found["description"].split())[:200]
            yield f"{name} {package['version']}: {found['id']}, mended in {cure}: {text}"
    for entry in ignored:
        if entry.until < today:
            due = f"was to be looked at by {entry.until}"
            yield f"ignored.toml: {entry.id} of {entry.package} {due}"
        elif entry not in used and (entry.package in looked or entry.package not in names):
            yield f"ignored.toml: nothing answers to {entry.id} of {entry.package}; remove it"


def ask(lock: Path, options: Sequence[str]) -> tuple[Mapping[str, Any] | None, str]:
    """pip-audit's report of the lock, else None and the last line that it wrote."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--no-deps"]
    command += ["--disable-pip", "--progress-spinner", "off", "--format", "json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  ours
    try:
        report: Mapping[str, Any] = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"]
        return None, lines[-1]
    return report, ""


def main(
    arguments: Sequence[str], *, lock: Path = _LOCK, exceptions: Path = _HERE / "ignored.toml"
) -> int:
    """The exit code; see above."""
    try:
        ignored = read_ignored(exceptions.read_text("utf-8"))
    except WrongListError as error:
        sys.stderr.write(f"audit: {exceptions.name}: {error}\n")
        return 2
    report, reason = ask(lock, [a for a in arguments if a != "--"])
    if report is None:
        sys.stderr.write(f"audit: the vulnerability service did not answer: {reason}\n")
        return 1
    names = pinned(lock.read_text("utf-8"))
    found = list(problems(report, names, ignored, datetime.datetime.now(datetime.UTC).date()))
    for line in found:
        sys.stderr.write(f"audit: {line}\n")
    if not found:
        sys.stdout.write(f"{len(names)} packages: no vulnerability is known\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
