"""Small tasks of a user, and a device to train on."""

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

from tokennet import Cycle, Full, Tokens
from tokennet.compare import Batch, Metric, Task, TrainConfig
from tokennet.compare.metric import error, squares
from tokennet.compare.train import Run
from tokennet.nets import Embedding, IOSpec


class Majority(Task):
    """Are most bits of a set ones?"""

    name = "majority"
    summary = "whether most of five bits are ones"
    graphs = ("full", "ring")
    nets = ("attention@full", "mean@ring")
    config = TrainConfig(epochs=4, batch_size=8, lr=1e-2, num_heads=2, size=4_000)
    interface = IOSpec(in_features=1, out_features=2, num_tokens=5, num_coordinates=1)

    def __init__(self):
        bits = torch.cartesian_prod(*[torch.arange(2)] * 5)
        self.z, self.label = bits[..., None].float(), (bits.sum(1) > 2).long()
        self.on = {"full": Full(5), "ring": Cycle(5)}

    def splits(self, seed):
        order = torch.randperm(32, generator=torch.Generator().manual_seed(seed))
        return {"train": order[:24], "test": order[24:]}

    def batch(self, index, graph):
        tokens = Tokens(self.z[index], self.on[graph], torch.arange(5.0)[:, None])
        return Batch(tokens, self.label[index])


class Nodes(Majority):
    """One graph whose tokens are the examples, with a validation split."""

    name = "nodes"
    interface = IOSpec(in_features=1, out_features=2, readout="token", num_tokens=16)

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.z = torch.randn(16, 1, generator=generator)
        self.label = (self.z[:, 0] > 0).long()
        self.on = {"full": Full(16), "ring": Cycle(16)}

    def splits(self, seed):
        return dict(zip(("train", "val", "test"), torch.arange(16).split([8, 4, 4]), strict=True))

    def batch(self, index, graph):
        return Batch(Tokens(self.z, self.on[graph]), self.label[index], rows=index)


class NotATask:
    pass


class Halves(Task):
    """Ids in, numbers out, several to each example; a source; a net of its own; a sample."""

    name = "halves"
    graphs = ("full",)
    nets = ("mean@full",)
    seeds = 2
    config = TrainConfig(epochs=3, batch_size=8, lr=1e-2, num_heads=2, size=2_000)
    metrics = (error, Metric("largest error", lambda a, t: (a - t).abs().amax(-1), False))
    interface = IOSpec(in_features=4, out_features=1, readout="token", num_tokens=3, ids=True)

    def __init__(self):
        self.ids = torch.cartesian_prod(*[torch.arange(4)] * 3)[..., None]  # (64, 3, 1)

    def splits(self, seed):
        return {
            "train": torch.arange(32),
            "val": torch.arange(32, 48),
            "test": torch.arange(48, 64),
        }

    def batch(self, index, graph):
        ids = self.ids[index]
        target = ids.squeeze(-1).flip(-1) / 2  # (n, 3): of the source
        return Batch(Tokens(ids), target, source=Tokens(ids.flip(-2)))

    def loss(self, output, target):
        return squares(output, target)

    def build(self, net, config, width):
        return WithSource(self.interface.in_features, width)

    def predict(self, model, batch):
        return model(batch).squeeze(-1)

    def baselines(self, seed):
        return {"half": {"mean absolute error": 0.5 + seed, "largest error": 1.0}}

    def write_artifacts(self, model, net, folder):
        batch = self.batch(torch.tensor([0]), net.graph)
        (folder / "sample.txt").write_text(f"{net} {tuple(batch.run(model).shape)}")


class WithSource(nn.Module):
    def __init__(self, size, width):
        super().__init__()
        self.own, self.other = Embedding(size, width.dim), Embedding(size, width.dim)
        self.end = nn.Sequential(
            nn.Linear(width.dim, width.hidden), nn.ReLU(), nn.Linear(width.hidden, 1)
        )

    def forward(self, source, tokens):
        return self.end(self.own(tokens).z + self.other(source).z)

    def flops(self, source, tokens):
        return 2 * tokens.num_tokens * sum(p.numel() for p in self.end.parameters())


def fabric():
    return Fabric(accelerator="cpu", devices=1)


def a_run(**changes):
    values = {
        "net": "mean@full", "seed": 0, "dim": 4, "hidden": 8, "parameters": 10, "flops": 20,
        "declared": {"relabeling": "S_n", "shuffling": "S_n"}, "scores": {"accuracy": 0.5},
        "curves": {"loss": [1.0], "val": [0.5]},
    }  # fmt: skip
    return Run(**{**values, **changes})


class Sets(nn.Module):
    """Called with tokens."""

    def __init__(self, size=8):
        super().__init__()
        self.first, self.last = nn.Linear(1, size), nn.Linear(size, 2)

    def forward(self, tokens):
        return self.last(self.first(tokens.z).relu().mean(-2))


class Sized(Sets):
    def __init__(self, size):
        super().__init__(size)


def shown(found):
    """What a terminal of 80 columns shows of tables and lines."""
    console = Console(width=80)
    with console.capture() as said:
        console.print(*found)
    return said.get()
