"""What every question is about: a model, and one pass of it."""

from __future__ import annotations

from dataclasses import dataclass

from flowgraph.errors import ArgumentError, PromptError

from ..recipe import check_index, check_model, check_text


@dataclass(frozen=True)
class ModelQuestion:
    """What the model is; asking loads it."""

    model: str

    def __post_init__(self) -> None:
        check_model(self.model)


@dataclass(frozen=True)
class RunQuestion:
    """One pass of the model, and what it predicts at a position.

    Attributes
    ----------
    model, text, chat, position, target, foil
        As in :class:`~flowgraph_webapp.recipe.Recipe`.
    session
        Id of an opened session in which an answer is looked up first; None: in none.
    """

    model: str
    text: str
    chat: bool = False
    position: int | None = None
    target: int | None = None
    foil: int | None = None
    session: str | None = None

    def __post_init__(self) -> None:
        check_model(self.model)
        check_text(self.text)
        if not self.text:
            raise PromptError("the prompt is empty; write a text, or choose an example")
        if type(self.chat) is not bool:
            raise ArgumentError(f"chat={self.chat!r} cannot be used; expected true or false")
        for name in ("position", "target", "foil"):
            check_index(name, getattr(self, name))
