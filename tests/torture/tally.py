"""What was tried, what survived, what was lost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A line of the table. kind: "kill -9", "silent", "hang", "fault", "bad input" or "soak".
    happened: in words."""

    kind: str
    subject: str
    promised: str
    happened: list[str]
    tried: int
    lost: int


@dataclass
class Tally:
    """Rows in the order in which they came; each is printed as it comes.

    file: kept up to date with them, for another process.
    """

    rows: list[Row] = field(default_factory=list)
    file: Path | None = None

    def add(
        self, kind: str, subject: str, promised: str, happened: list[str], *, tried: int = 1,
        lost: int = 0,
    ) -> None:  # fmt: skip
        """A row; ``happened`` has a sentence, or one for each loss."""
        self.rows.append(Row(kind, subject, promised, happened, tried, lost))
        if self.file is not None:
            self.file.write_text(json.dumps([asdict(row) for row in self.rows]))
        verdict = "LOST" if lost else "ok"
        print(f"{verdict:5}{kind:10} {subject:44} {happened[0][:150]}", flush=True)
        for more in happened[1:] if lost else []:
            print(f"{'':61}{more[:150]}", flush=True)

    def load(self, path: Path) -> None:
        """Take over the rows of another process."""
        self.rows += [Row(**row) for row in json.loads(path.read_text())]

    @property
    def lost(self) -> int:
        return sum(row.lost for row in self.rows)

    def table(self) -> str:
        """Tried, survived and lost by kind."""
        lines = [f"{'':12}{'tried':>8}{'survived':>10}{'lost':>6}"]
        for kind in dict.fromkeys(row.kind for row in self.rows):
            rows = [row for row in self.rows if row.kind == kind]
            tried, lost = sum(row.tried for row in rows), sum(row.lost for row in rows)
            lines.append(f"{kind:12}{tried:>8}{tried - lost:>10}{lost:>6}")
        return "\n".join(lines)
