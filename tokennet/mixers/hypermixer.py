"""An MLP-mixer whose weights are made from the tokens."""

from __future__ import annotations

from torch import Tensor, nn

from tokennet.checks import check_size, checked
from tokennet.graphs import TokenGraph
from tokennet.mixers._ragged import CompleteMixer, set_by_set
from tokennet.tokens import Tokens


class HyperMixer(CompleteMixer):
    r"""An MLP over the tokens whose weights are made from the tokens: any number of them.

        out = norm(W_2(z) gelu(W_1(s)^T s)),   W_1(s)_j = mlp_1(s_j),  W_2(z)_i = mlp_2(z_i)

    Mai et al., 2022 (arXiv 2203.03691): s are the tokens z themselves, or those of another set.
    The hidden layer gathers all of s, and each token reads from it, at a cost linear in their
    number. Use it in place of `TokenMixingMLP` where sets have different sizes, as in ragged
    batches, or no order: it commutes with every permutation. It needs the complete graph, as
    what is gathered is the same for all. It reads no positions but those added to z.

    Args:
        dim: channels D.
        hidden: width of the hidden layer over the tokens; `dim` by default.
        tied: whether W_1 and W_2 are made by the same MLP.

    Raises:
        ValueError: `hidden` is below 1, or the graph of a set is not complete.

    >>> import torch
    >>> HyperMixer(8, hidden=16)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    @checked()
    def __init__(self, dim: int, hidden: int | None = None, *, tied: bool = False) -> None:
        super().__init__(dim)
        self.hidden = dim if hidden is None else check_size("hidden", hidden, 1)
        self.weights_in = _hypernetwork(dim, self.hidden)
        self.weights_out = self.weights_in if tied else _hypernetwork(dim, self.hidden)
        self.activation = nn.GELU()
        self.norm = nn.LayerNorm(dim)

    def mix(self, tokens: Tokens, source: Tokens, graph: TokenGraph) -> Tensor:
        return set_by_set(self._mix_set, tokens.z, source.z, graph)

    def _mix_set(self, z: Tensor, source: Tensor, graph: TokenGraph) -> Tensor:
        gathered = self.weights_in(source).transpose(-1, -2) @ source  # (..., hidden, D)
        return self.norm(self.weights_out(z) @ self.activation(gathered))  # (..., N, D)


def _hypernetwork(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, hidden))
