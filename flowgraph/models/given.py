"""What is given to ``load_model`` beside the model: a tokenizer, a processor, a number type and a device, each checked by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ArgumentError, DeviceError
from .anatomy import Anatomy
from .proof import TOLERANCE
from .sources import first_line

_TOKENIZER = ("encode", "decode", "convert_ids_to_tokens", "vocab_size", "all_special_ids", "added_tokens_decoder")
"""Methods and attributes that this package uses of a tokenizer, besides calling it."""


def split_pair(given: Any, tokenizer: Any) -> tuple[Any, Any]:
    """The model and the tokenizer, which may be given as a pair.

    Raises
    ------
    ArgumentError
        If a tuple is no such pair, or the tokenizer is given twice.
    """
    if not isinstance(given, tuple):
        return given, tokenizer
    if len(given) != 2 or tokenizer is not None:
        raise ArgumentError(
            "a model in memory is given as (model, tokenizer), or as model with tokenizer=; got a tuple of "
            f"{len(given)} and tokenizer={tokenizer!r}"
        )
    return given


@dataclass(frozen=True)
class BareTokenizer:
    """A ``tokenizers.Tokenizer``, until the model says which of its tokens are special."""

    tokenizer: Any

    @property
    def vocab_size(self) -> int:
        """Number of tokens without those that were added."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=False))

    def wrapped(self, config: Any) -> Any:
        """The tokenizer as transformers has it, with the special tokens that the config numbers, and its mask."""
        import transformers

        special = {}
        for name in ("bos", "eos", "pad"):
            number = getattr(config, f"{name}_token_id", None)
            token = self.tokenizer.id_to_token(number) if isinstance(number, int) and number >= 0 else None
            if token is not None:
                special[f"{name}_token"] = token
        for token in self.tokenizer.get_added_tokens_decoder().values():
            if token.special and token.content.strip("<>[]|").lower() in ("mask", "unk"):
                special[f"{token.content.strip('<>[]|').lower()}_token"] = token.content
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=self.tokenizer, clean_up_tokenization_spaces=False, **special
        )


def usable_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer that can be used, or None.

    Raises
    ------
    ArgumentError
        If it is something else, such as the name of one.
    """
    if tokenizer is None:
        return None
    if type(tokenizer).__module__.partition(".")[0] == "tokenizers" and hasattr(tokenizer, "get_vocab_size"):
        return BareTokenizer(tokenizer)
    lacking = [name for name in _TOKENIZER if not hasattr(tokenizer, name)]
    if not callable(tokenizer) or lacking:
        shown = repr(tokenizer) if isinstance(tokenizer, str) else f"a {type(tokenizer).__name__}"
        raise ArgumentError(
            f"tokenizer={shown} is not a tokenizer; expected one of transformers, such as "
            "transformers.AutoTokenizer.from_pretrained(name), or a tokenizers.Tokenizer"
        )
    return tokenizer


def fitting_tokenizer(tokenizer: Any, name: str, anatomy: Anatomy) -> tuple[Any, int]:
    """The tokenizer as the model needs it, and the number of tokens that the model knows.

    Raises
    ------
    ArgumentError
        If the tokenizer belongs to another model.
    """
    # Without a token embedding the only tokens are those that are scored, such as letters of a sound.
    table = anatomy.embedding
    rows = (0 if anatomy.labels else anatomy.d_vocab) if table is None else int(table.weight.shape[0])
    # More tokens than rows are another model's; fewer are padding of the embedding.
    if tokenizer is not None and rows and tokenizer.vocab_size > rows:
        knows = "embeds" if table is not None else "scores"
        raise ArgumentError(
            f"the tokenizer ({type(tokenizer).__name__}) has {tokenizer.vocab_size:,} tokens and {name!r} {knows} {rows:,}: "
            "it belongs to another model"
        )
    return tokenizer.wrapped(anatomy.model.config) if isinstance(tokenizer, BareTokenizer) else tokenizer, rows


def check_processor(processor: Any) -> None:
    """Refuse what is no processor."""
    if processor is not None and not callable(processor):
        shown = repr(processor) if isinstance(processor, str) else f"a {type(processor).__name__}"
        raise ArgumentError(
            f"processor={shown} is not a processor; expected one of transformers, such as "
            "transformers.AutoImageProcessor.from_pretrained(name)"
        )


def number_type_of(dtype: str | torch.dtype | None) -> torch.dtype | str | None:
    """The number type that is asked for; ``"auto"`` is the files' own, None the usual one."""
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return dtype
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, str(dtype), None)
    if not isinstance(found, torch.dtype) or found not in TOLERANCE:
        names = ", ".join(repr(str(known).removeprefix("torch.")) for known in TOLERANCE)
        raise ArgumentError(f"dtype={dtype!r} is not a number type that a model can be traced in; expected {names}")
    return found


def check_device(device: Any) -> None:
    """Refuse what names no device; a number is that of a GPU."""
    if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
        raise ArgumentError(
            f"device={device!r}; expected 'auto', a name such as 'cpu', the number of a GPU, or a torch.device"
        )


def available_device(device: str | torch.device) -> torch.device:
    """The device, proved by putting one number on it."""
    try:
        found = torch.device(device)
        # A device that parses may still be missing; only a tensor on it shows that.
        torch.zeros(1, device=found).tolist()
    except (RuntimeError, AssertionError, ValueError) as error:  # a ValueError: a number too large
        here = "cpu" if not torch.cuda.is_available() else f"cpu, cuda ({torch.cuda.device_count()})"
        raise DeviceError(
            f"device={str(device)!r} is not available here ({first_line(error)}); this machine has: {here}"
        ) from error
    return found
