"""Inputs of a model: a text, a pair of texts, messages of a chat or token ids, checked once and brought to one form.

``inputs(text="a b", pair="c d")`` is the full form. Every argument for a prompt also takes a bare text, token ids, messages or the
output of a tokenizer: :func:`inputs` then recognises which it is.
"""

from __future__ import annotations

import inspect
import json
import math
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ArgumentError, PromptError
from ..models import LoadedModel, load_model
from ..models.axis import Axis, axis_of_dict
from ..models.forward import Feed
from ..models.sources import first_line
from ..models.stacks import DECODER_IDS, SOURCE, Offsets, Written, generated_ids, read_of_labels, start_id, written
from ..models.vocabulary import valid_text
from .arguments import takes
from .media import ARGUMENTS, Given, Values, given_media, steps_per_second, values_of, wrong_medium
from .mixed import (
    IMAGE_PART,
    axis_of,
    beside_of,
    is_beside,
    processed,
    processor_of,
    refuse_missing_images,
    require_images,
    with_places,
)

_Source = Literal["text", "messages", "tokenizer", "encoding", "ids", "image", "audio"]
Message = Mapping[str, Any]
"""One turn of a chat: its ``role`` and its ``content``, which may be None or missing beside ``tool_calls``."""

_KINDS = (
    "a text, a list of token ids, a tensor [1, position] or [row, position], messages with role and content, or what a "
    "tokenizer returned"
)
_OF_TOKENIZERS = {
    "input_ids": "ids", "attention_mask": "mask", "token_type_ids": "token_types", "position_ids": "position_ids",
    DECODER_IDS: "target_ids",
}  # fmt: skip
"""Name in the output of a tokenizer → name of the argument here."""
_MEDIA = {"image": "an image", "audio": "a sound"}
_OF_MEDIA = ("axis", "sampling_rate", "file")
"""Fields of a row that a text does not have."""
_LABELS = "labels"
"""What a training step compares with; of an encoder–decoder also what its decoder reads, moved by one place."""
_BESIDE = {"special_tokens_mask", "offset_mapping", "overflow_to_sample_mapping", "length", _LABELS}
"""Further outputs of tokenizers; no model's hidden states depend on them, but for labels in an encoder–decoder."""
_INSTEAD = {
    **dict.fromkeys(("images", "img", "picture", "pixel_values"), "an image is image="),
    **dict.fromkeys(("audios", "sound", "speech", "input_values", "input_features", "raw_speech"), "a sound is audio="),
    **dict.fromkeys(("sr", "rate", "sample_rate"), "samples of a sound per second are sampling_rate="),
    **dict.fromkeys(("target", "tgt_text", "text_target", "labels_text"), "what a decoder has written is target_text="),
    **dict.fromkeys(("labels", "decoder_input_ids", "tgt_ids"), "what a decoder has written is target_ids="),
    **dict.fromkeys(("input_ids", "tokens"), "token ids are ids="),
    **dict.fromkeys(("attention_mask",), "the mask of padding is mask="),
    **dict.fromkeys(("token_type_ids",), "token types are token_types="),
    **dict.fromkeys(("texts", "prompts", "sentence"), "a text, or a list of texts, is text="),
}
"""Name that :func:`inputs` does not know → the one that is meant."""
INPUTS_INSTEAD = {
    name: f"give it with the prompt: flowgraph.inputs({meant}…)"
    for name, meant in {
        **{name: words.split()[-1] for name, words in _INSTEAD.items()},
        **{name: f"{name}=" for name in (
            "text", "messages", "pair", "ids", "image", "audio", "sampling_rate", "target_text", "target_ids", "token_types", "mask",
        )},
    }.items()
}  # fmt: skip
"""Name that a function which takes a prompt does not know → the call that is meant."""


_OF_DECODERS = {"target_text", "target_ids", "encoder", "generated"}
"""Fields of a row that only encoder–decoders fill."""


@dataclass(frozen=True)
class Row:
    """One prompt.

    Attributes
    ----------
    source
        The form of the prompt as given: ``"tokenizer"`` is the output of a tokenizer of transformers, ``"encoding"`` an
        ``Encoding`` of the library tokenizers.
    text, pair
        The text and the second text of a pair; for messages the text of the chat template, once there is a model. None for ids.
    messages
        The turns of a chat, or None.
    ids
        [position] token ids without padding; None until there is a model whose tokenizer makes them.
    token_types, position_ids
        [position]; None is the model's own default.
    offsets
        [position] first and one-past-last character of each token in ``text``, or in ``pair`` for the tokens of that; (0, 0)
        for tokens that stand in neither. None if the tokenizer does not give them.
    words
        [position] number of the word that a token belongs to. Spaces separate words, and a special token is a word by itself.
        None if offsets are not known.
    given
        An image or a sound as it was given; None for a text, and once there is a model.
    values, axis
        What the model takes of an image or a sound, by the names of its arguments, and the positions that it makes of it; None for
        a text.
    sampling_rate
        Samples of a sound per second; None where it is not known.
    file
        Name of the file of an image or a sound.
    target_text, target_ids
        What an encoder–decoder's decoder has written, as given; None for what the model itself writes.
    encoder
        What the encoder reads, in the row of an encoder–decoder once there is a model; ``ids`` are then the decoder's.
    generated
        Whether the model itself wrote what the decoder reads.
    labels
        Labels as a tokenizer gave them beside ids, unchecked; None once there is a model.
    images
        Images beside a text, as they were given; empty once there is a model.
    beside, mixed
        What a model of texts and images takes of the images beside the ids, by the names of its arguments, and the positions of
        both; None for a text alone.
    """

    source: _Source
    text: str | None = None
    pair: str | None = None
    messages: tuple[Message, ...] | None = None
    ids: tuple[int, ...] | None = None
    token_types: tuple[int, ...] | None = None
    position_ids: tuple[int, ...] | None = None
    offsets: tuple[tuple[int, int], ...] | None = None
    words: tuple[int, ...] | None = None
    given: Given | None = None
    values: Values | None = None
    axis: Axis | None = None
    sampling_rate: int | None = None
    file: str | None = None
    target_text: str | None = None
    target_ids: tuple[int, ...] | None = None
    encoder: Row | None = None
    generated: bool = False
    labels: Any = None
    images: tuple[Given, ...] = ()
    beside: Values | None = None
    mixed: Axis | None = None

    @property
    def prompt(self) -> str | None:
        """The text as the user gave it; for a single message, its content without the chat template around it.

        Of an image or a sound, the name of its file.
        """
        if self.encoder is not None:
            return self.encoder.prompt
        if self.file is not None:
            return self.file
        said = self.messages[0].get("content") if self.messages is not None and len(self.messages) == 1 else None
        return said if isinstance(said, str) else self.text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """[position] the ids.

        Raises
        ------
        PromptError
            If no tokenizer has made them yet, or this is an image or a sound.
        """
        if self.source in ("image", "audio"):
            raise PromptError(f"the prompt is {_MEDIA[self.source]}, which has no token ids; a text is needed here")
        if self.ids is None:
            raise PromptError("this prompt has no token ids yet; inputs(…).of(model) makes them")
        return self.ids

    @property
    def length(self) -> int:
        """Number of positions.

        Raises
        ------
        PromptError
            If there was no model yet.
        """
        return len(self.token_ids) if self.axis is None else len(self.axis)

    def feed(self, loaded: LoadedModel) -> Feed:
        """Arguments of the model, each [1, position]; of an image or a sound its one argument."""
        if self.encoder is not None:
            own = {DECODER_IDS: torch.tensor([self.token_ids], device=loaded.device)}
            return {**self.encoder.feed(loaded), **own}
        if self.values is not None:
            return {name: value.to(loaded.device, loaded.dtype) for name, value in self.values.items()}
        given = {"input_ids": self.token_ids, "token_type_ids": self.token_types, "position_ids": self.position_ids}
        feed = feed_of(
            {name: torch.tensor([value], device=loaded.device) for name, value in given.items() if value is not None}
        )
        if self.beside is None:
            return feed
        # Numbers of images have the model's type; sizes and masks stay as they are.
        further = {
            name: value.to(loaded.device, loaded.dtype if value.is_floating_point() else None)
            for name, value in self.beside.items()
        }
        return {**feed, **further}


