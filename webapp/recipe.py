"""Everything that the address of a page says: the same recipe gives the same page.

What of it makes the picture is :class:`flowgraph.PictureRecipe`, so that Python reads the same address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from flowgraph import EDGE_METHODS, PictureRecipe
from flowgraph.values.recipe import LARGEST_LEVEL as LARGEST_LEVEL
from flowgraph.values.recipe import LONGEST_ADDRESS, named, refuse
from flowgraph.values.recipe import LONGEST_TEXT as LONGEST_TEXT
from flowgraph.values.recipe import Level as Level
from flowgraph.values.recipe import Show as Show
from flowgraph.values.recipe import check_choice as check_choice
from flowgraph.values.recipe import check_index as check_index
from flowgraph.values.recipe import check_layers as check_layers
from flowgraph.values.recipe import check_model as check_model
from flowgraph.values.recipe import check_share as check_share
from flowgraph.values.recipe import check_text as check_text
from flowgraph.values.recipe import check_window as check_window

from .node_key import EDGE_MARK, check_edge_key, parse_node_key
from .registered import TABS

Method = str
"""One of :data:`flowgraph.EDGE_METHODS`."""
Width = Literal["flow", "share"]
Orientation = Literal["auto", "columns", "rows"]
Fill = Literal["rank", "probability", "entropy"]
Circuit = Literal["none", "backward", "eap-ig-exact", "eap", "eap-qk", "eap-ig"]
Score = Literal[
    "", "direct_logit", "entropy", "sink", "previous_token", "duplicate_token", "induction", "strongest_other"
]
"""What :func:`flowgraph.head_scores` says of heads; empty: the first that there is."""
Task = Literal["none", "ioi-flip", "ioi", "greater-than", "induction", "agreement", "colored-objects", "capitals"]
"""What a circuit is searched with; ``"ioi"`` has the corruption that it had when addresses first named it, ``"abc"``."""

LONGEST_QUERY = LONGEST_ADDRESS
"""Bytes of a query; a longer one is a file, see :mod:`flowgraph_webapp.session`."""
MOST_PINS = 200
MOST_GENERATED = 64
"""Tokens that one question may generate."""
MOST_PROMPTS = 64
"""Examples of a task that a circuit is searched with."""
MOST_FORWARDS = 1_000_000
MOST_HEADS = 1_024
_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Recipe(PictureRecipe):
    """What is asked for and how it is looked at.

    Attributes
    ----------
    example, session
        Id of a bundled example, or of a session that was opened on this server.
    width, orientation
        What the width of an edge says; whether tokens are columns or rows.
    tab
        The panel below the graph.
    layer, heads
        Selected layer, and selected heads of it.
    selected, pins
        What is selected, as a node key or as :func:`~flowgraph_webapp.node_key.check_edge_key` takes edges; pinned nodes, as
        node keys.
    fill
        What colours the lens.
    score
        Name of the score that the grid of heads shows; empty: the first.
    semantic_layers
        First and one-past-last layer of the semantic graph; None: the last layer.
    circuit
        How a circuit is searched that is shown in place of the flow graph; ``"none"``: the flow graph is shown.
    corrupted, task, prompts
        What it is searched with: the text beside a corrupted one, or so many examples of a task.
    budget
        Most forwards of one prompt that the search runs; None: the method's own.

    Raises
    ------
    ArgumentError
        If a value is of the wrong type, out of its range, or longer than its limit; the message names the field.
    """

    _BESIDES: ClassVar[tuple[str, ...]] = ()

    example: str | None = None
    session: str | None = None
    width: Width = "flow"
    orientation: Orientation = "auto"
    tab: str = "lens"
    layer: int | None = None
    heads: tuple[int, ...] = ()
    selected: str | None = None
    pins: tuple[str, ...] = ()
    fill: Fill = "rank"
    score: Score = ""
    semantic_layers: tuple[int, int] | None = None
    circuit: Circuit = "none"
    corrupted: str = ""
    task: Task = "none"
    prompts: int = 8
    budget: int | None = None

    def __post_init__(self) -> None:
        check_method(self.method)
        super().__post_init__()
        check_text(self.corrupted, "corrupted")
        check_effort(self.prompts, self.budget)
        for name in ("width", "orientation", "fill", "circuit", "task"):
            check_choice(name, getattr(self, name), CHOICES[name])
        check_choice("tab", self.tab, tuple(TABS))
        check_index("layer", self.layer)
        check_window("semantic_layers", self.semantic_layers)
        if self.score != "":
            check_choice("score", self.score, CHOICES["score"][1:])
        for name in ("example", "session"):
            value = getattr(self, name)
            if value not in (None, "") and not (isinstance(value, str) and _NAME.fullmatch(value)):
                refuse(name, value, "up to 64 letters, digits, - or _")
        self._check_nodes()

    def _check_nodes(self) -> None:
        if not isinstance(self.heads, tuple) or len(self.heads) > MOST_HEADS:
            refuse("heads", self.heads, f"a tuple of at most {MOST_HEADS:,} numbers of heads")
        for head in self.heads:
            check_index("heads", -1 if head is None else head)
        if not isinstance(self.pins, tuple) or len(self.pins) > MOST_PINS:
            refuse("pins", self.pins, f"a tuple of at most {MOST_PINS} node keys")
        if self.selected is not None:
            is_edge = isinstance(self.selected, str) and EDGE_MARK in self.selected
            named("selected", check_edge_key if is_edge else parse_node_key, self.selected)
        for key in self.pins:
            named("pins", parse_node_key, key)

    @property
    def selected_node(self) -> str | None:
        """Key of the selected node; None where nothing is selected, or an edge."""
        return None if self.selected is None or EDGE_MARK in self.selected else self.selected


CHOICES: dict[str, tuple[str, ...]] = {"method": tuple(EDGE_METHODS)} | {
    name: get_args(kind)
    for name, kind in (
        ("show", Show), ("level", Level), ("width", Width), ("orientation", Orientation),
        ("fill", Fill), ("score", Score), ("circuit", Circuit), ("task", Task),
    )
}  # fmt: skip
"""Field → the values it may have, in the order in which they are offered."""


def to_query(recipe: Recipe) -> str:
    """The address of a recipe, see :attr:`flowgraph.PictureRecipe.address`."""
    return recipe.address


def from_query(query: str) -> Recipe:
    """The recipe of a query, see :meth:`flowgraph.PictureRecipe.from_address`."""
    return Recipe.from_address(query)


def check_effort(prompts: object, budget: object) -> None:
    """Refuse what is no number of a task's examples, or no budget."""
    if type(prompts) is not int or not 1 <= prompts <= MOST_PROMPTS:
        refuse("prompts", prompts, f"1 to {MOST_PROMPTS} examples")
    if budget is not None and not (type(budget) is int and 1 <= budget <= MOST_FORWARDS):
        refuse("budget", budget, f"1 to {MOST_FORWARDS:,} forwards, or none for the method's own")


def check_method(name: object) -> None:
    """Refuse what is not the name of an edge method; a method that was registered since is one."""
    check_choice("method", name, tuple(EDGE_METHODS))
