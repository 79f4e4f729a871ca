"""One test per model and law: which there are, what they are called, and when they fail.

The verdicts are told by the models of a stand-in for `check`.
"""

import functools
import textwrap

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

from tests.testing import stand_in
from tests.testing.stand_in import Broken, Told
from tokennet.testing import Draws, parametrize
from tokennet.testing.parametrize import BrokenLaw, UndecidedLaw, parametrize_with_checks


@pytest.fixture(autouse=True)
def told(monkeypatch):
    for name in ("LAWS", "applicable_laws", "check"):
        monkeypatch.setattr(parametrize, name, getattr(stand_in, name))


@pytest.fixture
def run(pytester, monkeypatch):
    """Run a test file whose decorator has these arguments."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the others take a second

    def run_with(arguments, *options, body="law(model)"):
        pytester.makepyfile(
            textwrap.dedent(f"""
            from functools import partial
            from tests.testing.stand_in import Broken, Told
            from tokennet.testing.parametrize import parametrize_with_checks

            @parametrize_with_checks({arguments})
            def test_laws(model, law):
                {body}
            """)
        )
        return pytester.runpytest_inprocess(*options)

    return run_with


def cases(*args, **kwargs):
    return parametrize_with_checks(*args, **kwargs).args[1]


def ids(*args, **kwargs):
    return [case.id for case in cases(*args, **kwargs)]


def laws(*args, **kwargs):
    return {case.values[1].name: case.values[1] for case in cases(*args, **kwargs)}


def test_one_case_for_each_model_and_each_law_that_applies():
    assert ids([(Told(), "nodes"), (Broken(), "edges")]) == [
        "Told-node_permutation",
        "Told-deterministic",
        "Broken-node_permutation",
        "Broken-edge_permutation",
        "Broken-deterministic",
    ]


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ([(Told(), "x"), (Told(), "x"), (Broken(), "x")], ["Told1", "Told2", "Broken"]),
        ({"mean": (Told(), "x"), "sum": (Told(), "x")}, ["mean", "sum"]),
        ([(Told, "x")], ["Told"]),
        ([(functools.partial(Told, causality="PASS"), "x")], ["Told"]),
        ([(lambda: Told(), "x")], ["model"]),
        ([(torch.relu, "x")], ["relu"]),
        ([(functools.partial(torch.softmax, dim=-1), "x")], ["softmax"]),
    ],
)
def test_models_are_named(models, names):
    assert ids(models, laws=["deterministic"]) == [f"{name}-deterministic" for name in names]


def test_laws_and_causality_are_options_of_all_or_of_one():
    assert ids([(Told(), "x")], laws=["causality"]) == ["Told-causality"]
    assert ids(
        [(Told(), "x", {"laws": ["causality"]}), (Broken(), "x")], laws=["deterministic"]
    ) == [
        "Told-causality",
        "Broken-deterministic",
    ]
    assert "Told-causality" not in ids([(Told(), "x")])
    assert "Told-causality" in ids([(Told(), "x")], causal=True)
    assert "Told-causality" in ids([(Told(), "x", {"causal": True})])


def test_a_factory_is_not_called_to_collect_and_has_every_law():
    def refuse():
        raise AssertionError("called")

    expected = [f"refuse-{law}" for law in stand_in.LAWS]
    assert ids([(refuse, "x")]) == expected
    assert ids({"refuse": (Told(), refuse)}) == expected
    assert ids([(refuse, "x")], laws=["causality"]) == ["refuse-causality"]


class AnyArguments:
    def __init__(self, *args):
        pass


class NoArguments(nn.Module):
    def __call__(self, x=None):
        return x


@pytest.mark.parametrize(
    ("model", "is_factory"),
    [
        (lambda: Told(), True),
        (lambda dim=3, **options: Told(), True),
        (Told, True),
        (AnyArguments, True),
        (functools.partial(AnyArguments, 1), True),
        (functools.partial(lambda dim: Told(), 1), True),
        (lambda x: x, False),
        (lambda x, mask=None: x, False),
        (lambda *inputs: inputs, False),
        (functools.partial(torch.softmax, dim=-1), False),
        (torch.relu, False),
        (torch.compile(Told(), backend="eager"), False),
        (NoArguments(), False),
    ],
)
def test_what_needs_no_arguments_and_is_no_module_is_a_factory(model, is_factory):
    assert (len(ids([(model, "x")])) == len(stand_in.LAWS)) == is_factory


def test_data_can_be_called_but_is_no_factory():
    example = Data(x=torch.zeros(3, 2))
    assert callable(example)
    assert ids([(Told(), example)]) == ["Told-node_permutation", "Told-deterministic"]


def test_a_law_holds_the_model_it_is_called_with():
    law = laws([(Told(), "x")])["node_permutation"]
    assert law.report is None
    law(Told())
    assert law.report.verdict == "PASS"
    assert repr(law) == "<law node_permutation of Told>"
    with pytest.raises(BrokenLaw, match="node_permutation BROKEN: told so on x with"):
        law(Told(node_permutation="BROKEN"))
    assert law.report.verdict == "BROKEN"
    law(lambda: Told())
    assert law.report.verdict == "PASS"
    with pytest.raises(TypeError, match="the factory model must return a model, got None"):
        law(lambda: None)
    assert law.report is None
    with pytest.raises(TypeError, match="the factory model must return a model, got 3"):
        law(lambda: 3)
    law = laws({"late": (Told(), lambda: None)})["node_permutation"]
    with pytest.raises(TypeError, match="the factory model must return an example, got None"):
        law(Told())


@pytest.mark.parametrize("verdict", ["INCONCLUSIVE", "VACUOUS"])
def test_what_the_example_cannot_show_fails(verdict):
    law = laws([(Told(), "x")])["node_permutation"]
    with pytest.raises(
        UndecidedLaw, match=rf"neither shown nor broken by this example \({verdict}"
    ):
        law(Told(node_permutation=verdict))


def test_a_law_that_is_vacuous_by_nature_passes_as_such_only():
    law = laws([(Told(), "x")])["deterministic"]
    law(Told(deterministic="VACUOUS"))
    for verdict, error in (("INCONCLUSIVE", UndecidedLaw), ("BROKEN", BrokenLaw)):
        with pytest.raises(error):
            law(Told(deterministic=verdict))


def test_options_reach_the_check_and_go_before_those_of_the_run():
    options = {"laws": ["deterministic"], "seed": 3}
    law = laws([(Told(), "x", {"dtype": "float32"})], **options)["deterministic"]
    law.settings = {"seed": 7, "device": "here"}
    law._options["draws"] = drawn = Draws(2)
    law(Told())
    shown = f"[('device', 'here'), ('draws', {drawn!r}), ('dtype', 'float32'), ('seed', 3)]"
    assert shown in law.report.reason


def test_an_example_may_be_made_when_needed():
    law = laws({"late": (Told(), lambda: "late")}, laws=["deterministic"])["deterministic"]
    law(Told())
    assert "told so on late" in law.report.reason


@pytest.mark.parametrize(
    ("arguments", "outcomes"),
    [
        ("[(Told(), 'edges')]", {"passed": 3}),
        ("[(Broken(), 'edges')]", {"passed": 2, "failed": 1}),
        ("[(Told(deterministic='INCONCLUSIVE'), 'edges')]", {"passed": 2, "failed": 1}),
        ("[(Broken, 'edges')]", {"passed": 2, "failed": 1, "skipped": 1}),
        ("[(Broken, 'nodes')]", {"passed": 2, "skipped": 2}),
        ("[(Broken, 'x')], laws=['edge_permutation']", {"failed": 1}),
        (
            "[(Broken(), 'edges', {'expected_failures': {'edge_permutation': 'known'}})]",
            {"passed": 2, "xfailed": 1},
        ),
        (
            "[(Broken(), 'edges'), (Broken, 'edges')], expected_failures={'edge_permutation': ''}",
            {"passed": 4, "xfailed": 2, "skipped": 1},
        ),
        (  # an expected failure that does not fail, and one that does not show
            "[(Told(), 'edges')], expected_failures={'edge_permutation': 'known'}",
            {"passed": 2, "failed": 1},
        ),
        (
            "[(Told(causality='VACUOUS'), 'x')], laws=['causality'],"
            "expected_failures={'causality': 'known'}",
            {"failed": 1},
        ),
        (  # known only when the model is there
            "[(Told, 'nodes')], expected_failures={'edge_permutation': 'known'}",
            {"passed": 2, "skipped": 1, "failed": 1},
        ),
    ],
)
def test_outcomes(run, arguments, outcomes):
    run(arguments).assert_outcomes(**outcomes)


def test_a_broken_law_prints_its_report_and_not_the_checker(run):
    result = run("[(Broken(), 'edges')]")
    result.stdout.fnmatch_lines(
        ["*BrokenLaw: Broken: edge_permutation BROKEN: told so on edges*", "*error nan in float64*"]
    )
    result.stdout.no_fnmatch_line("*parametrize.py*")


def test_a_law_that_starts_to_hold_says_so(run):
    known = "expected_failures={'edge_permutation': 'reads the order'}"
    result = run(f"[(Told(), 'edges')], {known}")
    result.stdout.fnmatch_lines(
        [
            "*edge_permutation was expected to fail (reads the order), but Told obeys it now: "
            "take it out of expected_failures.",
        ]
    )
    run(f"[(Broken(), 'edges')], {known}", "--runxfail").assert_outcomes(passed=2, failed=1)
    uncalled = run(f"[(Broken(), 'edges')], {known}", body="pass")
    uncalled.assert_outcomes(passed=2, failed=1)
    crash = run(f"[(Broken(), 'edges')], {known}", body="raise KeyError")
    crash.assert_outcomes(failed=3)


def test_inapplicable_laws_are_skipped_with_a_reason(run):
    result = run("[(Broken, 'nodes')]", "-rs")
    result.stdout.fnmatch_lines(["SKIPPED * edge_permutation does not apply to Broken"])


@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ([], {}, ValueError, r"models must hold at least one \(model, example\), got none"),
        ({}, {}, ValueError, "models must hold at least one"),
        ((Told(), "x"), {}, TypeError, r"models must hold \(model, example\) .* got Told"),
        ([(Told(),)], {}, TypeError, r"models must hold .*, got a tuple of 1"),
        ({"a": Told()}, {}, TypeError, r"models\['a'\] must hold .*, got Told"),
        ([(Told(), "x", "y")], {}, TypeError, "options must be a dict, got str"),
        ([(Told(), "x")], {"laws": ["relabeling"]}, ValueError, "laws must be one of node"),
        (
            [(Told(), "x")],
            {"expected_failures": {"relabeling": ""}},
            ValueError,
            "expected_failures must be one of .*; got 'relabeling'",
        ),
        (
            [(Told, "x")],
            {"expected_failures": {"relabeling": ""}},
            ValueError,
            "expected_failures must be one of .*; got 'relabeling'",
        ),
        (
            [(Broken(), "edges"), (Told(), "x")],
            {"expected_failures": {"edge_permutation": ""}},
            ValueError,
            "expected_failures names edge_permutation, which does not apply to Told; those that "
            "do are node_permutation, deterministic",
        ),
        (
            [(Told(), "x", {"expected_failures": {"causality": ""}})],
            {},
            ValueError,
            "expected_failures names causality, which does not apply to Told",
        ),
        (
            [(Told, "x", {"laws": ["deterministic"], "expected_failures": {"causality": ""}})],
            {},
            ValueError,
            "expected_failures names causality, which does not apply to Told",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_at_decoration(models, options, error, message):
    with pytest.raises(error, match=message):
        parametrize_with_checks(models, **options)


def test_options_of_an_item_are_not_changed():
    own = {"expected_failures": {"edge_permutation": "known"}}
    module = nn.Linear(1, 1)
    for _ in range(2):
        assert len(ids([(module, "edges", own)])) == 3
    assert own == {"expected_failures": {"edge_permutation": "known"}}


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match=r"got 'expected_failure'; did you mean expected_failures"):
        parametrize_with_checks(
            {"net": (nn.Linear(8, 8), torch.ones(5, 8), {"expected_failure": {}})}
        )
    with pytest.raises(ValueError, match="options must be one of .*got 'role'"):
        parametrize_with_checks(
            {"net": (nn.Linear(8, 8), torch.ones(5, 8))}, role={"input": "tokens"}
        )
