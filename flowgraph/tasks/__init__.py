"""Tasks with known answers: pairs of prompts that differ in what decides the answer, for interventions and circuits."""

from .corruption import corrupt
from .examples import Example, TaskData
from .generators import TASKS, task

__all__ = ["TASKS", "Example", "TaskData", "corrupt", "task"]
