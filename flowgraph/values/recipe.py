"""What a picture shows, as plain values, and the address of the app that says the same.

``?model=smollm2&text=…&method=norms&heads_in=21`` and ``PictureRecipe(model="smollm2", text="…", method="norms", heads_in=(21,))``
are two spellings of one thing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NoReturn, TypeVar, get_args, get_type_hints
from urllib.parse import parse_qsl, quote

from ..errors import ArgumentError
from .graph_info import DEFAULT_METHOD
from .node_key import parse_node

Show = Literal["all", "routes", "rollout", "flow"]
Level = Literal["token", "head"]
SHOWS: tuple[str, ...] = get_args(Show)
LEVELS: tuple[str, ...] = get_args(Level)

LONGEST_TEXT = 20_000
"""Characters of a prompt."""
LONGEST_ADDRESS = 60_000
"""Bytes of an address."""
MOST_LAYERS = 1_024
LARGEST_LEVEL = 1_000
_LARGEST = 2**31 - 1
_METHOD = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_BEFORE_QUERY = re.compile(r"(?s:(?:https?://[^?]*|/[^?]*)?(?:\?(.*))?)")
_SAFE = ".,:@/-_~!*'()"
R = TypeVar("R", bound="PictureRecipe")


@dataclass(frozen=True)
class PictureRecipe:
    """What a picture of a pass shows.

    Attributes
    ----------
    model, text, chat
        Which model runs on what; whether the text goes into the model's chat template.
    position
        Query position that is explained; None: the trace's own, as a rule the last.
    target, foil
        Token ids; None: the model's own best token, and no foil.
    method
        Edge method, one of :data:`flowgraph.EDGE_METHODS`.
    show
        What is drawn of its edges: ``"routes"``, ``"all"``, ``"rollout"`` or ``"flow"``.
    level
        Heads together (``"token"``) or one by one (``"head"``).
    heads_in
        Layers whose heads are shown one by one while those of the others are taken together; at level ``"token"``.
    threshold
        Smallest share that is followed; 0: the least that a picture holds, of routes, else none.
    layers
        First and one-past-last layer that is drawn; None: all.
    start
        Node that flow runs to, as :func:`flowgraph.parse_node` reads it; None: the logit.
    keep
        Level of the slider, 0 to 1,000; None: where the picture opens.

    Raises
    ------
    ArgumentError
        If a value is of the wrong type, out of its range, or longer than its limit; the message names the field.
    """

    model: str = "smollm2"
    text: str = ""
    chat: bool = False
    position: int | None = None
    target: int | None = None
    foil: int | None = None
    method: str = DEFAULT_METHOD
    show: Show = "routes"
    level: Level = "token"
    heads_in: tuple[int, ...] = ()
    threshold: float = 0.0
    layers: tuple[int, int] | None = None
    start: str | None = None
    keep: int | None = None

    def __post_init__(self) -> None:
        check_model(self.model)
        check_text(self.text)
        if type(self.chat) is not bool:
            refuse("chat", self.chat, "true or false")
        for name in ("position", "target", "foil"):
            check_index(name, getattr(self, name))
        if not (isinstance(self.method, str) and _METHOD.fullmatch(self.method)):
            refuse("method", self.method, "the name of an edge method")
        check_choice("show", self.show, SHOWS)
        check_choice("level", self.level, LEVELS)
        check_layers("heads_in", self.heads_in)
        check_share("threshold", self.threshold)
        check_window("layers", self.layers)
        if self.start is not None:
            if not isinstance(self.start, str):
                refuse("start", self.start, "a node as a text, as node_key writes it")
            named("start", parse_node, self.start)
        check_index("keep", self.keep, LARGEST_LEVEL)

    @property
    def address(self) -> str:
        """``"?model=…&text=…&method=…"``: the model of the text, and what differs from a bare recipe; empty where nothing does.

        Raises
        ------
        ArgumentError
            If the address would be longer than 60,000 bytes.
        """
        said = [
            f"{item.name}={quote(_written(value), safe=_SAFE)}"
            for item in fields(self)
            if (value := getattr(self, item.name)) != item.default or (item.name == "model" and self.text)
        ]
        query = f"?{'&'.join(said)}" if said else ""
        if len(query) > LONGEST_ADDRESS:
            raise ArgumentError(
                f"the address would have {len(query):,} bytes, and at most {LONGEST_ADDRESS:,} are kept; save a session file instead"
            )
        return query

    @classmethod
    def from_address(cls: type[R], address: str) -> R:
        """The recipe of an address of the app, or of what stands in it after ``?``.

        What the address says of the page besides, such as the panel that is open, is passed over.

        Raises
        ------
        ArgumentError
            If the address is too long, names something twice or something that does not exist, a value cannot be used, or the page
            shows a circuit, which is no flow graph.

        Examples
        --------
        >>> recipe = fg.PictureRecipe.from_address("http://127.0.0.1:8050/?text=The%20capital&method=norms&tab=bars")
        >>> recipe.text, recipe.method
        ('The capital', 'norms')
        >>> recipe.address
        '?model=smollm2&text=The%20capital&method=norms'
        """
        return cls(**cls._values(address))

    _BESIDES: ClassVar[Collection[str]] = (
        "example", "session", "width", "orientation", "tab", "layer", "heads", "selected", "pins", "fill", "score", "semantic_layers",
        "circuit", "corrupted", "task", "prompts", "budget",
    )  # fmt: skip
    """What an address of the app says of the page besides."""

    @classmethod
    def _values(cls, address: str) -> dict[str, Any]:
        if not isinstance(address, str) or len(address) > LONGEST_ADDRESS:
            raise ArgumentError(f"the address is longer than {LONGEST_ADDRESS:,} bytes; open a session file instead")
        before = _BEFORE_QUERY.fullmatch(address)
        query = address if before is None else before[1] or ""
        if not query:
            return {}
        kinds = _kinds(cls)
        known = [*kinds, *(name for name in cls._BESIDES if name not in kinds)]
        try:
            pairs = parse_qsl(
                query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=2 * len(known)
            )
        except ValueError as error:
            raise ArgumentError(f"the address cannot be read after '?': {error}") from error
        found: dict[str, Any] = {}
        for name, text in pairs:
            if name not in known:
                raise ArgumentError(f"the address says {name[:40]!r}, which is not known; known are {', '.join(known)}")
            if name in found:
                raise ArgumentError(f"the address says {name!r} twice")
            found[name] = _read(name, text, kinds[name]) if name in kinds else text
        if "circuit" not in kinds and found.get("circuit", "none") != "none":
            raise ArgumentError(
                f"circuit={found['circuit'][:40]!r}: the page of this address shows a circuit, which is no flow graph; use "
                "flowgraph.discover, or take circuit= out of the address"
            )
        return {name: value for name, value in found.items() if name in kinds}


def _kinds(recipe: Any) -> Mapping[str, Any]:
    """Field → its type."""
    hints = get_type_hints(recipe)
    return {item.name: hints[item.name] for item in fields(recipe)}


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(int(value)) if isinstance(value, bool) else str(value)


def _read(name: str, text: str, kind: Any) -> Any:
    """The value of a field's text."""
    reader = _READ_OF.get(kind)
    return text if reader is None else reader(name, text)