@dataclass(frozen=True)
class Inputs:
    """One prompt, or several that form a batch. Made by :func:`inputs`.

    Attributes
    ----------
    rows
        The prompts.
    batch
        Whether they were given as a batch: then a list of results comes back, one for each.
    """

    rows: tuple[Row, ...]
    batch: bool = False

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.rows)

    def of(self, model: Any) -> Inputs:
        """The same with the token ids that this model takes, checked against its vocabulary and context.

        Parameters
        ----------
        model
            Anything :func:`flowgraph.load_model` accepts.

        Raises
        ------
        PromptError
            If a prompt is empty or too long, holds an unknown id, is a text and there is no tokenizer, or messages and there is
            no chat template, or says token types or positions that the model does not have.
        """
        loaded = load_model(model)
        return replace(self, rows=tuple(_fitting(loaded, row) for row in self.rows))

    def tokenized(self, model: Any) -> Inputs:
        """The same with its token ids, not yet checked against the model's limits: it tells the length of any prompt.

        Parameters
        ----------
        model
            Anything :func:`flowgraph.load_model` accepts.

        Raises
        ------
        PromptError
            If a prompt is a text and there is no tokenizer, or messages and there is no chat template.
        """
        loaded = load_model(model)
        return replace(self, rows=tuple(_tokenized(loaded, row) for row in self.rows))

    def one(self, argument: str) -> Row:
        """The only prompt.

        Raises
        ------
        PromptError
            If this is a batch of several.
        """
        if len(self.rows) != 1:
            raise PromptError(
                f"{argument} is a batch of {len(self.rows)} prompts; one is taken here, give them one by one"
            )
        return self.rows[0]

    @property
    def ids(self) -> Any:
        """[position] token ids, of a batch a tuple with those of each prompt; None as long as there are none."""
        return self._each("ids")

    @property
    def text(self) -> Any:
        """The text, of a batch a tuple; None where there is none."""
        return self._each("text")

    @property
    def messages(self) -> Any:
        """The messages, of a batch a tuple; None where there are none."""
        return self._each("messages")

    @property
    def token_types(self) -> Any:
        """[position] token types, of a batch a tuple; None where the model takes its own."""
        return self._each("token_types")

    @property
    def position_ids(self) -> Any:
        """[position] position ids, of a batch a tuple; None where the model takes its own."""
        return self._each("position_ids")

    @property
    def offsets(self) -> Any:
        """[position] (start, end) characters of each token, of a batch a tuple; None where they are not known."""
        return self._each("offsets")

    def _each(self, name: str) -> Any:
        values = tuple(getattr(row, name) for row in self.rows)
        return values if self.batch else values[0]


