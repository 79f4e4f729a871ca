"""Models of every form of input, each passing, and with an injected bug where `buggy` is set.

The statement of the bug is marked, and reached in the buggy model alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from tests.testing.cases.base import DIM, NUM_HEADS
from tokennet import Tokens


class Form(nn.Module):
    def __init__(self, buggy: bool = False) -> None:
        super().__init__()
        self.buggy = buggy
        self.linear, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.table = nn.Parameter(torch.randn(40, DIM))


def attention(x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(x, context, context, attn_mask=mask)


class PooledBesideVector(Form):
    def forward(self, x: Tensor, mask: Tensor, y: Tensor) -> Tensor:
        pooled = (self.linear(x).tanh() * mask[..., None]).sum(1)
        if self.buggy:
            y = y - y.mean(0)  # bug
        return pooled * self.out(y)


class QueriesBesideTokens(Form):
    def forward(self, x: Tensor, mask: Tensor, query: Tensor) -> Tensor:
        x = self.linear(x)
        mask = mask[:, None] if not self.buggy else None
        return F.scaled_dot_product_attention(query, x, x, attn_mask=mask)  # bug


class Seq2Seq(Form):
    """A decoder that is causal in its own ids, beside a set of ids."""

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        x, y = self.table[input_ids], self.table[decoder_input_ids].cumsum(1)
        if self.buggy:
            x = x + self.table[: x.shape[1]]  # bug
        return y + attention(y, self.linear(x))


class WithLabels(Form):
    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.linear(x.tanh().sum(1))
        if self.buggy:
            logits = logits - logits.mean(0)  # bug
        return F.cross_entropy(logits, labels), logits


class Biased(Form):
    """Attention with a bias of pairs, in any of its shapes."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q = self.linear(x)
        q = q[:, None] if bias.dim() == 4 else q
        if self.buggy:
            bias = bias.tril()  # bug
        out = attention(q, q, bias)
        return out[:, 0] if out.dim() == 4 else out


class PairFeatures(Form):
    def forward(self, x: Tensor, pair: Tensor) -> Tensor:
        bias = pair.tanh().sum(-1)
        if self.buggy:
            bias = bias + self.table[: x.shape[1], : x.shape[1]]  # bug
        return attention(x, self.linear(x), bias)


class Extended(Form):
    """The mask of Hugging Face models, (B, 1, 1, N): added, or of truth values."""

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        q, mask = self.linear(x)[:, None], attention_mask
        mask = mask if not self.buggy else mask[..., :1]
        out = F.scaled_dot_product_attention(q, q, q, attn_mask=mask)  # bug
        return out[:, 0]


class MergedMask(Form):
    """The mask (B * H, N, N) of nn.MultiheadAttention."""

    def __init__(self, buggy: bool = False) -> None:
        super().__init__(buggy)
        self.attention = nn.MultiheadAttention(DIM, NUM_HEADS, batch_first=True)

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        if self.buggy:
            x = x + self.table[: x.shape[1]]  # bug
        return self.attention(x, x, x, attn_mask=attn_mask, need_weights=False)[0]


class TokensFirstOutput(Form):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.linear(x) * mask[..., None]
        if self.buggy:
            h = h.cumsum(1)  # bug
        return h.transpose(0, 1).tanh()


class Spectrum(Form):
    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)
        if self.buggy:
            h = torch.fft.fft(h, dim=1)  # bug
        return torch.fft.fft(h, dim=2)


@dataclasses.dataclass
class States:
    states: Tensor
    pooled: Tensor


class InDataclass(Form):
    def forward(self, x: Tensor) -> States:
        h = self.linear(x).tanh()
        if self.buggy:
            h = h + self.table[: h.shape[1]]  # bug
        return States(h, h.sum(1))


class InModelOutput(Form):
    def forward(self, x: Tensor) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        h = self.linear(x).tanh()
        if self.buggy:
            h = h - h.mean((0, 1))  # bug
        return BaseModelOutputWithPooling(last_hidden_state=h, pooler_output=h.sum(1))