def _as_flag(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        refuse(name, text, "0 or 1")
    return text == "1"


def _as_index(name: str, text: str) -> int:
    # More digits than any index has are refused before they are read as a number.
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        refuse(name, text, f"a whole number from 0 to {_LARGEST}")
    return int(text)


def _as_share(name: str, text: str) -> float:
    try:
        return float(text[:40])
    except ValueError:
        refuse(name, text, "a number from 0 to 1")


def _as_numbers(name: str, text: str) -> tuple[int, ...]:
    return tuple(_as_index(name, part) for part in text.split(",")) if text else ()


def _as_window(name: str, text: str) -> tuple[int, int]:
    numbers = _as_numbers(name, text)
    if len(numbers) != 2:
        refuse(name, text, "FIRST,STOP, as 0,6 for layers 0 to 5")
    return numbers[0], numbers[1]


def _as_texts(_name: str, text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


_READ_OF: Mapping[Any, Callable[[str, str], Any]] = {
    bool: _as_flag, int: _as_index, int | None: _as_index, float: _as_share, tuple[int, ...]: _as_numbers,
    tuple[int, int] | None: _as_window, tuple[str, ...]: _as_texts,
}  # fmt: skip
"""Type of a field → what reads its text; every other is the text itself."""


def check_model(name: object) -> None:
    """Refuse what cannot be the name or folder of a model."""
    if not isinstance(name, str) or not 0 < len(name) <= 400 or not name.isprintable():
        refuse("model", name, "a name of up to 400 printable characters")


def check_text(text: object, name: str = "text") -> None:
    """Refuse a text that is too long, or that is no text."""
    if not isinstance(text, str):
        refuse(name, text, "a text")
    if len(text) > LONGEST_TEXT:
        raise ArgumentError(f"{name} has {len(text):,} characters; at most {LONGEST_TEXT:,} are taken. Shorten it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{name}: character {error.start} is half of a surrogate pair, not a character") from error


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not one of those offered."""
    if not isinstance(value, str) or value not in choices:
        refuse(name, value, f"one of {', '.join(choices)}")


def check_index(name: str, value: object, largest: int = _LARGEST) -> None:
    """Refuse what is neither None nor a whole number from 0 to ``largest``."""
    if value is not None and not (type(value) is int and 0 <= value <= largest):
        refuse(name, value, f"a whole number from 0 to {largest}")


def check_share(name: str, value: Any) -> None:
    """Refuse what is not a number from 0 to 1."""
    if type(value) not in (int, float) or not 0 <= value <= 1:
        refuse(name, value, "a number from 0 to 1")


def check_window(name: str, value: Any) -> None:
    """Refuse what is neither None nor (first, one past last)."""
    if value is None:
        return
    if not (isinstance(value, tuple) and len(value) == 2):
        refuse(name, value, "two numbers, the first layer and one past the last")
    for number in value:
        check_index(name, -1 if number is None else number)
    if not value[0] < value[1]:
        refuse(name, value, "the first layer below the one past the last")


def check_layers(name: str, value: Any) -> None:
    """Refuse what is not a tuple of numbers of layers."""
    if not isinstance(value, tuple) or len(value) > MOST_LAYERS:
        refuse(name, value, f"a tuple of at most {MOST_LAYERS:,} numbers of layers")
    for layer in value:
        check_index(name, -1 if layer is None else layer)


def named(name: str, parse: Callable[[Any], Any], text: object) -> None:
    """Refuse what a parser refuses, and name the field."""
    try:
        parse(text)
    except ArgumentError as error:
        raise ArgumentError(f"{name}: {error}") from error


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Say which field cannot be used, what it was and what is expected."""
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:58]}…"
    raise ArgumentError(f"{name}={shown} cannot be used; expected {expected}")
