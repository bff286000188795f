"""Prompts of one length as a batch: their tokens, the positions that are explained, and the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import ArgumentError, ModelMismatchError, PromptError, UnsupportedReadingError
from ..models import LoadedModel
from ..models.forward import Feed
from ..models.stacks import DECODER_IDS
from ..tracing import explained_of_row
from ..values.inputs import Inputs, Row, feed_of, inputs, row_of, types_are_zero_by_default
from ..values.trace import Trace

Prompts = Trace | str | Tensor | Inputs | Mapping[str, Any] | Sequence[Any]
"""One prompt or several: traces, or inputs that can be traced, such as texts, token ids, messages and :class:`Inputs`."""
Align = Literal["start", "end"]
Lengths = tuple[int, int]
"""Positions of a prompt, and those that the encoder reads; 0 of one stack."""
Answers = str | int | Sequence[str | int] | None


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt: its input, the position that is explained, and the target and foil (None: not said)."""

    row: Row
    position: int
    target: int | None = None
    foil: int | None = None

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.row.length

    @property
    def lengths(self) -> Lengths:
        """Number of positions, of the encoder's too."""
        return self.length, 0 if self.row.encoder is None else self.row.encoder.length

    @property
    def ids(self) -> tuple[int, ...]:
        """[position] token ids; zeros of an image or a sound, which has none."""
        return self.row.token_ids if self.row.values is None else (0,) * self.length


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts of one length.

    Attributes
    ----------
    ids
        [prompt, position] token ids; zeros of images and sounds, whose numbers are in ``values``.
    positions
        [prompt] the position whose logits are measured.
    targets, foils
        [prompt] token ids of the answers; −1 where none is said.
    token_types
        [prompt, position], or None where the model takes its own.
    position_ids
        [position], the same for all prompts; None where the model takes its own.
    values
        Of images and sounds the argument of the model by its name, [prompt, …]; of texts with images all arguments, of which a prompt
        may have several rows.
    source
        Arguments of an encoder–decoder's encoder, [prompt, …]; ``ids`` are then the decoder's. None for one stack.
    n_source
        Number of the encoder's positions.
    """

    ids: Int[Tensor, "prompt position"]
    positions: Int[Tensor, "prompt"]
    targets: Int[Tensor, "prompt"]
    foils: Int[Tensor, "prompt"]
    token_types: Int[Tensor, "prompt position"] | None = None
    position_ids: Int[Tensor, "position"] | None = None
    values: Mapping[str, Tensor] | None = None
    source: Feed | None = None
    n_source: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_tokens(self) -> int:
        """Length of every prompt."""
        return self.ids.shape[1]

    @property
    def lengths(self) -> Lengths:
        """Length of every prompt, and of what the encoder reads."""
        return self.n_tokens, self.n_source

    @property
    def feed(self) -> Feed:
        """Arguments of the model."""
        if self.values is not None:
            return self.values
        if self.source is not None:
            return {**self.source, DECODER_IDS: self.ids}
        feed = {"input_ids": self.ids}
        if self.token_types is not None:
            feed["token_type_ids"] = self.token_types
        if self.position_ids is not None:
            # Positions are the same for all prompts, so one row stands for them; the model wants one for each.
            feed["position_ids"] = self.position_ids.expand_as(self.ids)
        return feed_of(feed)

    def split(self, size: int) -> list[Batch]:
        """Batches of at most ``size`` of the prompts."""
        return [self.part(slice(start, start + size)) for start in range(0, len(self), size)]

    @property
    def inputs(self) -> Inputs:
        """The prompts as inputs that can be traced."""
        if self.values is not None:
            (name, numbers), *_ = self.values.items()
            if name == "input_ids":
                alone = (self.part(slice(n, n + 1)).values or {} for n in range(len(self)))
                return Inputs(tuple(inputs(dict(one)).rows[0] for one in alone), batch=True)
            return inputs({name: numbers})
        if self.source is not None:
            return inputs(dict(self.source), target_ids=self.ids)
        types = [None] * len(self) if self.token_types is None else [tuple(row) for row in self.token_types.tolist()]
        places = None if self.position_ids is None else tuple(self.position_ids.tolist())
        ids = self.ids.tolist()
        rows = (Row("ids", ids=tuple(ids[n]), token_types=types[n], position_ids=places) for n in range(len(self)))
        return Inputs(tuple(rows), batch=True)

    def part(self, rows: slice) -> Batch:
        """Some of the prompts."""
        types = None if self.token_types is None else self.token_types[rows]
        return Batch(
            self.ids[rows], self.positions[rows], self.targets[rows], self.foils[rows], types, self.position_ids,
            None if self.values is None else {name: self._rows_of(numbers, rows) for name, numbers in self.values.items()},
            None if self.source is None else {name: numbers[rows] for name, numbers in self.source.items()}, self.n_source,
        )  # fmt: skip

    def _rows_of(self, numbers: Tensor, rows: slice) -> Tensor:
        """The rows of some prompts, each of which has equally many."""
        each = len(numbers) // len(self)
        start, stop, _ = rows.indices(len(self))
        return numbers[start * each : stop * each]

    def with_others(self, others: Batch) -> Batch:
        """These prompts, and others of the same batch behind them."""
        pairs = zip(*((one.ids, one.positions, one.targets, one.foils) for one in (self, others)), strict=True)
        ids, positions, targets, foils = map(torch.cat, pairs)
        types = None
        if self.token_types is not None and others.token_types is not None:
            types = torch.cat((self.token_types, others.token_types))
        values = None
        if self.values is not None and others.values is not None:
            values = {name: torch.cat((numbers, others.values[name])) for name, numbers in self.values.items()}
        source = None
        if self.source is not None and others.source is not None:
            source = {name: torch.cat((numbers, others.source[name])) for name, numbers in self.source.items()}
        return Batch(ids, positions, targets, foils, types, self.position_ids, values, source, self.n_source)


def in_words(lengths: Lengths) -> str:
    """``"7 tokens"``; of two stacks ``"7 tokens and 9 of the encoder"``."""
    return f"{lengths[0]} tokens{f' and {lengths[1]} of the encoder' if lengths[1] else ''}"


def prompts_of(
    loaded: LoadedModel, prompts: Prompts, argument: str, *, target: Answers = None, foil: Answers = None
) -> list[Prompt]:
    """Every prompt, with its answers.

    Raises
    ------
    PromptError
        If there is none, or one is empty or too long.
    TargetError
        If an answer is not one token, or is its own foil.
    ModelMismatchError
        If a trace is of another model.
    ArgumentError
        If there are not as many answers as prompts.
    """
    readout = loaded.anatomy.readout
    if readout is not None and readout.place == "several":
        raise UnsupportedReadingError(
            f"classes of {loaded.name!r} are read from several positions, and the answer of a changed run is measured at one; "
            "direct_logit_attribution() and integrated_attribution() explain the class"
        )
    found = [_prompt(loaded, one) for one in _several(prompts)]
    if not found:
        raise PromptError(f"{argument} holds no prompt; give at least one trace, text or list of token ids")
    targets, foils = (_answers(loaded, value, len(found), name) for name, value in (("target", target), ("foil", foil)))
    aimed = []
    for prompt, own_target, own_foil in zip(found, targets, foils, strict=True):
        # A foil belongs to the target it came with.
        kept_foil = prompt.foil if own_target is None else None
        answer = prompt.target if own_target is None else own_target
        compared = kept_foil if own_foil is None else own_foil
        loaded.answers.refuse_same(answer, compared)
        aimed.append(Prompt(prompt.row, prompt.position, answer, compared))
    return aimed


def batch_of(loaded: LoadedModel, prompts: Sequence[Prompt], argument: str) -> Batch:
    """Prompts of one length as a batch.

    Raises
    ------
    PromptError
        If their lengths differ.
    """
    lengths = [prompt.length for prompt in prompts]
    if len(set(lengths)) > 1:
        other = next(i for i, length in enumerate(lengths) if length != lengths[0])
        raise PromptError(
            f"{argument} has prompts of different lengths ({lengths[0]} tokens in prompt 0, {lengths[other]} in prompt "
            f"{other}), so a position is not the same place in all of them; make them equally long, or say align='start' or "
            "align='end'"
        )

    def column(values: list[int | None]) -> Tensor:
        return torch.tensor([-1 if value is None else value for value in values], device=loaded.device)

    places = {prompt.row.position_ids for prompt in prompts}
    if len(places) > 1:
        raise PromptError(
            f"{argument} has prompts with different position_ids, so a position is not the same place in all"
        )
    positions = places.pop()
    return Batch(
        ids=torch.tensor([prompt.ids for prompt in prompts], device=loaded.device),
        positions=column([prompt.position for prompt in prompts]),
        targets=column([prompt.target for prompt in prompts]),
        foils=column([prompt.foil for prompt in prompts]),
        token_types=_types(loaded, prompts, argument),
        position_ids=None if positions is None else torch.tensor(positions, device=loaded.device),
        values=_values(loaded, prompts, argument),
        source=_source(loaded, prompts, argument),
        n_source=0 if prompts[0].row.encoder is None else prompts[0].row.encoder.length,
    )


def _source(loaded: LoadedModel, prompts: Sequence[Prompt], argument: str) -> Feed | None:
    """[prompt, …] what the encoder reads; None for one stack."""
    rows = [prompt.row.encoder for prompt in prompts if prompt.row.encoder is not None]
    if not rows:
        return None
    feeds = [row.feed(loaded) for row in rows]
    sizes = {tuple((name, tuple(value.shape)) for name, value in sorted(feed.items())) for feed in feeds}
    if len(sizes) > 1:
        lengths = ", ".join(str(length) for length in sorted({row.length for row in rows}))
        raise PromptError(
            f"{argument} has prompts whose encoder reads different lengths ({lengths} positions) or other arguments, so a position is "
            "not the same place in all of them; make them equally long"
        )
    return {name: torch.cat([feed[name] for feed in feeds]) for name in feeds[0]}


def _values(loaded: LoadedModel, prompts: Sequence[Prompt], argument: str) -> dict[str, Tensor] | None:
    """[prompt, …] numbers of images or sounds; None of texts."""
    mixed = [prompt.row.beside is not None for prompt in prompts]
    if any(mixed):
        return _of_both(loaded, prompts, argument)
    if loaded.anatomy.layout is None:
        return None
    feeds = [prompt.row.feed(loaded) for prompt in prompts]
    name = loaded.anatomy.layout.argument
    shapes = {tuple(feed[name].shape) for feed in feeds}
    if len(shapes) > 1:
        raise PromptError(
            f"{argument} has inputs of different shapes, {', '.join(map(str, sorted(shapes)))}, so a position is not the same place in "
            "all of them; make them equally large"
        )
    return {name: torch.cat([feed[name] for feed in feeds])}


def _of_both(loaded: LoadedModel, prompts: Sequence[Prompt], argument: str) -> dict[str, Tensor]:
    """All arguments of texts with images; those of one name have one shape in all prompts."""
    feeds = [dict(prompt.row.feed(loaded)) for prompt in prompts]
    sizes = {tuple((name, tuple(value.shape)) for name, value in sorted(feed.items())) for feed in feeds}
    if len(sizes) > 1:
        raise PromptError(
            f"{argument} has prompts with images of different sizes or numbers, or some without, so a position is not the same place in "
            "all of them; give as many images of one size to each"
        )
    return {name: torch.cat([feed[name] for feed in feeds]) for name in feeds[0]}


def _types(loaded: LoadedModel, prompts: Sequence[Prompt], argument: str) -> Tensor | None:
    """[prompt, position] token types, or None where the model takes its own for all prompts."""
    given = [prompt.row.token_types for prompt in prompts]
    if all(types is None for types in given):
        return None
    if not types_are_zero_by_default(loaded) and None in given:
        # Models whose default type is not 0 would read a prompt without types otherwise than one with zeros.
        raise PromptError(
            f"{argument} has prompts with token types and prompts without, which {loaded.name!r} does not read alike; give "
            "token types to all or to none"
        )
    filled = [[0] * len(p.ids) if types is None else list(types) for p, types in zip(prompts, given, strict=True)]
    return torch.tensor(filled, device=loaded.device)


def groups_of(prompts: Sequence[Prompt], others: Sequence[Prompt] | None, align: Align | None) -> list[list[int]]:
    """Indices of prompts that can be run together: all of them, or with ``align`` those of the same lengths."""
    if align is None:
        return [list(range(len(prompts)))]
    if align not in ("start", "end"):
        raise ArgumentError(f"align={align!r} must be 'start', 'end' or None")
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        pair = [prompt] if others is None else [prompt, others[i]]
        lengths = (one.lengths for one in pair)
        groups.setdefault(tuple(length for both in lengths for length in both), []).append(i)
    return list(groups.values())


def counterparts(n_tokens: int, other: int, align: Align | None, stack: str = "") -> list[int]:
    """[position] the other prompt's position for each position of this one; −1 where there is none.

    ``stack`` is the name of the stack of several whose positions these are.

    Raises
    ------
    PromptError
        If the prompts differ in length and ``align`` is None.
    """
    if n_tokens == other:
        return list(range(n_tokens))
    if align is None:
        which = {"": "the prompts differ", "encoder": "what the encoder reads differs"}.get(
            stack, "what the decoder has written, given as target_text= or by the model itself, differs"
        )
        raise PromptError(
            f"{which} in length ({n_tokens} and {other} tokens), so a position is not the same place in both; "
            "make them equally long (swap words of equally many tokens), or say align='start' or align='end'"
        )
    # From the end, position p of this prompt stands at p + (difference in length) of the other.
    shift = other - n_tokens if align == "end" else 0
    return [p + shift if 0 <= p + shift < other else -1 for p in range(n_tokens)]


def _several(prompts: Prompts) -> Iterator[Trace | Row]:
    """Every prompt by itself, as a trace, as a row, or as anything that is one prompt."""
    if isinstance(prompts, Trace):
        yield prompts
    elif isinstance(prompts, (list, tuple)) and _is_mixed(prompts):
        for one in prompts:
            yield from _several(one)
    elif not isinstance(prompts, (list, tuple)) or prompts:
        yield from inputs(prompts).rows


def _is_mixed(prompts: Sequence[Any]) -> bool:
    """Whether the items of a list are prompts, each by itself, and do not make up one prompt or a batch of one kind."""
    if any(isinstance(one, (Trace, Inputs)) for one in prompts):
        return True
    return any(isinstance(one, str) for one in prompts) and not all(isinstance(one, str) for one in prompts)


def _prompt(loaded: LoadedModel, one: Trace | Row) -> Prompt:
    if not isinstance(one, Trace):
        row = row_of(loaded, Inputs((one,)), "prompts")
        return Prompt(row, explained_of_row(loaded, row))
    if one.differences(loaded):
        raise ModelMismatchError(
            f"the trace is of {one.model_name!r}, whose config or weights differ from {loaded.name!r}; trace the prompt with "
            "the model that is to be changed"
        )
    return Prompt(one.inputs.rows[0], one.position, one.target, one.foil)


def _answers(loaded: LoadedModel, given: Answers, count: int, name: str) -> list[int | None]:
    if given is None:
        return [None] * count
    if isinstance(given, (Mapping, Set, Iterator)):  # whose order is not that of the prompts
        raise ArgumentError(f"{name}= is a {type(given).__name__}; give one token, or a list with one for each prompt")
    one = isinstance(given, str) or not hasattr(given, "__iter__") or getattr(given, "ndim", 1) == 0
    several = [given] * count if one else list(given)  # type: ignore[arg-type]
    if len(several) != count:
        raise ArgumentError(f"{name}= has {len(several)} tokens for {count} prompts; give one, or one for each prompt")
    return [loaded.answers.target_id(value, name) for value in several]
