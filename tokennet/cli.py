"""The commands of `tokennet`: compare, predict, complete, check, bench, tasks, nets."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from typer import Argument, CallbackParam, Option
from typer.exceptions import TyperException

from tokennet.version import __version__

app = typer.Typer(
    help="Tokens on a graph: compare transformers, MLP-mixers and graph networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


Match = Literal["params", "flops", "none"]
Device = Literal["auto", "cpu", "cuda"]
PICTURES = (".png", ".pdf", ".svg")
_INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells: 128 + SIGINT."""


def _checked_file(option: CallbackParam, path: Path | None) -> Path | None:
    """The file of an option, if it can be written; told before anything is computed."""
    if path is None:
        return None
    if path.is_dir() or not path.parent.is_dir():
        told = f"must name a file in a folder that exists, got {str(path)!r}"
        raise ValueError(f"--{option.name} {told}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"--{option.name} must name a file that can be written, got {str(path)!r}")
    if option.name == "plot" and path.suffix not in PICTURES:
        raise ValueError(f"--plot must end in one of {', '.join(PICTURES)}; got {str(path)!r}")
    return path


_file = partial(Option, callback=_checked_file)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"tokennet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def compare(
    task: Annotated[str, Argument(help="A task (see `tokennet tasks`) or module:Class.")],
    more: Annotated[list[str] | None, Argument(metavar="[NAME=VALUE]...", hidden=True)] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="NAME=VALUE...", help="Arguments of the task: patch=4 stride=2."),
    ] = None,
    nets: Annotated[
        str | None,
        Option(help="Nets as mixer@graph or mixer@graph/readout, by commas. (default: the task's)"),
    ] = None,
    seeds: Annotated[
        int | None, Option(min=1, help="Number of seeds. (default: the task's)")
    ] = None,
    match: Annotated[
        Match, Option(help="What is equal for all nets; widths follow from it.")
    ] = "params",
    size: Annotated[
        int | None,
        Option(min=1, help="Number of parameters or FLOPs; with --match none, the width."),
    ] = None,
    epochs: Annotated[int | None, Option(min=1, help="Epochs. (default: the task's)")] = None,
    full: Annotated[
        bool, Option("--full", help="Train for longer, until nothing improves.")
    ] = False,
    depth: Annotated[int | None, Option(min=0, help="Blocks. (default: the task's)")] = None,
    lr: Annotated[float | None, Option(help="Learning rate. (default: the task's)")] = None,
    positions: Annotated[
        str | None,
        Option(help="Positional encodings by pos, by index, or none. (default: the task's)"),
    ] = None,
    device: Annotated[Device, Option(help="Where to train.")] = "auto",
    devices: Annotated[int, Option(min=1, help="Number of devices.")] = 1,
    workers: Annotated[
        int | None,
        Option(min=1, help="Processes that train at once. (default: one a core, at most 8)"),
    ] = None,
    precision: Annotated[
        str, Option(help="Precision as Lightning Fabric names it, such as bf16-mixed.")
    ] = "32-true",
    out: Annotated[
        Path | None,
        Option(help="Folder for results; runs in it are reused. (default: tokennet-results/TASK)"),
    ] = None,
) -> None:
    """Train several nets on the same data at the same budget, and compare them.

    A net is a mixer on a graph, such as attention@full. Finished runs are stored: an
    interrupted comparison resumes, and a repeated one returns at once. Exit code 1 if a run
    diverged: it is marked, and has no scores.
    """
    from tokennet.compare import command

    budget = {
        "match": match, "size": size, "epochs": epochs, "positions": positions, "depth": depth,
        "lr": lr, "full": full,
    }  # fmt: skip
    where = command.Where(_accelerator(device), devices, precision, workers)
    settings = [*(set_ or ()), *(more or ())]
    raise typer.Exit(command.compare(task, settings, nets, seeds, budget, where, out))


