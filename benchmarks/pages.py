"""Write generated tables into the pages of docs/, between two marks."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> list[str]:
    """The header of a table: the names of the columns and the line below."""
    return [row(*cells), "|---" * len(cells) + "|"]


def write(page: Path, name: str, lines: list[str]) -> None:
    """Replace what is between the marks `<!-- name -->` and `<!-- end of name -->`."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    pattern = f"{re.escape(start)}.*{re.escape(end)}"
    table = "".join(f"{line}\n" for line in lines)
    text, count = re.subn(pattern, lambda _: start + table + end, page.read_text(), flags=re.DOTALL)
    assert count == 1, f"{page} must have the marks of {name!r} exactly once"
    page.write_text(text)
