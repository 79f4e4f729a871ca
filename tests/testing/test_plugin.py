"""The pytest plugin: options and fixtures, what it gives to laws, the report, and no torch."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pytest_tokennet
import tokennet
from tests.testing import stand_in
from tokennet.testing import parametrize

LAWS = """
    from tests.testing.stand_in import Broken, Told
    from tokennet.testing.parametrize import parametrize_with_checks

    @parametrize_with_checks(
        {"told": (Told(), "x"), "broken": (Broken(), "edges")},
        expected_failures={"node_permutation": "known"}, laws=["node_permutation"],
    )
    def test_known(model, law):
        law(model)

    @parametrize_with_checks([(Broken(), "edges")])
    def test_laws(model, law):
        law(model)

    def test_nothing():
        pass
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run a test file in this process, with no other plugin."""
    for name in ("LAWS", "applicable_laws", "check"):
        monkeypatch.setattr(parametrize, name, getattr(stand_in, name))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run_file(text, *options):
        pytester.makepyfile(text)
        return pytester.runpytest_inprocess("-p", "pytest_tokennet", *options)

    return run_file


def test_a_run_without_laws_does_not_import_torch(pytester):
    pytester.makepyfile("""
        import sys
        import pytest

        @pytest.mark.parametrize("seed", [3])
        def test_the_plugin_is_there(seed, symmetry_seed, record_symmetry, pytestconfig):
            assert symmetry_seed == seed
            assert pytestconfig.pluginmanager.hasplugin("tokennet")
            assert "pytest_tokennet" in sys.modules
            assert not {"torch", "tokennet", "numpy"} & set(sys.modules)
    """)
    options = ("--symmetry-seed=3", "--symmetry-dtype=float32", "--symmetry-report=out.json")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)


def test_no_fixture_is_used_unasked(run):
    run("def test_it(request): assert request.fixturenames == ['request']").assert_outcomes(
        passed=1
    )


DEFAULTS = 'torch.device("cpu"), "auto", 0'
GIVEN = 'torch.device("meta"), torch.bfloat16, 5'


@pytest.mark.parametrize(
    ("wanted", "options"),
    [
        (DEFAULTS, []),
        (GIVEN, ["--symmetry-device=meta", "--symmetry-dtype=bfloat16", "--symmetry-seed=5"]),
        (DEFAULTS, ["--symmetry-device=cpu", "--symmetry-dtype=auto", "--symmetry-seed=0"]),
    ],
)
def test_fixtures_are_the_options(run, wanted, options):
    text = f"""
        import torch

        def test_it(symmetry_device, symmetry_dtype, symmetry_seed):
            assert (symmetry_device, symmetry_dtype, symmetry_seed) == ({wanted})
    """
    run(text, *options).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ([], []),
        ([("dtype", "auto"), ("seed", 0)], ["--symmetry-dtype=auto", "--symmetry-seed=0"]),
        (
            [("device", torch.device("meta")), ("dtype", torch.float64), ("seed", 5)],
            ["--symmetry-device=meta", "--symmetry-dtype=float64", "--symmetry-seed=5"],
        ),
    ],
)
def test_laws_get_the_options_that_were_given(run, given, options):
    text = f"""
        from tests.testing.stand_in import Told
        from tokennet.testing.parametrize import parametrize_with_checks

        @parametrize_with_checks([(Told(), "x")])
        def test_it(model, law):
            law(model)
            assert law.report.reason == {f"told so on x with {given}"!r}
    """
    run(text, *options).assert_outcomes(passed=2)


def test_options_of_the_decorator_go_first(run):
    text = """
        from tests.testing.stand_in import Told
        from tokennet.testing.parametrize import parametrize_with_checks

        @parametrize_with_checks([(Told(), "x")], seed=7)
        def test_it(model, law):
            law(model)
            assert law.report.reason == "told so on x with [('seed', 7)]"
    """
    run(text, "--symmetry-seed=5").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("device", "count", "message"),
    [
        ("cuda", 0, "*--symmetry-device cuda: torch * finds no GPU here"),
        ("cuda:1", 1, "*--symmetry-device cuda:1: torch * finds 1 GPU here"),
        ("gpu", 0, "*--symmetry-device: 'gpu' is no device: *"),
    ],
)
def test_a_device_that_is_not_there_is_a_usage_error(run, monkeypatch, device, count, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    result = run("def test_it(): pass", f"--symmetry-device={device}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_device_that_is_there_is_taken(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    text = "def test_it(symmetry_device): assert str(symmetry_device) == 'cuda:1'"
    run(text, "--symmetry-device=cuda:1").assert_outcomes(passed=1)


def test_an_unknown_precision_is_a_usage_error(run):
    result = run("def test_it(): pass", "--symmetry-dtype=int8")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def strictly(path):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def summary(content):
    return [
        (entry["test"].split("::")[1], entry["outcome"], entry["report"]["verdict"])
        for entry in content["reports"]
    ]


WRITTEN = [
    ("test_known[broken-node_permutation]", "failed", "PASS"),
    ("test_known[told-node_permutation]", "failed", "PASS"),
    ("test_laws[Broken-deterministic]", "passed", "PASS"),
    ("test_laws[Broken-edge_permutation]", "failed", "BROKEN"),
    ("test_laws[Broken-node_permutation]", "passed", "PASS"),
]


def test_the_report_holds_every_law_of_the_run(run, pytester):
    result = run(LAWS, "--symmetry-report=new/folder/out.json", "--symmetry-seed=5")
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(["*5 symmetry reports in *out.json*"])
    content = strictly(pytester.path / "new/folder/out.json")
    assert summary(content) == WRITTEN
    assert {name: content[name] for name in ("device", "dtype", "seed")} == {
        "device": None,
        "dtype": None,
        "seed": 5,
    }
    first = content["reports"][0]["report"]
    assert (first["law"], first["subject"], first["error"]) == ("node_permutation", "Broken", "nan")


REAL = """
    import torch
    from torch import nn
    from tokennet import Attention, Cycle, Tokens
    from tokennet.testing.parametrize import parametrize_with_checks

    class ReadsTheIndex(nn.Module):
        def forward(self, x):
            return x * torch.arange(x.shape[-2], device=x.device)[:, None]

    def ring():
        return Tokens(torch.randn(6, 8), Cycle(6))

    @parametrize_with_checks(
        {
            "obeys": (lambda: Attention(8, num_heads=2), ring),
            "breaks": (ReadsTheIndex(), torch.randn(5, 3)),
            "known": (
                ReadsTheIndex,
                torch.randn(5, 3),
                {"expected_failures": {"node_permutation": "reads the index"}},
            ),
        },
        laws=["node_permutation"],
    )
    def test_it(model, law):
        law(model)
