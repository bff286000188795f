"""The forms in which prompts are given: texts, messages, ids, what a tokenizer or processor returned, images, sounds; brought to one."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError, PromptError
from ..models.stacks import DECODER_IDS
from ..models.vocabulary import valid_text
from .media import ARGUMENTS, Given, Values, given_media
from .messages import is_message, turns_of
from .mixed import IMAGE_PART, REGIONS, beside_of, is_beside
from .row import MEDIA, Row, Source
from .whole_numbers import is_list, numbers, shown_value, whole, zero_or_one

KINDS = (
    "a text, a list of token ids, a tensor [1, position] or [row, position], messages with role and content, or what a "
    "tokenizer returned"
)
_OF_TOKENIZERS = {
    "input_ids": "ids", "attention_mask": "mask", "token_type_ids": "token_types", "position_ids": "position_ids",
    DECODER_IDS: "target_ids",
}  # fmt: skip
"""Name in the output of a tokenizer → name of the argument here."""
LABELS = "labels"
"""What a training step compares with; of an encoder–decoder also what its decoder reads, moved by one place."""
_BESIDE = {"special_tokens_mask", "offset_mapping", "overflow_to_sample_mapping", "length", LABELS}
"""Further outputs of tokenizers; no model's hidden states depend on them, but for labels in an encoder–decoder."""


@dataclass(frozen=True)
class Prompts:
    """Prompts as they were given, and whether as a batch."""

    rows: tuple[Row, ...]
    batch: bool = False


def recognised(prompt: Any, given: Mapping[str, Any], targets: Mapping[str, Any], *, chat: bool) -> Prompts:
    """The prompts that the arguments of :func:`flowgraph.inputs` stand for.

    Parameters
    ----------
    prompt
        What was given without a name; None for nothing.
    given
        Name of an argument → its value, without those that are None.
    targets
        The same of what a decoder has written.
    chat
        Whether a text is a user's message.

    Raises
    ------
    ArgumentError, PromptError
        As of :func:`flowgraph.inputs`.
    """
    if prompt is not None:
        # Several results of a tokenizer are a batch of prompts, each with its own mask and types.
        if is_list(prompt) and prompt and all(_is_encoding(one) for one in prompt) and not (given or targets or chat):
            return Prompts(tuple(row for one in prompt for row in recognised(one, {}, {}, chat=False).rows), batch=True)
        seen = _seen(prompt)
        twice = sorted(seen.keys() & given.keys())
        if twice:
            raise ArgumentError(f"{twice[0]}= is given twice: by its name and in the prompt; leave one out")
        given, source = {**seen, **given}, _source_of(prompt)
        if "target_ids" in given:
            targets = {"target_ids": given.pop("target_ids"), **targets}
    else:
        source = "ids"
    given = dict(given)
    beside, labels, images = given.pop("beside", None), given.pop(LABELS, None), None
    named = {name: given.pop(name) for name in REGIONS if name in given}
    if named:
        beside = Values({**(beside or {}), **{name: _array(value, name) for name, value in named.items()}})
    if ("text" in given or "messages" in given) and "image" in given:
        images = given.pop("image")
    main = [name for name in ("text", "messages", "ids", "image", "audio") if name in given]
    if len(main) != 1:
        raise PromptError(
            f"{' and '.join(f'{name}=' for name in main)} are given; give one of them"
            if main
            else f"there is no prompt; give {KINDS}"
        )
    _check_company(main[0], given, chat)
    if main[0] in MEDIA and named:
        raise ArgumentError(
            f"{' and '.join(f'{name}=' for name in named)} are of regions of an image beside a text; give text= or ids= with them, and leave "
            f"{main[0]}= out"
        )
    if main[0] in MEDIA:
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
            rows = zip(found.rows, _labels_of(labels, len(found.rows)), strict=True)
            found = replace(found, rows=tuple(replace(row, labels=own) for row, own in rows))
    if images is not None or beside is not None:
        found = _with_images(found, images, beside)
    return _with_targets(found, targets)


def _array(value: Any, name: str) -> Tensor:
    """Numbers of an argument as a tensor.

    Raises
    ------
    ArgumentError
        If they are none.
    """
    try:
        return torch.as_tensor(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(f"{name}= is {shown_value(value)}; expected an array of numbers") from error


def _labels_of(labels: Any, count: int) -> list[Any]:
    """Labels of each prompt, as they are: whether they are what a decoder reads is for the model to say."""
    plain = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) else labels
    if is_list(plain) and len(plain) == count and all(map(is_list, plain)):
        return [tuple(one) for one in plain]
    whole = tuple(plain) if is_list(plain) else plain
    # Those of a class for each prompt, say, stay together, and are no row of ids for an encoder–decoder either.
    return [whole] if count == 1 else [(whole,) * count] * count


def _refuse_places(found: Prompts) -> None:
    """Refuse messages that have the place of an image where no image is given."""
    for row in found.rows:
        for number, turn in enumerate(row.messages or ()):
            if is_list(turn.get("content")) and IMAGE_PART in turn["content"]:
                raise PromptError(
                    f"messages[{number}]['content'] has the place of an image, {{'type': 'image'}}, and image= is not given"
                )


def _with_images(found: Prompts, images: Any, beside: Values | None) -> Prompts:
    """The same prompt with the images that stand in its text."""
    if found.batch or len(found.rows) > 1:
        raise ArgumentError("images, or regions, beside texts are taken of one prompt at a time; give them one by one")
    given = () if images is None else tuple(given_media(images, None, None)[0])
    return Prompts((replace(found.rows[0], images=given, beside=beside),))


