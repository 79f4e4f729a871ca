"""The table that README shows first: python -m benchmarks.headline FOLDER.

FOLDER is written by `tokennet compare arrows --out FOLDER`; it is read, or trained now.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.pages import DOCS, write

README = DOCS.parent / "README.md"
PICTURE = DOCS / "pictures" / "arrows.png"


def lines_of(text: str) -> list[str]:
    """What the command prints, without the lines about files and stored runs."""
    ends = ("Wrote ", " runs were in ")
    kept = [line.rstrip() for line in text.splitlines() if not any(end in line for end in ends)]
    return ["```", *kept, "```"]


def main() -> None:
    folder = Path(sys.argv[1])
    command = [sys.executable, "-m", "tokennet", "compare", "arrows", "--out", str(folder)]
    shown = subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
    ).stdout  # fmt: skip
    write(README, "headline", lines_of(shown[shown.index("arrows: ") :]))
    PICTURE.parent.mkdir(exist_ok=True)
    shutil.copyfile(folder / "arrows.png", PICTURE)


if __name__ == "__main__":
    main()