@takes(instead=_INSTEAD)
def inputs(
    prompt: Any = None,
    *,
    text: str | Sequence[str] | None = None,
    messages: Sequence[Any] | None = None,
    pair: str | Sequence[str] | None = None,
    ids: Any = None,
    mask: Any = None,
    token_types: Any = None,
    position_ids: Any = None,
    image: Any = None,
    audio: Any = None,
    sampling_rate: int | None = None,
    target_text: str | Sequence[str] | None = None,
    target_ids: Any = None,
    chat: bool = False,
) -> Inputs:
    """Describe the input of a model. Every function that takes a prompt takes this.

    Parameters
    ----------
    prompt
        Any of the following without its name, since its form tells which it is: a text, messages, ids, a picture of PIL, or the
        output of a tokenizer (ids, mask and token types together). Labels in that are, for an encoder–decoder, ``target_ids`` with
        padding and an end token behind; no other model reads them.
    text
        A text, tokenized with the special tokens that the model expects; one that begins with them already gets no second
        ones. A list of texts is a batch.
    messages
        Turns of a chat, ``{"role": "system", "content": "be brief"}`` and so on, put through the tokenizer's chat template, up
        to where the answer begins; where the last turn is the assistant's, the answer is begun by it. A turn that only calls
        tools has ``tool_calls``, and None or nothing as its content; as the last one it stands whole. Where a content is a list of
        parts, ``{"type": "image"}`` is the place of an image that ``image`` gives. A list of such lists is a batch.
    pair
        A second text beside ``text``, put together as the tokenizer does it, with its token types.
    ids
        Token ids as they are: a list, an array or a tensor [position] or [1, position]; several rows are a batch.
    mask
        Mask with the shape of ``ids``: 1 or True for tokens, 0 or False for padding at the start or the end. Padding is left out,
        and positions count without it.
    token_types
        Token types with the shape of ``ids``: the text, of two, that a token belongs to (``token_type_ids``).
    position_ids
        Positions with the shape of ``ids``, if they are not 0, 1, 2, …
    image
        A path, a picture of PIL, or an array [channel, row, column] or [row, column, channel] of whole numbers from 0 to 255 or
        floats from 0 to 1, all put through the model's processor; or pixel values as the model takes them, floats [1, channel,
        row, column] (without a processor also [channel, row, column]). A list, or several rows, is a batch. Beside ``text`` or
        ``messages``, the image that they speak of, or a list of the images.
    audio
        A path of a .wav file, or the samples of one channel [sample], floats between −1 and 1 or int16, put through the model's
        processor where it has one; or what the model takes, floats with a row axis. A list of these is a batch.
    sampling_rate
        Samples of ``audio`` per second. A file says it itself.
    target_text, target_ids
        For an encoder–decoder, what its decoder has written so far, as a text or as token ids; a list of texts, or several rows of
        ids, for a batch. The decoder's start token is put in front, as in training, and no end token behind. Without either the model
        writes itself, as ``generate`` does without sampling and beams: up to its end token or 64 tokens. The first word of that is
        explained unless ``position`` says otherwise.
    chat
        Put the text into the chat template as a user's message.

    Returns
    -------
    :class:`Inputs`, one row for each prompt.

    Raises
    ------
    PromptError
        If nothing was given, or nothing that can be a prompt.
    ArgumentError
        If an argument has another kind, rank or number of entries than it should, two say the same, or one has no meaning
        beside the others.
    KeywordError
        If there is no argument of a name that was given.

    Examples
    --------
    >>> pair = fg.inputs(text="The cat sat.", pair="It slept.")
    >>> chat = fg.inputs([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}])
    >>> padded = fg.inputs(ids=[[0, 0, 7, 8], [7, 8, 9, 10]], mask=[[0, 0, 1, 1], [1, 1, 1, 1]])
    >>> padded.batch, padded.ids
    (True, ((7, 8), (7, 8, 9, 10)))
    """
    given = {
        "text": text, "messages": messages, "pair": pair, "ids": ids, "mask": mask, "token_types": token_types,
        "position_ids": position_ids, "image": image, "audio": audio, "sampling_rate": sampling_rate,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    targets = {
        name: value for name, value in (("target_text", target_text), ("target_ids", target_ids)) if value is not None
    }
    if prompt is not None:
        if isinstance(prompt, Inputs):
            if given or targets or chat:
                said = ", ".join([*given, *targets]) or "chat"
                raise ArgumentError(f"{said}= cannot be added to inputs that are made already")
            return prompt
        # Several results of a tokenizer are a batch of prompts, each with its own mask and types.
        if _is_list(prompt) and prompt and all(_is_encoding(one) for one in prompt) and not (given or targets or chat):
            return Inputs(tuple(row for one in prompt for row in inputs(one).rows), batch=True)
        seen = _seen(prompt)
        twice = sorted(seen.keys() & given.keys())
        if twice:
            raise ArgumentError(f"{twice[0]}= is given twice: by its name and in the prompt; leave one out")
        given, source = seen | given, _source_of(prompt)
        if "target_ids" in given:
            targets = {"target_ids": given.pop("target_ids"), **targets}
    else:
        source = "ids"
    beside, labels, images = given.pop("beside", None), given.pop(_LABELS, None), None
    if ("text" in given or "messages" in given) and "image" in given:
        images = given.pop("image")
    main = [name for name in ("text", "messages", "ids", "image", "audio") if name in given]
    if len(main) != 1:
        raise PromptError(
            f"{' and '.join(f'{name}=' for name in main)} are given; give one of them"
            if main
            else f"there is no prompt; give {_KINDS}"
        )
    _check_company(main[0], given, chat)
    if main[0] in _MEDIA:
        return _with_targets(_of_media(given), targets)
    if main[0] == "text":
        found = _of_texts(given["text"], given.get("pair"), chat)
    elif main[0] == "messages":
        found = _of_messages(given["messages"])
        if images is None:
            _refuse_places(found)
    else:
        found = _of_ids(given, source)
        if labels is not None:
            rows = zip(found.rows, _labels_of(labels, len(found)), strict=True)
            found = replace(found, rows=tuple(replace(row, labels=own) for row, own in rows))
    if images is not None or beside is not None:
        found = _with_images(found, images, beside)
    return _with_targets(found, targets)


def _labels_of(labels: Any, count: int) -> list[Any]:
    """Labels of each prompt, as they are: whether they are what a decoder reads is for the model to say."""
    plain = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) else labels
    if _is_list(plain) and len(plain) == count and all(map(_is_list, plain)):
        return [tuple(one) for one in plain]
    whole = tuple(plain) if _is_list(plain) else plain
    # Those of a class for each prompt, say, stay together, and are no row of ids for an encoder–decoder either.
    return [whole] if count == 1 else [(whole,) * count] * count


def _refuse_places(found: Inputs) -> None:
    """Refuse messages that have the place of an image where no image is given."""
    for row in found.rows:
        for number, turn in enumerate(row.messages or ()):
            if _is_list(turn.get("content")) and IMAGE_PART in turn["content"]:
                raise PromptError(
                    f"messages[{number}]['content'] has the place of an image, {{'type': 'image'}}, and image= is not given"
                )


def _with_images(found: Inputs, images: Any, beside: Values | None) -> Inputs:
    """The same prompt with the images that stand in its text."""
    if found.batch or len(found) > 1:
        raise ArgumentError("images beside texts are taken of one prompt at a time; give them one by one")
    given = () if images is None else tuple(given_media(images, None, None)[0])
    return Inputs((replace(found.rows[0], images=given, beside=beside),))


def _with_targets(found: Inputs, targets: Mapping[str, Any]) -> Inputs:
    """The same prompts with what the decoder has written."""
    if len(targets) > 1:
        raise ArgumentError("target_text= and target_ids= say the same; leave one out")
    for name, value in targets.items():
        several: list[Any]
        if name == "target_text":
            one = isinstance(value, str)
            several = [value] if one else list(value) if _is_list(value) else []
            if not several or not all(isinstance(text, str) for text in several):
                raise ArgumentError(f"target_text= is {_shown(value)}; expected a text, or a list of texts for a batch")
            several = [valid_text(text) for text in several]
        else:
            several = [tuple(row) for row in _numbers(value, "target_ids", _whole)]
        if len(several) != len(found):
            raise ArgumentError(f"{name}= has {len(several)} rows for {len(found)} prompts; give one for each")
        rows = (replace(row, **{name: own}) for row, own in zip(found.rows, several, strict=True))
        found = replace(found, rows=tuple(rows))
    return found


def row_of(loaded: LoadedModel, prompt: Any, argument: str, *, chat: bool = False) -> Row:
    """The one prompt that was given, with the ids that the model takes.

    Raises
    ------
    PromptError
        As of :meth:`Inputs.of`; also if it is a batch of several.
    """
    return inputs(prompt, chat=chat).of(loaded).one(argument)


def feed_of(given: Feed) -> Feed:
    """Arguments of the model; given positions always come with a mask.

    Without a mask and without a cache, transformers takes a jump of the positions for the start of another text.
    """
    return {**given, "attention_mask": torch.ones_like(given["input_ids"])} if "position_ids" in given else given


