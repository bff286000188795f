"""Tokens as strings: " Tokyo", "<F0><9F>" for a part of a character, and back from a string to exactly one id."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from ..errors import ArgumentError, PromptError, TargetError

_HEX_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """The strings of a tokenizer's vocabulary.

    Several ids can have the same string: the byte ``<0x41>`` of a sentence-piece vocabulary is the letter ``A``, and an
    added token of two spaces is also a piece. :meth:`target_id` then takes the tokenizer's own id for the string; failing
    that, an ordinary token before a byte; failing that, the lowest id.

    Parameters
    ----------
    tokenizer
        A Hugging Face tokenizer, or None: then a token prints as its id (``#17``).
    size
        Number of rows of the model's embedding; ids at or above it do not exist.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self._decoders = _decoder_types(tokenizer)
        # Added tokens, special or not, are kept as text and do not pass through the decoder.
        self._added = set() if tokenizer is None else {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        self._cache: dict[int, str] = {}
        self._ids: dict[str, int] = {}

    def __len__(self) -> int:
        return self.size

    def string(self, token_id: int) -> str:
        """The text that the token adds; bytes that are only a part of a character are written ``<F0><9F>``.

        A row of the embedding that the tokenizer does not use prints as its id, ``#17``.

        Raises
        ------
        ArgumentError
            If the id is negative.
        """
        if token_id not in self._cache:
            if token_id < 0:
                raise ArgumentError(f"token_id={token_id} is negative; ids run from 0 to {self.size - 1}")
            self._cache[token_id] = self._string(int(token_id))
        return self._cache[token_id]

    def strings(self, token_ids: Iterable[int]) -> tuple[str, ...]:
        """:meth:`string` of each."""
        return tuple(self.string(int(token_id)) for token_id in token_ids)

    def _piece(self, token_id: int) -> str | None:
        """The tokenizer's own spelling; None for a row it does not use, as embeddings are often padded."""
        return None if self.tokenizer is None else self.tokenizer.convert_ids_to_tokens(token_id)

    def _string(self, token_id: int) -> str:
        piece = self._piece(token_id)
        if piece is None:
            return f"#{token_id}"
        if token_id in self._added:
            return str(piece)
        if "ByteLevel" in self._decoders:
            table = _byte_level_table()
            if all(character in table for character in piece):
                return _text(bytes(table[character] for character in piece))
            return str(piece)
        if "ByteFallback" in self._decoders or "▁" in piece:
            byte = _HEX_TOKEN.fullmatch(piece)
            return _text(bytes([int(byte[1], 16)])) if byte else str(piece).replace("▁", " ")
        return str(self.tokenizer.decode([token_id], clean_up_tokenization_spaces=False))

    def target_id(self, target: Any, argument: str = "target") -> int:
        """Id of a target that is given as a string (as :meth:`string` writes it) or as an id.

        Raises
        ------
        TargetError
            If the string is not exactly one token (the message lists its tokens and offers the first), or the id does
            not exist.
        """
        if isinstance(target, str):
            return self._id_of(target, argument)
        try:
            token_id = -1 if isinstance(target, bool) else operator.index(target)
        except TypeError:
            token_id = -1
        if not 0 <= token_id < self.size:
            raise TargetError(
                f"{argument}={target!r} is not a token id of this model; ids run from 0 to {self.size - 1}"
            )
        return token_id

    def refuse_same(self, target: int | None, foil: int | None) -> None:
        """Refuse a foil that is the target: every difference between the two would be 0.

        Raises
        ------
        TargetError
            If both are one token.
        """
        if foil is not None and target == foil:
            raise TargetError(
                f"foil={self.string(foil)!r} is the target itself (token {foil}), so every difference between the two would be 0; "
                "choose another foil, or say which target= is meant: without it the model's best token is taken"
            )

    def _id_of(self, text: str, argument: str) -> int:
        ids = self._encoded(text)
        # The tokenizer's own choice comes first, if it gives back the same string.
        if len(ids) == 1 and ids[0] < self.size and self.string(ids[0]) == text:
            return ids[0]
        if text in self._id_of_string:
            return self._id_of_string[text]
        if self.tokenizer is None:
            raise TargetError(f"{argument}={text!r}: this model has no tokenizer; give the token id as an int")
        if not ids or self.tokenizer.unk_token_id in ids or max(ids) >= self.size:
            raise TargetError(f"{argument}={text!r} is not in the vocabulary of this model ({self.size:,} tokens)")
        if len(ids) > 1:
            raise TargetError(self._several(text, ids, argument))
        return ids[0]

    def _several(self, text: str, ids: list[int], argument: str) -> str:
        parts = ", ".join(f"{self.string(i)!r}" for i in ids)
        message = (
            f"{argument}={text!r} is {len(ids)} tokens of this model: {parts}. Only one can be read; to take the first, "
            f"say {argument}={self.string(ids[0])!r} (id {ids[0]})"
        )
        if f" {text}" in self._id_of_string:
            message += f"; with the space before it, {f' {text}'!r} is one token"
        return message

    def _encoded(self, text: str) -> list[int]:
        """The tokenizer's ids for a text, without the special tokens of a prompt."""
        if self.tokenizer is None:
            return []
        return [int(i) for i in self.tokenizer.encode(valid_text(text), add_special_tokens=False)]

    @property
    def _id_of_string(self) -> dict[str, int]:
        """Every string → its id, independent of how the tokenizer splits the string; made at first use."""
        if not self._ids:
            # Ordinary tokens come before bytes, and low ids before high ones; the first of a string stays.
            for token_id in sorted(range(self.size), key=self._is_byte):
                self._ids.setdefault(self.string(token_id), token_id)
        return self._ids

    def _is_byte(self, token_id: int) -> bool:
        return bool(_HEX_TOKEN.fullmatch(self._piece(token_id) or ""))


class Labels(Vocabulary):
    """The names of a classifier's classes, which are its answers."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        super().__init__(None, len(labels))
        self.labels = labels

    def _string(self, token_id: int) -> str:
        return self.labels[token_id] if token_id < self.size else f"#{token_id}"

    def _id_of(self, text: str, argument: str) -> int:
        found = [n for n, label in enumerate(self.labels) if label == text]
        if len(found) != 1:
            names = ", ".join(map(repr, self.labels[:12])) + (", …" if self.size > 12 else "")
            raise TargetError(
                f"{argument}={text!r} is {'the name of several classes' if found else 'no class'} of this model; its classes are "
                f"{names}. A number from 0 to {self.size - 1} is taken too"
            )
        return found[0]


def valid_text(text: str) -> str:
    """The text, if it is valid Unicode. Bytes on a command line that are not UTF-8 become half a surrogate pair.

    Raises
    ------
    PromptError
        If the text is not valid Unicode.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the text {text!r} is not valid Unicode: character {error.start} stands for a byte or half a character; "
            "give it as UTF-8"
        ) from error
    return text


def _decoder_types(tokenizer: Any) -> frozenset[str]:
    """Names of the steps of a fast tokenizer's decoder; empty for others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return frozenset()
    state = json.loads(backend.decoder.__getstate__())
    return frozenset(step["type"] for step in state.get("decoders", [state]))


def _text(data: bytes) -> str:
    """UTF-8 text; bytes that do not form a character are written as ``<F0>``.

    U+FFFD, the sign for a character that could not be read, is written in bytes too: as text it would look like such a fault.
    """
    # Bytes that are no text become lone surrogates, which the next line writes out.
    text = data.decode("utf-8", errors="surrogateescape").replace("\ufffd", "<EF><BF><BD>")
    return re.sub("[\udc80-\udcff]", lambda match: f"<{ord(match[0]) - 0xDC00:02X}>", text)


@lru_cache(maxsize=1)
def _byte_level_table() -> dict[str, int]:
    """Character → byte of byte-level BPE: printable Latin-1 stands for itself, the rest follows from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(shifted)}
