"""Everything that the address of a page says: the same recipe gives the same page."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Literal, NoReturn, get_args
from urllib.parse import parse_qsl, quote

from flowgraph import DEFAULT_METHOD, EDGE_METHODS, parse_node
from flowgraph.errors import ArgumentError

from .node_key import EDGE_MARK, check_edge_key, parse_node_key

Method = str
"""One of :data:`flowgraph.EDGE_METHODS`."""
Show = Literal["all", "routes", "rollout", "flow"]
Level = Literal["token", "head"]
Width = Literal["flow", "share"]
Orientation = Literal["auto", "columns", "rows"]
Tab = Literal["lens", "heads", "attention", "bars", "semantic"]
Fill = Literal["rank", "probability", "entropy"]
Circuit = Literal["none", "backward", "eap", "eap-qk", "eap-ig"]
Task = Literal["none", "ioi", "greater-than", "induction", "agreement", "colored-objects", "capitals"]

LONGEST_TEXT = 20_000
"""Characters of a prompt."""
LONGEST_QUERY = 60_000
"""Bytes of a query; a longer one is a file, see :mod:`flowgraph_webapp.session`."""
MOST_PINS = 200
MOST_GENERATED = 64
"""Tokens that one question may generate."""
MOST_PROMPTS = 64
"""Examples of a task that a circuit is searched with."""
MOST_FORWARDS = 1_000_000
MOST_HEADS = 1_024
MOST_LAYERS = 1_024
LARGEST_LEVEL = 1_000
_LARGEST = 2**31 - 1
_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Recipe:
    """What is asked for and how it is looked at.

    Attributes
    ----------
    model, text, chat
        Which model runs on what; whether the text goes into the model's chat template.
    example, session
        Id of a bundled example, or of a session that was opened on this server.
    position
        Query position that is explained; None: the trace's own, as a rule the last.
    target, foil
        Token ids; None: the model's own best token, and no foil.
    method, show, level
        Edge method; what is drawn of its edges; heads together or one by one.
    heads_in
        Layers whose heads are shown one by one while those of the others are taken together; at level ``"token"``.
    threshold
        Smallest share that is followed; 0: the service decides, and says what it took.
    layers
        First and one-past-last layer that is drawn; None: all.
    start
        Node that flow runs to, as :func:`flowgraph.parse_node` reads it; None: the logit.
    keep
        Level of the slider, 0 to 1,000; None: where the graph opens.
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

    model: str = "smollm2"
    text: str = ""
    chat: bool = False
    example: str | None = None
    session: str | None = None
    position: int | None = None
    target: int | None = None
    foil: int | None = None
    method: Method = DEFAULT_METHOD
    show: Show = "routes"
    level: Level = "token"
    heads_in: tuple[int, ...] = ()
    threshold: float = 0.0
    layers: tuple[int, int] | None = None
    start: str | None = None
    keep: int | None = None
    width: Width = "flow"
    orientation: Orientation = "auto"
    tab: Tab = "lens"
    layer: int | None = None
    heads: tuple[int, ...] = ()
    selected: str | None = None
    pins: tuple[str, ...] = ()
    fill: Fill = "rank"
    score: str = ""
    semantic_layers: tuple[int, int] | None = None
    circuit: Circuit = "none"
    corrupted: str = ""
    task: Task = "none"
    prompts: int = 8
    budget: int | None = None

    def __post_init__(self) -> None:
        check_model(self.model)
        check_text(self.text)
        check_text(self.corrupted, "corrupted")
        check_effort(self.prompts, self.budget)
        if type(self.chat) is not bool:
            _refuse("chat", self.chat, "true or false")
        check_method(self.method)
        for name, choices in CHOICES.items():
            if name != "method":
                check_choice(name, getattr(self, name), choices)
        for name in ("position", "target", "foil", "layer"):
            check_index(name, getattr(self, name))
        check_index("keep", self.keep, LARGEST_LEVEL)
        for name in ("layers", "semantic_layers"):
            check_window(name, getattr(self, name))
        check_share("threshold", self.threshold)
        check_layers("heads_in", self.heads_in)
        for name in ("example", "session", "score"):
            value = getattr(self, name)
            if value not in (None, "") and not (isinstance(value, str) and _NAME.fullmatch(value)):
                _refuse(name, value, "up to 64 letters, digits, - or _")
        self._check_nodes()

    def _check_nodes(self) -> None:
        if not isinstance(self.heads, tuple) or len(self.heads) > MOST_HEADS:
            _refuse("heads", self.heads, f"a tuple of at most {MOST_HEADS:,} numbers of heads")
        for head in self.heads:
            check_index("heads", -1 if head is None else head)
        if not isinstance(self.pins, tuple) or len(self.pins) > MOST_PINS:
            _refuse("pins", self.pins, f"a tuple of at most {MOST_PINS} node keys")
        if self.start is not None:
            _named("start", parse_node, self.start)
        if self.selected is not None:
            is_edge = isinstance(self.selected, str) and EDGE_MARK in self.selected
            _named("selected", check_edge_key if is_edge else parse_node_key, self.selected)
        for key in self.pins:
            _named("pins", parse_node_key, key)

    @property
    def selected_node(self) -> str | None:
        """Key of the selected node; None where nothing is selected, or an edge."""
        return None if self.selected is None or EDGE_MARK in self.selected else self.selected