def row_dict(row: Row) -> dict[str, Any]:
    """A row as plain data for a file, without its ids, the numbers of an image or a sound, and what an encoder reads."""
    bare = replace(row, given=None, values=None, encoder=None, images=(), beside=None, labels=None)
    # What only images and sounds have, and what only encoder–decoders have, is left out of a text's row.
    left_out = {"ids", "given", "values", "encoder", "images", "beside", "labels"}
    left_out |= set() if row.axis is not None else set(_OF_MEDIA)
    left_out |= set() if row.mixed is not None else {"mixed"}
    plain = {name: value for name, value in asdict(bare).items() if name not in left_out}
    return {name: value for name, value in plain.items() if name not in _OF_DECODERS or value not in (None, False)}


def row_of_dict(plain: Any, ids: tuple[int, ...], values: Mapping[str, Tensor] | None = None) -> Row:
    """The row from the plain data of :func:`row_dict`, and the numbers of an image or a sound.

    Raises
    ------
    ArgumentError
        If a value has the wrong type, or the wrong number of entries.
    """
    # A file may come from anybody: each value is checked as if a user had given it.
    if values and isinstance(plain, Mapping) and "mixed" in plain:
        own = row_of_dict({name: value for name, value in plain.items() if name != "mixed"}, ids)
        positions = axis_of_dict(plain["mixed"])
        if len(positions) != len(ids):
            raise ArgumentError(f"mixed does not hold one position for each of {len(ids)} tokens")
        return replace(own, beside=Values(values), mixed=positions)
    of_images = {"images", "beside", "mixed", "labels"}
    expected = {item.name for item in fields(Row)} - {"ids", "given", "values", *_OF_MEDIA, *_OF_DECODERS, *of_images}
    if values and isinstance(plain, Mapping) and set(plain) == expected | set(_OF_MEDIA):
        return _media_row(plain, values)
    if (
        values
        or not isinstance(plain, Mapping)
        or not expected <= set(plain) <= expected | (_OF_DECODERS - {"encoder"})
    ):
        raise ArgumentError("what went in is not described by the fields of a row")
    if plain["source"] not in get_args(_Source):
        raise ArgumentError(f"source is {plain['source']!r}; expected one of {', '.join(get_args(_Source))}")
    for name in ("text", "pair", "target_text"):
        if not isinstance(plain.get(name), str | None):
            raise ArgumentError(f"{name} is {_shown(plain[name])}; expected a text or nothing")
    if not isinstance(plain.get("generated", False), bool):
        raise ArgumentError(f"generated is {_shown(plain['generated'])}; expected true or false")
    targets = None if plain.get("target_ids") is None else _numbers(plain["target_ids"], "target_ids", _whole)
    if targets is not None and len(targets) != 1:
        raise ArgumentError("target_ids does not hold one row of ids")
    columns: dict[str, Any] = {}
    for name in ("token_types", "position_ids", "words"):
        found = None if plain[name] is None else _numbers(plain[name], name, _whole)
        if found is not None and (len(found) != 1 or len(found[0]) != len(ids)):
            raise ArgumentError(f"{name} does not hold one number for each of {len(ids)} tokens")
        columns[name] = None if found is None else tuple(found[0])
    offsets = None if plain["offsets"] is None else _numbers(plain["offsets"], "offsets", _whole)
    if offsets is not None and (len(offsets) != len(ids) or any(len(pair) != 2 for pair in offsets)):
        raise ArgumentError(f"offsets does not hold a start and an end for each of {len(ids)} tokens")
    return Row(
        source=plain["source"],
        text=plain["text"],
        pair=plain["pair"],
        messages=None if plain["messages"] is None else _turns(plain["messages"]),
        ids=ids,
        offsets=None if offsets is None else tuple((start, end) for start, end in offsets),
        target_text=plain.get("target_text"),
        target_ids=None if targets is None else tuple(targets[0]),
        generated=plain.get("generated", False),
        **columns,
    )


def _media_row(plain: Mapping[str, Any], values: Mapping[str, Tensor]) -> Row:
    """The row of an image or a sound from a file."""
    if plain["source"] not in _MEDIA or any(
        plain[name] is not None
        for name in ("text", "pair", "messages", "token_types", "position_ids", "offsets", "words")
    ):
        raise ArgumentError("what went in is an image or a sound, and says things of a text")
    rate, file = plain["sampling_rate"], plain["file"]
    if not (rate is None or (isinstance(rate, int) and not isinstance(rate, bool) and rate > 0)):
        raise ArgumentError(f"sampling_rate is {_shown(rate)}; expected a number of samples per second, or nothing")
    if not isinstance(file, str | None):
        raise ArgumentError(f"file is {_shown(file)}; expected a text or nothing")
    return Row(plain["source"], values=Values(values), axis=axis_of_dict(plain["axis"]), sampling_rate=rate, file=file)


# What was given ---------------------------------------------------------------------------------------------------


def _seen(prompt: Any) -> dict[str, Any]:
    """The arguments that a prompt without a name stands for."""
    if isinstance(prompt, str):
        return {"text": prompt}
    if isinstance(prompt, Mapping):
        if "input_ids" in prompt:
            return _of_mapping(prompt)
        if named := [name for name in prompt if name in ARGUMENTS]:
            return _of_processor(prompt, named[0])
        if _is_message(prompt):
            return {"messages": [prompt]}
        raise PromptError(f"the prompt is a {type(prompt).__name__} with {_names(prompt)}; expected {_KINDS}")
    if _is_picture(prompt):
        return {"image": prompt}
    if _is_encoding(prompt):
        return {"ids": prompt.ids, "mask": prompt.attention_mask, "token_types": prompt.type_ids}
    if isinstance(prompt, (Tensor, np.ndarray)):
        return {"ids": prompt}
    if isinstance(prompt, os.PathLike):
        raise PromptError(
            f"the prompt is a path, {os.fspath(prompt)!r}; of an image give flowgraph.inputs(image=…), of a sound "
            "flowgraph.inputs(audio=…), and of a text what it holds"
        )
    if not _is_list(prompt):
        raise PromptError(f"the prompt is a {type(prompt).__name__}; expected {_KINDS}")
    items = list(prompt)
    if items and all(map(_is_picture, items)):
        return {"image": items}
    if items and all(isinstance(one, str) for one in items):
        return {"text": items}
    # A list may hold single messages, or conversations; both are seen as lists of messages here.
    chats = [[one] if isinstance(one, Mapping) else one for one in items]
    if items and all(_is_list(one) and one and all(_is_message(turn) for turn in one) for one in chats):
        return {"messages": items}
    if any(isinstance(one, Mapping) for one in items):
        strange = next(one for one in items if not _is_message(one))
        said = _names(strange) if isinstance(strange, Mapping) else f"a {type(strange).__name__}"
        raise PromptError(f"the prompt is a list that holds {said}; messages are dicts with 'role' and 'content'")
    return {"ids": items}


