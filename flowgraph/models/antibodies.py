"""AntiBERTy and Sapiens, models of antibodies, from their wheels to Hugging Face folders.

Both are encoders with a masked head that read the chain of an antibody, one token for each residue. Ruffolo et al. (2021), "Deciphering
antibody affinity maturation with language models and weakly supervised learning"; Prihoda et al. (2022), "BioPhi: A platform for antibody
design, humanization, and humanness evaluation based on natural antibody repertoires and deep learning".
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import FetchError
from .masked import config_of, save_folder, word_tokenizer
from .tensors import read_tensors
from .wheel import Progress

_ANTIBERTY = "antiberty/trained_models"
_SAPIENS = "sapiens/models/v1"
_OF_BERT = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
_OF_ROBERTA = {"unk": "<unk>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}
_LEFT_OUT = ("cls.species.", "cls.chain.", "cls.graft.", "bert.pooler.", "bert.embeddings.position_ids")
"""Of AntiBERTy's file: heads beside the masked one, and what only they read."""
_OF_LAYERS = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
_OF_THE_REST = {
    "sentence_encoder.embed_tokens": "roberta.embeddings.word_embeddings",
    "sentence_encoder.embed_positions": "roberta.embeddings.position_embeddings",
    "sentence_encoder.emb_layer_norm": "roberta.embeddings.LayerNorm",
    "lm_head": "lm_head.decoder",
    "lm_head.dense": "lm_head.dense",
    "lm_head.layer_norm": "lm_head.layer_norm",
}
"""fairseq's name of a part, without ``decoder.`` in front → that of ``RobertaForMaskedLM``."""


def convert_antiberty(wheel_file: Path, folder: Path, report: Progress) -> None:
    """Fill a folder for ``from_pretrained`` with AntiBERTy's masked model: config, weights as safetensors, and a fast tokenizer."""
    import transformers

    with zipfile.ZipFile(wheel_file) as archive:
        said = json.loads(archive.read(f"{_ANTIBERTY}/AntiBERTy_md_smooth/config.json"))
        words = archive.read(f"{_ANTIBERTY}/vocab.txt").decode().splitlines()
        report("reading the weights", None)
        weights = read_tensors(archive.read(f"{_ANTIBERTY}/AntiBERTy_md_smooth/pytorch_model.bin"))
    config = config_of(transformers.BertConfig, said)
    kept = {name: values for name, values in weights.items() if not name.startswith(_LEFT_OUT)}
    _save(transformers.BertForMaskedLM(config), kept, words, _OF_BERT, folder, report)


def convert_sapiens(checkpoint: str, wheel_file: Path, folder: Path, report: Progress) -> None:
    """Fill a folder for ``from_pretrained`` with one of Sapiens' two models, which fairseq has written.

    Parameters
    ----------
    checkpoint
        ``"checkpoint_vh.pt"`` for heavy chains, ``"checkpoint_vl.pt"`` for light ones.
    wheel_file, folder
        The checked wheel, and an existing folder.
    report
        Told the stage and the fraction of it that is done.
    """
    import transformers

    with zipfile.ZipFile(wheel_file) as archive:
        residues = [line.split()[0] for line in archive.read(f"{_SAPIENS}/dict.txt").decode().splitlines()]
        report("reading the weights", None)
        read = read_tensors(archive.read(f"{_SAPIENS}/{checkpoint}"))
    # fairseq puts its own words in front and the task's mask behind.
    words = ["<s>", "<pad>", "</s>", "<unk>", *residues, "<mask>"]
    weights, said = {_of_roberta(name): values for name, values in read["model"].items()}, vars(read["args"])
    config = transformers.RobertaConfig(
        vocab_size=len(words),
        hidden_size=said["encoder_embed_dim"],
        num_hidden_layers=said["encoder_layers"],
        num_attention_heads=said["encoder_attention_heads"],
        intermediate_size=said["encoder_ffn_embed_dim"],
        max_position_embeddings=len(weights["roberta.embeddings.position_embeddings.weight"]),
        hidden_act=said["activation_fn"],
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    model = transformers.RobertaForMaskedLM(config)
    # Texts have no types in fairseq.
    types = "roberta.embeddings.token_type_embeddings.weight"
    weights[types] = model.state_dict()[types].zero_()
    _save(model, weights, words, _OF_ROBERTA, folder, report)


def _of_roberta(name: str) -> str:
    """The name of a tensor in ``RobertaForMaskedLM``."""
    part, _, kind = name.removeprefix("decoder.").rpartition(".")
    layer = re.fullmatch(r"sentence_encoder\.layers\.(\d+)\.(.+)", part)
    if layer is not None and layer[2] in _OF_LAYERS:
        return f"roberta.encoder.layer.{layer[1]}.{_OF_LAYERS[layer[2]]}.{kind}"
    if part in _OF_THE_REST:
        return f"{_OF_THE_REST[part]}.{kind}"
    raise FetchError(f"the file of Sapiens holds {name!r}, which a RoBERTa does not have")


def _save(
    model: Any,
    weights: Mapping[str, Any],
    words: Sequence[str],
    special: Mapping[str, str],
    folder: Path,
    report: Progress,
) -> None:
    """Write a model with these weights, whose head is its embedding, and its tokenizer of letters."""
    import torch
    from tokenizers import Regex, decoders, pre_tokenizers

    rows = [values for name, values in weights.items() if name.endswith(("word_embeddings.weight", "decoder.weight"))]
    if len(rows) != 2 or not torch.equal(*rows):
        raise FetchError("the head is not the embedding, as it is in the models that are known")
    # One token for each letter, with or without spaces between them.
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")])
    save_folder(model, weights, word_tokenizer(words, special, split, decoders.Fuse()), folder, report)