CHOICES: dict[str, tuple[str, ...]] = {"method": tuple(EDGE_METHODS)} | {
    name: get_args(kind)
    for name, kind in (
        ("show", Show), ("level", Level), ("width", Width), ("orientation", Orientation),
        ("tab", Tab), ("fill", Fill), ("circuit", Circuit), ("task", Task),
    )
}  # fmt: skip
"""Field → the values it may have, in the order in which they are offered."""


def to_query(recipe: Recipe) -> str:
    """``"?text=…&method=…"``: what differs from a bare :class:`Recipe`; empty where nothing does.

    Raises
    ------
    ArgumentError
        If the query would be longer than 60,000 bytes.
    """
    said = [
        f"{item.name}={quote(_written(value), safe=_SAFE)}"
        for item in fields(recipe)
        if (value := getattr(recipe, item.name)) != item.default
    ]
    query = f"?{'&'.join(said)}" if said else ""
    if len(query) > LONGEST_QUERY:
        raise ArgumentError(
            f"the address would have {len(query):,} bytes, and at most {LONGEST_QUERY:,} are kept; save a session file instead"
        )
    return query


def from_query(query: str) -> Recipe:
    """The recipe of a query, with or without its ``?``.

    Raises
    ------
    ArgumentError
        If the query is too long, names something twice or something that does not exist, or a value cannot be used.
    """
    if not isinstance(query, str) or len(query) > LONGEST_QUERY:
        raise ArgumentError(f"the address is longer than {LONGEST_QUERY:,} bytes; open a session file instead")
    query = query.removeprefix("?")
    if not query:
        return Recipe()
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=2 * len(_READ)
        )
    except ValueError as error:
        raise ArgumentError(f"the address cannot be read after '?': {error}") from error
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in _READ:
            raise ArgumentError(f"the address says {name[:40]!r}, which is not known; known are {', '.join(_READ)}")
        if name in values:
            raise ArgumentError(f"the address says {name!r} twice")
        values[name] = _READ[name](name, text)
    return Recipe(**values)


_SAFE = ".,:@/-_~!*'()"


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(int(value)) if isinstance(value, bool) else str(value)


def _as_text(_name: str, text: str) -> str:
    return text