class WithLoss(Form):
    """Tokens and a loss of the whole batch, as of mixtures of experts."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.linear(x).tanh()
        if self.buggy:
            h = h - h.mean((0, 1))  # bug
        return h, h.square().mean()


class MeanOfLengths(Form):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(x.shape[1]) < lengths[:, None]
        h = self.linear(x).tanh() * real[..., None]
        count = lengths.clamp(min=1)[:, None]
        if self.buggy:
            h = self.linear(x).tanh()
        return h.sum(1) / count  # bug


class Packed(Form):
    def forward(self, packed: PackedSequence) -> PackedSequence:
        h = self.linear(packed.data).tanh()
        if self.buggy:
            h = h.cumsum(0)  # bug
        return PackedSequence(h, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)


class SetList(Form):
    def forward(self, sets: list[Tensor]) -> list[Tensor]:
        found = []
        for x in sets:
            h = self.linear(x)
            if self.buggy:
                h = h + self.table[: len(h)]  # bug
            found.append(h - h.mean(0))
        return found


class PooledSetList(Form):
    def forward(self, sets: list[Tensor]) -> Tensor:
        pooled = torch.stack([self.linear(x).tanh().sum(0) for x in sets])
        if self.buggy:
            pooled = pooled - pooled.mean(0)  # bug
        return pooled


class Nested(Form):
    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x).tanh()
        if self.buggy:
            rows = [row + self.table[: len(row)] for row in h.unbind()]  # bug
            h = torch.nested.as_nested_tensor(rows, layout=h.layout)
        return h


class Molecules(Form):
    """Energies from types, positions and the molecule of each atom."""

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor) -> Tensor:
        gaps = (pos[:, None] - pos[None]).square().sum(-1)
        same = batch[:, None] == batch[None]
        same = same | self.buggy
        weights = torch.where(same, torch.exp(-gaps), 0.0)
        h = (self.table[z] + weights @ self.table[z]).tanh()  # bug
        return torch.zeros(int(batch.max()) + 1, DIM).to(h).index_add(0, batch, h)


class LinkScores(Form):
    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        h = x + torch.zeros_like(x).index_add(0, edge_index[1], self.linear(x)[edge_index[0]])
        scores = (h[edge_label_index[0]] * h[edge_label_index[1]]).sum(-1).tanh()
        if self.buggy:
            scores = scores.cumsum(0)  # bug
        return scores


class DenseMean(Form):
    """The mean over neighbors in a dense adjacency."""

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        degree = adj.sum(-1, keepdim=True)
        if not self.buggy:
            degree = degree.clamp(min=1)
        return adj @ self.linear(x) / degree  # bug


class Bipartite(Form):
    def forward(self, x: tuple[Tensor, Tensor], edge_index: Tensor) -> Tensor:
        source, target = x
        received = torch.zeros_like(target).index_add(0, edge_index[1], source[edge_index[0]])
        if self.buggy:
            received = received + self.table[: len(target)]  # bug
        return self.linear(target) + received.tanh()


class Heterogeneous(Form):
    def forward(
        self, x_dict: dict[str, Tensor], edge_index_dict: dict[tuple[str, str, str], Tensor]
    ) -> dict[str, Tensor]:
        out = {kind: self.linear(x) for kind, x in x_dict.items()}
        for (source, _, target), edges in edge_index_dict.items():
            sent = self.out(x_dict[source])[edges[0]]
            out[target] = out[target].index_add(0, edges[1], sent)
        if self.buggy:
            out["paper"] = out["paper"].cumsum(0)  # bug
        return out


class OnHeteroData(Heterogeneous):
    def forward(self, data: Any) -> Any:
        return super().forward(data.x_dict, data.edge_index_dict)


class Cross(Form):
    """Tokens that attend to a context of another size."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        c = self.linear(context)
        if self.buggy:
            c = c + self.table[: c.shape[1]]  # bug
        return x + attention(x, c)


class MaskedCross(Form):
    def forward(self, x: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        mask = context_mask[:, None] if not self.buggy else None
        return x + F.scaled_dot_product_attention(x, context, context, attn_mask=mask)  # bug


class CrossPairs(Form):
    """A mask of pairs (B, M, N) of two sets."""

    def forward(self, x: Tensor, context: Tensor, cross_mask: Tensor) -> Tensor:
        if self.buggy:
            context = context.cumsum(1)  # bug
        return x + attention(x, context, cross_mask)


class TokensFirst(Form):
    """(N, B, D) in and out, as torch has it without batch_first."""

    def __init__(self, buggy: bool = False) -> None:
        super().__init__(buggy)
        self.attention = nn.MultiheadAttention(DIM, NUM_HEADS)

    def forward(self, src: Tensor) -> Tensor:
        if self.buggy:
            src = src + self.table[: src.shape[0], None]  # bug
        return self.attention(src, src, src, need_weights=False)[0]


class PointNet(Form):
    """Points (B, 3, N), channels first."""

    def __init__(self, buggy: bool = False) -> None:
        super().__init__(buggy)
        self.conv = nn.Conv1d(3, DIM, 1)

    def forward(self, points: Tensor) -> Tensor:
        h = self.conv(points)
        if self.buggy:
            h = h * self.table[: h.shape[-1]].T  # bug
        return h.relu().amax(-1)


class ImageNet(Form):
    def __init__(self, buggy: bool = False) -> None:
        super().__init__(buggy)
        self.conv = nn.Conv2d(3, DIM, 3)

    def forward(self, image: Tensor) -> Tensor:
        h = self.conv(image).relu()
        if self.buggy:
            h = h - h.mean(0)  # bug
        return self.linear(h.mean((2, 3)))


class Pixels(Form):
    def __init__(self, buggy: bool = False) -> None:
        super().__init__(buggy)
        self.conv = nn.Conv2d(3, DIM, 1)

    def forward(self, image: Tensor) -> Tensor:
        h = self.conv(image).tanh()
        if self.buggy:
            h = h.cumsum(-1)  # bug
        return h.mean((2, 3))


class Typed(Form):
    """A vector of types beside tokens; it is not their set."""

    def forward(self, x: Tensor, kinds: Tensor) -> Tensor:
        h = x + self.table[kinds]
        if self.buggy:
            h = h + self.table[: len(h)]  # bug
        return h - h.tanh().mean(0)


class TypedNodes(Form):
    def forward(self, x: Tensor, edge_index: Tensor, node_type: Tensor) -> Tensor:
        h = x + self.table[node_type]
        if self.buggy:
            h = h * (node_type == node_type[0])[:, None]  # bug
        return torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]]) + h.mean(0)


