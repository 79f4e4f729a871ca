"""`parametrize_with_checks`: the laws as a test suite for your own models."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from torch import nn

from tokennet.checks import check_type, lookup, lookup_all
from tokennet.testing._check import applicable_laws, check
from tokennet.testing.engine.draws import COUNT, Draws
from tokennet.testing.engine.verdict import name_of
from tokennet.testing.laws import LAWS
from tokennet.testing.laws.required import required_laws
from tokennet.testing.report import SymmetryReport, Verdict

VACUOUS_BY_NATURE = frozenset({"backend_agreement", "deterministic"})
"""Laws that compare runs on the same tokens, and so say nothing of what the tokens do."""


OPTIONS = ("expected_failures", *list(inspect.signature(check).parameters)[2:])
"""What a model may have beside its example: options of `check`, and what it is to fail."""


class BrokenLaw(AssertionError):
    """The model breaks the law."""


class UndecidedLaw(AssertionError):
    """The example does not show whether the model obeys the law."""


class BoundLaw:
    """A law of `LAWS` with an example; `law(model)` holds a model to it.

    Attributes:
        name: of the law.
        subject: name of the model in test ids.
        report: the `SymmetryReport` of the last call, or None.
        settings: options of `check` that hold where the decorator has none; the pytest
            plugin puts `--symmetry-device` and its like here.
    """

    def __init__(
        self, name: str, subject: str, example: Any, options: dict[str, Any], reason: str | None
    ) -> None:
        self.name, self.subject = name, subject
        self.report: SymmetryReport | None = None
        self.settings: dict[str, Any] = {}
        self._example, self._options, self._reason = example, options, reason

    def __call__(self, model: Any) -> None:
        """Check `model`, or the model that a factory returns.

        Raises:
            BrokenLaw: the model breaks the law; the message is the printed report.
            UndecidedLaw: the example does not show whether it does.
            AssertionError: the law is expected to fail, and holds.
            ValueError: the law is expected to fail, and does not apply.
            TypeError: a factory returns no model.
        """
        __tracebackhide__ = True
        self.report = None
        model, example = _created(model, "a model"), _created(self._example, "an example")
        laws = self._options.get("laws") or _laws_of(model, example, self._options)
        if self.name not in laws:
            if self._reason is not None:
                raise ValueError(_inapplicable(self.name, self.subject, laws))
            pytest.skip(f"{self.name} does not apply to {self.subject}")
        options = {**self.settings, **self._options, "laws": (self.name,)}
        options["draws"] = _drawn(options.get("draws", COUNT), options.get("seed", 0))
        self.report = report = check(model, example, **options).reports[self.name]
        if report.verdict is Verdict.BROKEN:
            raise BrokenLaw(str(report))
        vacuous = {Verdict.VACUOUS} if self.name in VACUOUS_BY_NATURE else set()
        if report.verdict not in {Verdict.PASS, *vacuous}:
            raise UndecidedLaw(
                f"{self.name} is neither shown nor broken by this example ({report.verdict}); "
                f"take another example, or name the laws to check in laws=.\n{report}"
            )
        if self._reason is not None:
            raise AssertionError(
                f"{self.name} was expected to fail ({self._reason}), but {self.subject} obeys it "
                f"now: take it out of expected_failures.\n{report}"
            )

    def __repr__(self) -> str:
        return f"<law {self.name} of {self.subject}>"


def parametrize_with_checks(
    models: Iterable[Any] | Mapping[str, Any],
    *,
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,
) -> pytest.MarkDecorator:
    """Decorate a test of `model` and `law`: one test for each model and each law it must obey.

    A test fails where its law is broken, and also where the example cannot tell
    (`INCONCLUSIVE`, or `VACUOUS` unless the law compares runs on the same tokens). Where
    hypothesis is installed it makes the draws of other content, the same in each run, and
    reports the smallest that breaks the law.
    In the manner of scikit-learn's decorator of this name.

    Args:
        models: `(model, example)`, or `(model, example, options)` with options of its own,
            in a list, or in a dict by the name in test ids.

            A factory, that is a class or a function that needs no arguments, may be
            given for a model or an example. It is called anew in each test, so that collecting
            tests costs nothing; the test gets the factory, and `law(model)` calls it.
            As it is not known then which laws apply, there is a test for each, and those
            that do not apply are skipped; name them in `laws` to leave them out.
        expected_failures: law -> reason, for every model; also an option of a single one,
            which adds to it. Such a test must fail, by breaking the law: it is a strict
            xfail, and says so where the law starts to hold.
        **options: those of `check`: `laws`, `roles`, `outputs`, `causal`, `group` (the model must
            be equivariant at least under it), `device`, `dtype`, `seed` and so on.
            They go before the plugin's (`pytest --symmetry-device cuda`).

    Raises:
        TypeError: an item is not of one of these forms.
        ValueError: there are no models, an option or a law is unknown, or one that is
            expected to fail does not apply.

    >>> import torch
    >>> from tokennet import Attention
    >>> checks = parametrize_with_checks(
    ...     {"attention": (Attention(8, num_heads=2), torch.randn(5, 8))},
    ...     laws=["node_permutation", "deterministic"],
    ... )
    >>> [case.id for case in checks.args[1]]
    ['attention-node_permutation', 'attention-deterministic']
    >>> @checks
    ... def test_laws(model, law):
    ...     law(model)
    """
    cases: list[Any] = []
    for name, model, example, own in _named(models):
        failures = {**(expected_failures or {}), **own.pop("expected_failures", {})}
        own = {**options, **own}
        for option in own:
            lookup("options", option, dict.fromkeys(OPTIONS))
        for law in _tested_laws(name, model, example, own, failures):
            reason = failures.get(law)
            xfail = pytest.mark.xfail(strict=True, raises=BrokenLaw, reason=reason or "")
            marks = [] if reason is None else [xfail]
            bound = BoundLaw(law, name, example, own, reason)
            cases.append(pytest.param(model, bound, id=f"{name}-{law}", marks=marks))
    return pytest.mark.parametrize(("model", "law"), cases)


def _named(models: Any) -> list[tuple[str, Any, Any, dict[str, Any]]]:
    """Name, model, example and options of each item; names are unique."""
    items = list(models.items()) if isinstance(models, Mapping) else [(None, m) for m in models]
    if not items:
        raise ValueError("models must hold at least one (model, example), got none")
    for name, item in items:
        if not isinstance(item, tuple) or len(item) not in (2, 3):
            where = "models" if name is None else f"models[{name!r}]"
            got = f"a tuple of {len(item)}" if isinstance(item, tuple) else type(item).__name__
            raise TypeError(
                f"{where} must hold (model, example) or (model, example, options), got {got}"
            )
        for options in item[2:]:
            check_type("options", options, Mapping, "a dict")
    names = [str(_name(item[0]) if name is None else name) for name, item in items]
    used, number = Counter(names), Counter[str]()
    named = []
    for name, (_, (model, example, *own)) in zip(names, items, strict=True):
        number[name] += 1
        unique = f"{name}{number[name]}" if used[name] > 1 else name
        named.append((unique, model, example, dict(*own)))
    return named


def _name(model: Any) -> str:
    """`GCNConv` for an instance, the class, or a partial of it; a function's own name."""
    name = name_of(model)
    return "model" if name == "<lambda>" else name


