"""The table of named nets in docs/nets.md, measured: python -m benchmarks.nets.

Runs the parity tests of the nets, and writes lines, parameters, symmetry and the largest
difference from a peer (values / gradients, float64, relative) between the marks on the page.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from tokennet.nets import NETS, count_parameters

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "nets.md"
MARKS = "<!-- table of nets -->\n", "<!-- end of table -->\n"
HEADER = "| net | architecture | lines | parameters | relabelling | shuffling |"
PEERS = "| architecture | peer with the same weights | values | gradients |"


def rows() -> list[str]:
    """A row for each net, without what has to be run."""
    result = []
    for name, net in NETS.items():
        made: Any = net.on_meta()
        size, symmetry = f"{count_parameters(made):,}", made.symmetry
        cells = (f"`{name}`", f"`{net.build.__name__}`", str(net.lines), size)
        result.append(_row(*cells, symmetry.relabelling, symmetry.shuffling))
    return result


def parity() -> dict[tuple[str, str], tuple[float, float]]:
    """Largest differences of values and gradients, by architecture and peer."""
    tests = sorted(str(path) for path in (ROOT / "tests" / "nets").glob("test_parity_*.py"))
    with tempfile.NamedTemporaryFile(suffix=".xml") as file:
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-o", "junit_family=xunit1"]
        subprocess.run([*command, f"--junitxml={file.name}", *tests], cwd=ROOT, check=True)
        found: dict[tuple[str, str], tuple[float, float]] = {}
        for entry in ElementTree.parse(file.name).iter("property"):
            record = json.loads(entry.attrib["value"])
            key = record["net"], record["peer"]
            value, gradient = found.get(key, (0.0, 0.0))
            found[key] = max(value, record["value"]), max(gradient, record["gradient"])
    return found


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(header: str) -> str:
    return "|---" * (header.count("|") - 1) + "|"


def tables() -> str:
    peers = [
        _row(f"`{net}`", f"`{peer}`", f"{value:.0e}", f"{gradient:.0e}")
        for (net, peer), (value, gradient) in sorted(parity().items())
    ]
    lines = [HEADER, _rule(HEADER), *rows(), "", PEERS, _rule(PEERS), *peers]
    return "\n".join(lines) + "\n"


def main() -> None:
    start, end = map(re.escape, MARKS)
    text = re.sub(
        f"{start}.*{end}", lambda _: MARKS[0] + tables() + MARKS[1], PAGE.read_text(), flags=re.S
    )
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