def _as_flag(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        _refuse(name, text, "0 or 1")
    return text == "1"


def _as_index(name: str, text: str) -> int:
    # More digits than any index has are refused before they are read as a number.
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        _refuse(name, text, f"a whole number from 0 to {_LARGEST}")
    return int(text)


def _as_share(name: str, text: str) -> float:
    try:
        return float(text[:40])
    except ValueError:
        _refuse(name, text, "a number from 0 to 1")


def _as_numbers(name: str, text: str) -> tuple[int, ...]:
    return tuple(_as_index(name, part) for part in text.split(",")) if text else ()


def _as_window(name: str, text: str) -> tuple[int, int]:
    numbers = _as_numbers(name, text)
    if len(numbers) != 2:
        _refuse(name, text, "FIRST,STOP, as 0,6 for layers 0 to 5")
    return numbers[0], numbers[1]


def _as_keys(_name: str, text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


_READ = {item.name: _as_text for item in fields(Recipe)} | {
    "chat": _as_flag, "threshold": _as_share, "heads": _as_numbers, "heads_in": _as_numbers, "pins": _as_keys,
    **dict.fromkeys(("layers", "semantic_layers"), _as_window),
    **dict.fromkeys(("position", "target", "foil", "keep", "layer", "prompts", "budget"), _as_index),
}  # fmt: skip
"""Field → what reads its text."""


def check_model(name: object) -> None:
    """Refuse what cannot be the name or folder of a model."""
    if not isinstance(name, str) or not 0 < len(name) <= 400 or not name.isprintable():
        _refuse("model", name, "a name of up to 400 printable characters")


def check_text(text: object, name: str = "text") -> None:
    """Refuse a text that is too long, or that is no text."""
    if not isinstance(text, str):
        _refuse(name, text, "a text")
    if len(text) > LONGEST_TEXT:
        raise ArgumentError(f"{name} has {len(text):,} characters; at most {LONGEST_TEXT:,} are taken. Shorten it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{name}: character {error.start} is half of a surrogate pair, not a character") from error


def check_effort(prompts: object, budget: object) -> None:
    """Refuse what is no number of a task's examples, or no budget."""
    if type(prompts) is not int or not 1 <= prompts <= MOST_PROMPTS:
        _refuse("prompts", prompts, f"1 to {MOST_PROMPTS} examples")
    if budget is not None and not (type(budget) is int and 1 <= budget <= MOST_FORWARDS):
        _refuse("budget", budget, f"1 to {MOST_FORWARDS:,} forwards, or none for the method's own")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not one of those offered."""
    if not isinstance(value, str) or value not in choices:
        _refuse(name, value, f"one of {', '.join(choices)}")


def check_method(name: object) -> None:
    """Refuse what is not the name of an edge method; a method that was registered since is one."""
    check_choice("method", name, tuple(EDGE_METHODS))


def check_index(name: str, value: object, largest: int = _LARGEST) -> None:
    """Refuse what is neither None nor a whole number from 0 to ``largest``."""
    if value is not None and not (type(value) is int and 0 <= value <= largest):
        _refuse(name, value, f"a whole number from 0 to {largest}")


def check_share(name: str, value: Any) -> None:
    """Refuse what is not a number from 0 to 1."""
    if type(value) not in (int, float) or not 0 <= value <= 1:
        _refuse(name, value, "a number from 0 to 1")


def check_window(name: str, value: Any) -> None:
    """Refuse what is neither None nor (first, one past last)."""
    if value is None:
        return
    if not (isinstance(value, tuple) and len(value) == 2):
        _refuse(name, value, "two numbers, the first layer and one past the last")
    for number in value:
        check_index(name, -1 if number is None else number)
    if not value[0] < value[1]:
        _refuse(name, value, "the first layer below the one past the last")


def check_layers(name: str, value: Any) -> None:
    """Refuse what is not a tuple of numbers of layers."""
    if not isinstance(value, tuple) or len(value) > MOST_LAYERS:
        _refuse(name, value, f"a tuple of at most {MOST_LAYERS:,} numbers of layers")
    for layer in value:
        check_index(name, -1 if layer is None else layer)


def _named(name: str, parse: Any, text: object) -> None:
    try:
        parse(text)
    except ArgumentError as error:
        raise ArgumentError(f"{name}: {error}") from error


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:58]}…"
    raise ArgumentError(f"{name}={shown} cannot be used; expected {expected}")
