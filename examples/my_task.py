"""A task of your own: which of two rings of points is rounder than the other?

Run it as a script, or compare any nets on it from the folder it lies in:

    tokennet compare my_task:Rings --nets attention@full,attention@ring,mlp@full
"""

import torch

from tokennet import Cycle, Full, Tokens
from tokennet.compare import Batch, Task, TrainConfig, compare
from tokennet.nets import IOSpec


class Rings(Task):
    """Twelve points on a noisy closed curve: a circle (1) or an ellipse (0)?"""

    name = "rings"
    summary = "circles and ellipses of twelve points, rotated, with any first point"
    graphs = ("full", "ring")
    nets = ("attention@full", "attention@ring", "mean@ring", "mlp@full")
    config = TrainConfig(epochs=20, batch_size=64, lr=5e-3, size=8_000)
    interface = IOSpec(in_features=2, out_features=2, num_tokens=12)

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.label = torch.arange(1_000) % 2
        start, turn = 2 * torch.pi * torch.rand(2, 1_000, 1, generator=generator)
        angle = start + torch.arange(12) * (2 * torch.pi / 12)  # (1000, 12)
        short = torch.where(self.label == 1, 1.0, 0.7)[:, None]
        x, y = angle.cos(), short * angle.sin()
        points = torch.stack([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()], -1)
        self.points = points + 0.25 * torch.randn(points.shape, generator=generator)
        self.on = {"full": Full(12), "ring": Cycle(12)}

    def splits(self, seed):
        return {"train": torch.arange(750), "test": torch.arange(750, 1_000)}

    def batch(self, index, graph):
        return Batch(Tokens(self.points[index], self.on[graph]), self.label[index])


if __name__ == "__main__":
    for row in compare(Rings(), seeds=1, out="tokennet-results/rings").rows:
        print(f"{row.net:<16}{row.parameters:>8,} parameters  accuracy {row.score:.3f}")
