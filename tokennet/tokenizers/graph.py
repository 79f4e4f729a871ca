"""Tokenizers of graphs (PyG `Data`): nodes as tokens, edges as tokens, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokennet.checks import check_size, checked
from tokennet.graphs import Edges
from tokennet.tokenizers.base import Tokenizer, indices_of
from tokennet.tokenizers.overlap import join
from tokennet.tokens import Tokens


@checked()
@dataclass(frozen=True)
class Nodes(Tokenizer):
    """Every node of a PyG `Data` is a token: z = x, pos = `data.pos`, on the graph as it is.

    Use it where nodes have the features. A list, or a PyG `Batch`, is a ragged batch. The inverse
    is a `Data` with x, edge_index, edge_attr and pos.

    >>> from torch_geometric.data import Data
    >>> data = Data(x=torch.zeros(3, 2), edge_index=torch.tensor([[0, 1], [1, 2]]))
    >>> Nodes()(data)
    Tokens(z=(3, 2), graph=Edges(3): 3 tokens, 2 edges, density 0.222)
    """

    shares_graph: ClassVar[bool] = False
    num_coordinates: ClassVar[int | None] = None

    def split(self, raw: Any) -> list[Any] | None:
        if getattr(raw, "batch", None) is None and getattr(raw, "ptr", None) is None:
            return super().split(raw)
        check_data(raw)
        # Not `to_data_list`, which returns the graphs that were batched, whatever became of them.
        return [tokens.to_pyg() for tokens in Tokens.from_pyg(raw).unbatch()]

    def tokenize(self, data: Any) -> Tokens:
        check_data(data)
        return Tokens.from_pyg(data)

    def restore(self, tokens: Tokens) -> Any:
        return tokens.to_pyg()


@checked(node_dim=0)
@dataclass(frozen=True)
class _WithEdges(Nodes):
    """Tokens that hold node and edge features; positions are the ends of an edge."""

    node_dim: int = 1

    num_coordinates: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("node_dim", self.node_dim)


@checked(node_dim=0)
@dataclass(frozen=True)
class NodesAndEdges(_WithEdges):
    r"""Nodes are tokens, and edges too: N + E tokens, first the nodes.

    Use it where edges carry as much as nodes: Kim et al., 2022 (TokenGT, arXiv 2207.02505).
    With F node and F' edge features, a column for each of the two kinds at the end, and the
    indices of the nodes as positions:

        node v:         z = [x_v, 0, 1, 0],    pos = (v, v)
        edge u -> v:    z = [0, e_uv, 0, 1],   pos = (u, v)

    Graph: the edge attends to u, and v to the edge, so that two layers do what one layer does on
    the graph of the nodes. In TokenGT all attend to all (`graph=Full`), and an orthonormal row
    for each node identifies the nodes of an edge: `rows[tokens.pos].flatten(-2)`, appended to z.

    In the inverse, nodes are the tokens whose first kind is the larger one, in the order of
    their indices; edges are in the order of the tokens.

    Args:
        node_dim: number F of node features.

    Raises:
        ValueError: x does not have `node_dim` columns.

    >>> from torch_geometric.data import Data
    >>> data = Data(x=torch.tensor([[5.0], [6.0]]), edge_index=torch.tensor([[0], [1]]))
    >>> tokens = NodesAndEdges(1)(data)
    >>> tokens.z.tolist(), tokens.pos.tolist()
    ([[5.0, 1.0, 0.0], [6.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[0, 0], [1, 1], [0, 1]])
    >>> tokens.graph.edge_index().tolist()
    [[0, 2], [2, 1]]
    """

    def tokenize(self, data: Any) -> Tokens:
        x, attr = features(data, self.node_dim)
        kinds = torch.block_diag(x.new_ones(len(x), 1), x.new_ones(len(attr), 1))
        z = torch.cat([torch.block_diag(x, attr), kinds], 1)  # (N + E, F + F' + 2)
        source, target = data.edge_index
        own, edge = torch.arange(len(z), device=source.device).split([len(x), len(attr)])
        graph = torch.stack([torch.cat([source, edge]), torch.cat([edge, target])])
        pos = torch.cat([own.expand(2, -1), data.edge_index], 1).T  # (N + E, 2)
        return Tokens(z, Edges(graph, len(z)), pos)

    def restore(self, tokens: Tokens) -> Any:
        if tokens.z.dim() != 2 or tokens.dim < self.node_dim + 2:
            raise ValueError(
                f"tokens must have shape (N, at least {self.node_dim + 2}), node_dim features "
                f"and two kinds, got {tuple(tokens.z.shape)}"
            )
        ends = indices_of(tokens, 2)
        is_node = tokens.z[:, -2] > tokens.z[:, -1]
        index, order = ends[is_node, 0].sort()
        if not torch.equal(index, torch.arange(len(index), device=index.device)):
            raise ValueError("tokens.pos must number the nodes from 0 without gaps")
        x, attr = tokens.z[is_node][order, : self.node_dim], tokens.z[~is_node, self.node_dim : -2]
        return _data(x, ends[~is_node].T, attr)


@checked(node_dim=0)
@dataclass(frozen=True)
class LineGraph(_WithEdges):
    r"""Every edge is a token: z = [x_u, e_uv, x_v], pos = (u, v).

    Use it for messages between edges, such as the bonds of a molecule. Graph: edge v -> w
    attends to every edge u -> v that ends where it begins, the line graph of Harary and Norman
    (1960). With `backtrack=False` messages do not return along the edge they came from, as in
    the directed message passing of Yang et al., 2019 (arXiv 1904.01561).

    The inverse needs graphs in which every node has an edge; a node is the mean over its edges.

    Args:
        node_dim: number F of node features.
        backtrack: whether v -> u attends to u -> v.

    Raises:
        ValueError: x does not have `node_dim` columns.

    >>> from torch_geometric.data import Data
    >>> edge_index = torch.tensor([[0, 1, 1], [1, 2, 0]])
    >>> tokens = LineGraph(1)(Data(x=torch.tensor([[5.0], [6.0], [7.0]]), edge_index=edge_index))
    >>> tokens.z.tolist()
    [[5.0, 6.0], [6.0, 7.0], [6.0, 5.0]]
    >>> tokens.graph.edge_index().tolist()  # 0 -> 1 -> 0 -> 1 returns, 0 -> 1 -> 2 does not
    [[2, 0, 0], [0, 1, 2]]
    """

    backtrack: bool = True

    def tokenize(self, data: Any) -> Tokens:
        x, attr = features(data, self.node_dim)
        source, target = data.edge_index
        z = torch.cat([x[source], attr, x[target]], 1)  # (E, 2 F + F')
        follow = following(data.edge_index, len(x))
        if not self.backtrack:
            follow = follow[:, source[follow[0]] != target[follow[1]]]
        return Tokens(z, Edges(follow, len(z)), data.edge_index.T.contiguous())

    def restore(self, tokens: Tokens) -> Any:
        width = self.node_dim
        if tokens.z.dim() != 2 or tokens.dim < 2 * width:
            raise ValueError(
                f"tokens must have shape (E, at least {2 * width}), two ends of node_dim "
                f"features, got {tuple(tokens.z.shape)}"
            )
        ends = indices_of(tokens, 2).T  # (2, E)
        isolated = (torch.bincount(ends.flatten()) == 0).nonzero().flatten().tolist()
        if isolated:
            raise ValueError(f"tokens.pos must name every node, no token names {isolated}")
        nodes = torch.cat([tokens.z[:, :width], tokens.z[:, tokens.dim - width :]])  # (2 E, F)
        x = join(nodes.T[..., None], ends.reshape(-1, 1), [1]).T if ends.numel() else nodes
        return _data(x, ends, tokens.z[:, width : tokens.dim - width])


def following(edge_index: Tensor, num_nodes: int) -> Tensor:
    """(2, E'): pairs of edges of which the second begins where the first ends.

    >>> following(torch.tensor([[0, 1], [1, 2]]), 3).tolist()
    [[0], [1]]
    """
    source, target = edge_index
    into = target.argsort(stable=True)  # edges, grouped by the node they lead to
    count = torch.bincount(target, minlength=num_nodes)
    start = count.cumsum(0) - count
    degree = count[source]  # (E,) number of edges that lead to the source of each edge
    second = torch.arange(len(source), device=source.device).repeat_interleave(degree)
    rank = torch.arange(len(second), device=source.device) - (degree.cumsum(0) - degree)[second]
    return torch.stack([into[start[source[second]] + rank], second])


def features(data: Any, node_dim: int) -> tuple[Tensor, Tensor]:
    """Node features (N, F) and edge features (E, F'), with F' = 0 if there are none."""
    check_data(data)
    if data.x.shape[1:] != (node_dim,):
        raise ValueError(
            f"data.x must have shape (N, {node_dim}) (node_dim), got {tuple(data.x.shape)}"
        )
    attr = data.edge_attr if data.edge_attr is not None else data.edge_weight
    if attr is None:
        attr = data.x.new_zeros(data.edge_index.shape[1], 0)
    return data.x, attr[:, None] if attr.dim() == 1 else attr


def check_data(data: Any) -> None:
    """Raise unless this is a PyG `Data` with features and edges."""
    from torch_geometric.data import Data

    if not isinstance(data, Data):
        raise TypeError(
            f"data must be a PyG Data, got {type(data).__name__}; of a networkx graph "
            "torch_geometric.utils.from_networkx makes one"
        )
    for name in ("x", "edge_index"):
        if data.get(name) is None:
            raise ValueError(f"data must have {name}, got {data}")


def _data(x: Tensor, edge_index: Tensor, attr: Tensor) -> Any:
    from torch_geometric.data import Data

    edge_attr = attr if attr.shape[1] else None
    return Data(x=x, edge_index=edge_index.contiguous(), edge_attr=edge_attr)
