"""`LieGenerator`: translation, rotation, scaling and other flows, and how they act on tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class LieGenerator:
    r"""An affine flow of space, translation or rotation say, and its action on images or tokens.

    Says under which motion `lie_error` and its siblings measure a model.

        (rho(t) x)(p) = x(exp(t v) p),    X x = v . grad x,    v(p) = matrix p + offset

    Units: samples are cell centers of [-1, 1]^d, so t = 1 translates by half an image at
    every resolution; p is in the order of the dimensions, (y, x) for images. Gradients are
    spectral: exact for periodic signals below the Nyquist frequency (which itself has
    derivative 0). Signals that do not wrap around should vanish at the border, or use
    `periodic=False`: second-order central differences, one-sided at the border. Gruver et
    al. (2022, arXiv:2210.02984) differentiate bilinear resampling, a one-sided difference
    of first order.

    Values have shape (..., C, T), (..., C, H, W), ...: the last d dimensions are space. After
    `on_tokens` they are tokens (..., N, D).

    >>> x = torch.sin(torch.pi * (torch.arange(8.0) + 0.5) / 4)[None]
    >>> moved = LieGenerator.translation(dims=1)(x)
    >>> torch.allclose(moved, torch.pi * torch.cos(torch.pi * (torch.arange(8.0) + 0.5) / 4))
    True
    """

    name: str
    matrix: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]
    periodic: bool = True
    grid: tuple[int, ...] | None = None
    prefix: int = 0

    def __post_init__(self) -> None:
        d = len(self.offset)
        if not d or [len(row) for row in self.matrix] != [d] * d:
            raise ValueError(f"matrix must be {d} x {d} as offset has {d}, got {self.matrix}")

    @classmethod
    def translation(cls, axis: int = -1, *, dims: int = 2, periodic: bool = True) -> LieGenerator:
        """Along one axis of space: -1 is x (or time), -2 is y."""
        if not -dims <= axis < dims:
            raise ValueError(f"axis must be one of {dims} dimensions, got {axis}")
        offset = [float(i == axis % dims) for i in range(dims)]
        return cls(f"translation along {axis}", ((0.0,) * dims,) * dims, (*offset,), periodic)

    @classmethod
    def scaling(cls, *, dims: int = 2, periodic: bool = True) -> LieGenerator:
        """About the center, by exp(t)."""
        matrix = tuple(tuple(float(i == j) for j in range(dims)) for i in range(dims))
        return cls("scaling", matrix, (0.0,) * dims, periodic)

    @classmethod
    def rotation(cls, *, aspect: float = 1.0, periodic: bool = True) -> LieGenerator:
        """About the center, t in radians; aspect is W / H."""
        return cls("rotation", ((0.0, -aspect), (1 / aspect, 0.0)), (0.0, 0.0), periodic)

    @classmethod
    def hyperbolic_rotation(cls, *, aspect: float = 1.0, periodic: bool = True) -> LieGenerator:
        """A squeeze along the diagonals; aspect is W / H."""
        return cls("hyperbolic rotation", ((0.0, aspect), (1 / aspect, 0.0)), (0.0, 0.0), periodic)

    @classmethod
    def shear(cls, *, periodic: bool = True) -> LieGenerator:
        """x moves by t y."""
        return cls("shear", ((0.0, 0.0), (1.0, 0.0)), (0.0, 0.0), periodic)

    def on_tokens(self, grid: Sequence[int], *, prefix: int = 0) -> LieGenerator:
        """For tokens (..., prefix + H W, D) of patches, row by row; the prefix does not move."""
        if len(grid) != len(self.offset):
            raise ValueError(f"grid must have {len(self.offset)} sizes, got {tuple(grid)}")
        return replace(self, grid=tuple(grid), prefix=prefix)

    @property
    def value_dims(self) -> int:
        """Dimensions of one value: channels and space, or (N, D) for tokens."""
        return len(self.offset) + 1 if self.grid is None else 2

    def fits(self, values: Tensor, batch_dims: int) -> bool:
        """Whether values have this layout behind `batch_dims` dimensions of a batch."""
        if batch_dims < 0 or values.dim() != batch_dims + self.value_dims:
            return False
        return self.grid is None or values.shape[-2] == self.prefix + math.prod(self.grid)

    def __call__(self, x: Tensor) -> Tensor:
        """X x, of the shape of x.

        Raises:
            ValueError: x has too few dimensions, or another number of tokens.
        """
        if not self.fits(x, x.dim() - self.value_dims):
            expected = f"more than {len(self.offset)} dimensions"
            if self.grid is not None:
                expected = f"{self.prefix} + {math.prod(self.grid)} tokens in dimension -2"
            raise ValueError(f"{self.name} needs {expected}, got shape {tuple(x.shape)}")
        if self.grid is None:
            return self._flow(x)
        patches = x[..., self.prefix :, :].mT.unflatten(-1, self.grid)  # (..., D, H, W)
        moved = self._flow(patches).flatten(-len(self.grid)).mT  # (..., H W, D)
        return torch.cat([torch.zeros_like(x[..., : self.prefix, :]), moved], dim=-2)

    def _flow(self, x: Tensor) -> Tensor:
        d, moved = len(self.offset), torch.zeros_like(x)
        for i, (row, offset) in enumerate(zip(self.matrix, self.offset, strict=True)):
            velocity: float | Tensor = offset
            for j, weight in enumerate(row):
                n = x.shape[j - d]
                p = (2 * torch.arange(n, dtype=x.dtype, device=x.device) + 1) / n - 1
                velocity = velocity + weight * p.view(n, *[1] * (d - j - 1)) if weight else velocity
            if any(row) or offset:
                moved = moved + velocity * _gradient(x, i - d, self.periodic)
        return moved


def _gradient(x: Tensor, dim: int, periodic: bool) -> Tensor:
    n = x.shape[dim]
    if not periodic:
        return torch.gradient(x, spacing=2 / n, dim=dim)[0] if n > 1 else torch.zeros_like(x)
    wavenumber = torch.pi * torch.arange(n // 2 + 1, dtype=x.dtype, device=x.device)
    if n % 2 == 0:
        wavenumber[-1] = 0  # the Nyquist frequency: sampled at its zeros, or at none
    spectrum = torch.fft.rfft(x.movedim(dim, -1))
    return torch.fft.irfft(1j * wavenumber * spectrum, n=n).movedim(-1, dim)
