"""Models that a law checker is tested with: some with one injected bug each, others without any."""

from tests.testing.cases import (
    backend_bugs,
    batch_bugs,
    causal_bugs,
    form_tables,
    graph_bugs,
    mask_bugs,
    order_bugs,
    passing_graphs,
    passing_sets,
    set_bugs,
)
from tests.testing.cases.base import InjectedBug, PassingModel, bug_lines, reproduced_by

INJECTED_BUGS: list[InjectedBug] = [
    *order_bugs.READS_ORDER,
    *causal_bugs.READS_FUTURE,
    *set_bugs.MIXES_TOKENS,
    *set_bugs.MIXES_SETS,
    *set_bugs.IS_RANDOM,
    *mask_bugs.READS_PADDING,
    *mask_bugs.DROPS_MASKS,
    *mask_bugs.FAILS_ON_EMPTY_SETS,
    *graph_bugs.READS_EDGE_ORDER,
    *graph_bugs.READS_NODE_INDEX,
    *graph_bugs.FAILS_WITHOUT_NEIGHBORS,
    *batch_bugs.READS_THE_BATCH,
    *backend_bugs.DIFFERS_BY_BACKEND,
    *form_tables.FORM_BUGS,
]

PASSING_MODELS: list[PassingModel] = [
    *passing_sets.PASSING_SETS,
    *passing_graphs.PASSING_MASKS,
    *passing_graphs.PASSING_GRAPHS,
    *passing_graphs.PASSING_TOKENS,
    *form_tables.PASSING_FORMS,
]

__all__ = [
    "INJECTED_BUGS",
    "PASSING_MODELS",
    "InjectedBug",
    "PassingModel",
    "bug_lines",
    "reproduced_by",
]