def _with_targets(found: Prompts, targets: Mapping[str, Any]) -> Prompts:
    """The same prompts with what the decoder has written."""
    if len(targets) > 1:
        raise ArgumentError("target_text= and target_ids= say the same; leave one out")
    for name, value in targets.items():
        several: list[Any]
        if name == "target_text":
            one = isinstance(value, str)
            several = [value] if one else list(value) if is_list(value) else []
            if not several or not all(isinstance(text, str) for text in several):
                raise ArgumentError(
                    f"target_text= is {shown_value(value)}; expected a text, or a list of texts for a batch"
                )
            several = [valid_text(text) for text in several]
        else:
            several = [tuple(row) for row in numbers(value, "target_ids", whole)]
        if len(several) != len(found.rows):
            raise ArgumentError(f"{name}= has {len(several)} rows for {len(found.rows)} prompts; give one for each")
        rows = (replace(row, **{name: own}) for row, own in zip(found.rows, several, strict=True))
        found = replace(found, rows=tuple(rows))
    return found


def _seen(prompt: Any) -> dict[str, Any]:
    """The arguments that a prompt without a name stands for."""
    if isinstance(prompt, str):
        return {"text": prompt}
    if isinstance(prompt, Mapping):
        if "input_ids" in prompt:
            return _of_mapping(prompt)
        if named := [name for name in prompt if name in ARGUMENTS]:
            return _of_processor(prompt, named[0])
        if is_message(prompt):
            return {"messages": [prompt]}
        raise PromptError(f"the prompt is a {type(prompt).__name__} with {_names(prompt)}; expected {KINDS}")
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
    if not is_list(prompt):
        raise PromptError(f"the prompt is a {type(prompt).__name__}; expected {KINDS}")
    items = list(prompt)
    if items and all(map(_is_picture, items)):
        return {"image": items}
    if items and all(isinstance(one, str) for one in items):
        return {"text": items}
    # A list may hold single messages, or conversations; both are seen as lists of messages here.
    chats = [[one] if isinstance(one, Mapping) else one for one in items]
    if items and all(is_list(one) and one and all(is_message(turn) for turn in one) for one in chats):
        return {"messages": items}
    if any(isinstance(one, Mapping) for one in items):
        strange = next(one for one in items if not is_message(one))
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
    if DECODER_IDS not in prompt and prompt.get(LABELS) is not None:
        found[LABELS] = prompt[LABELS]
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


def _of_media(given: Mapping[str, Any]) -> Prompts:
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
    return Prompts(
        tuple(Row(one.medium, given=one, sampling_rate=one.sampling_rate, file=one.file) for one in found),
        batch=several,
    )


def _is_encoding(value: Any) -> bool:
    """Whether a value is the output of a tokenizer, of transformers or of the library tokenizers."""
    if isinstance(value, Mapping):
        return "input_ids" in value
    return all(hasattr(value, name) for name in ("ids", "type_ids", "attention_mask"))


def _source_of(prompt: Any) -> Source:
    """The form in which a prompt with ids was given."""
    if not _is_encoding(prompt):
        return "ids"
    return "tokenizer" if isinstance(prompt, Mapping) else "encoding"


def _is_picture(value: Any) -> bool:
    """Whether a value is a picture of PIL, which is not imported to find out."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(value, pil.Image)


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
        what = MEDIA.get(main, "token ids")
        raise ArgumentError(f"chat=True needs the prompt as a text, not as {what}")
    if chat and "pair" in given:
        raise ArgumentError("chat=True takes one text, not a pair; leave pair= out, or give messages=")


def _of_texts(text: Any, pair: Any, chat: bool) -> Prompts:
    texts, pairs = _texts(text, "text"), None if pair is None else _texts(pair, "pair")
    if pairs is not None and (len(pairs) != len(texts) or isinstance(pair, str) != isinstance(text, str)):
        raise ArgumentError(f"pair= has {len(pairs)} texts for {len(texts)}; give one for each")
    if chat:
        rows = [Row("messages", messages=({"role": "user", "content": one},)) for one in texts]
    else:
        rows = [Row("text", text=one, pair=None if pairs is None else pairs[n]) for n, one in enumerate(texts)]
    return Prompts(tuple(rows), batch=not isinstance(text, str))


def _texts(value: Any, argument: str) -> list[str]:
    several = [value] if isinstance(value, str) else list(value) if is_list(value) else None
    if several is None or not all(isinstance(one, str) for one in several):
        raise ArgumentError(f"{argument}= is {shown_value(value)}; expected a text, or a list of texts")
    if not several:
        raise PromptError(f"{argument}= is an empty list; give at least one text")
    if not all(several):
        raise PromptError("the prompt is empty; give at least one token" if argument == "text" else "pair= is empty")
    return [valid_text(one) for one in several]


def _of_messages(messages: Any) -> Prompts:
    if not is_list(messages) or not messages:
        raise PromptError(f"messages= is {shown_value(messages)}; expected a list of dicts with 'role' and 'content'")
    batch = not isinstance(messages[0], Mapping)
    chats = messages if batch else [messages]
    return Prompts(tuple(Row("messages", messages=turns_of(chat)) for chat in chats), batch=batch)


def _of_ids(given: Mapping[str, Any], source: Source) -> Prompts:
    ids = numbers(given["ids"], "ids", whole)
    if not ids:
        raise PromptError(f"ids= has the shape {list(given['ids'].shape)}: there is no row in it; give at least one")
    columns = {name: numbers(given[name], name, whole) for name in ("token_types", "position_ids") if name in given}
    if "mask" in given:
        columns["mask"] = numbers(given["mask"], "mask", zero_or_one)
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
    return Prompts(tuple(made), batch=len(made) > 1)


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
