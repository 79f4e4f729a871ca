"""`load_run`: a net that a comparison trained, with its task, to use it or to share it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, lookup, require
from tokennet.compare.fingerprint import fingerprint
from tokennet.compare.kept import read_answers, read_model
from tokennet.compare.named import Named, specs_of
from tokennet.compare.named_tasks import load_task
from tokennet.compare.own_nets import quiet
from tokennet.compare.spec import NetSpec, TrainConfig, Width
from tokennet.compare.store import read_run
from tokennet.compare.task import Batch, Model, Task
from tokennet.compare.tasks import TASKS
from tokennet.compare.train import Run
from tokennet.nets.evaluating import evaluating
from tokennet.testing.resolve import resolve
from tokennet.tokens import Tokens


@dataclass(frozen=True)
class LoadedRun:
    """A trained net with its task. Made by `load_run`."""

    net: nn.Module
    """In eval mode."""
    task: Task
    spec: NetSpec
    run: Run
    config: dict[str, Any]
    """All that determined the run."""
    answers: dict[str, Tensor]
    """On the test: "index" (n,), the numbers of the examples; "target" (n, ...); the rows of each
    metric; and "answer" (n, ...)."""

    @property
    def metrics(self) -> dict[str, float | None]:
        """The scores on the test."""
        return self.run.scores

    def predict(self, data: Tokens | Tensor | None = None) -> Tensor:
        """The net's answers, (n, ...).

        Args:
            data: tokens; or a tensor (n, N, C) of them, on the graph and positions of the task;
                by default the examples of the test.
        """
        size = self.task.config.batch_size or 1_000_000
        with evaluating(self.net):
            if data is None:
                index = self.task.splits(self.run.seed)["test"]
                batches = [self.task.batch(part, self.spec.graph) for part in index.split(size)]
                return torch.cat([self.task.predict(Model(self.net), each) for each in batches])
            if isinstance(data, Tensor):
                example = self._example().tokens
                if data.dim() < 2 or data.shape[-2] != example.num_tokens:
                    told = f"(n, {example.num_tokens}, C), got {tuple(data.shape)}"
                    raise ValueError(f"data must have shape {told}")
                data = example.replace(z=data.to(example.z.dtype))
            return self.net(data)

    def complete(
        self, prompt: str, length: int = 200, *, temperature: float = 0.8, seed: int = 0
    ) -> str:
        """The text that the net writes after `prompt`, with it.

        Raises:
            ValueError: the task is not about text, or the prompt is empty.
        """
        if not prompt:
            raise ValueError("prompt must have at least one character, got none")
        check_size("length", length, 1)
        generator = torch.Generator(next(self.net.parameters()).device).manual_seed(seed)
        sampling = {"temperature": temperature, "generator": generator}
        with evaluating(self.net):
            return self.task.complete(self.net, self.spec, prompt, length, sampling)

    def export(
        self, file: Path | str | None = None, batch: int = 1
    ) -> torch.export.ExportedProgram:
        """The net by `torch.export`, as a function of z; saved to `file` where that is given.

        z has shape (batch, N, C). Graph and positions are those of the task: for one graph whose
        tokens are the examples, and for ragged batches, of the first example; z is (N, C).
        """
        tokens = self._example().tokens
        if tokens.z.dim() == 3:
            z = tokens.z.expand(check_size("batch", batch, 1), *tokens.z.shape[1:])
            tokens = tokens.replace(z=z.clone())
        function = _OfTensor(self.net, tokens)
        program = torch.export.export(function, (tokens.z,), strict=False)
        if file is not None:
            torch.export.save(program, file)
        return program

    def save_pretrained(self, folder: Path | str, **options: Any) -> None:
        """Write config.json and model.safetensors, for `PretrainedNet.from_pretrained(folder)`.

        Args:
            options: of `huggingface_hub`, such as `push_to_hub=True`.

        Raises:
            ValueError: a net of another form than `build_net` makes.
            ImportError: huggingface_hub is not installed.
        """
        require("huggingface_hub", "hub")
        hub = require("tokennet.compare.hub", "hub")  # it needs the package as it is imported
        hub.PretrainedNet.of(self).save_pretrained(str(folder), **options)

    def _example(self) -> Batch:
        batch = self.task.batch(self.task.splits(self.run.seed)["test"][:1], self.spec.graph)
        if batch.source is not None:
            raise ValueError(f"task {self.task.name} has a source: call the net with both sets")
        return batch


class _OfTensor(nn.Module):
    def __init__(self, net: nn.Module, like: Tokens) -> None:
        super().__init__()
        self.net, self.graph, self.pos = net, like.graph, like.pos

    def forward(self, z: Tensor) -> Tensor:
        return self.net(Tokens(z, self.graph, self.pos))


def load_run(
    folder: Path | str, net: str | None = None, seed: int = 0, *,
    task: Task | None = None, own: Named | None = None,
) -> LoadedRun:  # fmt: skip
    """Load a net that `compare(out=folder)` trained.

    Args:
        net: its name in the tables; by default the best one.
        seed: of its run.
        task: the task, where it was not made by name or of plain arguments.
        own: the net, where it was given as an object and not by name.

    Raises:
        ValueError: there is no such run, the data are others now, or it diverged.

    >>> import tempfile
    >>> from tokennet.compare import Budget, compare
    >>> quick = Budget(size=4_000, epochs=1)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     result = compare(TASKS["digits"](), nets=["none"], seeds=1, budget=quick, out=out)
    ...     run = load_run(out, "none@full")
    >>> run.predict().shape
    torch.Size([450, 10])
    """
    folder = Path(folder)
    stored = _stored(folder, net, seed)
    config = stored["config"]
    run = read_run(stored, config)
    task = _task(config) if task is None else task
    name = config["net_name"] if own is None else own
    if name is None:
        raise ValueError(f"own must be given: {run.net} was an object, and not made by name")
    (spec,) = specs_of(task, [name], 1)
    if str(spec) != run.net:
        raise ValueError(f"own must be the net {run.net}, got {spec}: OwnNet(net, name) names it")
    if fingerprint(task, spec.graph, seed) != config["data"]:
        raise ValueError(f"task {task.name} has other data than {run.net} was trained on")
    made = quiet(spec.build(task, TrainConfig(**config["training"]), Width(**config["width"])))
    kept = folder / "kept" / stored["key"]
    read_model(made, kept)
    return LoadedRun(made.eval(), task, spec, run, config, read_answers(kept))


def _stored(folder: Path, net: str | None, seed: int) -> dict[str, Any]:
    """What the file of a run holds, and its key."""
    file = folder / "results.json"
    if not file.is_file():
        runs = [_read(path) for path in sorted((folder / "runs").glob("*.json"))]
        runs = [each for each in runs if net in (None, each["run"]["net"])]
        found = [each for each in runs if each["run"]["seed"] == seed]
        if len(found) != 1:
            raise ValueError(
                f"{folder} must hold results.json of a comparison that ended, or one run of {net} "
                f"with seed {seed}, got {len(found)}"
            )
        return found[0]
    results = json.loads(file.read_text(encoding="utf-8"))
    if net is None:
        net = _best(results)
    of_net = [run for run in results["runs"] if run["net"] == net]
    if not of_net:
        lookup("net", net, dict.fromkeys(run["net"] for run in results["runs"]))
    by_seed = {run["seed"]: run for run in of_net}
    if seed not in by_seed:
        raise ValueError(f"seed must be one of {', '.join(map(str, by_seed))}, got {seed}")
    return _read(folder / "runs" / f"{by_seed[seed]['key']}.json")


def _best(results: dict[str, Any]) -> str:
    metric = results["config"]["metrics"][0]
    scored = [row for row in results["nets"] if row[metric["name"]] is not None]
    if not scored:
        raise ValueError("net must be given: all runs diverged")
    sign = 1 if metric["higher_is_better"] else -1
    return max(scored, key=lambda row: sign * row[metric["name"]])["net"]


def _read(path: Path) -> dict[str, Any]:
    try:
        return {"key": path.stem, **json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no run: {error}") from error


def _task(config: dict[str, Any]) -> Task:
    if config["source"] is not None:
        return load_task(config["source"]["name"], TASKS, config["source"]["arguments"])
    if config["arguments"] is None or "<locals>" in config["task_class"]:
        raise ValueError(f"task must be given: {config['task']} was made of data, not by name")
    return resolve(config["task_class"], "task")(**config["arguments"])