def _of_mapping(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The output of a tokenizer, under the names of the arguments."""
    strange = sorted(name for name in set(prompt) - set(_OF_TOKENIZERS) - _BESIDE if not is_beside(name))
    if strange:
        raise PromptError(
            f"the prompt holds {', '.join(map(repr, strange))} beside its input_ids, which cannot be traced; give "
            f"{', '.join(_OF_TOKENIZERS)} only"
        )
    found = {ours: prompt[theirs] for theirs, ours in _OF_TOKENIZERS.items() if prompt.get(theirs) is not None}
    beside = beside_of(prompt)
    if DECODER_IDS not in prompt and prompt.get(_LABELS) is not None:
        found[_LABELS] = prompt[_LABELS]
    return found if beside is None else {**found, "beside": beside}


def _of_processor(prompt: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The output of a processor, under the names of the arguments."""
    # A mask that is 1 everywhere, as processors of sounds make it, says nothing.
    rest = {
        one for one, value in prompt.items()
        if one not in (name, DECODER_IDS) and not (one == "attention_mask" and isinstance(value, Tensor) and bool(value.all()))
    }  # fmt: skip
    if rest:
        raise PromptError(
            f"the prompt holds {', '.join(map(repr, sorted(rest)))} beside its {name}, which cannot be traced; give {name} only"
        )
    medium: Any = ARGUMENTS[name]
    written = {} if prompt.get(DECODER_IDS) is None else {"target_ids": prompt[DECODER_IDS]}
    return {medium: Given(medium, prompt[name], argument=name), **written}


def _of_media(given: Mapping[str, Any]) -> Inputs:
    """Images or sounds."""
    value = given.get("image", given.get("audio"))
    if isinstance(value, Given):
        rows = value.value if isinstance(value.value, (Tensor, np.ndarray)) else torch.as_tensor(np.array(value.value))
        several = len(rows) > 1 and rows.ndim > 1
        found = (
            [replace(value, value=one[None], sampling_rate=given.get("sampling_rate")) for one in rows]
            if several
            else [value]
        )
    else:
        found, several = given_media(given.get("image"), given.get("audio"), given.get("sampling_rate"))
    return Inputs(
        tuple(Row(one.medium, given=one, sampling_rate=one.sampling_rate, file=one.file) for one in found),
        batch=several,
    )


def _is_encoding(value: Any) -> bool:
    """Whether a value is the output of a tokenizer, of transformers or of the library tokenizers."""
    if isinstance(value, Mapping):
        return "input_ids" in value
    return all(hasattr(value, name) for name in ("ids", "type_ids", "attention_mask"))


def _source_of(prompt: Any) -> _Source:
    """The form in which a prompt with ids was given."""
    if not _is_encoding(prompt):
        return "ids"
    return "tokenizer" if isinstance(prompt, Mapping) else "encoding"


def _is_picture(value: Any) -> bool:
    """Whether a value is a picture of PIL, which is not imported to find out."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(value, pil.Image)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value and ("content" in value or "tool_calls" in value)


def _names(mapping: Mapping[Any, Any]) -> str:
    return "the keys " + ", ".join(sorted(map(repr, mapping))) if mapping else "no keys"


def _check_company(main: str, given: Mapping[str, Any], chat: bool) -> None:
    """Refuse arguments that have no meaning beside the main one."""
    fit = {
        "text": {"pair"}, "messages": set(), "ids": {"mask", "token_types", "position_ids"}, "image": set(),
        "audio": {"sampling_rate"},
    }[main]  # fmt: skip
    strange = sorted(set(given) - {main} - fit)
    if strange:
        needed = {"pair": "text", "sampling_rate": "audio"}.get(strange[0], "ids")
        raise ArgumentError(f"{strange[0]}= needs the prompt as {needed}=, not as {main}; give it so, or leave it out")
    if chat and main in ("ids", "image", "audio"):
        what = _MEDIA.get(main, "token ids")
        raise ArgumentError(f"chat=True needs the prompt as a text, not as {what}")
    if chat and "pair" in given:
        raise ArgumentError("chat=True takes one text, not a pair; leave pair= out, or give messages=")


def _of_texts(text: Any, pair: Any, chat: bool) -> Inputs:
    texts, pairs = _texts(text, "text"), None if pair is None else _texts(pair, "pair")
    if pairs is not None and (len(pairs) != len(texts) or isinstance(pair, str) != isinstance(text, str)):
        raise ArgumentError(f"pair= has {len(pairs)} texts for {len(texts)}; give one for each")
    if chat:
        rows = [Row("messages", messages=({"role": "user", "content": one},)) for one in texts]
    else:
        rows = [Row("text", text=one, pair=None if pairs is None else pairs[n]) for n, one in enumerate(texts)]
    return Inputs(tuple(rows), batch=not isinstance(text, str))


def _texts(value: Any, argument: str) -> list[str]:
    several = [value] if isinstance(value, str) else list(value) if _is_list(value) else None
    if several is None or not all(isinstance(one, str) for one in several):
        raise ArgumentError(f"{argument}= is {_shown(value)}; expected a text, or a list of texts")
    if not several:
        raise PromptError(f"{argument}= is an empty list; give at least one text")
    if not all(several):
        raise PromptError("the prompt is empty; give at least one token" if argument == "text" else "pair= is empty")
    return [valid_text(one) for one in several]


def _of_messages(messages: Any) -> Inputs:
    if not _is_list(messages) or not messages:
        raise PromptError(f"messages= is {_shown(messages)}; expected a list of dicts with 'role' and 'content'")
    batch = not isinstance(messages[0], Mapping)
    chats = messages if batch else [messages]
    return Inputs(tuple(Row("messages", messages=_turns(chat)) for chat in chats), batch=batch)


def _turns(chat: Any) -> tuple[Message, ...]:
    if not _is_list(chat) or not chat:
        raise PromptError(f"messages= holds {_shown(chat)}; expected a list of dicts with 'role' and 'content'")
    for number, turn in enumerate(chat):
        if not _is_message(turn) or not isinstance(turn["role"], str):
            raise PromptError(f"messages[{number}] is {_shown(turn)}; expected a dict with 'role' and 'content'")
        content = turn.get("content")
        if content is None and turn.get("tool_calls"):
            content = []  # whether a turn may only call tools is for the chat template to say
        parts = [content] if isinstance(content, str) else content if _is_list(content) else None
        fitting = parts is not None and all(isinstance(p, str) or _is_text_part(p) or p == IMAGE_PART for p in parts)
        if not fitting:
            raise PromptError(
                f"messages[{number}]['content'] is {_shown(content)}; expected a text, None beside tool_calls, or a list of "
                "{'type': 'text', 'text': …} and {'type': 'image'}, with image= for the images themselves"
            )
        for part in parts or ():
            if part != IMAGE_PART:
                valid_text(part if isinstance(part, str) else part["text"])
        try:
            # A template may put any part of a turn into the prompt, and a file has to hold it.
            json.dumps(dict(turn))
        except (TypeError, ValueError) as error:
            raise PromptError(f"messages[{number}] holds what is no plain data: {error}") from error
    return tuple(dict(turn) for turn in chat)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _of_ids(given: Mapping[str, Any], source: _Source) -> Inputs:
    ids = _numbers(given["ids"], "ids", _whole)
    if not ids:
        raise PromptError(f"ids= has the shape {list(given['ids'].shape)}: there is no row in it; give at least one")
    columns = {name: _numbers(given[name], name, _whole) for name in ("token_types", "position_ids") if name in given}
    if "mask" in given:
        columns["mask"] = _numbers(given["mask"], "mask", _zero_or_one)
    for name, rows in columns.items():
        if [len(row) for row in rows] != [len(row) for row in ids]:
            raise ArgumentError(
                f"{name}= has {_sizes(rows)} entries and ids= has {_sizes(ids)}; they belong to the same tokens"
            )
    made = []
    for number, row in enumerate(ids):
        kept = _unpadded(columns["mask"][number]) if "mask" in columns else slice(None)
        extra: dict[str, Any] = {name: tuple(columns[name][number][kept]) for name in columns if name != "mask"}
        made.append(replace(Row(source, ids=tuple(row[kept])), **extra))
    # One row in two dimensions is still one prompt: tokenizers return [1, position].
    return Inputs(tuple(made), batch=len(made) > 1)


def _sizes(rows: Sequence[Sequence[int]]) -> str:
    return " and ".join(str(len(row)) for row in rows[:3]) + (" …" if len(rows) > 3 else "")


def _unpadded(mask: Sequence[int]) -> slice:
    """The range of tokens, without padding at the ends.

    Raises
    ------
    PromptError
        If there are none, or padding stands between them.
    """
    there = [n for n, value in enumerate(mask) if value]
    if not there:
        raise PromptError("mask= is 0 everywhere: there is no token left")
    # Padding at an end changes nothing for the tokens; between tokens it would move positions.
    kept = slice(there[0], there[-1] + 1)
    if len(there) != kept.stop - kept.start:
        hole = next(n for n in range(kept.start, kept.stop) if not mask[n])
        raise PromptError(
            f"mask= is 0 at position {hole}, between tokens; only padding at the start or the end can be left out"
        )
    return kept


def _numbers(value: Any, argument: str, number: Callable[[Any, str], int]) -> list[list[int]]:
    """Rows of whole numbers from [position], [row, position] or a list of rows."""
    if isinstance(value, (Tensor, np.ndarray)):
        if value.ndim not in (1, 2):
            hint = ""
            if argument == "ids" and value.ndim in (3, 4):
                hint = "; pixels of an image are flowgraph.inputs(image=…)"
                hint += ", and embeddings cannot be traced, give token ids" * (value.ndim == 3)
            raise PromptError(
                f"{argument}= has the shape {list(value.shape)}; expected [position] or [row, position]{hint}"
            )
        try:
            read = value.tolist()
        except RuntimeError as error:  # a tensor on the meta device, or a sparse one
            raise PromptError(f"{argument}= is a tensor whose numbers cannot be read: {first_line(error)}") from error
        rows = read if value.ndim == 2 else [read]
        return [[number(one, argument) for one in row] for row in rows]
    if not _is_list(value):
        raise PromptError(f"{argument}= is {_shown(value)}; expected a list, an array or a tensor of whole numbers")
    nested = [_is_list(one) or (isinstance(one, (Tensor, np.ndarray)) and one.ndim > 0) for one in value]
    if not any(nested):
        return [[number(one, argument) for one in value]]
    if not all(nested):
        raise PromptError(f"{argument}= mixes numbers and rows of numbers; give [position], or rows of them")
    rows = []
    for one in value:
        # A row may be [1, position] itself, but nothing deeper.
        deep = _is_list(one) and any(_is_list(part) and any(map(_is_list, part)) for part in one)
        found = [] if deep else _numbers(one, argument, number)
        if len(found) != 1:
            raise PromptError(f"{argument}= is nested deeper than [row, position]")
        rows += found
    return rows


def _whole(value: Any, argument: str) -> int:
    try:
        # True and 1.0 are refused: neither is meant as a token id.
        if not isinstance(value, (bool, np.bool_)):
            return operator.index(value)
    except TypeError:
        pass
    hint = ""
    if isinstance(value, (float, np.floating)) and argument == "ids":
        hint = "; samples of a sound are flowgraph.inputs(audio=…, sampling_rate=…)"
    if isinstance(value, str):
        hint = "; for words that are cut already, give their token ids, or the text as one string"
    raise PromptError(f"{argument}= holds {_shown(value)}; expected whole numbers{hint}")


def _zero_or_one(value: Any, argument: str) -> int:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise ArgumentError(f"{argument}= holds {_shown(value)}; expected 1 for tokens and 0 for padding")
    found = float(value)
    # NaN is neither 0 nor 1, and compares unequal to both.
    if math.isnan(found) or found not in (0.0, 1.0):
        raise ArgumentError(f"{argument}= holds {found:g}; expected 1 for tokens and 0 for padding, and nothing else")
    return int(found)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '…'} ({type(value).__name__})"


# What a model takes ------------------------------------------------------------------------------------------------


def _tokenized(loaded: LoadedModel, row: Row) -> Row:
    """A row with its ids, or with its values and positions."""
    if row.source in _MEDIA:
        if row.given is None:
            return row
        values, axis, rate = values_of(loaded, row.given)
        return replace(row, given=None, values=values, axis=axis, sampling_rate=rate)
    if loaded.anatomy.layout is not None:
        raise PromptError(wrong_medium(loaded, "text"))
    if row.ids is not None:
        return row
    if row.images:
        return _of_text_and_images(loaded, row)
    return _chat(loaded, row) if row.messages is not None else _of_text(loaded, row)


def _fitting(loaded: LoadedModel, row: Row) -> Row:
    """A row with its ids, as this model takes it; of an encoder–decoder the decoder's, with the encoder's row in it."""
    if loaded.anatomy.cross is not None:
        return _of_decoder(loaded, row)
    if row.encoder is not None or row.target_text is not None or row.target_ids is not None:
        raise PromptError(
            f"target_text= and target_ids= are what a decoder writes beside an encoder, and {loaded.name!r} has no encoder; put the "
            "text behind the prompt"
        )
    row = _tokenized(loaded, replace(row, labels=None))
    if row.values is not None:
        return _media_fitting(loaded, row, row.values)
    row = _checked_ids(loaded, row)
    refuse_missing_images(loaded, row.token_ids, row.beside)
    if row.beside is None:
        return row
    require_images(loaded)
    return replace(row, mixed=axis_of(loaded, row.token_ids, row.beside))


def _of_text_and_images(loaded: LoadedModel, row: Row) -> Row:
    """Ids of a text, or of a chat, and of the images in it, as the model's processor makes them."""
    if row.messages is None:
        text = row.text
        assert text is not None
        made = inputs(dict(processed(loaded, text, row.images))).rows[0]
    else:
        turns = with_places(row.messages, len(row.images))
        text = _rendered(loaded, turns, processor_of(loaded))
        made = inputs(dict(processed(loaded, text, row.images, is_rendered=True))).rows[0]
    return replace(row, text=text, ids=made.ids, token_types=made.token_types, beside=made.beside, images=())


def _of_decoder(loaded: LoadedModel, row: Row) -> Row:
    """The decoder's row of an encoder–decoder."""
    if row.encoder is not None:
        return _checked_ids(loaded, row)
    given, reader = replace(row, target_text=None, target_ids=None, labels=None), loaded.stacks.get(SOURCE)
    # An encoder that is not traced takes the same tokens, and how many it takes is for the model to say.
    source = (
        _checked_ids(loaded, _tokenized(loaded, given), limited=False) if reader is None else _fitting(reader, given)
    )
    offsets: Offsets | None = None
    if row.target_text is not None:
        written = _written(loaded, _tokenizer(loaded, "target_text="), row.target_text)
        text, ids, offsets = row.target_text, written.ids, written.offsets
    elif row.target_ids is not None:
        text, start = None, start_id(loaded.model)
        ids = row.target_ids if row.target_ids[:1] == (start,) else (start, *row.target_ids)
    elif row.labels is not None:
        text, ids = None, read_of_labels(loaded.model, loaded.tokenizer, _label_ids(row.labels)).ids
    else:
        with loaded.running(source.length):
            ids = generated_ids(loaded.model, source.feed(loaded), loaded.anatomy.context)
        text = None if loaded.tokenizer is None else loaded.tokenizer.decode(list(ids), skip_special_tokens=True)
        again = None if not text else _written(loaded, loaded.tokenizer, text)
        # Where the tokenizer makes the same tokens of the text again, it says where they stand in it.
        offsets = again.offsets if again is not None and again.ids == ids else None
    is_given = row.target_ids is not None or row.target_text is not None or row.labels is not None
    own = Row(
        "ids", text=text, ids=ids, target_text=row.target_text, target_ids=row.target_ids, encoder=source, generated=not is_given,
    )  # fmt: skip
    if text is not None and offsets is not None:
        sides = [None if span is None else 0 for span in offsets]
        spans = tuple((0, 0) if span is None else span for span in offsets)
        own = replace(own, offsets=spans, words=tuple(_words(loaded, own, ids, spans, sides)))
    return _checked_ids(loaded, own, what="what the decoder has written (target_text=, target_ids=)")


def _written(loaded: LoadedModel, tokenizer: Any, text: str) -> Written:
    """What the decoder reads of a text.

    Raises
    ------
    PromptError
        If the tokenizer fails on it.
    """
    try:
        return written(loaded.model, tokenizer, text)
    except PromptError:
        raise
    except Exception as error:  # the library tokenizers has no class of its own for what it cannot encode
        raise _tokenizer_fails(tokenizer, error) from error


def _label_ids(labels: Any) -> list[int]:
    """Labels of one prompt as whole numbers.

    Raises
    ------
    PromptError
        If they are anything else.
    """
    rows = _numbers(labels, _LABELS, _whole)
    if len(rows) != 1:
        raise PromptError("labels do not hold one row of token ids for each prompt; give them so, or as target_ids=")
    return rows[0]


def _checked_ids(loaded: LoadedModel, row: Row, *, limited: bool = True, what: str = "the prompt") -> Row:
    """A row whose ids are of this model's vocabulary, and no more than it takes."""
    ids = row.token_ids
    if not ids:
        raise PromptError(f"{what} has no tokens; give at least one")
    beyond = [i for i in ids if not 0 <= i < len(loaded.vocabulary)]
    if beyond:
        raise PromptError(
            f"token id {beyond[0]} is not in this model's vocabulary; ids run from 0 to {len(loaded.vocabulary) - 1}"
        )
    limit = loaded.anatomy.context
    if limited and limit is not None and len(ids) > limit:
        raise PromptError(f"{what} has {len(ids)} tokens; {loaded.name!r} takes at most {limit}. Shorten it")
    return replace(row, token_types=_types(loaded, row), position_ids=_places(loaded, row))


def _media_fitting(loaded: LoadedModel, row: Row, values: Values) -> Row:
    """A row of numbers that are made already, as this model takes it."""
    layout = loaded.anatomy.layout
    if layout is None or set(values) != {layout.argument}:
        raise PromptError(wrong_medium(loaded, row.source))
    shape = values[layout.argument].shape[1:]
    layout.check(shape, loaded.name)
    return replace(row, axis=layout.axis(shape, steps_per_second(loaded, row.sampling_rate)))


def types_are_zero_by_default(loaded: LoadedModel) -> bool:
    """Whether the model takes token types, and without any takes 0."""
    return getattr(loaded.anatomy.config, "type_vocab_size", None) is not None


def _takes(loaded: LoadedModel, name: str) -> bool:
    return name in inspect.signature(loaded.anatomy.model.forward).parameters


def _types(loaded: LoadedModel, row: Row) -> tuple[int, ...] | None:
    """Token types for the model; None if they are the model's own default, or if it has no token types."""
    types = row.token_types
    if types is None:
        return None
    if not _takes(loaded, "token_type_ids"):
        if row.source == "ids":
            raise PromptError(f"token_types= is given, but {loaded.name!r} knows no token types; leave it out")
        return None  # as the model itself does with what its tokenizer makes
    by_default = types_are_zero_by_default(loaded)
    if row.source == "encoding" and not by_default:
        return None  # an Encoding always has types, zeros too; where types are words, only a tokenizer's own output says them
    count = loaded.anatomy.config.type_vocab_size if by_default else len(loaded.vocabulary)
    beyond = [value for value in types if not 0 <= value < count]
    if beyond:
        raise PromptError(f"token_types= holds {beyond[0]}; {loaded.name!r} knows the types 0 to {count - 1}")
    # All zeros are the model's own choice, so nothing is passed and the trace stays comparable.
    return None if by_default and not any(types) else types


def _places(loaded: LoadedModel, row: Row) -> tuple[int, ...] | None:
    places = row.position_ids
    if places is None:
        return None
    if not _takes(loaded, "position_ids"):
        raise PromptError(f"position_ids= is given, but {loaded.name!r} takes none; leave it out")
    table = loaded.anatomy.position_embedding
    # OPT's table begins with rows for padding, which count as no positions.
    stop = math.inf if not isinstance(table, nn.Embedding) else table.num_embeddings - int(getattr(table, "offset", 0))
    beyond = [place for place in places if not 0 <= place < stop]
    if beyond:
        room = "not negative" if math.isinf(stop) else f"0 to {stop - 1}"
        raise PromptError(f"position_ids= holds {beyond[0]}; positions of {loaded.name!r} are {room}")
    return places


def _of_text(loaded: LoadedModel, row: Row) -> Row:
    """Ids of a text or of a pair with the special tokens that the model expects."""
    assert row.text is not None
    tokenizer = _tokenizer(loaded, "a text")
    encoded = _encoded(tokenizer, row.text, row.pair)
    kept = _once(tokenizer, row.text, encoded["input_ids"])
    # What ends a pair stands after its second text.
    return _filled(loaded, row, encoded, kept if row.pair is None else slice(kept.start, None))


def _chat(loaded: LoadedModel, row: Row) -> Row:
    """Ids of messages as the chat template renders them, which puts special tokens in itself."""
    assert row.messages is not None
    tokenizer = _tokenizer(loaded, "messages")
    rendered = _rendered(loaded, row.messages, tokenizer)
    encoded = _encoded(tokenizer, rendered, None, add_special_tokens=False)
    return _filled(loaded, replace(row, text=rendered), encoded, slice(None))


def _rendered(loaded: LoadedModel, messages: Sequence[Message], templated: Any) -> str:
    """Messages as a text, by the chat template of the tokenizer or of the processor."""
    if not getattr(templated, "chat_template", None):
        what = "tokenizer" if templated is loaded.tokenizer else "processor"
        raise PromptError(
            f"the prompt is messages of a chat, or chat=True, but this model's {what} has no chat template; leave chat out, and "
            "give a text"
        )
    from jinja2 import TemplateError

    # Left out as newer releases of transformers do it: templates would write None as a word.
    turns = [{name: value for name, value in turn.items() if value is not None} for turn in messages]
    last = turns[-1]
    begun = last["role"] == "assistant"
    try:
        rendered: str = templated.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=not begun,
            # A turn that only calls tools has no text to go on with.
            continue_final_message=begun and bool(last.get("content") or not last.get("tool_calls")),
        )
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        bare = next((number for number, turn in enumerate(turns) if "content" not in turn), None)
        hint = "" if bare is None else f". messages[{bare}] has no content; content='' gives it an empty one"
        raise PromptError(f"the chat template of {loaded.name!r} refuses these messages: {error}{hint}") from error
    return rendered


