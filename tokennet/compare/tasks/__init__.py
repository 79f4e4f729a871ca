"""The tasks that come with the library."""

from tokennet.compare.task import Task
from tokennet.compare.tasks.cora import Cora
from tokennet.compare.tasks.digits import Digits
from tokennet.compare.tasks.mutag import Mutag

TASKS: dict[str, type[Task]] = {task.name: task for task in (Digits, Cora, Mutag)}

__all__ = ["TASKS", "Cora", "Digits", "Mutag"]
