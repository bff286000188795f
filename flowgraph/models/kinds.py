"""Kinds of models in words, for refusals that say why a model is not traced and what the user can do.

The kind comes from the model itself: its modules, its config, the inputs of its class, and the tasks that transformers lists the
class under. A kind alone never lets a model open; its row and its proof decide that.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .parameters import packing_of, shape_of
from .plain import Plain

_QUANTISERS = frozenset(
    ("aqlm", "auto_gptq", "awq", "bitsandbytes", "compressed_tensors", "eetq", "fbgemm_gpu", "gptqmodel", "hqq", "optimum",
     "quanto", "torchao", "vptq")
)  # fmt: skip
"""Packages whose modules and tensors hold packed weights."""
_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_OTHER_INPUTS = {
    "image": "a vision model", "video": "a vision model", "audio": "an audio model", "time": "a time series model",
}  # fmt: skip
_INPUT_NAMES = {
    "pixel_values": "image", "pixel_values_videos": "video", "input_values": "audio", "input_features": "audio",
    "past_values": "time",
}  # fmt: skip
Medium = Literal["text", "image", "audio"]
_TASKS = {
    "SEQUENCE_CLASSIFICATION": "a sequence classifier",
    "TOKEN_CLASSIFICATION": "a token classifier",
    "MULTIPLE_CHOICE": "a classifier of choices",
    "NEXT_SENTENCE_PREDICTION": "a classifier of sentence pairs",
    "QUESTION_ANSWERING": "a model for question answering",
    "PRETRAINING": "a pretraining model",
}
# Mixers whose class names contain "Attention" and that have no attention pattern.
_OTHER_MIXING = re.compile(r"Linear|Lightning|Rwkv|Delta|Conv(?!Bert)|Mamba|Recurrent|Retention")
_EXPERTS = re.compile(r"(^|\.)experts$")


@dataclass(frozen=True)
class Kind:
    """A kind of model that is not traced.

    Attributes
    ----------
    name
        With its article: ``"an encoder–decoder"``.
    why
        The reason, from this model.
    advice
        A way out for the user.
    """

    name: str
    why: str
    advice: str = ""


def holds_experts(module: nn.Module) -> bool:
    """Whether an MLP is a mixture of experts."""
    return any(_EXPERTS.search(name) or "Experts" in type(one).__name__ for name, one in module.named_modules())


def quantised(model: Any) -> Kind | None:
    """The kind of a model whose weights are packed in a way that is not known here; None for plain numbers."""
    packed = [
        (name, module) for name, module in model.named_modules() if packing_of(module) is None and _is_packed(module)
    ]
    if not packed:
        return None
    kinds = Counter(f"{type(module).__module__.partition('.')[0]}'s {type(module).__name__}" for _, module in packed)
    said = getattr(getattr(model, "config", None), "quantization_config", None)
    method = said.get("quant_method") if isinstance(said, dict) else getattr(said, "quant_method", None)
    how = f" (quant_method {getattr(method, 'value', method)!r})" if method is not None else ""
    what = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common(3))
    first, module = packed[0]
    types = {
        str(one.dtype).removeprefix("torch.") for one in module.parameters(recurse=False) if one.dtype not in _NUMBERS
    }
    as_type = f" ({', '.join(sorted(types))})" if types else ""
    return Kind(
        "a quantised model",
        f"{what} hold quantised weights{how}, first {first!r}{as_type}, and the model cannot be taken apart into such",
        "Load it unquantised, without a quantization_config, or call model.dequantize() where the method has it",
    )


def _is_packed(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    # Packed tensors may look like plain ones in shape and type; the class that holds them tells.
    if any(type(tensor.data).__module__.partition(".")[0] in _QUANTISERS for tensor in own):
        return True
    # In any module, GPT-2's Conv1D and embeddings too: one byte is no number type that a forward pass calculates in.
    if any(tensor.element_size() == 1 and tensor.dtype != torch.bool for tensor in module.parameters(recurse=False)):
        return True
    if not hasattr(module, "in_features") and not hasattr(module, "infeatures"):
        return False
    place = type(module).__module__
    if place.partition(".")[0] in _QUANTISERS or place.startswith(("torch.ao.", "transformers.integrations.")):
        return True
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor):
        return weight.dtype not in _NUMBERS and not weight.is_complex()
    return any(not tensor.is_floating_point() for tensor in own)


def base_of(model: Any) -> Any:
    """The model below its head; the model itself where what the library calls so does not read the model's input."""
    base, name = getattr(model, "base_model", model), getattr(model, "main_input_name", "input_ids")
    # DINOv3's is a stack behind its embeddings.
    if name != "input_ids" and name not in inspect.signature(base.forward).parameters:
        return model
    return base