def _tokenizer(loaded: LoadedModel, what: str) -> Any:
    if loaded.tokenizer is None:
        raise PromptError(
            f"the prompt is {what}, but this model has no tokenizer; pass token ids, or load_model(…, tokenizer=)"
        )
    return loaded.tokenizer


def _encoded(tokenizer: Any, text: str, pair: str | None, **options: Any) -> Any:
    if getattr(tokenizer, "is_fast", False):
        options["return_offsets_mapping"] = True
    if hasattr(tokenizer, "is_fast"):
        options["verbose"] = False  # how long a prompt may be is said here, in words of the model
    try:
        encoded = tokenizer(text, **options) if pair is None else tokenizer(text, pair, **options)
        encoded["input_ids"]
    except Exception as error:  # the library tokenizers has no class of its own for what it cannot encode
        raise _tokenizer_fails(tokenizer, error) from error
    return encoded


def _tokenizer_fails(tokenizer: Any, error: Exception) -> PromptError:
    return PromptError(
        f"the tokenizer ({type(tokenizer).__name__}) fails on this text with {type(error).__name__}: {first_line(error)}"
    )


def _once(tokenizer: Any, text: str, ids: Sequence[int]) -> slice:
    """The range of ids without a second set of special tokens, for a text that begins with them already."""
    # Only a text that begins with a special token can have it twice, and then its id comes again.
    if not ids or ids[0] not in ids[1:]:
        return slice(None)
    bare = list(_encoded(tokenizer, text, None, add_special_tokens=False)["input_ids"])
    places = range(1, len(ids) - len(bare) + 1)
    # The tokens of the bare text are looked for inside; those before must repeat its beginning, and so be the same
    # special tokens.
    before = next((n for n in places if list(ids[n : n + len(bare)]) == bare and list(ids[:n]) == bare[:n]), 0)
    if not before:
        return slice(None)
    after = len(ids) - before - len(bare)
    twice = after > 0 and list(ids[-after:]) == bare[-after:]
    return slice(before, len(ids) - after if twice else None)


