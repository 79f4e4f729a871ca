"""Compare nets that differ in mixer and graph, on the same data at the same budget.

`compare(task)` is the command `tokennet compare`; subclass `Task` for data of your own.
"""

from tokennet.compare.from_data import task_from
from tokennet.compare.loaded import LoadedRun, load_run
from tokennet.compare.metric import Metric
from tokennet.compare.named_tasks import load_task
from tokennet.compare.own_nets import OwnNet
from tokennet.compare.report import Baseline, ResultRow
from tokennet.compare.run import Budget, Comparison, compare
from tokennet.compare.task import Batch, Model, NetSpec, Task, TrainConfig, Width
from tokennet.compare.tasks import TASKS

__all__ = [
    "TASKS", "Baseline", "Batch", "Budget", "Comparison", "LoadedRun", "Metric", "Model", "NetSpec",
    "OwnNet", "ResultRow", "Task", "TrainConfig", "Width", "compare", "load_run",
    "load_task", "task_from",
]  # fmt: skip
