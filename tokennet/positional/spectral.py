"""Laplacian eigenvectors as positional encodings, the waves of a graph."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tokennet.checks import check_size, checked, lookup
from tokennet.positional.eigenvectors import laplacian_eigenvectors
from tokennet.positional.graph_encoding import GraphEncoding
from tokennet.symmetry import Symmetry
from tokennet.tokens import Tokens

Signs = Literal["random", "fixed", "determined"]


class LaplacianEncoding(GraphEncoding):
    r"""Adds a projection of the first eigenvectors of the Laplacian.

        z_i + W (s_1 v_1(i), ..., s_k v_k(i)) + b,   L v = lambda v,   s in {-1, 1}^k

    Dwivedi et al., 2020 (arXiv 2003.00982); see `laplacian_eigenvectors`. Use it to tell tokens
    of a graph apart by where they are: on a path eigenvectors are the cosines of ever shorter
    waves, on any graph what comes closest.

    The graph does not determine every eigenvector. Where an automorphism maps v to -v, or an
    eigenvalue is repeated, a choice was made that depends on the order of the tokens: it tells
    tokens apart that the graph does not. `signs` says how such choices are treated:

    - "random": in training all signs are drawn again at each call, for each component, each
      set of the batch and each eigenvector, so that a net learns not to rely on them; else
      they are fixed. As in Dwivedi et al.
    - "fixed": the signs of `laplacian_eigenvectors`, always.
    - "determined": fixed, and eigenvectors that the graph does not determine are 0. The layer
      then commutes with every relabeling, but says less: nothing on a cycle.

    The first two declare that they read the index, because the choices do. On a graph
    with simple eigenvalues whose eigenvectors have a sign of their own, nothing was chosen.

    Args:
        dim: channels D.
        k: number of eigenvectors.
        signs: see above.
        project: see `GraphEncoding`.

    Raises:
        ValueError: `k` is less than 1, or an unknown value of `signs`.

    >>> from tokennet import Cycle, Tokens
    >>> LaplacianEncoding(8, k=3)(Tokens(torch.zeros(2, 12, 8), Cycle(12))).z.shape
    torch.Size([2, 12, 8])
    """

    @checked()
    def __init__(
        self, dim: int, k: int, signs: Signs = "random", project: nn.Module | None = None
    ) -> None:
        super().__init__(dim, check_size("k", k, 1), project)
        lookup("signs", signs, dict.fromkeys(get_args(Signs)))
        self.k, self.signs = k, signs

    @property
    def symmetry(self) -> Symmetry:  # type: ignore[override]
        return Symmetry({"graph"} if self.signs == "determined" else {"graph", "index"})

    def encode(self, tokens: Tokens) -> Tensor:
        found = laplacian_eigenvectors(tokens.graph, self.k, tokens.z.device)
        if self.signs == "determined":
            return found.vectors.where(found.determined[found.component], 0.0)
        if self.signs == "random" and self.training:
            shape = (*tokens.z.shape[:-2], *found.values.shape)  # (..., C, K)
            signs = 2.0 * torch.randint(2, shape, device=tokens.z.device) - 1.0
            return found.vectors * signs.index_select(-2, found.component)  # (..., N, K)
        return found.vectors
