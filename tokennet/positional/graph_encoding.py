"""The base of positional encodings that are made from the graph."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from tokennet.checks import checked
from tokennet.layer import TokenLayer, check_channels
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens


class GraphEncoding(TokenLayer):
    r"""Base of layers that add a projection of K numbers of each token, made from the graph.

        z_i + W e_i(graph) + b

    The form of Dwivedi et al., 2020 (arXiv 2003.00982); subclass it for numbers of your own.
    To concatenate them with z instead, take the function that computes them.

    Args:
        dim: channels D of the tokens.
        columns: K.
        project: a token-wise module from K to D in place of the linear map, for instance
            `nn.Sequential(nn.BatchNorm1d(K), nn.Linear(K, dim))`.

    >>> import torch
    >>> from tokennet import Causal
    >>> class Degree(GraphEncoding):
    ...     def encode(self, tokens):
    ...         return tokens.graph.csr().indptr.diff()[:, None]
    >>> Degree(8, columns=1)(Tokens(torch.zeros(3, 8), Causal(3))).z.shape
    torch.Size([3, 8])
    """

    symmetry = Symmetry({"graph"})

    @checked()
    def __init__(self, dim: int, columns: int, project: nn.Module | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.project = nn.Linear(columns, dim) if project is None else project

    @abstractmethod
    def encode(self, tokens: Tokens) -> Tensor:
        """The numbers (N, K), or (..., N, K) where they differ within the batch."""

    def transform(self, tokens: Tokens) -> Tokens:
        check_channels(tokens.z, self.dim)
        encoding = self.project(self.encode(tokens).to(tokens.z.dtype))  # (..., N, D)
        return tokens.replace(z=tokens.z + encoding)
