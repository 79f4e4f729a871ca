"""Trained nets as folders of Hugging Face: `save_pretrained`, `from_pretrained`, `push_to_hub`.

Needs huggingface_hub, `pip install "tokennet[hub]"`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from tokennet.compare.spec import NetSpec, TrainConfig, Width, net_of_blocks
from tokennet.compare.variants import read_options
from tokennet.nets import IOSpec
from tokennet.tokens import Tokens


class PretrainedNet(nn.Module, PyTorchModelHubMixin, library_name="tokennet"):
    """A net of blocks with all that makes it, to be saved, shared and loaded.

    `PretrainedNet.from_pretrained("folder")` or of a name on the Hub; `push_to_hub("name")`.
    Called with `Tokens` as `PretrainedNet.net` is.

    Args:
        net: mixer, graph and readout, as "attention@grid".
        interface: fields of `IOSpec`.
        training: fields of `TrainConfig`.
        width: fields of `Width`.

    >>> io = {"in_features": 3, "out_features": 2, "readout": "mean"}
    >>> net = PretrainedNet("mean@full", io, {"depth": 1, "num_heads": 2}, {"dim": 4, "hidden": 8})
    >>> import torch
    >>> net(Tokens(torch.zeros(5, 3))).shape
    torch.Size([2])
    """

    def __init__(
        self,
        net: str,
        interface: dict[str, Any],
        training: dict[str, Any],
        width: dict[str, int],
    ) -> None:
        super().__init__()
        front, _, readout = net.partition("/")
        mixer, _, graph = front.partition("@")
        grid = interface.get("grid")
        io = IOSpec(**{**interface, "grid": None if grid is None else tuple(grid)})
        mixer, *words = mixer.split(":")
        spec = NetSpec(mixer, graph, readout or None, read_options(mixer, words))
        self.net = net_of_blocks(spec, io, TrainConfig(**training), Width(**width))

    def forward(self, tokens: Tokens) -> Tensor:
        return self.net(tokens)

    @classmethod
    def of(cls, run: Any) -> PretrainedNet:
        """The net of a `LoadedRun`.

        Raises:
            ValueError: a net of another form than `build_net` makes.
        """
        config = run.config
        told = f"{run.spec} must be a net of blocks as build_net makes, to be saved by its config"
        if type(run.spec) is not NetSpec:
            raise ValueError(told)
        try:
            made = cls(
                str(run.spec), asdict(run.task.interface), config["training"], config["width"]
            )
            made.net.load_state_dict(run.net.state_dict())
        except (ValueError, RuntimeError) as error:
            raise ValueError(told) from error
        return made.eval()