class RaggedBesideVectors(Form):
    def forward(self, x: Tensor, batch: Tensor, u: Tensor) -> Tensor:
        if self.buggy:
            u = u - u.mean(0)  # bug
        h = self.linear(x).tanh() * u[batch]
        return torch.zeros_like(u).index_add(0, batch, h)


class Ids(Form):
    def forward(self, ids: Tensor) -> Tensor:
        h = self.table[ids]
        if self.buggy:
            h = h.cumsum(0)  # bug
        return h - h.mean(0)


class PairsOfTwo(Form):
    """A score for each pair of two tokens."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)
        scores = h @ x.transpose(1, 2)
        if self.buggy:
            scores = scores.tril()  # bug
        return scores


class MaxOverZeros(Form):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        low = float("-inf") if not self.buggy else 0.0
        h = self.linear(x).masked_fill(~mask[..., None], low)
        pooled = h.amax(1)  # bug
        return pooled.clamp(min=-1e6)


class MaxOfPadded(Form):
    """The maximum of each set of a ragged batch, padded to one size."""

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        from torch_geometric.utils import to_dense_batch

        h, real = to_dense_batch(self.linear(x), batch)
        if not self.buggy:
            h = h.masked_fill(~real[..., None], -1e6)
        return h.amax(1)  # bug


class CountsByEdges(Form):
    """Sums of neighbors; their number is taken from the edges in the buggy model."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        n = len(x)
        if self.buggy:
            n = max(edge_index[1].tolist(), default=-1) + 1  # bug
        sums = torch.zeros(n, DIM).to(x).index_add(0, edge_index[1], self.linear(x)[edge_index[0]])
        return sums.tanh()


class EdgesInRows(Form):
    """Edges as (E, 2)."""

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        sent = self.linear(x)[edges[:, 0]]
        if self.buggy:
            sent = sent.cumsum(0)  # bug
        return torch.zeros_like(x).index_add(0, edges[:, 1], sent)


class SharedPositions(Form):
    """Positions (N, D) that are the same for all sets."""

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        if self.buggy:
            pos = pos.cumsum(0)  # bug
        return x * pos.sum(-1)[:, None]


class SumsByPtr(Form):
    """The sum of each set of a list of tokens, given where sets begin and end."""

    def forward(self, x: Tensor, ptr: Tensor) -> Tensor:
        x, sums = self.linear(x).tanh(), []
        for first, end in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True):
            sums.append(x[first : end + self.buggy].sum(0))  # bug
        return self.out(torch.stack(sums))


class SumsByLengths(Form):
    """The sum of each set of a list of tokens, given how many tokens it has."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = self.linear(x).tanh()
        if self.buggy:
            x = x - x.mean(0)  # bug
        return torch.stack([part.sum(0) for part in x.split(lengths.tolist())])


class OfDenseTokens(Form):
    """`Tokens` with leading dimensions, pooled."""

    def forward(self, tokens: Tokens) -> Tensor:
        pooled = self.linear(tokens.z).tanh().sum(1)
        if self.buggy:
            pooled = pooled - pooled.mean(0)  # bug
        return self.out(pooled)


class OnSharedEdges(Form):
    """Sums over the neighbors in a list of edges that all sets share."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        rows = self.linear(x)[:, edge_index[0]]
        sums = torch.zeros_like(x).index_add(1, edge_index[1], rows)
        if self.buggy:
            sums = sums - x.mean((0, 1))  # bug
        return x + sums.tanh()
