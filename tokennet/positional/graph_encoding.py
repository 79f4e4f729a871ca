"""Codes that tell a token where it is in its graph."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from tokennet.layer import TokenLayer
from tokennet.positional.absolute import check_channels
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class GraphEncoding(TokenLayer):
    r"""Adds a projection of what a graph says of each token to z.

        z_i + W code_i(graph) + b

    The form of Dwivedi et al., 2020 (arXiv 2003.00982). To join codes to z side by side
    instead, take them from the function that computes them.

    Args:
        dim: channels D of the tokens.
        columns: numbers K that a code has.
        project: a token-wise module from K to D in place of the linear map, for instance
            `nn.Sequential(nn.BatchNorm1d(K), nn.Linear(K, dim))`.

    >>> import torch
    >>> from tokennet import Causal
    >>> class Degree(GraphEncoding):
    ...     def code(self, tokens):
    ...         return tokens.graph.csr().indptr.diff()[:, None]
    >>> Degree(8, columns=1)(Tokens(torch.zeros(3, 8), Causal(3))).z.shape
    torch.Size([3, 8])
    """

    symmetry = Symmetry({"graph"})

    def __init__(self, dim: int, columns: int, project: nn.Module | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.project = nn.Linear(columns, dim) if project is None else project

    @abstractmethod
    def code(self, tokens: Tokens) -> Tensor:
        """The codes (N, K), or (..., N, K) where they differ within the batch."""

    def transform(self, tokens: Tokens) -> Tokens:
        check_channels(tokens, self.dim)
        code = self.project(self.code(tokens).to(tokens.z.dtype))  # (..., N, D)
        return tokens.replace(z=tokens.z + code)
