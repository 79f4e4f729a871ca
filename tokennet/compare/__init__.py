"""Compare nets that differ in mixer and graph, on the same data at the same budget."""

from tokennet.compare.metric import Metric
from tokennet.compare.net import Net, Width
from tokennet.compare.report import Baseline, Line
from tokennet.compare.run import Budget, Comparison, compare
from tokennet.compare.task import Batch, Model, Recipe, Task, load_task
from tokennet.compare.tasks import TASKS

__all__ = [
    "TASKS",
    "Baseline",
    "Batch",
    "Budget",
    "Comparison",
    "Line",
    "Metric",
    "Model",
    "Net",
    "Recipe",
    "Task",
    "Width",
    "compare",
    "load_task",
]
