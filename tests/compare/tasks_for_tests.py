"""A small task of a user's own: are most bits of a set ones?"""

import torch

from tokennet import Cycle, Full, Interface, Tokens
from tokennet.compare import Batch, Recipe, Task


class Majority(Task):
    name = "majority"
    summary = "whether most of five bits are ones"
    graphs = ("full", "ring")
    nets = ("attention@full", "mean@ring")
    recipe = Recipe(epochs=4, batch_size=8, lr=1e-2, heads=2, size=4_000)
    interface = Interface(in_features=1, out_features=2, num_tokens=5, num_coordinates=1)

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
    interface = Interface(in_features=1, out_features=2, readout="token", num_tokens=16)

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