def _filled(loaded: LoadedModel, row: Row, encoded: Any, kept: slice) -> Row:
    ids = tuple(int(i) for i in encoded["input_ids"])[kept]
    types, offsets = encoded.get("token_type_ids"), encoded.get("offset_mapping")
    spans = None if offsets is None else tuple((int(start), int(end)) for start, end in offsets)[kept]
    if spans is not None:
        # Which of two texts a token comes from; None for special tokens that the tokenizer put in.
        row = replace(row, words=tuple(_words(loaded, row, ids, spans, encoded.sequence_ids(0)[kept])))
    return replace(row, ids=ids, offsets=spans, token_types=None if types is None else tuple(map(int, types))[kept])


def _words(
    loaded: LoadedModel,
    row: Row,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    sides: Sequence[int | None],
) -> Iterator[int]:
    """[position] number of the word that each token belongs to, from 0."""
    special = set(loaded.tokenizer.all_special_ids)
    number, before = -1, None
    for token, (start, end), side in zip(ids, offsets, sides, strict=True):
        text = "" if side is None or token in special else (row.text, row.pair)[side] or ""
        inside = re.search(r"\S", text[start:end])
        word = None
        if inside is not None:
            first = start + inside.start()
            # A word is told by its text and by where it begins: after the last space before this token.
            word = side, first - len(re.split(r"\s", text[:first])[-1])
        if word is None or word != before:
            number += 1
        before = word
        yield number
