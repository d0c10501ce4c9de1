"""What a repair or a recount found, as Markdown for the page of its run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """What a repair found and did; `tables` have a caption and rows of equal columns."""

    title: str
    facts: Mapping[str, object]
    tables: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    is_preview: bool = False

    def markdown(self) -> str:
        """A heading, one line a fact, and the tables."""
        lines = [f"### {self.title}{' (preview: nothing was changed)' if self.is_preview else ''}"]
        lines += ["", *(f"- {name}: **{value}**" for name, value in self.facts.items())]
        for caption, rows in self.tables.items():
            lines += ["", f"#### {caption}", ""]
            lines += _table(rows) if rows else ["none"]
        return "\n".join(lines) + "\n"


def _table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    columns = list(rows[0])
    cells = [[str(row[column]).replace("|", "\\|") for column in columns] for row in rows]
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]
