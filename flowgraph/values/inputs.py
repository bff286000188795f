"""Inputs of a model: a text, a pair of texts, messages of a chat or token ids, checked once and brought to one form.

``inputs(text="a b", pair="c d")`` is the full form. Every argument for a prompt also takes a bare text, token ids, messages or the
output of a tokenizer: :func:`inputs` then recognises which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ArgumentError, PromptError
from ..models import LoadedModel, load_model
from .arguments import takes
from .fitting import fitting, tokenized, types_are_zero_by_default
from .prompt_forms import recognised
from .row import Message, Row, feed_of
from .row_file import row_dict, row_of_dict

__all__ = [
    "INPUTS_INSTEAD",
    "Inputs",
    "Message",
    "Row",
    "feed_of",
    "inputs",
    "row_dict",
    "row_of",
    "row_of_dict",
    "types_are_zero_by_default",
]

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
            "text", "messages", "pair", "ids", "image", "audio", "sampling_rate", "visual_feats", "visual_pos", "target_text", "target_ids", "token_types",
            "mask",
        )},
    }.items()
}  # fmt: skip
"""Name that a function which takes a prompt does not know → the call that is meant."""


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
        return replace(self, rows=tuple(fitting(loaded, row) for row in self.rows))

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
        return replace(self, rows=tuple(tokenized(loaded, row) for row in self.rows))

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
    visual_feats: Any = None,
    visual_pos: Any = None,
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
    visual_feats, visual_pos
        Beside ``text`` or ``ids``, for a model that reads regions of an image, as LXMERT does: the vector of each region that a detector
        has found, floats [region, feature], and its box as the model takes it, [region, 4], of LXMERT (x₀, y₀, x₁, y₁) as parts of
        the image's width and height. Either may have a row axis in front.
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
        "visual_feats": visual_feats, "visual_pos": visual_pos,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    targets = {
        name: value for name, value in (("target_text", target_text), ("target_ids", target_ids)) if value is not None
    }
    if isinstance(prompt, Inputs):
        if given or targets or chat:
            said = ", ".join([*given, *targets]) or "chat"
            raise ArgumentError(f"{said}= cannot be added to inputs that are made already")
        return prompt
    found = recognised(prompt, given, targets, chat=chat)
    return Inputs(found.rows, found.batch)


def row_of(loaded: LoadedModel, prompt: Any, argument: str, *, chat: bool = False) -> Row:
    """The one prompt that was given, with the ids that the model takes.

    Raises
    ------
    PromptError
        As of :meth:`Inputs.of`; also if it is a batch of several.
    """
    return inputs(prompt, chat=chat).of(loaded).one(argument)
