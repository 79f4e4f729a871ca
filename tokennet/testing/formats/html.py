"""A report as one HTML page: the reading, the verdicts, each break with its evidence."""

from __future__ import annotations

import linecache
import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from tokennet.drawing.page import Html, code, element, folded, joined, page, table
from tokennet.testing._check import LawReport
from tokennet.testing.example.reading import ReadingLine
from tokennet.testing.example.values import is_pyg_data
from tokennet.testing.formats.files import shown_path
from tokennet.testing.laws import LAWS
from tokennet.testing.report import Counterexample, Location, SymmetryReport, Verdict
from tokennet.tokens import Tokens

CONTEXT, ROWS, COLUMNS = 4, 8, 6
"""Lines around a statement; rows and columns of a table of numbers."""
CLASSES = {Verdict.PASS: "good", Verdict.BROKEN: "bad"}


def to_html(report: LawReport, name: str, known: Collection[str] = ()) -> str:
    """The page, as text.

    Args:
        name: of the model, as the user wrote it.
        known: laws whose breaks are in the baseline.
    """
    rows = [_row(law, result, law in known) for law, result in report.reports.items()]
    content = [
        element("p", report.summary()),
        element("p", f"{report.subject} on {report.example}", class_="dim"),
        *_reading(report.reading),
        element("h2", "Verdicts"),
        table(["law", "verdict", "finding"], rows, "laws and verdicts"),
    ]
    for law in report.broken:
        content.append(_section(law, report.reports[law]))
    return page(f"Laws of {name}", *content)


def _reading(lines: Iterable[ReadingLine]) -> list[Html]:
    """How inputs and outputs were read."""
    rows = [
        [
            element("code", f"output {line.name}" if line.is_output else line.name),
            line.value,
            element("code", line.role),
            joined([
                line.text,
                *(element("div", text, class_="dim") for text in (line.why, line.hint) if text),
            ]),
        ]
        for line in lines
    ]  # fmt: skip
    if not rows:
        return []
    head = ["name", "value", "role", "read as"]
    return [element("h2", "Reading"), table(head, rows, "how inputs and outputs were read")]


def _row(law: str, result: SymmetryReport, is_known: bool) -> list[Any]:
    is_broken = result.verdict is Verdict.BROKEN
    name = element("a", law, href=f"#{law}") if is_broken else element("span", law)
    summary = LAWS[law].summary if law in LAWS else ""
    finding = [result.reason, *(element("div", note, class_="dim") for note in result.notes)]
    if is_broken and result.location is not None and result.location.line:
        at = f"at {shown_path(result.location.file)}:{result.location.line}"
        finding.append(element("div", element("code", at)))
    verdict = [element("span", result.verdict, class_=CLASSES.get(result.verdict, "open"))]
    if is_known:
        verdict.append(element("div", "in the baseline", class_="dim"))
    return [
        joined([name, element("div", summary, class_="dim")]),
        joined(verdict),
        joined(finding),
    ]


def _section(law: str, result: SymmetryReport) -> Html:
    parts: list[Html] = [element("h2", law, id=law), element("p", result.reason)]
    evidence = [
        ("error", _number(result.error)),
        ("tolerance", _number(result.tolerance)),
        ("precision", result.dtype),
        ("runs", result.runs),
    ]
    evidence += [(f"in float32 ({kernel})", _number(e)) for kernel, e in result.float32.items()]
    told = ", ".join(f"{name} {value}" for name, value in evidence)
    parts.append(element("p", told, class_="dim"))
    if result.location is not None:
        parts += _where(result.location)
    if result.counterexample is not None:
        parts += _counterexample(result.counterexample)
    why = LAWS[law].why if law in LAWS else ""
    if why:
        lines = [element("p", line) for line in _paragraphs(why)]
        parts.append(folded("About this law, and how to mend a break", *lines))
    return element("section", *parts, aria_labelledby=law)


def _paragraphs(text: str) -> list[str]:
    """The parts of the text of a law, each in one line."""
    found: list[str] = []
    for line in text.strip().splitlines():
        starts = line.partition(":")[0] in ("Says", "Measured", "Causes", "Mend") or not found
        found = [*found, line] if starts else [*found[:-1], f"{found[-1]} {line}"]
    return found


def _where(location: Location) -> list[Html]:
    """The located statement, with the lines around it."""
    module = f" in module {location.module}" if location.module else ""
    where = f"{shown_path(location.file)}:{location.line}" if location.line else location.operation
    told = [element("h3", "Where"), element("p", element("code", where), module)]
    if not location.line:
        return told
    first = max(location.line - CONTEXT, 1)
    last = max(location.end_line, location.line)
    lines = [linecache.getline(location.file, n).rstrip() for n in range(first, last + CONTEXT + 1)]
    while lines and not lines[-1]:
        lines.pop()
    if not any(lines):
        return [*told, code([location.source])]
    return [*told, code(lines, first, range(location.line, last + 1))]


