"""Tasks with known answers, for interventions and circuits: in each pair of prompts one fact differs, which decides the answer."""

from .corruption import corrupt
from .examples import Example, TaskData
from .generators import TASKS, task

__all__ = ["TASKS", "Example", "TaskData", "corrupt", "task"]