def _tested_laws(
    name: str, model: Any, example: Any, options: dict[str, Any], failures: Iterable[str]
) -> list[str]:
    """The laws to test: all of them where a factory does not say which apply."""
    group = options.get("group")
    known = LAWS if group is None else dict.fromkeys(required_laws(group))
    for law in failures:
        lookup("expected_failures", law, known)
    if options.get("laws") is not None:
        laws = list(lookup_all("laws", options["laws"], known))
    elif group is not None:
        laws = list(known)
    elif _is_factory(model) or _is_factory(example):
        laws = list(LAWS)
    else:
        laws = list(_laws_of(model, example, options))
    for law in failures:
        if law not in laws:
            raise ValueError(_inapplicable(law, name, laws))
    return laws


def _laws_of(model: Any, example: Any, options: dict[str, Any]) -> Iterable[str]:
    if options.get("group") is not None:
        return required_laws(options["group"])
    reading = {name: options[name] for name in ("roles", "outputs") if name in options}
    return applicable_laws(model, example, causal=bool(options.get("causal")), **reading)


def _inapplicable(law: str, subject: str, laws: Iterable[str]) -> str:
    return (
        f"expected_failures names {law}, which does not apply to {subject}; "
        f"those that do are {', '.join(laws)}"
    )


def _is_factory(value: Any) -> bool:
    """Whether `value` is a class, or a function that needs no arguments (and takes no `*args`)."""
    if isinstance(value, nn.Module) or not callable(value):
        return False
    function = value.func if isinstance(value, functools.partial) else value
    if isinstance(function, type):
        return True
    try:
        parameters = inspect.signature(value).parameters.values()
    except ValueError:  # a function written in C that does not tell
        return False
    return all(p.default is not p.empty or p.kind == p.VAR_KEYWORD for p in parameters)


def _drawn(draws: int | Draws, seed: int) -> int | Draws:
    """Draws by Hypothesis where it is installed, so that the smallest that breaks is reported."""
    if isinstance(draws, Draws) or importlib.util.find_spec("hypothesis") is None:
        return draws
    return importlib.import_module("tokennet.testing.strategies").ShrinkingDraws(draws, seed)


def _created(value: Any, what: str) -> Any:
    if not _is_factory(value):
        return value
    created = value()
    if created is None or (what == "a model" and not callable(created)):  # a forgotten return
        raise TypeError(f"the factory {_name(value)} must return {what}, got {created!r}")
    return created
