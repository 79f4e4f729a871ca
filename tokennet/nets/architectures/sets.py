"""Functions of sets."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from tokennet.nets.block import TokenWise
from tokennet.nets.net import TokenNet
from tokennet.nets.readout import READOUTS


def deep_sets(
    in_features: int = 3,
    out_features: int = 10,
    dim: int = 128,
    depth: int = 3,
    *,
    readout: str = "sum",
) -> TokenNet:
    r"""Deep Sets (Zaheer et al., 2017, arXiv 1703.06114): rho(\sum_i phi(z_i)).

    Tokens never meet but in the pooling: "sum", "mean" or "max".
    """
    widths = [in_features, *[dim] * depth]
    phi = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    pool = READOUTS[readout](dim, out_features)
    pool.norm = nn.Identity()
    pool.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out_features))
    return TokenNet([TokenWise(part) for part in phi], pool)
