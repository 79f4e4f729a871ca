"""Attention as a graph: which tokens a model attends to, layer by layer."""

from tokennet.interpret._trace import AttentionTrace, EdgeWeights, record_attention, trace_attention

__all__ = ["AttentionTrace", "EdgeWeights", "record_attention", "trace_attention"]