_Folder = Annotated[Path, Argument(help="Folder that `tokennet compare` wrote.", exists=True)]
_Net = Annotated[str | None, Option(help="Its name in the tables. (default: the best net)")]
_Seed = Annotated[int, Option(min=0, help="Seed of the run.")]


@app.command()
def predict(
    folder: _Folder,
    net: _Net = None,
    seed: _Seed = 0,
    data: Annotated[
        Path | None, Option(help="Tokens (n, N, C), .npy or .pt. (default: the test)")
    ] = None,
    out: Annotated[Path | None, _file(help="Write the answers to this file, as CSV.")] = None,
) -> None:
    """The answers of a net that was compared: to the test, or to data of your own."""
    from tokennet.compare import command

    command.predict(folder, net, seed, data, out)


@app.command()
def complete(
    folder: _Folder,
    prompt: Annotated[str, Argument(help="The text to go on from.")],
    net: _Net = None,
    seed: _Seed = 0,
    length: Annotated[int, Option(min=1, help="Number of new tokens.")] = 200,
    temperature: Annotated[float, Option(help="0 for the most probable token.")] = 0.8,
    draw: Annotated[int, Option(min=0, help="Seed of the text.")] = 0,
) -> None:
    """Continue a text with a net that was compared on texts, as `shakespeare`."""
    from tokennet.compare import load_run

    run = load_run(folder, net, seed)
    print(run.complete(prompt, length, temperature=temperature, seed=draw))


def _list_laws(wanted: bool) -> None:
    if wanted:
        from tokennet.testing import command

        command.list_laws()
        raise typer.Exit


def _explain_law(name: str | None) -> None:
    if name is not None:
        from tokennet.testing import command

        command.explain_law(name)
        raise typer.Exit


@app.command()
def check(
    model: Annotated[
        str,
        Argument(
            help="A model as module:object (a class is called without arguments), or by name: "
            "hf-tiny:BertModel, timm:resnet18, pyg:SGFormer, 'torch:nn.GRU(8, 8)'."
        ),
    ],
    example: Annotated[
        str | None, Option(help="An input as module:object. (default: random tokens of its width)")
    ] = None,
    laws: Annotated[
        str | None, Option(help="Laws, comma-separated. (default: all that apply)")
    ] = None,
    role: Annotated[
        list[str] | None,
        Option(help="How an input is read, as x=tokens:-2 or mask=padding:True=pad."),
    ] = None,
    outputs: Annotated[
        str | None, Option(help="The outputs that laws speak of, comma-separated. (default: all)")
    ] = None,
    causal: Annotated[
        bool, Option("--causal", help="Check too that no token depends on a later one.")
    ] = False,
    group: Annotated[
        str | None,
        Option(help="Require equivariance under a group: SO(3), E(3), scale, S_n, C_n, ..."),
    ] = None,
    device: Annotated[Device, Option(help="Where to run.")] = "cpu",
    dtype: Annotated[
        str, Option(help="Precision of the check: auto, float64, float32, bfloat16.")
    ] = "auto",
    seed: Annotated[int, Option(help="Seed of permutations and random inputs.")] = 0,
    json: Annotated[Path | None, _file(help="Write the report to this file.")] = None,
    junit: Annotated[Path | None, _file(help="Write it as JUnit XML: a law is a test.")] = None,
    sarif: Annotated[
        Path | None, _file(help="Write it as SARIF 2.1.0: a break is an annotation on its line.")
    ] = None,
    html: Annotated[Path | None, _file(help="Write it as one HTML page, with evidence.")] = None,
    baseline: Annotated[Path | None, _file(help="File of known breaks: only others fail.")] = None,
    update_baseline: Annotated[
        bool, Option("--update-baseline", help="Write the breaks found to the baseline; exit 0.")
    ] = False,
    list_laws: Annotated[
        bool, Option("--list-laws", callback=_list_laws, is_eager=True, help="List the laws.")
    ] = False,
    why: Annotated[
        str | None,
        Option(metavar="LAW", callback=_explain_law, is_eager=True, help="Explain a law."),
    ] = None,
) -> None:
    """Check which symmetry laws a model obeys.

    For a broken law the report names the statement of code, the smallest input found
    and a script of a few lines that shows it.

    Exit code 0: no law is broken (with --baseline, by a break that is not known). 1: a law is
    broken. 2: wrong usage, or the model cannot run. 3: nothing was shown, because every law
    but `deterministic` is INCONCLUSIVE or VACUOUS, or how the example is to be read decides.
    """
    from tokennet.testing import check as check_laws
    from tokennet.testing import command
    from tokennet.testing.resolve import resolve_subject

    known = command.known_breaks(baseline, update_baseline)
    subject = resolve_subject(model, example)
    said: dict[str, Any] = {"causal": True} if causal else {}
    options = dict(subject.options)
    if group:  # what a named model says of its tokens is for the laws of tokens
        said["group"], options = group, {}
    if role:
        said["roles"] = {**options.get("roles", {}), **dict(map(_named_role, role))}
    if outputs:
        said["outputs"] = [name.strip() for name in outputs.split(",")]
    try:
        with command.progress():
            report = check_laws(
                subject.model, subject.example,
                laws=[law.strip() for law in laws.split(",")] if laws else None,
                device=_accelerator(device), dtype=dtype, seed=seed,
                **{**options, **said},
            )  # fmt: skip
    except Exception as error:  # whatever a model of other people raises
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{model} cannot be checked: {reason}") from error
    files = command.Files(json, junit, sarif, html, baseline if update_baseline else None)
    raise typer.Exit(command.report_on(report, model, subject, known, files))


