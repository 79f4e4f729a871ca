"""The tasks that come with the library, by name; a new task is a file and an entry here."""

from tokennet.compare.task import Task
from tokennet.compare.tasks.arrows import Arrows
from tokennet.compare.tasks.cora import Cora
from tokennet.compare.tasks.csl import CSL
from tokennet.compare.tasks.detect import Detect
from tokennet.compare.tasks.digits import Digits
from tokennet.compare.tasks.memory import Adding, Copy
from tokennet.compare.tasks.mutag import Mutag
from tokennet.compare.tasks.questions import Questions
from tokennet.compare.tasks.sets import Sets, SetsClusters, SetsUnique
from tokennet.compare.tasks.shakespeare import Shakespeare
from tokennet.compare.tasks.sort import Sort
from tokennet.compare.tasks.sunspots import Sunspots

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        Arrows, Digits, Cora, Mutag, Shakespeare, Copy, Adding, Sets, SetsUnique, SetsClusters,
        Sunspots, CSL, Sort, Questions, Detect,
    )
}  # fmt: skip

__all__ = ["TASKS"]
