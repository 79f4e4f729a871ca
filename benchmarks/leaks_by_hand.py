"""Each leak of docs/leaks.md shown without the checker: python -m benchmarks.leaks_by_hand.

A function a model, of a few lines of torch, PyG or transformers. It returns by how much an output
changes that must not, relative to its largest value. Nothing here uses tokennet.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

BY_HAND: dict[tuple[str, str], Callable[[], float]] = {}
"""The confirmation of a break, by the name of a model and the law."""
Confirmation = Callable[[], float]


def confirms(name: str, *laws: str) -> Callable[[Confirmation], Confirmation]:
    """Note that a function shows the break of these laws by a model."""

    def note(function: Confirmation) -> Confirmation:
        BY_HAND.update({(name, law): function for law in laws})
        return function

    return note


def change(before: Tensor, after: Tensor) -> float:
    return float((after - before).abs().max() / before.abs().max())


def ring(nodes: int, seed: int) -> Any:
    """A ring as PyG `Data`, with random features of width 8."""
    from torch_geometric.data import Data

    ids = torch.arange(nodes)
    edges = torch.stack([ids, (ids + 1) % nodes])
    x = torch.randn(nodes, 8, generator=torch.Generator().manual_seed(seed))
    return Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], 1))


def beside_another(model: nn.Module, *, takes_batch: bool = True) -> float:
    """How a graph of 5 nodes changes beside one of 70."""
    from torch_geometric.data import Batch

    def first_graph(*graphs: Any) -> Tensor:
        batch = Batch.from_data_list(list(graphs))
        more = (batch.batch,) if takes_batch else ()
        with torch.no_grad():
            return model(batch.x, batch.edge_index, *more)[:5]

    model.eval()
    return change(first_graph(ring(5, 0)), first_graph(ring(5, 0), ring(70, 1)))


@confirms("pyg:SGFormer", "batch_composition")
def sgformer() -> float:
    """N in the formula of attention is that of the longest graph, and padding counts as keys."""
    from torch_geometric.nn import SGFormer

    return beside_another(SGFormer(8, 16, 8))


@confirms("pyg:Polynormer, global", "batch_composition")
def polynormer() -> float:
    """The padding of shorter graphs takes part in the sums of global attention."""
    from torch_geometric.nn import Polynormer

    model = Polynormer(8, 16, 8)
    model._global = True
    return beside_another(model)


@confirms("pyg:GPSConv(8, GCNConv(8, 8), attn_type='performer')", "batch_composition")
def performer() -> float:
    """Features of keys are divided by their largest over the whole batch, padding included."""
    from torch_geometric.nn import GCNConv, GPSConv

    model = GPSConv(8, GCNConv(8, 8), attn_type="performer").eval()
    return beside_another(with_batch(model))


def with_batch(layer: nn.Module) -> nn.Module:
    """A layer that has its own argument for the batch."""

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
            return self.layer(x, edge_index, batch=batch)

    return Called()


@confirms("pyg:PMLP", "batch_composition")
def pmlp() -> float:
    """Its batch norm keeps no running statistics: in eval mode it uses those of the batch."""
    from torch_geometric.nn import PMLP

    return beside_another(PMLP(8, 16, 8, 2), takes_batch=False)


@confirms("pyg:PMLP", "nonfinite_isolation")
def pmlp_nan() -> float:
    """One NaN in a graph makes all graphs of the batch NaN."""
    from torch_geometric.data import Batch
    from torch_geometric.nn import PMLP

    model, second = PMLP(8, 16, 8, 2).eval(), ring(6, 1)
    second.x[0] = torch.nan
    batch = Batch.from_data_list([ring(5, 0), second])
    with torch.no_grad():
        first = model(batch.x, batch.edge_index)[:5]
    return math.inf if bool(first.isnan().any()) else 0.0


@confirms("pyg:GraphUNet", "tied_inputs")
def graph_unet() -> float:
    """Of nodes with equal scores, top-k pooling keeps those that are listed first."""
    from torch_geometric.nn import GraphUNet

    model, graph = GraphUNet(8, 16, 8, depth=2).eval(), ring(6, 0)
    graph.x[:] = graph.x[0]  # all nodes are equal, and their ring is symmetric
    perm = torch.tensor([1, 2, 3, 4, 5, 0])
    with torch.no_grad():
        y = model(graph.x, graph.edge_index)
        moved = model(graph.x[perm], torch.argsort(perm)[graph.edge_index])
    return change(y[perm], moved)


def hidden(model: Any, ids: list[list[int]], mask: list[list[int]] | None = None) -> Tensor:
    """The last hidden states of ids."""
    given = {} if mask is None else {"attention_mask": torch.tensor(mask)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(input_ids=torch.tensor(ids), **given).last_hidden_state


def moved_a_little(model: Any, dtype: torch.dtype = torch.float64) -> Any:
    """Weights of usual size: small models start with such small weights that nothing shows."""
    torch.manual_seed(0)
    model = model.to(dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def by_padding(model: Any, dtype: torch.dtype = torch.float64) -> float:
    """How 4 tokens change when the 4 padded ids behind them, masked out, are others."""
    model = moved_a_little(model, dtype)
    ids, mask = [5, 6, 7, 8], [[1, 1, 1, 1, 0, 0, 0, 0]]
    before = hidden(model, [[*ids, 0, 0, 0, 0]], mask)[:, :4]
    return change(before, hidden(model, [[*ids, 3, 11, 4, 9]], mask)[:, :4])


SMALL = {
    "vocab_size": 41, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@confirms("hf-tiny:NystromformerModel", "batch_composition")
def nystromformer() -> float:
    """The iterative inverse is scaled by the largest column sum of the whole batch."""
    import transformers

    config = transformers.NystromformerConfig(**SMALL, num_landmarks=4, segment_means_seq_len=8)
    model = moved_a_little(transformers.NystromformerModel(config))
    row, other = [5, 6, 7, 8, 9, 10, 11, 12], [30, 3, 30, 30, 3, 30, 30, 30]
    return change(hidden(model, [row]), hidden(model, [row, other])[:1])


@confirms("hf-tiny:FunnelModel", "padding")
def funnel() -> float:
    """Pooling by means between blocks takes masked tokens along."""
    import transformers

    config = transformers.FunnelConfig(
        vocab_size=41, block_sizes=[1, 1], num_decoder_layers=1, d_model=16, n_head=2, d_head=8,
        d_inner=32, pad_token_id=0,
    )  # fmt: skip
    return by_padding(transformers.FunnelModel(config))


@confirms("hf-tiny:ConvBertModel", "padding")
def convbert() -> float:
    """Its span-based convolution reads the neighbors of a token, masked or not."""
    import transformers

    config = transformers.ConvBertConfig(**SMALL, embedding_size=16, head_ratio=1)
    return by_padding(transformers.ConvBertModel(config))


@confirms("hf-tiny:MobileBertModel", "padding")
def mobilebert() -> float:
    """An embedding is made of three ids, the neighbors' too, masked or not."""
    import transformers

    config = transformers.MobileBertConfig(
        **SMALL, embedding_size=16, intra_bottleneck_size=16, num_feedforward_networks=1
    )
    return by_padding(transformers.MobileBertModel(config))