def _named_role(text: str) -> tuple[str, str]:
    name, equals, role = text.partition("=")
    if not equals:
        raise ValueError(f"role must be NAME=ROLE, as x=tokens:-2, got {text!r}")
    return name.strip(), role.strip()


@app.command()
def bench(
    suite: Annotated[str, Option(help="The cases and the device they run on: cpu or gpu.")] = "cpu",
    cases: Annotated[str | None, Option(help="Only these cases, such as tiny,sets-*.")] = None,
    rounds: Annotated[int, Option(min=1, help="Largest number of rounds.")] = 40,
    quick: Annotated[bool, Option("--quick", help="Small graphs, few rounds.")] = False,
    json: Annotated[Path | None, _file(help="Write the measurements to this file.")] = None,
    plot: Annotated[Path | None, _file(help="Draw the ratios to this file.")] = None,
    calibrate: Annotated[
        bool, Option("--calibrate", help="Instead, measure the constants of the planner.")
    ] = False,
) -> None:
    """Time attention layers against those of PyG and PyTorch, with the same weights."""
    from tokennet.bench import command

    if calibrate:
        return command.calibrate(suite, json)
    return command.bench(suite, cases, rounds, quick, json, plot)


@app.command()
def tasks() -> None:
    """List the tasks that come with the library, and the nets they compare."""
    from tokennet.compare import TASKS
    from tokennet.compare.report import task_table

    Console().print(task_table(TASKS))


@app.command()
def nets() -> None:
    """List the models with a name, and the mixers that nets are made of."""
    from tokennet.models import listing

    listing.nets()


def _accelerator(device: Device) -> str:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be cpu or auto where there is no CUDA device, got cuda")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _fail(message: str, code: int) -> NoReturn:
    print(f"tokennet: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def main() -> None:
    """Run the command; an error of the user's is one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # typer makes a number of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code)
    except TyperException as error:
        if error.format_message():  # empty where the help was shown, without a command
            _fail(error.format_message(), error.exit_code)
        sys.exit(error.exit_code)
    except (ValueError, OSError, ImportError) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", _INTERRUPTED)
