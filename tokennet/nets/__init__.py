"""Layers put together."""

from tokennet.nets.block import Lookup, Residual, TokenWise, mlp
from tokennet.nets.net import Interface, TokenNet, build_net
from tokennet.nets.readout import (
    READOUTS,
    AttentionReadout,
    MaxReadout,
    MeanReadout,
    OneToken,
    PerToken,
    Readout,
    SumReadout,
)
from tokennet.nets.summary import Summary, count_parameters

__all__ = [
    "READOUTS",
    "AttentionReadout",
    "Interface",
    "Lookup",
    "MaxReadout",
    "MeanReadout",
    "OneToken",
    "PerToken",
    "Readout",
    "Residual",
    "SumReadout",
    "Summary",
    "TokenNet",
    "TokenWise",
    "build_net",
    "count_parameters",
    "mlp",
]