@confirms("hf-tiny:YosoModel", "padding")
def yoso() -> float:
    """Attention multiplies by its mask, which does not hide the masked keys."""
    import transformers

    return by_padding(transformers.YosoModel(transformers.YosoConfig(**SMALL)))


@confirms("hf-tiny:CanineModel", "padding")
def canine() -> float:
    """Characters are downsampled by a convolution, which reads what is masked."""
    import transformers

    model = transformers.CanineModel(transformers.CanineConfig(**SMALL))
    return by_padding(model, torch.float32)  # its masks are infinite in float64


@confirms("hf-tiny:RwkvModel", "padding")
def rwkv() -> float:
    """It has no use for a mask: the state for the next token is that behind the padding."""
    import transformers

    config = transformers.RwkvConfig(
        vocab_size=41, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16
    )
    model = moved_a_little(transformers.RwkvModel(config))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    states = []
    for pads in ([0, 0], [9, 11]):
        ids = torch.tensor([[5, 6, 7, 8, *pads]])
        with torch.no_grad():
            states.append(model(input_ids=ids, attention_mask=mask).state[1])
    return change(*states)


def pooled_by_padding(model: Any) -> float:
    """How the pooled output changes with the ids of padding, which is masked out."""
    model, mask = moved_a_little(model), torch.tensor([[1, 1, 1, 1, 0, 0]])
    pooled = []
    for pads in ([0, 0], [9, 11]):
        ids = torch.tensor([[5, 6, 7, 8, *pads]])
        with torch.no_grad():
            pooled.append(model(input_ids=ids, attention_mask=mask).pooler_output)
    return change(*pooled)


@confirms("hf-tiny:CLIPModel", "padding")
@confirms("hf-tiny:CLIPTextModel", "padding")
def clip() -> float:
    """With eos_token_id=2 it pools at the largest id, and that may be one of the padding."""
    import transformers

    config = transformers.CLIPTextConfig(**SMALL)
    return pooled_by_padding(transformers.CLIPTextModel(config))


@confirms("hf-tiny:SiglipModel", "padding")
def siglip() -> float:
    """It pools at the last index, padding or not, as it was trained with."""
    import transformers

    config = transformers.SiglipTextConfig(**SMALL)
    return pooled_by_padding(transformers.SiglipTextModel(config))


@confirms("timm:xcit_nano_12_p16_224", "batch_composition")
def xcit() -> float:
    """A fault of torch 2.13 on the CPU: the gradient of BatchNorm2d in eval mode is wrong for a
    batch of one, where the gradient that comes in is transposed, as behind its patches."""
    norm = nn.BatchNorm2d(4, affine=False).eval()
    x, weight = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(1, 64, 4)
    tokens = norm(x).flatten(2).transpose(1, 2)
    (gradient,) = torch.autograd.grad((tokens * weight).sum(), x)
    right = weight.transpose(1, 2).reshape(x.shape) / (1 + norm.eps) ** 0.5
    return change(right, gradient)


def main() -> None:
    for (name, law), confirm in BY_HAND.items():
        torch.manual_seed(0)
        print(f"{name:55}{law:21}{confirm():.2g}  {confirm.__doc__}")


if __name__ == "__main__":
    main()
