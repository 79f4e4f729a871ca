"""Which symmetry laws do PyG's own modules obey? A table of what the checker finds.

Aggregations are checked on tokens of three sets (x, batch index), convolutions on a graph
(x, edge_index, ...), attention and norms on the inputs that they accept. A broken law is not a bug
where the documentation says so: an LSTM over neighbors depends on their order by design.
"""

from collections import Counter

import torch
import torch_geometric.nn as pyg
from torch import nn

from tokennet.testing import Verdict, check

torch.manual_seed(0)
D, NODES = 8, 9


class Called(nn.Module):
    """A module with another signature: `call(module, *inputs)`."""

    def __init__(self, module: nn.Module, call) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *inputs):
        return self.call(self.module, *inputs)


x = torch.randn(NODES, D)
edges = torch.randint(0, NODES, (2, 30), generator=torch.Generator().manual_seed(1))
sets = torch.arange(3).repeat_interleave(torch.tensor([5, 7, 4]))
ragged = torch.randn(16, D), sets
graph = x, edges
weighted = x, edges, torch.rand(30)
featured = x, edges, torch.randn(30, 4)
relational = x, edges, torch.randint(0, 3, (30,))


def mlp(*sizes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(sizes[0], 16), nn.ReLU(), nn.Linear(16, sizes[-1]))


