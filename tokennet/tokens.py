"""`Tokens`: vectors, the graph they are on, and their positions; what every layer accepts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node

from tokennet.checks import check_type
from tokennet.graphs import Disjoint, Full, TokenGraph, from_networkx, from_pyg
from tokennet.graphs.attributes import Attributes
from tokennet.graphs.convert_networkx import node_matrix
from tokennet.graphs.convert_pyg import onto_pyg
from tokennet.graphs.indices import check_permutation

if TYPE_CHECKING:  # both take long to load
    import networkx as nx
    from torch_geometric.data import Data


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens on a graph: what every layer accepts and returns.

    Wrap your data in it when the tokens have a graph or positions; a bare tensor (..., N, D)
    stands for tokens on the complete graph.

    Args:
        z: (..., N, D) the tokens. Leading dimensions are a batch that shares the graph.
        graph: square graph on the N tokens; the complete graph by default. A ragged batch
            has a `Disjoint` graph, see `Tokens.batch`.
        pos: (..., N, P) positions, or None.

    Raises:
        TypeError: `z` or `pos` is not a tensor, `graph` not a `TokenGraph`.
        ValueError: the numbers of tokens disagree, or the graph is bipartite.

    >>> import torch
    >>> from tokennet import Causal
    >>> Tokens(torch.zeros(2, 5, 8), Causal(5))
    Tokens(z=(2, 5, 8), graph=Causal(5): 5 tokens, 15 edges, density 0.6)
    """

    z: Tensor
    graph: TokenGraph = None  # type: ignore[assignment]  # None becomes Full(N) below
    pos: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.z, Tensor):
            raise TypeError(f"z must be a tensor, got {type(self.z).__name__}")
        if self.z.dim() < 2:
            raise ValueError(f"z must have shape (..., N, D), got {tuple(self.z.shape)}")
        n = self.z.shape[-2]
        if self.graph is None:
            object.__setattr__(self, "graph", Full(n))
        _check_graph(self.graph, n)
        _check_pos(self.pos, self.z)

    @property
    def num_tokens(self) -> int:
        return self.z.shape[-2]

    @property
    def dim(self) -> int:
        return self.z.shape[-1]

    def replace(self, **changes: Any) -> Tokens:
        """Return a copy with some of `z`, `graph` and `pos` replaced, checked again."""
        z, old = changes.get("z"), self.z.shape
        if (
            len(changes) == 1
            and isinstance(z, Tensor)
            and (z.shape == old or z.shape[:-1] == old[:-1])
        ):
            tokens = object.__new__(Tokens)
            tokens.__dict__.update(self.__dict__, z=z)  # whatever fitted the old z fits this one
            return tokens
        return Tokens(**{"z": self.z, "graph": self.graph, "pos": self.pos, **changes})

    def permute(self, perm: Any) -> Tokens:
        """Relabel: move z, graph and pos together; new token i is old token `perm[i]`.

        To shuffle z alone, with graph and pos held, write `tokens.replace(z=z[..., perm, :])`.

        Raises:
            ValueError: `perm` is not a permutation of the tokens, or moves a token from
                one graph of a `Disjoint` to another.

        >>> tokens = Tokens(torch.tensor([[0.0], [1.0], [2.0]]))
        >>> tokens.permute([2, 0, 1]).z.flatten().tolist()
        [2.0, 0.0, 1.0]
        """
        perm = check_permutation("perm", perm, self.num_tokens)
        on_device = perm.to(self.z.device)
        pos = None if self.pos is None else self.pos.index_select(-2, on_device)
        return Tokens(self.z.index_select(-2, on_device), self.graph.relabel(perm), pos)

    def to(self, *args: Any, **kwargs: Any) -> Tokens:
        """Move z and pos as `Tensor.to` does; integers keep their type.

        Positions are never rounded: to a dtype of less precision z goes alone, because in
        bfloat16 the positions 257 and 258 are the same.
        """
        moved = self.z.to(*args, **kwargs)
        z = moved if self.z.is_floating_point() else self.z.to(moved.device)
        if self.pos is None:
            return self.replace(z=z)
        pos = self.pos.to(z.device)
        if pos.is_floating_point():
            pos = pos.to(torch.promote_types(pos.dtype, moved.dtype))
        return self.replace(z=z, pos=pos)

    def pin_memory(self) -> Tokens:
        """Return a copy in pinned memory, from which a GPU copies faster; for `DataLoader`."""
        pos = None if self.pos is None else self.pos.pin_memory()
        return self.replace(z=self.z.pin_memory(), pos=pos)

    @staticmethod
    def batch(sets: Sequence[Tokens | Tensor]) -> Tokens:
        """Put sets of any sizes side by side on a `Disjoint` graph; `unbatch` undoes it.

        A tensor (..., N, D) is a set on the complete graph. So this is the `collate_fn` of a
        `torch.utils.data.DataLoader` whose examples are sets.

        Raises:
            ValueError: there are no sets, they differ in D or in leading dimensions, or
                only some have positions.
        """
        check_type("sets", sets, list | tuple, "a list or tuple of Tokens or tensors")
        if not sets:
            raise ValueError("sets must hold at least one Tokens, got none")
        for index, tokens in enumerate(sets):
            check_type(f"sets[{index}]", tokens, Tokens | Tensor, "Tokens or a tensor")
        parts = [Tokens(item) if isinstance(item, Tensor) else item for item in sets]
        for name in ("z", "pos"):
            given = [getattr(tokens, name) for tokens in parts]
            kinds = [x if x is None else (*x.shape[:-2], x.shape[-1]) for x in given]
            other = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), None)
            if other is not None:
                first, second = (_described(given[i], name) for i in (0, other))
                raise ValueError(
                    f"sets must agree on {name} but for N: sets[0] has {first}, "
                    f"sets[{other}] has {second}"
                )
        pos = None
        if parts[0].pos is not None:
            pos = torch.cat([tokens.pos for tokens in parts], dim=-2)  # type: ignore[misc]
        z = torch.cat([tokens.z for tokens in parts], dim=-2)
        return Tokens(z, Disjoint(tokens.graph for tokens in parts), pos)

    def unbatch(self) -> list[Tokens]:
        """Return the sets of a ragged batch, each on its own graph; of a single set, itself."""
        if not self.graph.is_ragged:
            return [self]
        sizes, graphs = self.graph.sizes, self.graph.parts
        zs = self.z.split(sizes, dim=-2)
        positions = [None] * len(sizes) if self.pos is None else self.pos.split(sizes, dim=-2)
        return [Tokens(z, graph, pos) for z, graph, pos in zip(zs, graphs, positions, strict=True)]

    @staticmethod
    def from_networkx(
        graph: nx.Graph,
        node_attrs: Attributes | None = None,
        edge_attrs: Attributes | None = None,
        *,
        edge_type: Attributes | None = None,
        pos_attrs: Attributes | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tokens:
        """Return the nodes of a networkx graph as tokens, on `from_networkx(graph, edge_attrs)`.

        Args:
            graph: Graph, DiGraph, MultiGraph or MultiDiGraph.
            node_attrs: attributes of the nodes that become columns of z: numbers, or text with its
                categories; see `from_networkx`. Needed: without features of nodes,
                make `Tokens(z, from_networkx(graph))`.
            edge_attrs: attributes of the edges that become columns of `graph.edge_attr`.
            edge_type: the attribute of the edges that is their type; see `from_networkx`.
            pos_attrs: attributes of the nodes that become columns of pos.
            dtype: of z, pos and `edge_attr`; by default torch's default type.

        Raises:
            ValueError: a node lacks one of `node_attrs`, or there are none; or see `from_networkx`.

        >>> import networkx as nx
        >>> club = nx.karate_club_graph()
        >>> Tokens.from_networkx(club, {"club": ["Mr. Hi", "Officer"]}, "weight")
        Tokens(z=(34, 2), graph=Edges(34): 34 tokens, 156 edges, density 0.135)
        """
        z = node_matrix(graph, "node_attrs", node_attrs, dtype)
        pos = None if pos_attrs is None else node_matrix(graph, "pos_attrs", pos_attrs, dtype)
        return Tokens(z, from_networkx(graph, edge_attrs, edge_type=edge_type, dtype=dtype), pos)

    @staticmethod
    def from_pyg(data: Data) -> Tokens:
        """Return the tokens of a PyG `Data` (x, edge_index, edge_attr, edge_type, pos) or `Batch`.

        A `Data` with a vector `batch` is a ragged batch, read as it is now: edges may have changed
        since it was batched. Other fields (y, masks, types of nodes) are not tokens:
        `to_pyg(like=data)` brings them along.

        Raises:
            ValueError: `data` has no node features `x`, or no `edge_index`; or see `from_pyg`.
        """
        graph = from_pyg(data)
        if data.x is None:
            raise ValueError(
                f"data must have node features x, got {data}: without them, use "
                "Tokens(z, from_pyg(data)) with a z (N, D) of your own"
            )
        return Tokens(data.x, graph, data.pos)

    def to_pyg(self, like: Data | None = None) -> Data:
        """Return a PyG `Data`, or a `Batch` for a ragged batch.

        Args:
            like: the `Data` or `Batch` of which these tokens are, before or after a net. The
                result is a copy of it (its y, masks, node types, order of edges) with z as x, and
                with the positions, edge features and edge types of the tokens where they have some.

        Raises:
            ValueError: `z` has leading dimensions, which PyG does not support; or the graph is
                not that of `like`.
        """
        from torch_geometric.data import Batch, Data

        if self.z.dim() != 2:
            raise ValueError(f"z must have shape (N, D) for PyG, got {tuple(self.z.shape)}")
        if like is not None:
            return onto_pyg(like, self.z, self.graph, self.pos)
        if self.graph.is_ragged:
            return Batch.from_data_list([tokens.to_pyg() for tokens in self.unbatch()])
        data = Data(x=self.z, edge_index=self.graph.edge_index(self.z.device), pos=self.pos)
        for field, rows in self.graph.fields().items():
            if rows is not None:
                data[field] = rows.to(self.z.device)
        return data

    def __repr__(self) -> str:
        pos = "" if self.pos is None else f", pos={tuple(self.pos.shape)}"
        return f"Tokens(z={tuple(self.z.shape)}, graph={self.graph!r}{pos})"


def _unchecked(tensors: Iterable[Any], graph: TokenGraph) -> Tokens:
    """Tokens of z and, where there are some, pos: no tensors while a pytree is being mapped."""
    z, *pos = tensors
    tokens = object.__new__(Tokens)
    tokens.__dict__.update(z=z, graph=graph, pos=pos[0] if pos else None)
    return tokens


def _with_keys(tokens: Tokens) -> tuple[list[tuple[Any, Any]], TokenGraph]:
    names = ("z",) if tokens.pos is None else ("z", "pos")
    return [(GetAttrKey(name), getattr(tokens, name)) for name in names], tokens.graph


def _children(tokens: Tokens) -> tuple[list[Any], TokenGraph]:
    return [tokens.z] if tokens.pos is None else [tokens.z, tokens.pos], tokens.graph


# A pytree of its tensors; the graph is a constant, as for `torch.export`, `vmap` and `tree_map`.
register_pytree_node(
    Tokens,
    _children,
    _unchecked,
    flatten_with_keys_fn=_with_keys,
    serialized_type_name="tokennet.Tokens",
)
torch.serialization.add_safe_globals([Tokens])


def _described(x: Tensor | None, name: str) -> str:
    return f"no {name}" if x is None else f"shape {tuple(x.shape)}"


def _check_graph(graph: Any, n: int) -> None:
    if not isinstance(graph, TokenGraph):
        raise TypeError(
            f"graph must be a TokenGraph, got {type(graph).__name__}; see Edges, from_mask, "
            "from_networkx and from_pyg"
        )
    if (graph.num_targets, graph.num_sources) != (n, n):
        raise ValueError(
            f"graph must connect the N = {n} tokens of z, got {graph.num_targets} targets "
            f"and {graph.num_sources} sources; pass a graph to another set in the call, "
            "layer(tokens, source, graph)"
        )
    if graph.is_ragged and graph.sizes != graph.source_sizes:
        raise ValueError(f"graph must be square in each of its parts, got {graph!r}")


def _check_pos(pos: Any, z: Tensor) -> None:
    if pos is None:
        return
    check_type("pos", pos, Tensor, "a tensor")
    if pos.dim() < 2 or pos.shape[-2] != z.shape[-2]:
        raise ValueError(
            f"pos must have shape (..., N, P) with N = {z.shape[-2]}, got {tuple(pos.shape)}"
        )
    if not broadcasts_to(pos.shape[:-2], z.shape[:-2]):
        raise ValueError(
            f"pos must have the leading dimensions {tuple(z.shape[:-2])} of z or none, "
            f"got shape {tuple(pos.shape)}"
        )
    if pos.device != z.device:
        raise ValueError(f"pos must be on the device of z, {z.device}, got {pos.device}")


def broadcasts_to(shape: Sequence[int], full: Sequence[int]) -> bool:
    """Whether a shape broadcasts to another."""
    if not shape or shape == full:
        return True  # asking `broadcast_shapes` takes longer than a small layer
    try:
        return torch.broadcast_shapes(shape, full) == full
    except RuntimeError:
        return False


def over_sets(values: Tensor, graph: TokenGraph, reduce: str) -> Tensor:
    """Reduce values (..., N, C) over the tokens of each of S sets to (..., S, C); 0 if empty.

    Args:
        reduce: "mean", "sum", "amin" or "amax".

    >>> over_sets(torch.tensor([[1.0], [5.0]]), Full(2), "mean")
    tensor([[3.]])
    """
    if graph.is_ragged:
        start = values.new_zeros(*values.shape[:-2], graph.num_graphs, values.shape[-1])
        index = graph.batch(values.device)[:, None].expand_as(values)  # (..., N, C)
        return start.scatter_reduce(-2, index, values, reduce, include_self=False)
    # of no tokens only the sum has a value
    return getattr(values, reduce if graph.num_targets else "sum")(-2, keepdim=True)
