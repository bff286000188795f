"""The field's standard tasks, drawn from words that are one token for the model at hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import ArgumentError, TargetError
from ..models import LoadedModel, load_model
from ..values.arguments import takes
from . import words
from .examples import Example, TaskData, prompt_ids

_LEAST_WORDS = 4
# Draws per example: pairs of unequal length and repeated ones are dropped.
_TRIES = 50


class Draw:
    """Seeded random choices among words that are one token each.

    Attributes
    ----------
    model
        The model, for its tokenizer.
    random
        Seeded generator: the same call gives the same examples.
    corruption
        What is changed in corrupted prompts. It takes no part in the draws: clean prompts are the same for all.
    """

    def __init__(self, model: LoadedModel, seed: int, corruption: str) -> None:
        self.model, self.random, self.corruption = model, random.Random(seed), corruption

    def single(self, pool: Sequence[str], what: str) -> list[str]:
        """Words of the pool that are one token after a space.

        Raises
        ------
        TargetError
            If fewer than four are.
        """
        found = [word for word in pool if self.is_single(f" {word}")]
        if len(found) < _LEAST_WORDS:
            raise TargetError(
                f"{self.model.name!r}: of {len(pool)} {what} only {len(found)} are one token; this task cannot be made for it, "
                "give examples of your own as a CSV file"
            )
        return found

    def is_single(self, text: str) -> bool:
        """Whether a text is one token."""
        try:
            self.model.vocabulary.target_id(text)
        except TargetError:
            return False
        return True

    def some(self, pool: Sequence[str], count: int) -> list[str]:
        """Different words of a pool, in random order."""
        return self.random.sample(pool, count)


@takes()
def task(model: Any, name: str, *, corruption: str | None = None, count: int = 32, seed: int = 0) -> TaskData:
    """Draw examples of a standard task for a model.

    Parameters
    ----------
    model
        A causal language model with a tokenizer.
    name
        ``"ioi"``, ``"greater-than"``, ``"induction"``, ``"agreement"``, ``"colored-objects"`` or ``"capitals"``.
    corruption
        What is changed in the corrupted prompts, one of :attr:`TaskData.corruptions`; None: the published one. What a circuit has to
        carry depends on it: of ``"ioi"`` ``"flip"`` (the second subject becomes the other name) leaves both names where they are, and
        ``"abc"`` (three other names) exchanges them. Of ``"greater-than"`` ``"01"``; of ``"induction"`` ``"first-half"``; of
        ``"agreement"`` ``"number"``; of ``"colored-objects"`` ``"object"``; of ``"capitals"`` ``"country"``.
    count
        How many examples; different ones as far as the words suffice.
    seed
        The same seed gives the same examples.

    Returns
    -------
    Examples whose clean and corrupted prompts have as many tokens each, and whose answers are one token.

    Raises
    ------
    ArgumentError
        If the task or its corruption is not known, ``count`` is below 1, or the model is not causal.
    TargetError
        If too few of the task's words are one token of this model.

    References
    ----------
    Wang et al. (2022), "Interpretability in the Wild" (ioi; ``"abc"`` as corruption).
    Mueller et al. (2025), "MIB: A Mechanistic Interpretability Benchmark" (ioi; ``"flip"`` as corruption).
    Hanna et al. (2023), "How does GPT-2 compute greater-than?".
    Olsson et al. (2022), "In-context Learning and Induction Heads".

    Examples
    --------
    >>> data = fg.task(trace.model, "capitals", count=2)
    >>> data.examples[0].target, data.examples[0].foil
    (' Lisbon', ' Warsaw')
    """
    if name not in TASKS:
        raise ArgumentError(f"name={name!r} is not a task; known are {', '.join(TASKS)}, or give a CSV file")
    if count < 1:
        raise ArgumentError(f"count={count} must be at least 1")
    kind = TASKS[name]
    chosen = next(iter(kind.corruptions)) if corruption is None else corruption
    if chosen not in kind.corruptions:
        raise ArgumentError(
            f"corruption={corruption!r} is none of the task {name!r}; it has {', '.join(map(repr, kind.corruptions))}"
        )
    model = load_model(model)
    if model.anatomy.cross is not None:
        raise ArgumentError(
            f"{model.name!r} cannot do {name!r}: tasks ask for the next token of a text, and its decoder writes beside what its encoder reads; "
            "give examples of your own, flowgraph.Example(clean, corrupted, target, foil)"
        )
    if not model.anatomy.causal or model.tokenizer is None:
        raise ArgumentError(
            f"{model.name!r} cannot do {name!r}: tasks ask for the next token of a text, which needs a causal model with a tokenizer"
        )
    make = kind.prepare(Draw(model, seed, chosen))
    # A dict keeps the order of the draws and drops repeated examples.
    examples: dict[Example, None] = {}
    for _ in range(_TRIES * count):
        example = make()
        if len(prompt_ids(model, example.clean)) == len(prompt_ids(model, example.corrupted)):
            # Pairs of unequal length are dropped, since they cannot be patched.
            examples.setdefault(example)
        if len(examples) == count:
            break
    if not examples:
        raise ArgumentError(
            f"{model.name!r}: no pair of {name!r} prompts came out with as many tokens; its tokenizer splits them"
        )
    described = f"{kind.question}; corrupted by {kind.corruptions[chosen]}"
    return TaskData(name, described, tuple(examples), chosen, tuple(kind.corruptions)).checked(model)


def _ioi(draw: Draw) -> Callable[[], Example]:
    names = draw.single(words.NAMES, "names")

    def make() -> Example:
        giver, receiver, *others = draw.some(names, 5)
        place, thing, pattern = (draw.random.choice(pool) for pool in (words.PLACES, words.THINGS, words.IOI))
        # Both orders of the names come up, so that position alone does not tell the answer.
        first, second = draw.random.sample([giver, receiver], 2)
        clean = pattern.format(A=first, B=second, S=giver, place=place, thing=thing)
        # Three other people name nobody twice and have no answer; the other subject has the other answer.
        names_in = (first, second, receiver) if draw.corruption == "flip" else others
        corrupted = pattern.format(A=names_in[0], B=names_in[1], S=names_in[2], place=place, thing=thing)
        return Example(clean, corrupted, f" {receiver}", f" {giver}")

    return make


def _greater_than(draw: Draw) -> Callable[[], Example]:
    """The end of a span of years: the digit of its decade, or both digits if they are one token."""
    # A tokenizer either has two-digit years as tokens or splits them into digits.
    both = all(draw.is_single(f"{year:02}") for year in range(2, 99))
    # There is a later and an earlier year of the same century for each of these.
    years = range(2, 98) if both else range(1, 8)

    def make() -> Example:
        start, century = draw.random.choice(years), draw.random.randint(11, 17)
        noun = draw.random.choice(words.SPANS)
        rest = "" if both else str(draw.random.randint(0, 9))
        write = (lambda year: f"{year:02}") if both else str
        least, most = (0, 99) if both else (0, 9)
        pattern = "The {noun} lasted from the year {century}{start}{rest} to the year {century}"
        clean = pattern.format(noun=noun, century=century, start=write(start), rest=rest)
        # A start that every end is later than: it rules nothing out.
        corrupted = pattern.format(noun=noun, century=century, start=write(1 if both else 0), rest=rest)
        later, earlier = draw.random.randint(start + 1, most), draw.random.randint(least, start - 1)
        return Example(clean, corrupted, write(later), write(earlier))

    return make


def _induction(draw: Draw) -> Callable[[], Example]:
    pool = draw.single(words.THINGS + words.OBJECTS + words.COLORS + words.PLACES + words.NOUNS, "words")

    def make() -> Example:
        # A random period: with a fixed one, a position would tell as much as the token before.
        period = draw.random.randint(4, 8)
        sequence = draw.some(pool, 2 * period)
        first, other = sequence[:period], sequence[period:]
        at = draw.random.randint(1, period - 1)
        write = " ".join
        # The end is the same in both, so only the first part can tell what follows.
        clean, corrupted = write([*first, *first[:at]]), write([*other, *first[:at]])
        foil = draw.random.choice([word for word in first if word != first[at]])
        return Example(f" {clean}", f" {corrupted}", f" {first[at]}", f" {foil}")

    return make


def _agreement(draw: Draw) -> Callable[[], Example]:
    pairs = [pair for pair in words.SINGULAR_PLURAL if all(draw.is_single(f" {word}") for word in pair)]
    verbs = [pair for pair in words.VERBS if all(draw.is_single(f" {word}") for word in pair)]
    if len(pairs) < _LEAST_WORDS or not verbs:
        raise TargetError(f"{draw.model.name!r}: too few nouns or verbs of the agreement task are one token of it")

    def make() -> Example:
        number = draw.random.randint(0, 1)
        noun, attractor = draw.random.sample(pairs, 2)
        verb = draw.random.choice(verbs)
        pattern = draw.random.choice(words.AGREEMENT)
        # The noun between has the other number than the subject, so that the nearest noun misleads.
        clean, corrupted = (pattern.format(noun=noun[n], other=attractor[1 - number]) for n in (number, 1 - number))
        return Example(clean, corrupted, f" {verb[number]}", f" {verb[1 - number]}")

    return make


def _colored_objects(draw: Draw) -> Callable[[], Example]:
    colors, objects = draw.single(words.COLORS, "colors"), draw.single(words.OBJECTS, "objects")

    def make() -> Example:
        chosen, things = draw.some(colors, 6), draw.some(objects, 6)
        asked, instead = draw.random.sample(range(3), 2)
        shown, table = (_table(chosen[n : n + 3], things[n : n + 3]) for n in (3, 0))
        at = draw.random.randint(3, 5)
        # One worked example: without it small models name any colour of the table.
        before = f"Q: {shown} What color is the {things[at]}?\nA: {chosen[at]}\nQ: {table} What color is the"
        clean, corrupted = (f"{before} {things[n]}?\nA:" for n in (asked, instead))
        return Example(clean, corrupted, f" {chosen[asked]}", f" {chosen[instead]}")

    return make


def _table(colors: Sequence[str], things: Sequence[str]) -> str:
    first, second, third = (f"a {color} {thing}" for color, thing in zip(colors, things, strict=True))
    return f"On the table there is {first}, {second} and {third}."


def _capitals(draw: Draw) -> Callable[[], Example]:
    pairs = [pair for pair in words.CAPITALS if all(draw.is_single(f" {word}") for word in pair)]
    if len(pairs) < _LEAST_WORDS:
        raise TargetError(f"{draw.model.name!r}: too few countries and capitals are one token of it")

    def make() -> Example:
        (country, capital), (other, wrong) = draw.random.sample(pairs, 2)
        pattern = draw.random.choice(words.CAPITAL_OF)
        return Example(pattern.format(country), pattern.format(other), f" {capital}", f" {wrong}")

    return make


class TaskKind(NamedTuple):
    """A task: its draws of examples, its question, and its corruptions with what each changes, the published one first."""

    prepare: Callable[[Draw], Callable[[], Example]]
    question: str
    corruptions: Mapping[str, str]


TASKS: Mapping[str, TaskKind] = MappingProxyType(
    {
        "ioi": TaskKind(
            _ioi, "who is given something: the name that occurs once",
            {"flip": "the second subject becoming the other name", "abc": "three other names"},
        ),
        "greater-than": TaskKind(
            _greater_than, "a span of years ends later than it starts", {"01": "a start that rules nothing out"}
        ),
        "induction": TaskKind(
            _induction, "a sequence of random words repeats", {"first-half": "a first part of other words"}
        ),
        "agreement": TaskKind(
            _agreement, "the verb agrees with its noun, not with the one between", {"number": "the noun's other number"}
        ),
        "colored-objects": TaskKind(
            _colored_objects, "the color of one of three things", {"object": "asking for another"}
        ),
        "capitals": TaskKind(_capitals, "the capital of a country", {"country": "another country"}),
    }
)  # fmt: skip
"""Name of a task → its kind."""
