"""What a model takes of a prompt: ids by its tokenizer or its chat template, numbers by its processor, checked against its limits."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import PromptError
from ..models import LoadedModel
from ..models.sources import first_line
from ..models.stacks import SOURCE, Offsets, Written, generated_ids, read_of_labels, start_id, written
from .media import Values, steps_per_second, values_of, wrong_medium
from .mixed import (
    axis_of,
    axis_of_regions,
    processed,
    processor_of,
    refuse_missing_images,
    regions_of,
    require_images,
    with_places,
)
from .prompt_forms import LABELS, recognised
from .row import MEDIA, Message, Row
from .whole_numbers import numbers, whole


def tokenized(loaded: LoadedModel, row: Row) -> Row:
    """A row with its ids, or with its values and positions."""
    if row.source in MEDIA:
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


def fitting(loaded: LoadedModel, row: Row) -> Row:
    """A row with its ids, as this model takes it; of an encoder–decoder the decoder's, with the encoder's row in it."""
    if loaded.anatomy.exchanges:
        return _with_regions(loaded, row)
    if loaded.anatomy.cross is not None:
        return _of_decoder(loaded, row)
    if row.encoder is not None or row.target_text is not None or row.target_ids is not None:
        raise PromptError(
            f"target_text= and target_ids= are what a decoder writes beside an encoder, and {loaded.name!r} has no encoder; put the "
            "text behind the prompt"
        )
    row = tokenized(loaded, replace(row, labels=None))
    if row.values is not None:
        return _media_fitting(loaded, row, row.values)
    row = _checked_ids(loaded, row)
    refuse_missing_images(loaded, row.token_ids, row.beside)
    if row.beside is None:
        return row
    require_images(loaded, row.beside)
    return replace(row, mixed=axis_of(loaded, row.token_ids, row.beside))


def _with_regions(loaded: LoadedModel, row: Row) -> Row:
    """The row of a text, with that of the regions of an image in it."""
    if row.encoder is not None:
        return _checked_ids(loaded, row)
    if row.target_text is not None or row.target_ids is not None:
        raise PromptError(f"target_text= and target_ids= are what a decoder writes, and {loaded.name!r} has no decoder")
    if row.images or row.source in MEDIA:
        raise PromptError(
            f"{loaded.name!r} reads no image, but vectors and boxes of its regions, which a detector has found: visual_feats= and visual_pos="
        )
    values = regions_of(loaded, row.beside)
    regions = Row("image", values=values, axis=axis_of_regions(values))
    own = _checked_ids(loaded, tokenized(loaded, replace(row, labels=None, beside=None)))
    return replace(own, encoder=regions)


def _of_text_and_images(loaded: LoadedModel, row: Row) -> Row:
    """Ids of a text, or of a chat, and of the images in it, as the model's processor makes them."""
    if row.messages is None:
        text = row.text
        assert text is not None
        made = _of_processor(processed(loaded, text, row.images))
    else:
        turns = with_places(row.messages, len(row.images))
        text = _rendered(loaded, turns, processor_of(loaded))
        made = _of_processor(processed(loaded, text, row.images, is_rendered=True))
    return replace(row, text=text, ids=made.ids, token_types=made.token_types, beside=made.beside, images=())


def _of_processor(made: Mapping[str, Any]) -> Row:
    """The one prompt that a processor returned."""
    return recognised(dict(made), {}, {}, chat=False).rows[0]


def _of_decoder(loaded: LoadedModel, row: Row) -> Row:
    """The decoder's row of an encoder–decoder."""
    if row.encoder is not None:
        return _checked_ids(loaded, row)
    given, reader = replace(row, target_text=None, target_ids=None, labels=None), loaded.stacks.get(SOURCE)
    # An encoder that is not traced takes the same tokens, and how many it takes is for the model to say.
    source = _checked_ids(loaded, tokenized(loaded, given), limited=False) if reader is None else fitting(reader, given)
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
    rows = numbers(labels, LABELS, whole)
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
