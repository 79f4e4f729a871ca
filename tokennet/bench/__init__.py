"""Benchmarks of this library and its peers with the same weights: `tokennet bench`."""

from tokennet.bench.floor import environment
from tokennet.bench.measure import Plan, Timing
from tokennet.bench.peers import PEERS
from tokennet.bench.suite import Case, Results, run_suite
from tokennet.bench.workloads import SUITES, WORKLOADS, Workload

__all__ = [
    "PEERS", "SUITES", "WORKLOADS", "Case", "Plan", "Results", "Timing", "Workload",
    "environment", "run_suite",
]  # fmt: skip
