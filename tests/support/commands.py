"""The commands of docs/commands.md, read from the page itself."""

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
_COMMAND = re.compile(
    r"`dagster job execute -m raidhub_dagster\.definitions -j (\w+)"
    r"(?: -c (docs/repairs/\w+\.yaml))?`"
)


@dataclass(frozen=True)
class JobCommand:
    """One `dagster job execute`; `config` is absolute, None without `-c`."""

    job: str
    config: Path | None


def job_commands() -> list[JobCommand]:
    """Each of the page once, in its order. Fails for one that is written in another way."""
    text = (DOCS / "commands.md").read_text("utf-8")
    found = _COMMAND.findall(text)
    written = text.count("`dagster job execute -")
    assert len(found) == written, f"{written - len(found)} commands are written in another way"
    commands = [JobCommand(job, DOCS.parent / file if file else None) for job, file in found]
    return list(dict.fromkeys(commands))
