"""`to_pyg_conv`: a mixer in a model of PyG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokennet.checks import check_type
from tokennet.mixers import Mixer, PyGMixer

if TYPE_CHECKING:  # takes long to load
    from tokennet.interop._mixer_conv import MixerConv


def to_pyg_conv(mixer: Mixer) -> MixerConv:
    r"""A mixer as a convolution of PyG, `conv(x, edge_index)`, to use it in a model of PyG.

    The edges of the call are the graph. Its parameters are those of the mixer, which is
    `conv.mixer`. `edge_attr` and `edge_type` are given as the mixer reads them; `batch`, as in a
    PyG `Batch`, tells sets apart, for mixers that read positions by index or all tokens of a set;
    `x` may be a pair (sources, targets).

    Explainers of `torch_geometric.explain` that mask edges, such as `GNNExplainer`, multiply what
    is sent along an edge by its mask, as they do in PyG's own convolutions:

        out_i = W_o concat_h \sum_{j -> i} mask_ji softmax_j(...) v_j^h

    for attention. They can do so where a message is sent along each edge: `Attention`,
    `CrossAttention`, `GraphAttention`, `Aggregate`, `GraphIsomorphism`, `RelationalAggregate` and,
    within the convolution that it holds, `PyGMixer`. `conv.explain = False` leaves a layer out.

    Raises:
        TypeError: `mixer` is no mixer.
        ValueError: the convolution that it wraps passes no messages. In a call: the mixer cannot
            honor the graph; its edges are to be explained, and it sends no messages along them.

    >>> import torch
    >>> from tokennet.mixers import Attention
    >>> conv = to_pyg_conv(Attention(8, num_heads=2))
    >>> conv(torch.zeros(3, 8), torch.tensor([[0, 1], [1, 2]])).shape
    torch.Size([3, 8])
    """
    from torch_geometric.nn import MessagePassing

    from tokennet.interop._mixer_conv import MixerConv

    check_type("mixer", mixer, Mixer, "a mixer")
    if isinstance(mixer, PyGMixer) and not any(
        isinstance(part, MessagePassing) for part in mixer.modules()
    ):
        raise ValueError(f"mixer must hold a MessagePassing of PyG, got {mixer!r}")
    return MixerConv(mixer)
