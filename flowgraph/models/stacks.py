"""Models of two stacks: the encoder that such a model holds, and what its decoder begins with and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PromptError
from .eager import evaluating
from .kinds import is_encoder_decoder
from .parameters import input_embeddings

SOURCE = "encoder"
"""Name of the stack whose last states a decoder reads."""
DECODER_IDS = "decoder_input_ids"
"""Argument of an encoder–decoder that holds the decoder's tokens."""


def encoder_of(model: Any) -> Any:
    """The encoder of an encoder–decoder; None for any other model."""
    return model.get_encoder() if is_encoder_decoder(model) else None


def decoder_embeddings(model: Any) -> nn.Module | None:
    """The table of the vectors of the decoder's tokens; None where there is none."""
    tables = (input_embeddings(part) for part in (model.get_decoder(), model))
    return next((table for table in tables if table is not None), None)


MOST_GENERATED = 64
"""Tokens that a decoder writes by itself at most, where nobody says what it has written."""


def start_id(model: Any) -> int:
    """The token that the decoder of an encoder–decoder begins with.

    Raises
    ------
    PromptError
        If its config names none.
    """
    for config in (getattr(model, "generation_config", None), model.config):
        found = getattr(config, "decoder_start_token_id", None)
        if isinstance(found, int):
            return found
    # As the models that name none begin: BERT's decoders with the first of these, T5's with the last.
    for name in ("bos_token_id", "pad_token_id"):
        found = getattr(model.config.get_text_config(decoder=True), name, None)
        if isinstance(found, int):
            return found
    raise PromptError(
        f"the config of {type(model).__name__} names no decoder_start_token_id, so it is not known what its decoder begins with; "
        "set it, or give the decoder's tokens with it: target_ids="
    )


Offsets = tuple[tuple[int, int] | None, ...]
"""[position] first and one-past-last character of each token in its text; None for tokens that no text stands for."""


@dataclass(frozen=True)
class Written:
    """What a decoder reads.

    Attributes
    ----------
    ids
        [position] token ids, its start first.
    offsets
        Where they stand in the text; None where that is not known.
    """

    ids: tuple[int, ...]
    offsets: Offsets | None = None


def written(model: Any, tokenizer: Any, text: str) -> Written:
    """What the decoder reads of a text, as in training: its start token, then the text's tokens without the end token."""
    options = {"return_offsets_mapping": True} if getattr(tokenizer, "is_fast", False) else {}
    try:
        made = tokenizer(text_target=text, **options)
    except TypeError:  # tokenizers of one kind of text alone do not know the word
        made = tokenizer(text, **options)
    return _shifted(model, tokenizer, list(made["input_ids"]), _offsets(made))


def _offsets(made: Any) -> Offsets | None:
    """Where the tokens of a text stand in it, as a tokenizer that says so has it."""
    spans = made.get("offset_mapping")
    if spans is None:
        return None
    sides = made.sequence_ids(0)
    return tuple(None if side is None else (int(a), int(b)) for (a, b), side in zip(spans, sides, strict=True))


def read_of_labels(model: Any, tokenizer: Any, labels: Sequence[int]) -> Written:
    """What the decoder reads where a training step is given labels: they follow its start, without padding and the end token."""
    kept = [*labels]
    pads = {-100, model.config.get_text_config(decoder=True).pad_token_id}
    while kept and kept[-1] in pads:
        kept.pop()
    return _shifted(model, tokenizer, kept, None)


def _shifted(model: Any, tokenizer: Any, ids: list[int], offsets: Offsets | None) -> Written:
    """The start and the tokens behind it, from a text's tokens and an end token."""
    start = start_id(model)
    own = getattr(model.config.get_text_config(decoder=True), "eos_token_id", None)
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} if tokenizer is not None else _set_of(own)
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    spans: list[tuple[int, int] | None] = [None] * len(ids) if offsets is None else [*offsets]
    if shift is not None and ids and ids[-1] not in ends:
        try:
            shifted = [int(one) for one in shift(torch.tensor([ids]))[0]]
        except (AttributeError, ValueError):  # T5's asks the config for a start that it need not name
            shifted = [start, *ids[:-1]]
        if shifted[0] == ids[-1] != start:
            # Such as mBART, whose last token says the language and goes to the front.
            start, ids, spans = shifted[0], shifted[1:], spans[:-1]
    if ids and ids[-1] in ends:
        ids, spans = ids[:-1], spans[: len(ids) - 1]
    # Whisper's tokenizer begins with the decoder's start, which is not there twice. A decoder of BERT's kind starts with the token
    # that begins every text, and has learned to write it first.
    begins = {getattr(tokenizer, name, None) for name in ("bos_token_id", "cls_token_id")}
    if ids[:1] != [start] or start in begins:
        ids, spans = [start, *ids], [None, *spans]
    return Written(tuple(ids), None if offsets is None else tuple(spans))


def _set_of(ids: Any) -> set[Any]:
    """End tokens as a config says them: one, several or none."""
    return {ids} if isinstance(ids, int) else set(ids or ())


def generated_ids(model: Any, feed: Mapping[str, Tensor], context: int | None) -> tuple[int, ...]:
    """What the decoder reads when the model writes by itself: its start, then the most probable token each time.

    Parameters
    ----------
    model
        The encoder–decoder.
    feed
        The encoder's arguments.
    context
        How many tokens the decoder takes.
    """
    most = MOST_GENERATED if context is None else max(1, min(MOST_GENERATED, context - 1))
    read: list[int] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        given = kwargs.get("decoder_input_ids")
        if given is None:
            return
        piece = [int(one) for one in given[0]]
        # Without a cache a step reads all that was written, with one its last token.
        is_whole = len(piece) > len(read) and piece[: len(read)] == read
        read[:] = piece if is_whole else [*read, *piece]

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad(), evaluating(model):
            found = model.generate(
                **feed, max_new_tokens=most, do_sample=False, num_beams=1, decoder_start_token_id=start_id(model)
            )
    finally:
        handle.remove()
    ids = [int(one) for one in found[0]]
    if ids[: len(read)] != read:
        # Whisper's gives the text alone, without what its decoder begins with (start, language, task).
        ids = read if ids == read[len(read) - len(ids) :] else [*read, *ids[-1:]]
    ends = _set_of(getattr(model.generation_config, "eos_token_id", None))
    while len(ids) > 1 and ids[-1] in ends:
        ids.pop()
    return tuple(ids)
