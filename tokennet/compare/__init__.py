"""Compare nets that differ in mixer and graph, on the same data at the same budget."""

from tokennet.compare.report import Line
from tokennet.compare.run import Budget, Comparison, compare
from tokennet.compare.task import Batch, Net, Recipe, Task, load_task
from tokennet.compare.tasks import TASKS

__all__ = [
    "TASKS",
    "Batch",
    "Budget",
    "Comparison",
    "Line",
    "Net",
    "Recipe",
    "Task",
    "compare",
    "load_task",
]
