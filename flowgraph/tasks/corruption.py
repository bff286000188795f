"""Corrupted prompts: the counterpart of a prompt has as many tokens, without the information that decides the answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from ..errors import ArgumentError, PromptError
from ..models import LoadedModel, load_model
from ..models.stacks import SOURCE
from ..values.arguments import takes
from ..values.inputs import Inputs, Row, row_of
from . import words
from .examples import Prompt, prompt_ids

Corruption = Literal["names", "tokens"]

# A sample of the vocabulary holds enough words, and is much faster to spell out than all of it.
_CANDIDATES = 2_000


@takes()
def corrupt(
    model: Any,
    prompt: Prompt,
    how: Corruption = "names",
    *,
    positions: Sequence[int] | None = None,
    seed: int = 0,
) -> Prompt:
    """Make a counterpart of a prompt with as many tokens, for patching and resample ablation.

    Parameters
    ----------
    model
        The model, for its tokenizer.
    prompt
        A text, token ids, or :func:`flowgraph.inputs`. Of an encoder–decoder what the encoder reads is exchanged.
    how
        ``"names"``: each occurrence of a first name becomes another name that the prompt does not have, a new one each time, so that
        nobody is named twice. ``"tokens"``: tokens become random other tokens of their kind, a word for a word and a piece for a
        piece.
    positions
        Which tokens may change; None: all names, or all words. Negative counts from the end.
    seed
        The same seed gives the same counterpart.

    Returns
    -------
    A text where the tokenizer cuts it into the tokens that were meant, otherwise their ids; of inputs, inputs with the same token
    types.

    Raises
    ------
    ArgumentError
        If ``how`` is not known, a position is outside the prompt, or nothing in the prompt can be replaced.
    PromptError
        If a text is given and the model has no tokenizer.

    References
    ----------
    Wang et al. (2022), "Interpretability in the Wild": ABC prompts. Zhang & Nanda (2023), "Towards best practices of activation
    patching", on why to replace tokens rather than to add noise.

    Examples
    --------
    >>> fg.corrupt(trace.model, "When Mary and John went to the store, John gave a drink to")
    'When Tom and Daniel went to the store, Simon gave a drink to'
    """
    model = load_model(model)
    if how not in get_args(Corruption):
        raise ArgumentError(f"how={how!r} is not known; expected one of {', '.join(get_args(Corruption))}")
    if model.tokenizer is None:
        raise PromptError(
            f"{model.name!r} has no tokenizer, so that its words are not known; give the counterpart yourself"
        )
    whole, draw = row_of(model, prompt, "prompt"), random.Random(seed)
    row = whole if whole.encoder is None else whole.encoder
    if row.values is not None:
        raise PromptError(
            "prompt= is an image or a sound, which has no words to exchange; give the counterpart yourself"
        )
    ids = list(row.token_ids)
    places = _places(positions, len(ids))
    made = _other_names(model, ids, places, draw) if how == "names" else _other_tokens(model, ids, places, draw)
    if made == ids:
        wanted = "no first name that is one token" if how == "names" else "no word"
        raise ArgumentError(f"prompt={prompt!r} has {wanted} to replace" + (" at these positions" if positions else ""))
    if isinstance(prompt, Inputs):
        other = Row("tokenizer", ids=tuple(made), token_types=row.token_types, position_ids=row.position_ids)
        # What the decoder has written stays.
        return Inputs((other if row is whole else replace(other, target_ids=whole.token_ids),))
    text = str(model.tokenizer.decode(made, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    # The text of some tokens may be cut otherwise when it is read again; the ids then stand for it.
    reader = model if row is whole else model.stacks.get(SOURCE)
    return text if isinstance(prompt, str) and reader is not None and prompt_ids(reader, text) == made else tuple(made)


def _places(positions: Sequence[int] | None, count: int) -> list[int]:
    if positions is None:
        return list(range(count))
    outside = [position for position in positions if not -count <= position < count]
    if outside:
        raise ArgumentError(f"positions={outside[0]} is outside the prompt of {count} tokens")
    return sorted({position % count for position in positions})


def _other_names(model: LoadedModel, ids: list[int], places: list[int], draw: random.Random) -> list[int]:
    forms = {prefix: _single(model, [prefix + name for name in words.NAMES]) for prefix in (" ", "")}
    here = {model.vocabulary.string(token_id).strip() for token_id in ids}
    # A name that the prompt has would name somebody twice.
    names = [name for name in words.NAMES if name not in here]
    draw.shuffle(names)
    made = list(ids)
    # One name for each occurrence, so that a repeated name leaves no trace.
    for position in places:
        string = model.vocabulary.string(ids[position])
        prefix = " " if string.startswith(" ") else ""
        if string not in forms[prefix]:
            continue
        other = next((name for name in names if prefix + name in forms[prefix]), None)
        if other is None:
            raise ArgumentError("the prompt has more names than there are others to replace them; say positions=")
        names.remove(other)
        made[position] = forms[prefix][prefix + other]
    return made


def _single(model: LoadedModel, texts: Sequence[str]) -> dict[str, int]:
    """The texts that are one token, each with its id."""
    encoded = {text: model.tokenizer.encode(text, add_special_tokens=False) for text in texts}
    return {text: ids[0] for text, ids in encoded.items() if len(ids) == 1 and model.vocabulary.string(ids[0]) == text}


def _other_tokens(model: LoadedModel, ids: list[int], places: list[int], draw: random.Random) -> list[int]:
    some = draw.sample(range(len(model.vocabulary)), min(_CANDIDATES, len(model.vocabulary)))
    strings = {token_id: model.vocabulary.string(token_id) for token_id in some}
    special = set(model.tokenizer.all_special_ids)
    kinds: dict[bool, list[int]] = {
        # A word that begins with a space and a piece that continues one are each replaced by their own kind.
        starts: [
            i for i, text in strings.items() if _is_word(text) and text.startswith(" ") == starts and i not in special
        ]
        for starts in (True, False)
    }
    made = list(ids)
    for position in places:
        text = model.vocabulary.string(ids[position])
        others = [i for i in kinds[text.startswith(" ")] if i != ids[position]]
        if _is_word(text) and ids[position] not in special and others:
            made[position] = draw.choice(others)
    return made


def _is_word(text: str) -> bool:
    return text.strip().isalpha()
