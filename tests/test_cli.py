"""The command line as a newcomer meets it."""

import errno
import json
import linecache
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from tokennet.version import __version__

ROOT = Path(__file__).parent.parent


def python(script):
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_version():
    done = subprocess.run(
        [sys.executable, "-m", "tokennet", "--version"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"tokennet {__version__}"


EXTRAS = """
import sys

for package in (
    "matplotlib", "sklearn", "lightning_fabric", "typer", "rich", "pynauty", "skimage",
    "statsmodels", "tokenizers", "transformers",
):
    sys.modules[package] = None
"""


def test_attention_needs_no_extra_and_the_rest_names_its_extra():
    done = python(
        EXTRAS
        + """
import torch
from tokennet import Attention, Tokens, Window
from tokennet.__main__ import main
from tokennet.compare import TASKS, compare

print(tuple(Attention(8, 2)(Tokens(torch.randn(2, 9, 8), Window(9, 1))).z.shape))
for call in (lambda: compare(TASKS["sort"](examples=12)), TASKS["digits"]):
    try:
        call()
    except ImportError as error:
        print(error)
main()
"""
    )
    assert done.stdout.splitlines() == [
        "(2, 9, 8)",
        'lightning_fabric is not installed; pip install "tokennet[compare]" brings it',
        'sklearn is not installed; pip install "tokennet[compare]" brings it',
    ]
    missing = 'tokennet: typer is not installed; pip install "tokennet[cli]" brings it\n'
    assert (done.returncode, done.stderr) == (2, missing)


def test_a_command_names_the_extra_that_it_lacks(tokennet, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    done = tokennet("compare", "digits")
    missing = 'lightning_fabric is not installed; pip install "tokennet[compare]" brings it'
    assert (done.returncode, done.stderr) == (2, f"tokennet: {missing}\n")


def test_help_names_the_commands_and_their_options(tokennet):
    text = tokennet("--help").stdout
    for command in ("compare", "check", "bench", "tasks", "nets"):
        assert command in text
    text = tokennet("compare", "--help").stdout
    for option in ("--nets", "--seeds", "--match", "--size", "--epochs", "--device", "--out"):
        assert option in text


def test_lists(tokennet):
    text = tokennet("tasks").stdout
    assert all(name in text for name in ("digits", "cora", "mutag", "attention@full"))
    text = tokennet("nets").stdout
    assert all(name in text for name in ("attention", "gat", "mlp", "S_n", "trivial"))
    assert all(name in text for name in ("vit_tiny", "gpt2", "124,439,808", "deep_sets"))


def test_compare_a_task_of_ones_own_from_another_folder(tokennet, tmp_path):
    source = (ROOT / "tests/compare/tasks_for_tests.py").read_text()
    (tmp_path / "my_tasks.py").write_text(source)
    args = ("compare", "my_tasks:Majority", "--seeds", "2", "--epochs", "2", "--workers", "1")
    done = tokennet(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "attention@full" in done.stdout
    assert "Aut(graph)" in done.stdout
    shown = done.stdout[: done.stdout.index("Wrote ")]
    assert max(map(len, shown.splitlines())) <= 80
    folder = tmp_path / "tokennet-results" / "majority"
    assert len(json.loads((folder / "results.json").read_text())["runs"]) == 4
    again = tokennet(*args, cwd=tmp_path)
    assert again.returncode == 0
    tables = [
        text[text.index("majority:") : text.index("FLOPs: forward")]
        for text in (done.stdout, again.stdout)
    ]
    assert tables[0] == tables[1]
    assert "4 of 4 runs were in" in again.stdout
    assert "runs were in" not in done.stdout


SLOW = """
import time
from tests.compare.tasks_for_tests import Majority

class Slow(Majority):
    nets = ("mean@full", "mean@ring")

    def loss(self, output, target):
        while self.graph == "ring":
            open("second", "w").close()
            time.sleep(0.1)
        return super().loss(output, target)

    def batch(self, index, graph):
        self.graph = graph
        return super().batch(index, graph)
"""


@pytest.mark.sweep
def test_ctrl_c_says_what_is_stored(tmp_path):
    (tmp_path / "my_tasks.py").write_text(SLOW)
    command = (sys.executable, "-m", "tokennet", "compare", "my_tasks:Slow", "--out", "out")
    process = subprocess.Popen(
        [*command, "--seeds", "1", "--epochs", "1", "--workers", "1"], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        # A shell starts what runs in the background deaf to Ctrl-C, and its children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        runs, second, ends = tmp_path / "out" / "runs", tmp_path / "second", time.monotonic() + 100
        while not second.exists() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    told = f"interrupted; finished runs are stored in {Path('out', 'runs')} and will be reused"
    assert (process.returncode, errors.splitlines()[-1:]) == (130, [f"tokennet: {told}"])
    assert "Traceback" not in errors
    (stored,) = runs.iterdir()
    assert json.loads(stored.read_text())["run"]["net"] == "mean@full"


def test_ctrl_c_in_another_command_promises_nothing(models, tokennet, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tokennet.testing.check", interrupted)
    done = tokennet("check", "models:Mean", cwd=models)
    assert (done.returncode, done.stderr) == (130, "tokennet: interrupted\n")


def test_without_a_command_help_is_shown(tokennet):
    done = tokennet()
    assert done.returncode == 2
    assert "compare" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("compare", "digit"), "task must be one of arrows, digits, cora, mutag"),
        (("compare", "digits", "--nets", "magic@full"), "mixer must be one of"),
        (("compare", "digits", "--nets", "mean@star"), "graph must be one of full, grid"),
        (("compare", "digits", "--nets", "mean"), "a net is written mixer@graph"),
        (("compare", "digits", "--size", "10"), "size: no attention@full has 10 params"),
        (("compare", "digits", "--positions", "x"), "positions must be one of pos, index, none"),
        (
            ("compare", "digits", "--match", "time"),
            "'time' is not one of 'params'",
        ),
        (
            ("compare", "digits", "--seeds", "0"),
            "'--seeds': Input should be greater than or equal to 1",
        ),
        (("compare", "digits", "--precision", "3"), "Precision '3' is invalid"),
        (("compare",), "Missing argument"),
        (("unknown",), "No such command 'unknown'"),
    ],
)
def test_mistakes_are_told_without_a_traceback(args, message, tokennet, tmp_path):
    done = tokennet(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("tokennet: ")
    assert done.stderr.count("\n") == 1


def test_cuda_that_is_not_there_is_refused(tokennet, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = tokennet("compare", "digits", "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "tokennet: device must be cpu or auto where there is no CUDA device, got cuda\n"
    )


MODEL = """
import torch
from torch import nn


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.table = nn.Linear(6, 6), nn.Parameter(torch.zeros(9, 6))

    def forward(self, x):
        return (self.embed(x) + self.table[: x.shape[1]]).tanh().mean(1)


class Mean(Positions):
    def forward(self, x):
        return self.embed(x).tanh().mean(1)


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 4)

    def forward(self, x, edge_index):
        h = self.linear(x)
        return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]])


class Needs(nn.Module):
    def __init__(self, dim):
        super().__init__()


def looked_up(x):
    return nn.functional.embedding(torch.tensor([9]), x[0])


def never(x):
    assert x.shape[0] == 100, "of 100 rows\\nonly"
    return x


def unset(x):
    raise AttributeError("no table")


def refusing(x):
    raise ValueError("not this x")


def cumulated(x):
    return x.cumsum(1)


def example():
    return torch.randn(2, 4, 3)


number = 3
"""


@pytest.fixture
def models(tmp_path):
    (tmp_path / "models.py").write_text(MODEL)
    return tmp_path


def test_check_finds_a_hidden_table(models, tokennet):
    done = tokennet("check", "models:Positions", "--json", "report.json", cwd=models)
    assert done.returncode == 1, done.stderr
    assert "node_permutation" in done.stdout
    assert "self.table[: x.shape[1]]" in done.stdout
    assert max(map(len, done.stdout.partition("\nPositions:")[0].splitlines())) <= 80
    stored = json.loads((models / "report.json").read_text())
    assert stored["laws"]["node_permutation"]["verdict"] == "BROKEN"
    assert stored["laws"]["node_permutation"]["location"]["file"].endswith("models.py")


@pytest.mark.parametrize("model", ["models:Mean", "models:Graph"])
def test_check_passes(models, model, tokennet):
    done = tokennet("check", model, cwd=models)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BROKEN" not in done.stdout


def test_check_takes_an_example_laws_and_claims(models, tokennet):
    options = ("models:cumulated", "--example", "models:example")
    assert tokennet("check", *options, cwd=models).returncode == 1
    done = tokennet("check", *options, "--causal", cwd=models)
    assert done.returncode == 0, done.stdout
    assert "causality" in done.stdout
    done = tokennet("check", *options, "--role", "x=per_set", "--outputs", "0", cwd=models)
    assert done.returncode == 0, done.stdout
    assert "one entry a set" in done.stdout
    done = tokennet("check", *options, "--laws", "deterministic", cwd=models)
    assert done.returncode == 0
    assert "node_permutation" not in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["models"], "model must be module:object, got 'models'"),
        (["models:Nothing"], "models has no 'Nothing'"),
        (["models:Maen"], "models has no 'Maen'; did you mean Mean?"),
        (["models:0"], "model 'models:0': '0' is no name of an object in models"),
        (["models:Mean.forward.0"], "'0' is no name of an object in models.Mean.forward"),
        (["timm:0"], "model must be timm:name, such as timm:"),
        (["models:Mean", "--example", "models:Mean"], "example 'models:Mean' is a class"),
        (["nowhere:Model"], "No module named 'nowhere'"),
        (["models.py:Mean"], "write models:Mean, in the folder of that file"),
        (["models:number"], "must be callable, got int"),
        (["models:Needs"], "needs arguments"),
        (["models:cumulated"], "example is needed"),
        (["models:Mean", "--example", "models:number"], "example must be a tensor"),
        (["models:Mean", "--laws", "order"], "laws must be one of"),
        (["models:Mean", "--laws", "padding"], "does not apply"),
        (["models:Mean", "--dtype", "float8"], "dtype must be"),
        (["models:Mean", "--role", "x"], "role must be NAME=ROLE"),
        (["models:Mean", "--role", "x=tokns"], "did you mean tokens?"),
        (["models:Mean", "--outputs", "states"], "outputs must be one of"),
        (
            ["models:Graph", "--example", "models:example"],
            "models:Graph cannot be checked: TypeError",
        ),
        (
            ["models:looked_up", "--example", "models:example"],
            "models:looked_up cannot be checked: IndexError: index out of range in self",
        ),
        (
            ["models:never", "--example", "models:example"],
            "models:never cannot be checked: AssertionError: of 100 rows only",
        ),
        (
            ["models:unset", "--example", "models:example"],
            "models:unset cannot be checked: AttributeError: no table",
        ),
        (
            ["models:refusing", "--example", "models:example"],
            "models:refusing cannot be checked: ValueError: not this x",
        ),
    ],
)
def test_misuse_of_check_is_one_line_and_2(models, args, message, tokennet):
    done = tokennet("check", *args, cwd=models)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("file", ["nowhere/report.json", "folder"])
def test_a_report_that_cannot_be_written_is_refused_before_the_run(
    models, file, monkeypatch, tokennet
):
    (models / "folder").mkdir()
    monkeypatch.setattr("tokennet.testing.check", lambda *args, **options: pytest.fail("it ran"))
    done = tokennet("check", "models:Mean", "--json", file, cwd=models)
    assert done.returncode == 2
    message = f"tokennet: --json must name a file in a folder that exists, got {file!r}\n"
    assert done.stderr == message


def test_a_report_in_a_read_only_folder_is_refused_before_the_run(models, monkeypatch, tokennet):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as it is not for root
    monkeypatch.setattr("tokennet.testing.check", lambda *args, **options: pytest.fail("it ran"))
    done = tokennet("check", "models:Mean", "--json", "report.json", cwd=models)
    message = "tokennet: --json must name a file that can be written, got 'report.json'\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_a_report_that_cannot_be_written_leaves_the_old_one(models, monkeypatch, tokennet):
    (models / "report.json").write_text("old")

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    done = tokennet("check", "models:Mean", "--json", "report.json", cwd=models)
    message = "tokennet: cannot write report.json: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, message)
    assert (models / "report.json").read_text() == "old"
    assert sorted(path.name for path in models.glob("*report*")) == ["report.json"]


def ran_in(folder, tokennet, *options):
    return tokennet("check", "models:Positions", "--laws", "node_permutation", *options, cwd=folder)


def test_check_writes_every_format(models, tokennet):
    done = ran_in(models, tokennet, "--sarif", "a.sarif", "--junit", "a.xml", "--html", "a.html")
    assert done.returncode == 1
    log = json.loads((models / "a.sarif").read_text())
    (result,) = log["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "models.py"}
    line = MODEL.splitlines().index(
        "        return (self.embed(x) + self.table[: x.shape[1]]).tanh().mean(1)"
    )
    assert place["region"]["startLine"] == line + 1
    assert 'failures="1"' in (models / "a.xml").read_text()
    assert "self.table[: x.shape[1]]" in (models / "a.html").read_text()
    assert "1 of 1 laws are BROKEN: node_permutation." in done.stdout


@pytest.mark.parametrize("name", ["models:Positions", "torch:nn.GRU(6, 6, batch_first=True)"])
def test_the_script_of_a_break_runs_as_it_is(name, models, tokennet, capsys):
    options = ("--laws", "node_permutation", "--json", "report.json")
    assert tokennet("check", name, *options, cwd=models).returncode == 1
    stored = json.loads((models / "report.json").read_text())
    script = stored["laws"]["node_permutation"]["counterexample"]["script"]
    exec(compile(script, "script", "exec"), {})
    assert float(capsys.readouterr().out) > 1e-9


def test_a_baseline_fails_on_new_breaks_only(models, tokennet):
    options = ("--baseline", "known.json")
    done = ran_in(models, tokennet, *options)
    assert done.returncode == 2
    assert "--baseline known.json does not exist; --update-baseline makes it" in done.stderr
    assert ran_in(models, tokennet, *options, "--update-baseline").returncode == 0
    done = ran_in(models, tokennet, *options)
    assert done.returncode == 0
    assert "1 of 1 breaks are in the baseline." in done.stdout
    (models / "models.py").write_text("# a line more\n" + MODEL)
    linecache.clearcache()  # as in another process
    assert ran_in(models, tokennet, *options).returncode == 0
    (models / "models.py").write_text(MODEL.replace("self.table[: x", "2 * self.table[: x"))
    linecache.clearcache()
    done = ran_in(models, tokennet, *options)
    assert done.returncode == 1
    assert "In the baseline, and no longer found: node_permutation at models.py" in done.stdout


def test_an_update_needs_a_file(models, tokennet):
    done = ran_in(models, tokennet, "--update-baseline")
    assert done.stderr == "tokennet: --update-baseline needs --baseline FILE, got none\n"


def test_a_check_that_shows_nothing_has_an_exit_code_of_its_own(models, tokennet):
    with (models / "models.py").open("a") as file:
        file.write("\n\ndef constant(x):\n    return torch.zeros_like(x)\n")
    done = tokennet("check", "models:constant", "--example", "models:example", cwd=models)
    assert done.returncode == 3
    assert "Nothing was shown: no law is broken, and none that speaks of tokens" in done.stdout


def test_laws_are_listed_and_explained(tokennet):
    from tokennet.testing import LAWS

    listed = tokennet("check", "--list-laws")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(LAWS)
    for name, law in LAWS.items():
        text = tokennet("check", "--why", name).stdout
        assert text.startswith(f"{name}: {law.summary}\n")
        starts = [line.partition(":")[0] for line in text.splitlines()]
        assert [s for s in starts if s in PARTS] == PARTS, name
        assert len(text.splitlines()) <= 14
    done = tokennet("check", "--why", "paddin")
    assert done.returncode == 2
    assert "did you mean padding?" in done.stderr


PARTS = ["Says", "Measured", "Causes", "Mend"]


def test_check_of_a_model_by_name(tokennet):
    name = "torch:nn.Sequential(nn.Linear(4, 4), nn.Tanh())"
    done = tokennet("check", name, "--laws", "node_permutation,deterministic")
    assert done.returncode == 0, done.stderr
    assert "All 2 laws that apply hold on this example." in done.stdout
    done = tokennet("check", "torch:nn.Lienar(4, 4)")
    assert done.returncode == 2
    assert "torch.nn has no 'nn.Lienar'; did you mean nn.Linear" in done.stderr
