"""`check`: which laws a model obeys on an example. Start here."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokennet.checks import check_type, lookup_all
from tokennet.testing.engine.draws import COUNT, Draws, as_draws
from tokennet.testing.engine.run import accepted_content, shared_runs
from tokennet.testing.engine.sandbox import moved_to
from tokennet.testing.engine.tolerance import precision_of
from tokennet.testing.engine.verdict import name_of, verdict_on_error
from tokennet.testing.example.case import Case, make_case
from tokennet.testing.example.reading import ReadingLine, question_of, table_of
from tokennet.testing.example.values import describe, to_device
from tokennet.testing.geometry.laws import read_and_check_group
from tokennet.testing.laws import LAWS, Law
from tokennet.testing.laws.padding import PADDING, reading_of, why_not_asked
from tokennet.testing.laws.required import PERMUTATIONS, law_of_permutations, required_laws
from tokennet.testing.report import SymmetryReport, Verdict

DEPEND_ON_READING = frozenset({"padding", "batch_composition", "nonfinite_isolation"})
"""Laws that a mask or a membership that is read wrongly breaks."""
SLOW = 20
"""Seconds from which a report says how a check is made faster."""
_logger = logging.getLogger("tokennet.check")
"""Says which law is being checked, at the level INFO."""


@dataclass(frozen=True)
class LawReport:
    """The verdicts on a model, by law, in `reports`. Made by `check`.

    `reading` says how each input and output was read.
    """

    subject: str
    example: str
    reports: dict[str, SymmetryReport]
    seconds: float
    reading: tuple[ReadingLine, ...] = ()

    @property
    def broken(self) -> tuple[str, ...]:
        """The laws that the model breaks."""
        reports = self.reports.items()
        return tuple(law for law, report in reports if report.verdict is Verdict.BROKEN)

    @property
    def undecided(self) -> tuple[str, ...]:
        """The laws that are neither kept nor broken: INCONCLUSIVE or VACUOUS."""
        decided = (Verdict.PASS, Verdict.BROKEN)
        return tuple(law for law, r in self.reports.items() if r.verdict not in decided)

    @property
    def shows_nothing(self) -> bool:
        """Whether no law is broken, and none that speaks of tokens holds.

        `deterministic` says nothing of tokens: a model that ignores its input keeps it.
        """
        held = [law for law in self.reports if law not in self.undecided]
        return bool(self.undecided) and not {*held} - {"deterministic"}

    @property
    def questions(self) -> tuple[str, ...]:
        """The laws that are broken as the example was read, and may hold as it is meant."""
        return tuple(law for law, report in self.reports.items() if report.question)

    @property
    def passed(self) -> bool:
        """Whether no law is broken, none waits for an answer, and the check shows anything."""
        return not (self.broken or self.questions or self.shows_nothing)

    def summary(self) -> str:
        """What the verdicts mean together, in a sentence."""
        count, undecided = len(self.reports), self.undecided
        if self.broken:
            return f"{len(self.broken)} of {count} laws are BROKEN: {', '.join(self.broken)}."
        if self.questions:
            return f"Not passed: how the example is to be read decides {', '.join(self.questions)}."
        open_laws = f"INCONCLUSIVE or VACUOUS: {', '.join(undecided)}"
        if self.shows_nothing:
            told = "Nothing was shown: no law is broken, and none that speaks of tokens holds"
            return f"{told}; {open_laws}."
        if undecided:
            return f"{count - len(undecided)} of {count} laws hold; not passed, but {open_laws}."
        return f"All {count} laws that apply hold on this example."

    @property
    def hint(self) -> str:
        """How a check that was slow is made faster, or ''."""
        if self.seconds < SLOW:
            return ""
        return (
            f"hint: this took {self.seconds:.0f} s. A law that breaks mostly breaks on a small "
            "example too: 2 to 4 sets of 5 to 16 tokens, and fewer layers. Or name some laws, "
            "or fewer draws."
        )

    @property
    def read_as(self) -> str:
        """How each input and output was read, as a table."""
        return "\n".join(table_of(self.reading))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {
            "subject": self.subject,
            "example": self.example,
            "seconds": self.seconds,
            "reading": [dict(vars(line)) for line in self.reading],
            "laws": {law: report.to_dict() for law, report in self.reports.items()},
        }

    def __str__(self) -> str:
        width = max(map(len, self.reports), default=0)
        lines = [f"{self.subject} on {self.example}", self.read_as]
        lines += [
            f"  {law:{width}}  {report.verdict:12}  {report.reason}"
            for law, report in self.reports.items()
        ]
        parts = ["\n".join(lines), *self.details(), self.hint]
        return "\n\n".join(filter(None, parts))

    def details(self) -> list[str]:
        """The printed reports of broken laws; in full once for each location in the code."""
        laws: dict[Any, str] = {}
        found = []
        for law in self.broken:
            report = self.reports[law]
            first = laws.setdefault(report.location, law) if report.location else law
            same = f"{self.subject}: {law} BROKEN at the same location as {first}"
            found.append(str(report) if first == law else same)
        return found


def check(
    model: Callable[..., Any],
    example: Any,
    *,
    laws: Sequence[str] | None = None,
    roles: Mapping[str, str] | None = None,
    outputs: str | Sequence[str] | Mapping[str, str | None] | None = None,
    causal: bool = False,
    group: Any = None,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str | None = None,
    jitter: bool = True,
    seed: int = 0,
    draws: int | Draws = COUNT,
) -> LawReport:
    """Check every law that applies to a model on an example, values and gradients.

    Args:
        model: a module or function; it runs in a sandbox, its state is restored.
        example: a tensor (..., N, D), or of ids (B, N); with a mask (..., N) beside it that is
            True or 1 for a token, or for padding if the argument's name has "pad" in it, or
            0 and -inf as added to scores; `Tokens`; PyG `Data`, `Batch` or `HeteroData`; (x,
            edge_index, ...); (x, batch index); a list, packed or nested tensor of sets; or a
            dict of these by argument. What further inputs hold is read from their names and
            shapes; the report starts with the reading.
        laws: names among `tokennet.testing.LAWS`; by default all that apply.
        roles: how inputs are to be read where the reading is wrong, by name of the argument:
            `{"x": "tokens:-1", "mask": "padding:True=pad", "y": "per_set"}`; see docs/verdicts.md.
            With a `group` of space, {"vel": "vector"}: see `check_group`.
        outputs: the outputs that the laws speak of: a name, names, or a dict with roles,
            `{"states": "tokens:0"}`; by default all.
        causal: the model claims that output i depends on tokens up to i alone. `Tokens`
            claim what their graph says.
        group: require that the model is equivariant at least under this group, in place of the
            laws of tokens. For points "SO(3)", "O(3)", "SE(3)", "E(3)", "translations",
            "rotations", "reflections", "scale"; for eigenvectors "signs", "bases"; for grids
            "circular_shifts", "shifts"; for tokens "S_n", "A_n", "C_n", "D_n" of each set, or a
            list of permutations that generate it. `laws` are then some of the group's.
        dtype: the precision that decides; "auto" is float64 where the model can run in it.
        device: where to run; by default where the example is.
        jitter: move parameters a little, so that a table of zeros hides nothing.
        seed: of permutations, other content and jitter.
        draws: on how much other content a law that holds on the example is tried, of several
            sizes; each costs two runs. A branch taken for few inputs needs many. Laws of points
            are measured on the example alone.

    Raises:
        TypeError, ValueError: the example is nothing that the laws know, a role does not fit,
            or `laws` names one that is unknown or does not apply.

    >>> from torch import nn
    >>> report = check(nn.Sequential(nn.Flatten(-2), nn.Linear(20, 3)), torch.randn(2, 5, 4))
    >>> "node_permutation" in report.broken
    True
    """
    started = time.perf_counter()
    precision_of(dtype)
    check_type("roles", roles, Mapping | None, "a dict of names and roles")
    if group is not None and causal:
        raise ValueError("causal is a law of tokens: it cannot be given with group")
    of_space = group is not None and required_laws(group) != (PERMUTATIONS,)
    search = as_draws(draws, seed)
    options: dict[str, Any] = {"dtype": dtype, "jitter": jitter, "seed": seed, "draws": search}
    with moved_to(device, model), shared_runs():
        given = to_device(example, device)
        reading: dict[str, Any] = {"roles": roles, "outputs": outputs}
        if of_space:
            reports, lines = read_and_check_group(
                model, given, group, laws=laws, **reading, **options
            )
        else:
            known = LAWS if group is None else {PERMUTATIONS: law_of_permutations(group)}
            case = make_case(model, given, **reading)
            lines = reading_of(case) if group is None else case.reading
            named = _asked_for(known, case, laws, causal)
            with accepted_content(case.function, case.inputs):
                reports = _verdicts(named, case, options)
                reports = _unless_read_otherwise(
                    reports, case, given, known, causal, reading, options
                )
    seconds = time.perf_counter() - started
    return LawReport(name_of(model), describe(example), reports, seconds, lines)


def _verdicts(
    laws: Mapping[str, Law], case: Case, options: dict[str, Any]
) -> dict[str, SymmetryReport]:
    """The report on each law, in turn."""
    reports = {}
    for number, (name, law) in enumerate(laws.items(), 1):
        _logger.info("law %d of %d: %s", number, len(laws), name)
        reports[name] = _verdict(name, law, case, options)
    return reports


def _verdict(name: str, law: Law, case: Case, options: dict[str, Any]) -> SymmetryReport:
    """The report on one law; a model that runs on the example and raises here breaks it."""
    try:
        report = law.check(case, options)
    except Exception as error:  # whatever a model of other people raises
        report = verdict_on_error(error)
    fields: dict[str, Any] = {"law": name, "subject": name_of(case.model)}
    if not case.example.anchors:  # images, for instance
        words = report.reason.replace("what tokens do", "what other content does")
        fields["reason"] = words.replace("depend on the tokens", "depend on the input")
    if report.verdict is Verdict.BROKEN:
        hints = [f"{line.name} is read as {line.role}: {line.hint}" for line in case.reading]
        fields["notes"] = (*report.notes, *(hint for hint in hints if not hint.endswith(": ")))
    if name == "edge_permutation" and report.counterexample is not None:
        fields["counterexample"] = dataclasses.replace(report.counterexample, things="edges")
    return dataclasses.replace(report, **fields)


def _unless_read_otherwise(
    reports: dict[str, SymmetryReport],
    case: Case,
    example: Any,
    known: Mapping[str, Law],
    causal: bool,
    reading: dict[str, Any],
    options: dict[str, Any],
) -> dict[str, SymmetryReport]:
    """The reports, INCONCLUSIVE where a law holds if inputs are read in another way that fits."""
    broken = [name for name, report in reports.items() if report.verdict is Verdict.BROKEN]
    read = {line.name: line.role for line in case.reading if line.name in case.doubtful}
    for roles in case.other_roles if broken else []:
        same = all(read[name].split(":")[0] == roles[name].split(":")[0] for name in roles)
        if same and not DEPEND_ON_READING.intersection(broken):
            continue
        try:
            said = {**(reading["roles"] or {}), **roles}
            other = make_case(case.model, example, roles=said, outputs=reading["outputs"])
        except Exception:  # the model, or the outputs asked for, allow the first reading alone
            continue
        names = dict.fromkeys(["node_permutation", *broken])
        laws = {name: known[name] for name in names if name in known}
        apply = {name: law for name, law in laws.items() if law.applies(other, causal)}
        verdicts = {name: r.verdict for name, r in _verdicts(apply, other, options).items()}
        still = {name for name, verdict in verdicts.items() if verdict is Verdict.BROKEN}
        if still - set(broken) or (same and still):
            continue
        if Verdict.PASS not in verdicts.values() and not still:  # which shows nothing
            continue
        question = question_of(read, roles)
        asked = {name: reports[name].asked(question) for name in broken if name not in still}
        return {**reports, **asked}
    return reports


def applicable_laws(
    model: Callable[..., Any], example: Any, *, causal: bool = False, **reading: Any
) -> tuple[str, ...]:
    """The names of the laws that `check` runs; `roles` and `outputs` as there.

    >>> from torch import nn
    >>> applicable_laws(nn.Linear(4, 4), torch.randn(5, 4))
    ('node_permutation', 'tied_inputs', 'deterministic')
    """
    return tuple(_asked_for(LAWS, make_case(model, example, **reading), None, causal))


def _asked_for(
    known: Mapping[str, Law], case: Case, names: Sequence[str] | None, causal: bool
) -> dict[str, Law]:
    """The laws that are named, or all that apply."""
    apply = {name: law for name, law in known.items() if law.applies(case, causal)}
    named = (apply or known) if names is None else lookup_all("laws", names, known)
    for name in named:
        if name not in apply:
            why = why_not_asked(case) if known[name] is PADDING else ""
            raise ValueError(
                f"law {name!r} does not apply to this example{why and f', as {why}'}; "
                f"those that do: {tuple(apply)}"
            )
    return {name: apply[name] for name in named}
