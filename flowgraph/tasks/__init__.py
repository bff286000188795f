"""Tasks with known answers: pairs of prompts that differ in what decides the answer, for interventions and circuits."""

from .examples import Example, TaskData
from .generators import TASKS, task

__all__ = ["TASKS", "Example", "TaskData", "task"]
