"""Why a fixed tolerance cannot tell a symmetric model from a broken one: a table.

The models are encoders on 64 tokens. About half of them are symmetric, some badly conditioned; the
others add positions, some very small. At any tolerance, `torch.allclose` in float32 either fails
for a symmetric encoder (false positive) or passes for a broken encoder.
"""

import torch
from torch import nn
from torch.nn import functional as F

from tokennet.testing import check_equivariance

TOLERANCES = (1e-3, 1e-5, 1e-7)
N, D = 64, 32


class Block(nn.Module):
    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.mlp = nn.Sequential(nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, D))
        self.gain = gain

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(self.gain * q, self.gain * k, v)  # (B, H, N, C)
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    def __init__(self, depth=4, gain=1.0, positions=0.0, scale=1.0, offset=0.0) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(gain) for _ in range(depth)))
        self.table = nn.Parameter(positions * torch.randn(N, D)) if positions else None
        self.scale, self.offset = scale, offset

    def forward(self, x):
        if self.table is not None:
            x = x + self.table
        return self.scale * self.blocks(x) + self.offset


CASES = {
    "symmetric": {},
    "symmetric, queries and keys x 10": {"gain": 10.0},
    "symmetric, queries and keys x 20": {"gain": 20.0},
    "symmetric, outputs x 1e4": {"scale": 1e4},
    "symmetric, outputs + 100": {"offset": 100.0},
    "symmetric, 24 layers": {"depth": 24},
    "positions of size 1": {"positions": 1.0},
    "positions of size 1e-3": {"positions": 1e-3},
    "positions of size 1e-6": {"positions": 1e-6},
    "positions of size 1e-6, outputs x 1e-2": {"positions": 1e-6, "scale": 1e-2},
    "positions of size 1e-9": {"positions": 1e-9},
}


def main() -> None:
    columns = [f"allclose, {tolerance:.0e}" for tolerance in TOLERANCES]
    head = ["model", "float32 error", *columns, "float64 error", "tolerance", "verdict"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    wrong = [0] * (len(TOLERANCES) + 1)
    for name, options in CASES.items():
        torch.manual_seed(0)
        model, x = Encoder(**options).eval(), torch.randn(1, N, D)
        perm = torch.randperm(N)
        with torch.no_grad():
            y, moved = model(x)[:, perm], model(x[:, perm])
        symmetric = name.startswith("symmetric")
        by_allclose = [torch.allclose(moved, y, rtol=0, atol=tolerance) for tolerance in TOLERANCES]
        report = check_equivariance(model, x)
        by_checker = report.verdict == "PASS"
        for column, passed in enumerate([*by_allclose, by_checker]):
            wrong[column] += passed != symmetric
        results = [
            ("passes" if passed else "fails") + ("" if passed == symmetric else " (wrong)")
            for passed in by_allclose
        ]
        error = float((moved - y).abs().max())
        cells = [name, f"{error:.1e}", *results, f"{report.error:.1e}", f"{report.tolerance:.1e}"]
        print("| " + " | ".join([*cells, str(report.verdict)]) + " |")
    print(f"\nwrong: allclose {wrong[:-1]} of {len(CASES)}, the checker {wrong[-1]}")


if __name__ == "__main__":
    main()