"""
REAL_WRITTEN = [
    ("test_it[breaks-node_permutation]", "failed", "BROKEN"),
    ("test_it[known-node_permutation]", "xfailed", "BROKEN"),
    ("test_it[obeys-node_permutation]", "passed", "PASS"),
]


@pytest.mark.sweep
def test_workers_report_too(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(tokennet.__file__).parents[1]))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(REAL)
    options = ("-p", "xdist", "-p", "pytest_tokennet", "-n", "1", "--symmetry-report=out.json")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1, failed=1, xfailed=1)
    result.stdout.fnmatch_lines(["*BrokenLaw: *ReadsTheIndex*node_permutation*BROKEN*"])
    assert summary(strictly(pytester.path / "out.json")) == REAL_WRITTEN
    assert [path.name for path in pytester.path.rglob("*.json")] == ["out.json"]


def test_a_worker_leaves_the_file_to_the_controller():
    options = {"symmetry_device": None, "symmetry_report": "out.json"}
    worker = SimpleNamespace(getoption=options.get, workerinput={})  # it can register nothing
    pytest_tokennet.pytest_configure(worker)


@pytest.mark.gpu
def test_laws_run_on_a_gpu(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(REAL)
    options = ("-p", "pytest_tokennet", "--symmetry-device=cuda", "--symmetry-report=out.json")
    torch.cuda.reset_peak_memory_stats()
    pytester.runpytest_inprocess(*options).assert_outcomes(passed=1, failed=1, xfailed=1)
    assert torch.cuda.max_memory_allocated() > 0
    assert summary(strictly(pytester.path / "out.json")) == REAL_WRITTEN


def test_an_expected_failure_is_called_so(run, pytester):
    text = """
        from tests.testing.stand_in import Broken
        from tokennet.testing.parametrize import parametrize_with_checks

        @parametrize_with_checks(
            [(Broken(), "edges")], laws=["edge_permutation"],
            expected_failures={"edge_permutation": "known"},
        )
        def test_it(model, law):
            law(model)
    """
    run(text, "--symmetry-report=out.json").assert_outcomes(xfailed=1)
    wanted = [("test_it[Broken-edge_permutation]", "xfailed", "BROKEN")]
    assert summary(strictly(pytester.path / "out.json")) == wanted


def test_reports_of_ones_own_are_recorded(run, pytester):
    text = """
        from types import SimpleNamespace

        def test_it(record_symmetry):
            record_symmetry(SimpleNamespace(to_dict=lambda: {"verdict": "first"}))
            record_symmetry(SimpleNamespace(to_dict=lambda: {"verdict": "second"}))
            assert False
    """
    run(text, "--symmetry-report=out.json").assert_outcomes(failed=1)
    content = strictly(pytester.path / "out.json")
    assert summary(content) == [("test_it", "failed", "first"), ("test_it", "failed", "second")]


def test_a_law_that_was_not_called_reports_nothing(run, pytester):
    text = """
        from tests.testing.stand_in import Told
        from tokennet.testing.parametrize import parametrize_with_checks

        checks = parametrize_with_checks([(Told(), "x")], laws=["deterministic"])

        @checks
        def test_called(model, law):
            law(model)

        @checks
        def test_not_called(model, law):
            assert law.report is None
    """
    run(text, "--symmetry-report=out.json").assert_outcomes(passed=2)
    wanted = [("test_called[Told-deterministic]", "passed", "PASS")]
    assert summary(strictly(pytester.path / "out.json")) == wanted


def test_a_report_needs_a_file(run, pytester):
    result = run("def test_it(): pass", f"--symmetry-report={pytester.path}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--symmetry-report must name a file, got the folder *"])


def test_without_the_option_nothing_is_written(run, pytester):
    run(LAWS).assert_outcomes(passed=3, failed=3)
    assert not list(pytester.path.rglob("*.json"))
