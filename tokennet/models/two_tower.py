"""`TwoTower`, two nets whose outputs are compared, and the contrastive loss (CLIP)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from tokennet.checks import checked
from tokennet.nets.evaluating import evaluating
from tokennet.nets.net import TokenNet
from tokennet.symmetry import Symmetry


class TwoTower(nn.Module):
    r"""Similarity of every image with every text, or of any other two kinds of data.

    Use it, or `clip`, to find the texts that belong to an image, and the images of a text.

        s_ij = exp(t) a_i . b_j / (|a_i| |b_j|)

    Radford et al., 2021 (arXiv 2103.00020); t is learned and starts at log(1 / 0.07).

    Args:
        image: returns a vector (..., D) for each image: it has a readout that pools.
        text: returns a vector of the same size for each text.

    Raises:
        ValueError: a tower has no readout, or one that does not pool.

    >>> from tokennet.models import clip
    >>> sizes = {"dim": 8, "num_heads": 2, "image_dim": 12, "image_heads": 2, "depth": 1}
    >>> net = clip(in_features=4, vocab=10, num_tokens=9, **sizes)
    >>> net(torch.zeros(3, 9, 4), [[1, 2], [3, 4, 5]]).shape  # of 3 images with 2 texts
    torch.Size([3, 2])
    """

    @checked()
    def __init__(self, image: TokenNet, text: TokenNet) -> None:
        super().__init__()
        for name, net in (("image", image), ("text", text)):
            if net.readout is None or not net.readout.is_invariant:
                raise ValueError(f"{name} must have a readout that pools, got {net.readout}")
        self.image, self.text = image, text
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def symmetry(self) -> Symmetry:
        """The intersection over both towers, each of which permutes its own tokens."""
        return self.image.symmetry & self.text.symmetry

    def forward(self, images: Any, texts: Any) -> Tensor:
        """(A, B) similarities of A images with B texts."""
        scale = self.log_scale.exp()
        return scale * self.embed_images(images) @ self.embed_texts(texts).T

    def flops(self, images: Any, texts: Any) -> int:
        """Floating-point operations of one forward pass: both towers, and all products."""
        with evaluating(self):
            a, b = self.embed_images(images), self.embed_texts(texts)
        return self.image.flops(images) + self.text.flops(texts) + 2 * a.numel() * len(b)

    def embed_images(self, images: Any) -> Tensor:
        """(A, D) of length 1."""
        return normalize(self.image(images), dim=-1)  # type: ignore[arg-type]

    def embed_texts(self, texts: Any) -> Tensor:
        """(B, D) of length 1."""
        return normalize(self.text(texts), dim=-1)  # type: ignore[arg-type]


def contrastive_loss(similarity: Tensor) -> Tensor:
    """The loss of finding the text of each image among all texts, and the image of each text.

    The mean of two cross entropies over (B, B) similarities; text i belongs to image i.

    Raises:
        ValueError: the similarities are not square.

    >>> contrastive_loss(torch.zeros(4, 4))  # log 4
    tensor(1.3863)
    """
    if similarity.dim() != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must have shape (B, B), got {tuple(similarity.shape)}")
    target = torch.arange(len(similarity), device=similarity.device)
    return (cross_entropy(similarity, target) + cross_entropy(similarity.T, target)) / 2