AGGREGATIONS = {
    "SumAggregation": pyg.SumAggregation(),
    "MeanAggregation": pyg.MeanAggregation(),
    "MaxAggregation": pyg.MaxAggregation(),
    "MinAggregation": pyg.MinAggregation(),
    "MulAggregation": pyg.MulAggregation(),
    "VarAggregation": pyg.VarAggregation(),
    "StdAggregation": pyg.StdAggregation(),
    "SoftmaxAggregation": pyg.SoftmaxAggregation(learn=True),
    "PowerMeanAggregation": pyg.PowerMeanAggregation(learn=True),
    "MedianAggregation": pyg.MedianAggregation(),
    "QuantileAggregation": pyg.QuantileAggregation(0.3),
    "SortAggregation": pyg.SortAggregation(k=3),
    "AttentionalAggregation": pyg.AttentionalAggregation(mlp(D, 1)),
    "DeepSetsAggregation": pyg.DeepSetsAggregation(mlp(D, D), mlp(D, 3)),
    "VariancePreservingAggregation": pyg.VariancePreservingAggregation(),
    "SetTransformerAggregation": pyg.SetTransformerAggregation(D, heads=2),
    "Set2Set": pyg.Set2Set(D, 3),
    "LSTMAggregation": pyg.LSTMAggregation(D, D),
    "GRUAggregation": pyg.GRUAggregation(D, D),
    "LCMAggregation": pyg.LCMAggregation(D, D),
    "MLPAggregation": pyg.MLPAggregation(
        D, 3, max_num_elements=8, num_layers=2, hidden_channels=16, norm=None
    ),
    "PatchTransformerAggregation": pyg.PatchTransformerAggregation(
        D, D, patch_size=2, hidden_channels=8, num_transformer_blocks=1, heads=2
    ),
}
CONVOLUTIONS = {
    "GCNConv": (pyg.GCNConv(D, 5), weighted),
    "ChebConv": (pyg.ChebConv(D, 5, K=3), graph),
    "SAGEConv": (pyg.SAGEConv(D, 5), graph),
    "SAGEConv, max": (pyg.SAGEConv(D, 5, aggr="max"), graph),
    "SAGEConv, lstm": (pyg.SAGEConv(D, 5, aggr="lstm"), (x, edges[:, edges[1].argsort()])),
    "SAGEConv, median": (pyg.SAGEConv(D, 5, aggr="median"), graph),
    "GraphConv": (pyg.GraphConv(D, 5), weighted),
    "GatedGraphConv": (pyg.GatedGraphConv(D, 2), graph),
    "ResGatedGraphConv": (pyg.ResGatedGraphConv(D, 5), graph),
    "GATConv": (pyg.GATConv(D, 4, heads=2), graph),
    "GATv2Conv": (pyg.GATv2Conv(D, 4, heads=2, edge_dim=4), featured),
    "TransformerConv": (pyg.TransformerConv(D, 4, heads=2, edge_dim=4), featured),
    "SuperGATConv": (pyg.SuperGATConv(D, 4, heads=2), graph),
    "AGNNConv": (pyg.AGNNConv(), graph),
    "TAGConv": (pyg.TAGConv(D, 5), graph),
    "GINConv": (pyg.GINConv(mlp(D, 5)), graph),
    "GINEConv": (pyg.GINEConv(mlp(D, 5), edge_dim=4), featured),
    "ARMAConv": (pyg.ARMAConv(D, 5), graph),
    "SGConv": (pyg.SGConv(D, 5, K=2), graph),
    "SSGConv": (pyg.SSGConv(D, 5, alpha=0.1, K=2), graph),
    "APPNP": (pyg.APPNP(K=3, alpha=0.1), graph),
    "MFConv": (pyg.MFConv(D, 5), graph),
    "RGCNConv": (pyg.RGCNConv(D, 5, num_relations=3), relational),
    "RGATConv": (pyg.RGATConv(D, 5, num_relations=3), relational),
    "FiLMConv": (pyg.FiLMConv(D, 5), graph),
    "EdgeConv": (pyg.EdgeConv(mlp(2 * D, 5)), graph),
    "NNConv": (pyg.NNConv(D, 5, nn.Linear(4, D * 5)), featured),
    "CGConv": (pyg.CGConv(D, dim=4), featured),
    "GMMConv": (pyg.GMMConv(D, 5, dim=4, kernel_size=3), featured),
    "PNAConv": (
        pyg.PNAConv(D, 6, ["mean", "std", "max"], ["identity", "amplification"], torch.ones(9)),
        graph,
    ),
    "ClusterGCNConv": (pyg.ClusterGCNConv(D, 5), graph),
    "GENConv": (pyg.GENConv(D, 5), graph),
    "FeaStConv": (pyg.FeaStConv(D, 5, heads=2), graph),
    "LEConv": (pyg.LEConv(D, 5), graph),
    "EGConv": (pyg.EGConv(D, 8), graph),
    "MixHopConv": (pyg.MixHopConv(D, 5), graph),
    "LGConv": (pyg.LGConv(), graph),
    "AntiSymmetricConv": (pyg.AntiSymmetricConv(D), graph),
    "GPSConv": (pyg.GPSConv(D, pyg.GINConv(mlp(D, D)), heads=2), graph),
}
OTHERS = {
    "MultiheadAttention (batch first)": (
        Called(nn.MultiheadAttention(D, 2, batch_first=True), lambda m, z: m(z, z, z)[0]),
        torch.randn(3, 7, D),
    ),
    "PerformerAttention": (
        pyg.PerformerAttention(D, heads=2, head_channels=4),
        torch.randn(3, 7, D),
    ),
    "SGFormerAttention": (pyg.SGFormerAttention(D, heads=2, head_channels=4), torch.randn(3, 7, D)),
    "SetAttentionBlock": (
        pyg.aggr.utils.SetAttentionBlock(D, heads=2, layer_norm=True),
        torch.randn(3, 7, D),
    ),
    "GraphNorm": (pyg.GraphNorm(D), ragged),
    "PairNorm": (pyg.PairNorm(), ragged),
    "InstanceNorm": (pyg.InstanceNorm(D), ragged),
    "GraphSizeNorm": (pyg.GraphSizeNorm(), ragged),
    "MeanSubtractionNorm": (pyg.MeanSubtractionNorm(), ragged),
    "LayerNorm (mode=graph)": (pyg.LayerNorm(D), ragged),
    "GIN": (pyg.GIN(D, 16, 2, 3), graph),
    "GAT": (pyg.GAT(D, 16, 2, 3, heads=2), graph),
    "PNA": (
        pyg.PNA(D, 16, 2, 3, aggregators=["mean"], scalers=["linear"], deg=torch.ones(9)),
        graph,
    ),
}


def main() -> None:
    cases = {name: (module, ragged) for name, module in AGGREGATIONS.items()}
    cases |= CONVOLUTIONS | OTHERS
    count: Counter[str] = Counter()
    for name, (module, example) in cases.items():
        try:
            report = check(module, example)
        except Exception as error:
            count["does not run"] += 1
            print(f"{name:34} does not run: {str(error).splitlines()[0][:90]}")
            continue
        found = []
        for law, result in report.reports.items():
            if result.verdict is not Verdict.PASS:
                where = result.location
                location = f" at {where.file.rpartition('/')[2]}:{where.line}" if where else ""
                found.append(f"{law} {result.verdict}{location}: {result.reason}")
        count["passes all laws" if not found else "breaks some laws"] += 1
        laws = f"{len(report.reports)} laws"
        print(f"{name:34} {laws}: " + ("pass" if not found else f"\n{'':8}".join(["", *found])))
    print(dict(count))


if __name__ == "__main__":
    main()
