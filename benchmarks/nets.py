"""The table of named nets in docs/nets.md, measured: python -m benchmarks.nets.

Runs the parity tests of the nets, and writes lines, parameters, symmetry and the largest
difference from a peer (values / gradients, float64, relative) between the marks on the page.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from benchmarks.pages import DOCS, head, row, write
from tokennet.models import NETS
from tokennet.nets import count_parameters

ROOT = Path(__file__).parent.parent
PAGE = DOCS / "nets.md"
HEADER = ("net", "architecture", "lines", "parameters", "relabeling", "shuffling")
PEERS = ("architecture", "peer with the same weights", "compared", "values", "gradients")
COMPARED = {"net": "their net", "layers": "a net of their layers", "loss": "net and loss"}
"""What is measured of a peer, as the parity tests name it."""


def rows() -> list[str]:
    """A row for each net, without what has to be run."""
    result = []
    for name, net in NETS.items():
        made: Any = net.on_meta()
        size, symmetry = f"{count_parameters(made):,}", made.symmetry
        cells = (f"`{name}`", f"`{net.build.__name__}`", str(net.lines), size)
        result.append(row(*cells, symmetry.relabeling, symmetry.shuffling))
    return result


def parity() -> dict[tuple[str, str, str], tuple[float, float]]:
    """Largest differences of values and gradients, by architecture, peer and what is compared."""
    tests = sorted(str(path) for path in (ROOT / "tests" / "nets").glob("test_parity_*.py"))
    with tempfile.NamedTemporaryFile(suffix=".xml") as file:
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-o", "junit_family=xunit1"]
        subprocess.run([*command, f"--junitxml={file.name}", *tests], cwd=ROOT, check=True)
        found: dict[tuple[str, str, str], tuple[float, float]] = {}
        for entry in ElementTree.parse(file.name).iter("property"):
            record = json.loads(entry.attrib["value"])
            key = record["net"], record["peer"], record["of"]
            value, gradient = found.get(key, (0.0, 0.0))
            found[key] = max(value, record["value"]), max(gradient, record["gradient"])
    return found


def tables() -> list[str]:
    peers = [
        row(f"`{net}`", f"`{peer}`", COMPARED[of], f"{value:.0e}", f"{gradient:.0e}")
        for (net, peer, of), (value, gradient) in sorted(parity().items())
    ]
    return [*head(*HEADER), *rows(), "", *head(*PEERS), *peers]


def main() -> None:
    write(PAGE, "table of nets", tables())


if __name__ == "__main__":
    main()
