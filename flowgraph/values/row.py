"""One prompt in one form: a text, messages, ids, an image or a sound, and what a decoder has written beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from ..errors import PromptError
from ..models import LoadedModel
from ..models.axis import Axis
from ..models.forward import Feed
from ..models.stacks import DECODER_IDS
from .media import Given, Values

Source = Literal["text", "messages", "tokenizer", "encoding", "ids", "image", "audio"]
Message = Mapping[str, Any]
"""One turn of a chat: its ``role`` and its ``content``, which may be None or missing beside ``tool_calls``."""
MEDIA = {"image": "an image", "audio": "a sound"}
OF_MEDIA = ("axis", "sampling_rate", "file")
"""Fields of a row that a text does not have."""
OF_DECODERS = {"target_text", "target_ids", "encoder", "generated"}
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
        What the encoder reads, in the row of an encoder–decoder once there is a model; ``ids`` are then the decoder's. Of a text with
        regions of an image, the regions.
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

    source: Source
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
        if self.encoder is not None and not self.encoder.is_of_regions:
            return self.encoder.prompt
        if self.file is not None:
            return self.file
        said = self.messages[0].get("content") if self.messages is not None and len(self.messages) == 1 else None
        return said if isinstance(said, str) else self.text

    @property
    def is_of_regions(self) -> bool:
        """Whether the row holds regions of an image."""
        return self.axis is not None and self.axis.kind == "region"

    @property
    def token_ids(self) -> tuple[int, ...]:
        """[position] the ids.

        Raises
        ------
        PromptError
            If no tokenizer has made them yet, or this is an image or a sound.
        """
        if self.source in ("image", "audio"):
            raise PromptError(f"the prompt is {MEDIA[self.source]}, which has no token ids; a text is needed here")
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
        if self.encoder is not None and self.encoder.is_of_regions:
            return {**replace(self, encoder=None).feed(loaded), **self.encoder.feed(loaded)}
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


def feed_of(given: Feed) -> Feed:
    """Arguments of the model; given positions always come with a mask.

    Without a mask and without a cache, transformers takes a jump of the positions for the start of another text.
    """
    return {**given, "attention_mask": torch.ones_like(given["input_ids"])} if "position_ids" in given else given
