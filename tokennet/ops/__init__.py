"""The one operation: attention along the edges of a graph, on the fastest backend that can."""

from tokennet.ops._attend import attend, explain
from tokennet.ops.backends import BACKENDS
from tokennet.ops.normalizers import NORMALIZERS, normalize
from tokennet.ops.planner import Explanation
from tokennet.ops.terms import Additive, Bias, EdgeFeatures
from tokennet.ops.weights import attention_weights, combine, edge_scores

__all__ = [
    "BACKENDS",
    "NORMALIZERS",
    "Additive",
    "Bias",
    "EdgeFeatures",
    "Explanation",
    "attend",
    "attention_weights",
    "combine",
    "edge_scores",
    "explain",
    "normalize",
]
