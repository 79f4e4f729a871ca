"""Layers put together."""

from tokennet.nets.block import Residual, TokenWise, mlp
from tokennet.nets.experts import MixtureOfExperts, collect_router_losses
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
    "MixtureOfExperts",
    "OneToken",
    "PerToken",
    "Readout",
    "Residual",
    "Summary",
    "TokenNet",
    "TokenWise",
    "build_net",
    "collect_router_losses",
    "count_parameters",
    "mlp",
]
