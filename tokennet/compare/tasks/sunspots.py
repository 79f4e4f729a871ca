"""Forecasts of a time series: the number of sunspots by year."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tokennet.checks import require
from tokennet.compare.metric import Splits, error
from tokennet.compare.task import Batch, Model, NetSpec, Task, TrainConfig, new_figure
from tokennet.graphs import Causal, Full, TokenGraph
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens

PAST, AHEAD = 44, 11


class Sunspots(Task):
    """Sunspots in each year from 1700 to 2008: from 44 years, the 11 that follow.

    The series of statsmodels (`pip install "tokennet[tasks]"`). Windows are cut by time: no
    target year of the test (from 1950) or of the validation (from 1900) is a target of an earlier
    split.

    The input is each window minus its mean, over its standard deviation, and forecasts are in
    these units: cycles after 1950 are higher than all those before (reversible instance
    normalization; Kim et al., ICLR 2022). Targets are the 11 numbers, the mean and the
    deviation.
    """

    name = "sunspots"
    summary = "sunspots by year, 1700 to 2008 (statsmodels): from 44 years, the next 11"
    graphs = ("causal", "full")
    nets = ("attention@full", "mlp@full", "attention@causal", "mean@full", "none@full")
    metrics = (
        replace(error, values=lambda answer, target: error.values(answer, target[:, :AHEAD])),
    )
    config = TrainConfig(
        epochs=30, batch_size=16, lr=2e-3, weight_decay=1e-3, dropout=0.1, positions="pos",
        size=40_000,
    )  # fmt: skip
    interface = IOSpec(
        in_features=1, out_features=AHEAD, readout="token", num_tokens=PAST, num_coordinates=1,
        position_base=100.0,
    )  # fmt: skip

    def __init__(self) -> None:
        table = require("statsmodels.datasets", "tasks").sunspots.load_pandas().data
        self.years = torch.tensor(table["YEAR"].to_numpy(copy=True)).long()
        self.numbers = torch.tensor(table["SUNACTIVITY"].to_numpy(copy=True)).float()
        self._graphs: dict[str, TokenGraph] = {"causal": Causal(PAST), "full": Full(PAST)}
        self.pos = torch.arange(float(PAST))[:, None]

    def splits(self, seed: int) -> Splits:
        """Numbers of windows, by the year that follows their past."""
        first = torch.arange(len(self.numbers) - PAST - AHEAD + 1)
        begins = self.years[first + PAST]
        ends = begins + AHEAD - 1
        return {
            "train": first[ends < 1900],
            "val": first[(begins >= 1900) & (ends < 1950)],
            "test": first[begins >= 1950],
        }

    def batch(self, index: Tensor, graph: str) -> Batch:
        past = self._past(index)
        mean, deviation = past.mean(1, keepdim=True), past.std(1, keepdim=True)
        tokens = Tokens(((past - mean) / deviation)[..., None], self._graphs[graph], self.pos)
        return Batch(tokens, torch.cat([self._ahead(index), mean, deviation], dim=1))

    def _past(self, index: Tensor) -> Tensor:
        return self.numbers[index[:, None] + torch.arange(PAST)]

    def _ahead(self, index: Tensor) -> Tensor:
        return self.numbers[index[:, None] + PAST + torch.arange(AHEAD)]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Absolute error of the forecast by the last token, in standard deviations of the past."""
        ahead, mean, deviation = target.split([AHEAD, 1, 1], dim=1)
        return (output[:, -1] - (ahead - mean) / deviation).abs().mean(1)

    def predict(self, model: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        _, mean, deviation = batch.target.split([AHEAD, 1, 1], dim=1)
        return mean + deviation * model(batch)[:, -1]

    def baselines(self, seed: int) -> Mapping[str, Mapping[str, float]]:
        """The mean of the past, its last year, and its last cycle of 11 years repeated."""
        test = self.splits(seed)["test"]
        past = self._past(test)
        guesses = {
            "mean": past.mean(1, keepdim=True), "persistence": past[:, -1:],
            "last cycle": past[:, -AHEAD:],
        }  # fmt: skip
        return {
            name: {error.name: error.reduce((guess - self._ahead(test)).abs())}
            for name, guess in guesses.items()
        }

    def write_artifacts(self, model: nn.Module, net: NetSpec, folder: Path) -> None:
        """Forecasts from four pasts, beside the series."""
        device = next(model.parameters()).device
        index = self.splits(0)["test"][:: len(self.splits(0)["test"]) // 3][:4]
        batch = self.batch(index, net.graph)
        forecasts = self.predict(Model(model), batch.to(device)).cpu()
        figure = new_figure((10, 4))
        panel = figure.subplots()
        shown = slice(int(index[0]), None)
        panel.plot(self.years[shown], self.numbers[shown], color="0.6", label="sunspots")
        for number, forecast in zip(index.tolist(), forecasts, strict=True):
            years = self.years[number + PAST : number + PAST + AHEAD]
            label = f"forecast by {net}" if number == index[0] else None
            panel.plot(years, forecast, color="C1", marker=".", label=label)
        panel.legend()
        panel.set_xlabel("year")
        figure.savefig(folder / "forecast.png", dpi=120)
