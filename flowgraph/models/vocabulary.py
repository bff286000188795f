"""Tokens as strings: " Tokyo", "<F0><9F>" for a part of a character, and back from a string to exactly one id."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from ..errors import ArgumentError, TargetError

_HEX_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """The strings of a tokenizer's vocabulary.

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
        self._special = set() if tokenizer is None else set(tokenizer.all_special_ids)
        self._cache: dict[int, str] = {}

    def __len__(self) -> int:
        return self.size

    def string(self, token_id: int) -> str:
        """What the token adds to the text; bytes that are only a part of a character are written ``<F0><9F>``."""
        if token_id not in self._cache:
            self._cache[token_id] = self._string(int(token_id))
        return self._cache[token_id]

    def strings(self, token_ids: Iterable[int]) -> tuple[str, ...]:
        """:meth:`string` of each."""
        return tuple(self.string(int(token_id)) for token_id in token_ids)

    def _string(self, token_id: int) -> str:
        if self.tokenizer is None:
            return f"#{token_id}"
        piece = self.tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            # Embeddings are often padded beyond the tokenizer; such rows have no text.
            return f"#{token_id}"
        if token_id in self._special:
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

    def target_id(self, target: str | int, argument: str = "target") -> int:
        """Id of a target that is given as a string or as an id.

        Raises
        ------
        TargetError
            If the string is not exactly one token (the message lists its tokens and offers the first), or the id does
            not exist.
        """
        if isinstance(target, str):
            return self._id_of(target, argument)
        if isinstance(target, bool) or not 0 <= target < self.size:
            raise TargetError(
                f"{argument}={target!r} is not a token id of this model; ids run from 0 to {self.size - 1}"
            )
        return int(target)

    def _id_of(self, text: str, argument: str) -> int:
        if self.tokenizer is None:
            raise TargetError(f"{argument}={text!r}: this model has no tokenizer; give the token id as an int")
        pieces = self.tokenizer.get_vocab()
        for piece in (text, _byte_level_piece(text), text.replace(" ", "▁")):
            if piece in pieces and self.string(pieces[piece]) == text:
                return int(pieces[piece])
        ids: Sequence[int] = self.tokenizer.encode(text, add_special_tokens=False)
        unknown = self.tokenizer.unk_token_id
        if not ids or (unknown is not None and unknown in ids):
            raise TargetError(f"{argument}={text!r} is not in the vocabulary of this model ({self.size} tokens)")
        if len(ids) > 1:
            parts = ", ".join(f"{self.string(i)!r}" for i in ids)
            raise TargetError(
                f"{argument}={text!r} is {len(ids)} tokens of this model: {parts}. Only one can be read; to take the "
                f"first, say {argument}={self.string(ids[0])!r} (id {ids[0]})"
            )
        return int(ids[0])


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text with the special tokens that the model expects."""
    return list(tokenizer(text)["input_ids"])


def chat_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text as one user message in the model's chat template, up to where the answer starts.

    Raises
    ------
    ArgumentError
        If the tokenizer has no chat template.
    """
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise ArgumentError("chat=True, but this model's tokenizer has no chat template; leave chat out")
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _decoder_types(tokenizer: Any) -> frozenset[str]:
    """Names of the steps of a fast tokenizer's decoder; empty for others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return frozenset()
    state = json.loads(backend.decoder.__getstate__())
    return frozenset(step["type"] for step in state.get("decoders", [state]))


def _text(data: bytes) -> str:
    """UTF-8 text, with bytes that do not form a character written as ``<F0>``."""
    return re.sub(
        "[\udc80-\udcff]",
        lambda match: f"<{ord(match[0]) - 0xDC00:02X}>",
        data.decode("utf-8", errors="surrogateescape"),
    )


@lru_cache(maxsize=1)
def _byte_level_table() -> dict[str, int]:
    """Character → byte of byte-level BPE: printable Latin-1 stands for itself, the rest follows from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(shifted)}


def _byte_level_piece(text: str) -> str:
    characters = {byte: character for character, byte in _byte_level_table().items()}
    return "".join(characters[byte] for byte in text.encode("utf-8", errors="surrogatepass"))
