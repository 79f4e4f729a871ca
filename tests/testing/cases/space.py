"""Models of points: some equivariant, and each again with a break of its own."""

import torch
from torch import nn


class Points(nn.Module):
    """An E(n)-equivariant layer (Satorras et al. 2021): points to points, or to features."""

    def __init__(self, returns="points"):
        super().__init__()
        self.returns = returns
        self.weight = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def differences(self, pos):
        return pos.unsqueeze(-2) - pos.unsqueeze(-3)

    def forward(self, pos):
        difference = self.differences(pos)
        weight = self.weight(difference.square().sum(-1, keepdim=True))
        moved = (weight * difference).sum(-2)
        if self.returns == "features":
            return weight.sum(-2).tanh()
        return moved if self.returns == "vectors" else pos + moved


class OfTokens(nn.Module):
    """Tokens with positions to points."""

    def __init__(self):
        super().__init__()
        self.points = Points()

    def forward(self, tokens):
        return self.points(tokens.pos)


def sizes_of(data):
    """PyG `Data` to distances from the mean."""
    return (data.pos - data.pos.mean(0)).norm(dim=-1)


class Stretched(Points):
    """Measures one axis in other units: no rotation is left but those about it."""

    def differences(self, pos):
        difference = super().differences(pos)
        return difference * torch.tensor([1.0, 1.0, 1.01]).to(pos)  # the break


class Manhattan(Points):
    """Distances by absolute values: quarter rotations hold, others do not."""

    def forward(self, pos):
        difference = self.differences(pos)
        return difference.abs().sum(-1)  # the break


class Handed(Points):
    """A triple product: rotations hold, reflections do not."""

    def forward(self, pos):
        a, b, c = pos[..., 1:4, :].sub(pos[..., :1, :]).unbind(-2)
        return torch.linalg.cross(a, b).mul(c).sum(-1).exp()  # the break


class Anchored(Points):
    """Distances from the origin in place of those from the mean."""

    def __init__(self, size=1.0):
        super().__init__()
        self.size = size

    def forward(self, pos):
        centered = pos - pos.mean(-2, keepdim=True)
        return centered.norm(dim=-1) + self.size * pos.norm(dim=-1)  # the break


class Drifting(Points):
    """Points that move a little by their distance from the origin."""

    def forward(self, pos):
        return pos + 1e-9 * pos.norm(dim=-1, keepdim=True)  # the break


class NoLength(tuple):
    """Refuses `len`, as irreps of e3nn do."""

    def __len__(self):
        raise NotImplementedError


class PerComponent(Points):
    """A nonlinearity on the entries of vectors."""

    def forward(self, pos):
        return torch.tanh(super().forward(pos))  # the break


class Energy(nn.Module):
    """(z, pos, batch) to an energy for each molecule, and forces by autograd."""

    def __init__(self, hidden_field=0.0):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.pair = nn.Sequential(nn.Linear(9, 8), nn.SiLU(), nn.Linear(8, 1))
        self.hidden_field = hidden_field

    def forward(self, z, pos, batch):
        pos.requires_grad_()
        i, j = (batch[:, None] == batch).fill_diagonal_(False).nonzero().T
        h = self.embedding(z)
        distance = (pos[i] - pos[j]).norm(dim=-1, keepdim=True)
        pairs = self.pair(torch.cat([h[i], h[j], distance], -1))[:, 0]
        pairs = pairs + self.hidden_field * pos[i, 2]  # the break
        energy = torch.zeros(int(batch.max()) + 1, dtype=pos.dtype).index_add(0, batch[i], pairs)
        (gradient,) = torch.autograd.grad(energy.sum(), pos)
        return {"energy": energy, "forces": -gradient}


class StoredBasis(nn.Module):
    """Keeps an orthogonal matrix as a buffer in float32: off by 1e-8 under every rotation."""

    def __init__(self):
        super().__init__()
        basis, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
        self.register_buffer("basis", basis.float())

    def forward(self, pos):
        return (pos @ self.basis).square().sum(-1).tanh()


class Normalized(nn.Module):
    """A small break, beside buffers that have nothing to do with it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, pos):
        size = pos.square().sum(-1) + 1e-7 * pos[..., 0]  # the break
        return self.norm(size[:, None])[:, 0]


class SignNet(nn.Module):
    """phi(v) + phi(-v) for each eigenvector (Lim et al. 2022, arXiv 2202.13013)."""

    def __init__(self, flips=True):
        super().__init__()
        self.flips = flips
        self.phi = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, eigenvectors):
        v = eigenvectors[..., None]
        h = self.phi(v) + self.phi(-v) if self.flips else self.phi(v)  # the break
        return h.flatten(-2)


def projectors(eigenvectors, eigenvalues):
    """The diagonals of the projectors to eigenspaces: no basis matters (BasisNet)."""
    same = (eigenvalues[:, None] - eigenvalues).abs() < 1e-3
    return (eigenvectors.square() @ same.to(eigenvectors)).tanh()


class Images(nn.Module):
    """Convolutions with a stride, and a position for each sample if wanted."""

    def __init__(self, padding_mode="circular", positions=False):
        super().__init__()
        options = {"padding": 1, "padding_mode": padding_mode}
        self.first = nn.Conv2d(3, 4, 3, **options)
        self.second = nn.Conv2d(4, 2, 3, stride=2, **options)
        self.positions = nn.Parameter(torch.randn(8, 8)) if positions else None

    def forward(self, x):
        y = self.second(self.first(x).relu())
        return y if self.positions is None else y + self.positions  # the break
