"""What the page can ask about circuits."""

from __future__ import annotations

from dataclasses import dataclass

from flowgraph.errors import PromptError

from ..recipe import CHOICES, LARGEST_LEVEL, Circuit, Task, check_choice, check_effort, check_index, check_text
from .runs import RunQuestion


@dataclass(frozen=True)
class CorruptQuestion:
    """A counterpart of the prompt, as many tokens long, without what decides."""

    run: RunQuestion


@dataclass(frozen=True)
class TokenQuestion:
    """The token that a text is; ``name`` is what the text is meant for, for the message."""

    run: RunQuestion
    text: str
    name: str

    def __post_init__(self) -> None:
        check_text(self.text, self.name)


@dataclass(frozen=True)
class _OfCircuit:
    """Which circuit is meant.

    Attributes
    ----------
    run
        The pass; of a task's circuit, where it is shown.
    method
        How it is searched.
    corrupted, task, prompts
        The prompt's counterpart, or a task and how many of its examples; one of the two.
    budget
        As in :class:`~flowgraph_webapp.recipe.Recipe`.
    """

    run: RunQuestion
    method: Circuit
    corrupted: str = ""
    task: Task = "none"
    prompts: int = 1
    budget: int | None = None

    def __post_init__(self) -> None:
        check_choice("circuit", self.method, CHOICES["circuit"][1:])
        check_choice("task", self.task, CHOICES["task"])
        check_text(self.corrupted, "corrupted")
        check_effort(self.prompts, self.budget)
        if self.task == "none" and not self.corrupted:
            raise PromptError(
                "the corrupted prompt is empty; write the prompt once more without what decides its answer, or choose a task"
            )


@dataclass(frozen=True)
class CircuitQuestion(_OfCircuit):
    """The circuit by which the model gives its answer."""


@dataclass(frozen=True)
class CircuitTestQuestion(_OfCircuit):
    """What becomes of the answer with nothing left but a circuit.

    Attributes
    ----------
    keep
        Level of the slider; None: where the circuit opens.
    """

    keep: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_index("keep", self.keep, LARGEST_LEVEL)
