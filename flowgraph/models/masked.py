"""What converters of masked models have in common: their config, their tokenizer of whole words, and the folder that is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import FetchError
from .bars import no_bars
from .wheel import Progress


def config_of(kind: Any, said: Mapping[str, Any]) -> Any:
    """A config of a class of transformers, of those of the file's entries that it knows."""
    known = kind().to_dict().keys() - {"architectures", "_name_or_path", "transformers_version"}
    return kind(**{name: value for name, value in said.items() if name in known})


def save_folder(model: Any, weights: Mapping[str, Any], tokenizer: Any, folder: Path, report: Progress) -> None:
    """Write a model with these weights, and its tokenizer.

    Raises
    ------
    FetchError
        If the weights are not those of the model.
    """
    missing, unused = model.load_state_dict(weights, strict=False)
    # Numbers of positions and types are no weights, and what is held twice need not be in the file twice.
    lacking = [name for name in missing if not name.endswith(("position_ids", "token_type_ids", "lm_head.bias"))]
    if lacking or unused:
        raise FetchError(f"the weights do not fit: {', '.join([*lacking, *unused])} are lacking or left over")
    report("writing the weights", None)
    with no_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def word_tokenizer(words: Sequence[str], special: Mapping[str, str], split: Any, decoder: Any = None) -> Any:
    """A fast tokenizer of whole words, each text between the tokens of a sentence.

    Parameters
    ----------
    words
        [token] the vocabulary.
    special
        ``"unk"``, ``"cls"``, ``"sep"`` … → its word.
    split
        The pre-tokenizer that cuts a text into words; one that the vocabulary lacks is unknown.
    decoder
        How tokens become a text again; None: spaces between them.
    """
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    numbers = {word: n for n, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=special["unk"]))
    tokenizer.pre_tokenizer = split
    if decoder is not None:
        tokenizer.decoder = decoder
    cls, sep = special["cls"], special["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", special_tokens=[(cls, numbers[cls]), (sep, numbers[sep])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False,
        **{f"{name}_token": token for name, token in special.items()},
    )  # fmt: skip
