"""Layers put together."""

from tokennet.nets.block import Residual, TokenWise, mlp
from tokennet.nets.memory import MemoryTokens
from tokennet.nets.net import Interface, TokenNet, build_net
from tokennet.nets.readout import (
    READOUTS,
    AttentionReadout,
    MeanReadout,
    OneToken,
    PerToken,
    Readout,
)
from tokennet.nets.summary import Summary, count_parameters

__all__ = [
    "READOUTS",
    "AttentionReadout",
    "Interface",
    "MeanReadout",
    "MemoryTokens",
    "OneToken",
    "PerToken",
    "Readout",
    "Residual",
    "Summary",
    "TokenNet",
    "TokenWise",
    "build_net",
    "count_parameters",
    "mlp",
]