def is_encoder_decoder(model: Any) -> bool:
    """Whether the model runs two stacks, the second of which reads the first."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    # A stack that was taken out of such a model keeps its config.
    ends = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return any(end.endswith("decoder") for end in ends) and any(end.endswith("encoder") for end in ends)


def reads_one_text_twice(model: Any) -> bool:
    """Whether the model is an encoder–decoder that classifies one text, which it gives to both stacks."""
    return is_encoder_decoder(model) and type(model).__name__.endswith("ForSequenceClassification")


def reads_regions(model: Any) -> bool:
    """Whether the model reads vectors of regions of an image beside a text, as LXMERT does."""
    return {"input_ids", "visual_feats", "visual_pos"} <= set(inspect.signature(model.forward).parameters)


def reads_choices(model: Any) -> bool:
    """Whether the model takes several texts at once, [row, choice, position], and answers with one of them."""
    # By the name, since such classes of different families have no base class in common.
    return any(base.__name__.endswith("ForMultipleChoice") for base in type(model).__mro__)


def kind_of(model: Any) -> Kind | None:
    """The kind of a model that no row describes; None if it is not known."""
    if reads_one_text_twice(model):
        return Kind(
            "a classifier of an encoder–decoder",
            "the same text goes into both of its stacks, and its classes are read where the decoder's text ends, while a trace of two "
            "stacks has a text for each",
            "Take the model below its head, model.base_model, and give it the text twice: inputs(text=…, target_text=…)",
        )
    if is_encoder_decoder(model):
        return Kind(
            "an encoder–decoder",
            "its decoder is not built of blocks that attend to themselves, then to its encoder, and end with an MLP",
            "Its encoder alone, model.get_encoder(), may open",
        )
    if reads_choices(model):
        return Kind(
            "a classifier of choices",
            "it reads several texts at once, one for each choice, and a trace is of one text",
            "Take the model below its head, model.base_model (of a folder, what transformers.AutoModel opens), and trace the text "
            "of one choice",
        )
    inputs = input_kinds(type(model))
    if "text" not in inputs and medium_of(model) is None:
        name = next((_OTHER_INPUTS[kind] for kind in inputs if kind in _OTHER_INPUTS), "a model of other inputs")
        return Kind(name, f"it takes {_listed(inputs)}, and models of a text, an image or a sound are traced")
    if "text" not in inputs:
        return None
    found = _differing(model) or _mixed_otherwise(model) or _experts(model)
    if found is not None:
        return found
    if len(inputs) > 1:
        return Kind(
            f"a model of {_listed(inputs)}",
            "of such a model only text is taken, and its text part is built otherwise than any known family",
            _towers(model),
        )
    return None


def _towers(model: Any) -> str:
    """Advice to take one tower of a model that has several; empty where it has none."""
    names = [name for name, _ in model.named_children() if re.fullmatch(r"(vision|text|audio)_model", name)]
    return (
        f"Take one of its towers by itself: {' or '.join(f'model.{name}' for name in names)}" if len(names) > 1 else ""
    )


def input_kinds(kind: type) -> tuple[str, ...]:
    """Inputs of a class of transformers: ``"text"``, ``"image"``, ``"audio"``, ``"video"``, ``"time"``."""
    given = getattr(kind, "input_modalities", None) or ("text",)
    inputs = (given,) if isinstance(given, str) else tuple(given)
    # "text" is also what a class says that says nothing.
    return (_INPUT_NAMES.get(getattr(kind, "main_input_name", ""), "text"),) if inputs == ("text",) else inputs


def input_name(model: Any) -> str:
    """The argument that a model reads; some encoders take another one than their class says."""
    said = str(getattr(model, "main_input_name", "input_ids"))
    accepts = inspect.signature(model.forward).parameters
    return said if said in accepts else next((name for name in _INPUT_NAMES if name in accepts), said)


def image_token_of(model: Any) -> int | None:
    """Id of the token in whose places pieces of images stand; None where the config names none."""
    for name in ("image_token_id", "image_token_index"):
        found = getattr(model.config, name, None)
        if isinstance(found, int):
            return found
    return None


def medium_of(model: Any) -> Medium | None:
    """What a model reads; None where it is something else, or several things of which a text is not the main one."""
    name = input_name(model)
    if name == "input_ids":
        return "text"
    found: dict[str, Medium] = {"pixel_values": "image", "input_values": "audio", "input_features": "audio"}
    medium = found.get(name)
    # An encoder by itself may say the inputs of the model that it is part of.
    takes_text = any("input_ids" in parameter for parameter in inspect.signature(model.forward).parameters)
    said = set(input_kinds(type(model))) - (set() if takes_text else {"text"})
    return medium if medium is not None and said <= {medium} else None


def unread_head(model: Any) -> tuple[str, ...]:
    """Names of the modules beside the base model: heads that give something else than logits over a vocabulary."""
    base = base_of(model)
    if base is model:
        return ()
    return tuple(
        name
        for name, child in model.named_children()
        if child is not base and has_numbers(child) and not _holds(child, base)
    )


def has_numbers(module: nn.Module) -> bool:
    """Whether a module, or one inside it, has weights."""
    # Packed weights may be no parameters.
    return any(True for _ in module.parameters()) or any(map(shape_of, module.modules()))


def task_of(model: Any) -> str:
    """The task of a model with a head of its own, in words with an article."""
    from transformers.models.auto import modeling_auto

    kind = type(model).__name__
    for task, name in _TASKS.items():
        mapping = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {})
        if any(kind in ((names,) if isinstance(names, str) else names) for names in mapping.values()):
            return name
    return "a model with a head of its own"


def _differing(model: Any) -> Kind | None:
    """The kind of a model whose layers differ in size; its config raises an error when asked for one size."""
    config = model.config.get_text_config()
    for name in ("num_attention_heads", "head_dim", "hidden_size"):
        try:
            getattr(config, name, None)
        # transformers raises this where the sizes differ from layer to layer.
        except RuntimeError:
            return Kind(
                "a model whose layers differ in size",
                f"{name} is another from layer to layer, and all layers of what is traced have one",
            )
    return None


def _holds(module: nn.Module, other: nn.Module) -> bool:
    return any(part is other for part in module.modules())


def _mixed_otherwise(model: Any) -> Kind | None:
    """The kind of a model of transformers some of whose blocks have no attention; elsewhere names of classes say nothing."""
    if isinstance(model, Plain):
        return None
    blocks = _blocks(model)
    without = [i for i, block in enumerate(blocks) if not any(map(_is_attention, block.modules()))]
    # Where blocks are no modules of their own, as in XLM, attention stands beside what is taken for them.
    apart = len(without) == len(blocks) and any(map(_is_attention, model.modules()))
    if not without or apart:
        return None
    where = f"none of its {len(blocks)} blocks has any"
    if len(without) < len(blocks):
        where = f"blocks {_some(without)} of {len(blocks)} have none"
    return Kind(
        "a model with layers without attention",
        f"{where} (recurrent, convolutional or state-space layers), so there are no patterns to trace through them",
        "Take a model with attention in every layer",
    )


def _experts(model: Any) -> Kind | None:
    """The kind of a model some of whose MLPs are made of experts."""
    found = {
        i: type(module).__name__
        for i, block in enumerate(_blocks(model))
        for name, module in block.named_modules()
        if _EXPERTS.search(name) or "Experts" in type(module).__name__
    }
    if not found:
        return None
    return Kind(
        "a mixture of experts",
        f"the MLPs of blocks {_some(list(found))} are made of experts ({next(iter(found.values()))}), and a row describes an "
        "MLP with one output projection",
        "Take a dense model",
    )


def _is_attention(module: nn.Module) -> bool:
    name = type(module).__name__
    return bool(re.search(r"Attention|Attn", name)) and not _OTHER_MIXING.search(name)


def _blocks(model: Any) -> nn.ModuleList:
    """The stack of blocks: the list of modules with the most parameters in the text part."""
    lists = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        # Towers for images and audio have lists of blocks as well.
        and not re.search(r"vision|visual|image|audio|encoder\.(image|audio)|experts", name)
    ]
    return max(lists, key=_size, default=nn.ModuleList())


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _listed(words: tuple[str, ...] | list[str]) -> str:
    shown = [{"time": "time series", "image": "images", "video": "videos"}.get(word, word) for word in words]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:4])) + (", …" if len(numbers) > 4 else "")
