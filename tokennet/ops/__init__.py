"""The one operation: attention along the edges of a graph, on the fastest backend that can."""

from tokennet.ops._attend import attend, attend_with_lse, explain, merge_attention
from tokennet.ops.backends import BACKENDS
from tokennet.ops.normalizers import NORMALIZERS, normalize
from tokennet.ops.planner import Explanation
from tokennet.ops.terms import Additive, Bias, EdgeFeatures, Softmax
from tokennet.ops.weights import attention_weights, combine, edge_scores

__all__ = [
    "BACKENDS",
    "NORMALIZERS",
    "Additive",
    "Bias",
    "EdgeFeatures",
    "Explanation",
    "Softmax",
    "attend",
    "attend_with_lse",
    "attention_weights",
    "combine",
    "edge_scores",
    "explain",
    "merge_attention",
    "normalize",
]
