"""This library and its peers on the same weights: `tokennet bench`."""

from tokennet.bench.floor import environment
from tokennet.bench.measure import Figure, Plan
from tokennet.bench.peers import PEERS
from tokennet.bench.suite import Case, Results, run_suite
from tokennet.bench.workloads import SUITES, WORKLOADS, Workload

__all__ = [
    "PEERS",
    "SUITES",
    "WORKLOADS",
    "Case",
    "Figure",
    "Plan",
    "Results",
    "Workload",
    "environment",
    "run_suite",
]