def _counterexample(found: Counterexample) -> list[Html]:
    parts = [element("h3", "Smallest counterexample"), element("p", f"{found}.")]
    before, after = _named(found.inputs, "input"), _named(found.changed, "input")
    for name, value in before.items():
        if name in after and not _same(value, after[name]):
            parts.append(_pair(name, ("before", value), ("after", after[name])))
    wanted, got = _named(found.expected, "output"), _named(found.got, "output")
    for name, value in wanted.items():
        if name in got and not _close(value, got[name]):
            parts.append(_pair(name, ("expected", value), ("got", got[name])))
    if found.script:
        shown = [line[:500] for line in found.script.rstrip().splitlines()]
        parts.append(folded("A script that shows it", code(shown)))
    return parts


def _named(values: Any, what: str) -> dict[str, Tensor]:
    """The tensors of inputs or outputs, by names for the reader."""
    found: dict[str, Tensor] = {}
    items = values if isinstance(values, tuple | list) else () if values is None else (values,)
    for number, value in enumerate(items):
        name = f"{what} {number}" if len(items) > 1 else what
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, Tokens):
            found |= {f"{name}, z": value.z}
            found |= {} if value.pos is None else {f"{name}, pos": value.pos}
        elif is_pyg_data(value):
            found |= {f"{name}, {key}": item for key, item in value if isinstance(item, Tensor)}
    return {name: tensor.detach().cpu() for name, tensor in found.items()}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding, so that only what is off is shown."""
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.allclose(a, b, 1e-9, 1e-12, equal_nan=True)


def _pair(name: str, first: tuple[str, Tensor], second: tuple[str, Tensor]) -> Html:
    """Two tensors side by side; entries that differ are marked."""
    before, after = first[1], second[1]
    differ = before != after if before.shape == after.shape else None
    index = _slice(before, differ)
    sides = [_numbers(name, title, tensor, index, differ) for title, tensor in (first, second)]
    return element("div", *sides, class_="pair")


def _slice(tensor: Tensor, differ: Tensor | None) -> tuple[int, ...]:
    """The indices of leading dimensions at which a matrix is shown: where the first differ."""
    if differ is None or not bool(differ.any()):
        return ()
    return tuple(differ.nonzero()[0][: max(tensor.dim() - 2, 0)].tolist())


def _numbers(
    name: str, title: str, tensor: Tensor, index: tuple[int, ...], differ: Tensor | None
) -> Html:
    if not tensor.numel():
        return element("div", element("p", f"{name}, {title}: shape {tuple(tensor.shape)}"))
    fits = len(index) == max(tensor.dim() - 2, 0)
    fits = fits and all(i < size for i, size in zip(index, tensor.shape, strict=False))
    chosen = index if fits else (0,) * max(tensor.dim() - 2, 0)
    matrix, marks = tensor[chosen], None if differ is None else differ[chosen]
    matrix = matrix if matrix.dim() == 2 else matrix.reshape(-1, 1)
    marks = None if marks is None else marks.reshape(matrix.shape)
    rows = _chosen_rows(matrix, marks)
    width = min(matrix.shape[1], COLUMNS)
    head = [
        "",
        *map(str, range(width)),
        *([f"… {matrix.shape[1]}"] if width < matrix.shape[1] else []),
    ]
    body = []
    for r in rows:
        cells: list[Any] = [
            element("mark", text) if marks is not None and bool(marks[r, c]) else text
            for c, text in enumerate(_number(matrix[r, c].item()) for c in range(width))
        ]
        body.append([element("span", r, class_="dim"), *cells, *([""] * (len(head) - width - 1))])
    at = f"[{', '.join(map(str, chosen))}]" if chosen else ""
    rest = f", {len(rows)} of {len(matrix)} rows" if len(rows) < len(matrix) else ""
    caption = f"{name}{at} {title}, shape {tuple(tensor.shape)}{rest}"
    return element("div", table(head, body, caption), class_="numbers")


def _chosen_rows(matrix: Tensor, marks: Tensor | None) -> list[int]:
    """Some rows, those that differ first, in their order."""
    rows = list(range(len(matrix)))
    if marks is not None:
        changed = marks.any(1).tolist()
        rows.sort(key=lambda row: not changed[row])
    return sorted(rows[:ROWS])


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, complex):
        return f"{value:.3g}"
    return str(value)
