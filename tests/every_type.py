"""Every type of model that transformers can build, made tiny: which open, which are refused, and that nothing else happens.

``python -m tests.every_type`` builds each class of the mappings in :data:`TASKS` from its default config with the sizes made
small, loads it from memory and from a folder that it was saved into, traces what opens, and prints counts. It exits with 1
where an error that is not flowgraph's own came out, where memory and folder do not agree, where what was traced differs from
the model, or where loading changed the model. ``python -m tests.every_type bert whisper`` tries these types only.
"""

from __future__ import annotations

import copy
import inspect
import os
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from torch import nn
from transformers.models.auto import modeling_auto

import flowgraph
from flowgraph.models.eager import eager_attention
from flowgraph.models.media import probe_feed, regions

TASKS = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING",
    "pretraining": "MODEL_FOR_PRETRAINING_MAPPING",
    "sequences": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "speech": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
    "images and text": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "classifier": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "base": "MODEL_MAPPING",
    "images": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "letters from sound": "MODEL_FOR_CTC_MAPPING",
}
VOCABULARY = 320
IDS = [5, 17, 29, 41, 53, 65, 77]
_MOST_PARAMETERS = 6_000_000

_SIZES: dict[str, int] = {}
for _value, _names in {
    32: "hidden_size d_model n_embd dim embed_dim word_embed_proj_dim embedding_size emb_dim d_embed projection_dim "
    "out_hidden_size text_hidden_size mm_hidden_size word_embedding_dim moe_intermediate_size shared_intermediate_size "
    "shared_expert_intermediate_size moe_shared_expert_intermediate_size expert_ffn_hidden_size attention_hidden_size "
    "lru_width image_size",
    64: "hidden_dim intermediate_size n_inner d_ff d_inner ffn_dim ffn_hidden_size encoder_ffn_dim decoder_ffn_dim mlp_dim "
    "inner_dim intermediate_size_mlp dense_intermediate_size block_ff_dim max_source_positions max_target_positions "
    "vision_intermediate mamba_d_ssm expert_capacity",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads "
    "num_encoder_attention_heads num_decoder_attention_heads num_experts num_local_experts n_routed_experts "
    "moe_num_experts num_routed_experts mamba_dt_rank time_step_rank linear_num_value_heads linear_conv_kernel_dim "
    "laurel_rank rotary_dim prediction_length",
    2: "encoder_layers decoder_layers num_decoder_layers num_encoder_layers depth num_experts_per_tok "
    "num_experts_per_token moe_k moe_topk moe_top_k top_k_experts top_k num_selected_experts linear_num_key_heads "
    "type_vocab_size",
    3: "num_hidden_layers n_layer n_layers num_layers",
    8: "head_dim v_head_dim qk_nope_head_dim qk_rope_head_dim d_kv global_head_dim swa_head_dim sliding_window "
    "window_size attention_window local_attention patch_size mamba_d_state mamba_n_heads mamba_d_head mamba_num_heads "
    "mamba_head_dim state_size ssm_state_size mamba_chunk_size chunk_size linear_key_head_dim linear_value_head_dim "
    "hidden_size_per_layer_input rope_dim",
    16: "qk_head_dim q_lora_rank kv_lora_rank attention_chunk_size num_mel_bins",
    1: "n_group topk_group num_expert_group first_k_dense_replace mamba_n_groups num_kv_shared_layers feature_size",
    128: "max_position_embeddings n_positions max_seq_len max_sequence_length n_ctx seq_length context_length",
    VOCABULARY: "vocab_size bpe_vocab_size vocab_size_per_layer_input pronunciation_vocab_size shape_vocab_size entity_vocab_size",
}.items():
    _SIZES |= dict.fromkeys(_names.split(), _value)


_LINEAR = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
# Three stages of windows, the last of one window.
_WINDOWS = {"patch_size": 4, "window_size": 2, "depths": [2, 2, 2], "num_heads": [2, 4, 4], "embed_dim": 16}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    # Sizes that do not follow from others, and layers of each kind among the three.
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 1, "mask_token_id": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba"]},
    "qwen3_next": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_5_moe_text": _LINEAR,
    "qwen4_exp_text": _LINEAR,
    "cohere2": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "deepseek_v2": {"topk_method": "greedy", "num_experts_per_tok": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "zaya": {"num_experts_per_tok": 1},
    "xmod": {"default_language": "en_XX"},
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "donut-swin": _WINDOWS,
    "maskformer-swin": _WINDOWS,
}


@dataclass(frozen=True)
class Outcome:
    """What became of one model from one source.

    Attributes
    ----------
    task, model_type, kind
        Key of :data:`TASKS`, the config's type, and the class.
    source
        ``"memory"`` or ``"folder"``.
    result
        ``"opens"``, ``"opens, head not read"``, ``"opens, no head"``, ``"refused"`` or ``"fault"``.
    said
        The refusal's or the fault's text.
    unforeseen
        Whether the refusal stands for an error of another library, so its kind is not known better.
    level
        What is known of a model that opens, see :attr:`flowgraph.LoadedModel.level`.
    found
        Whether its parts were found by search, and not by a row.
    error, seconds
        Largest relative error of its identities at loading, and how long loading took.
    """

    task: str
    model_type: str
    kind: str
    source: str
    result: str
    said: str = ""
    unforeseen: bool = False
    level: str = ""
    found: bool = False
    error: float = 0.0
    seconds: float = 0.0


def classes(types: Mapping[str, Container[str]] | None = None) -> Iterator[tuple[str, str, Any, type]]:
    """(task, model type, config class, model class) of every type of :data:`TASKS`; of ``types``, task → types, only."""
    for task, mapping in TASKS.items():
        for model_type, names in getattr(modeling_auto, f"{mapping}_NAMES").items():
            if types is not None and model_type not in types[task]:
                continue
            first = names if isinstance(names, str) else names[0]
            try:
                config, model = transformers.CONFIG_MAPPING[model_type], getattr(transformers, first)
            except (ImportError, AttributeError, KeyError, RuntimeError, ValueError):
                continue  # needs a package that is not here, or is listed and does not exist
            if isinstance(model, type) and issubclass(model, transformers.PreTrainedModel):
                yield task, model_type, config, model


def small(kind: Any) -> Any:
    """A config of class ``kind`` with its default settings and small sizes, and what :data:`SETTINGS` says of its type."""
    default = kind()
    plain = default.to_dict()
    n_layers = plain.get("num_hidden_layers")
    settings: dict[str, Any] = {}
    for name, written in plain.items():
        # Whole configs inside are read as such; what differs by layer cannot be asked for.
        value = getattr(default, name, None) if isinstance(written, dict) else written
        if isinstance(value, transformers.PretrainedConfig):
            settings[name] = small(type(value)).to_dict()
        elif name == "num_key_value_heads" and value is not None:
            settings[name] = 4 if value == getattr(default, "num_attention_heads", None) else min(value, 2)
        elif name == "num_kv_shared_layers":
            settings[name] = int(bool(value))
        elif name in _SIZES and value is not None and not isinstance(value, bool):
            several = isinstance(value, (list, tuple))
            count = _SIZES["num_hidden_layers"] if several and len(value) == n_layers else several and len(value)
            settings[name] = [_SIZES[name]] * count if several else _SIZES[name]
        elif name.endswith(("_id", "_index", "_token_id")) and isinstance(value, int) and value >= VOCABULARY:
            settings[name] = 300 + zlib.crc32(name.encode()) % 15
    return kind(**settings | dict(SETTINGS.get(getattr(kind, "model_type", ""), {})))


def build(config_class: type, model_class: type) -> nn.Module | None:
    """A tiny random model; None where the shrunk config makes none, or one that is not tiny."""
    try:
        # The class may take one of the configs inside that of its type.
        config = small(getattr(model_class, "config_class", None) or config_class)
        with torch.device("meta"):
            weightless = model_class(copy.deepcopy(config))
        if sum(parameter.numel() for parameter in weightless.parameters()) > _MOST_PARAMETERS:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = model_class(config).float().eval()
    except Exception:  # whatever a config of these sizes makes the library say, there is no model to load
        return None
    # What is not saved, as tables of sines, is the same in every model of the type.
    fixed = tuple(getattr(model, "_keys_to_ignore_on_save", None) or ())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.is_floating_point() and not name.endswith(fixed):
                noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
                weight.add_(0.1 * noise)
    return model


def model_of(model_type: str, task: str = "causal") -> nn.Module:
    """A tiny model of one type, each time another copy; a test is skipped if the release has no such type."""
    return copy.deepcopy(_model_of(model_type, task))


@cache
def _model_of(model_type: str, task: str) -> nn.Module:
    for _, _, config_class, model_class in classes({**dict.fromkeys(TASKS, ()), task: (model_type,)}):
        model = build(config_class, model_class)
        assert model is not None, f"{model_type} is not built"
        assert sum(parameter.numel() for parameter in model.parameters()) <= _MOST_PARAMETERS
        return model
    import pytest

    return pytest.skip(f"this release of transformers has no {model_type}")


def tried(task: str, model_type: str, model: nn.Module, folder: Path | None) -> Outcome:
    """Load a model from memory, or from ``folder``, and trace it."""
    kind, source = type(model).__name__, "memory" if folder is None else "folder"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            begin = time.perf_counter()
            loaded = flowgraph.load_model(model if folder is None else folder)
            seconds = time.perf_counter() - begin
            # A masked model wants a mask or a position; others know theirs.
            places = loaded.anatomy.layout is not None or loaded.anatomy.readout is not None
            trace = flowgraph.trace(loaded, inputs_of(loaded), position=None if places else -1)
        except flowgraph.FlowgraphError as error:
            foreign = error.__cause__ is not None and not isinstance(error.__cause__, flowgraph.FlowgraphError)
            return Outcome(task, model_type, kind, source, "refused", f"{type(error).__name__}: {error}", foreign)
        except Exception as error:  # the very thing that is looked for
            return Outcome(task, model_type, kind, source, "fault", f"{type(error).__name__}: {error}")
    fault = _difference(model, loaded, trace)
    if fault:
        return Outcome(task, model_type, kind, source, "fault", fault)
    anatomy = loaded.anatomy
    head = "" if anatomy.has_head else ", head not read" if anatomy.unread_head else ", no head"
    return Outcome(
        task, model_type, kind, source, f"opens{head}", level=loaded.level, found=anatomy.is_found,
        error=max(loaded.proof.values()), seconds=seconds,
    )  # fmt: skip


def feed_of(loaded: flowgraph.LoadedModel) -> dict[str, torch.Tensor]:
    """What a model is traced with: some ids, or noise of the size that it takes."""
    if loaded.anatomy.layout is None:
        return {"input_ids": torch.tensor([IDS])}
    return probe_feed(loaded.model, None, len(IDS))


def inputs_of(loaded: flowgraph.LoadedModel) -> flowgraph.Inputs:
    """The same as inputs; of an encoder–decoder with some ids that its decoder has written, of LXMERT with regions of an image."""
    if loaded.anatomy.exchanges:
        return flowgraph.inputs({"input_ids": torch.tensor([IDS]), **regions(loaded.model, 5)})
    if loaded.anatomy.cross is None:
        return flowgraph.inputs(feed_of(loaded))
    return flowgraph.inputs(feed_of(loaded.stacks.get("encoder", loaded)), target_ids=IDS[:4])


def _difference(model: Any, loaded: flowgraph.LoadedModel, trace: flowgraph.Trace) -> str:
    """How the trace differs from what the model that was built says; empty where it does not."""
    if type(loaded.model) is not type(model) and not type(model).__name__.endswith("ForPreTraining"):
        return f"{type(model).__name__} opened as {type(loaded.model).__name__}"
    if not loaded.anatomy.has_head:
        return ""
    # The user's own attention may round otherwise, and of PaliGemma masks otherwise; what is traced is eager attention.
    with torch.no_grad(), eager_attention(model):
        # Some models cannot fill a cache for layers that do not attend.
        cached = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
        said = model(**trace.inputs.rows[0].feed(loaded), **cached)
    logits = (said.logits if hasattr(said, "logits") else said.prediction_logits)[0]
    logits = logits[-1] if logits.ndim == 2 else logits
    error = float((logits - trace.logits).abs().max() / logits.abs().max())
    return "" if error < 1e-4 else f"logits differ by {error:.1g}"


def _state(model: nn.Module) -> tuple[Any, ...]:
    """What loading must leave alone."""
    parts = [module.config for module in model.modules() if isinstance(module, transformers.PreTrainedModel)]
    return (
        [(name, weight.data_ptr(), weight._version, weight.dtype) for name, weight in model.named_parameters()],
        [name for name, module in model.named_modules() if module.training],
        [(config._attn_implementation, config.to_json_string()) for config in parts],
        [hook for module in model.modules() for hook in _hooks(module) if hook.__module__.startswith("flowgraph")],
    )


def _hooks(module: nn.Module) -> list[Any]:
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]


def outcomes(chosen: Iterator[tuple[str, str, type, type]], *, folders: bool = True) -> Iterator[Outcome]:
    """What becomes of each class, from memory and, unless told otherwise, from a folder."""
    seen: set[type] = set()
    for task, model_type, config_class, model_class in chosen:
        if model_class in seen:
            continue
        seen.add(model_class)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = build(config_class, model_class)
        if model is None:
            yield Outcome(task, model_type, model_class.__name__, "memory", "not built")
            continue
        before = _state(model)
        first = tried(task, model_type, model, None)
        if _state(model) != before:
            first = Outcome(task, model_type, model_class.__name__, "memory", "fault", "loading changed the model")
        yield first
        if not folders:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                model.save_pretrained(folder)
            except Exception as error:  # transformers cannot save some of its own models
                yield Outcome(task, model_type, model_class.__name__, "folder", "not saved", first_line(error))
                continue
            second = tried(task, model_type, model, Path(folder))
            # A pretraining class has two heads; its folder is opened as the masked language model that it holds.
            if second.result != first.result and not second.kind.endswith("ForPreTraining"):
                said = f"{first.result} from memory, {second.result} from a folder: {second.said or first.said}"
                second = Outcome(task, model_type, model_class.__name__, "folder", "fault", said)
            yield second


def first_line(error: BaseException) -> str:
    """The type of an error and what it says first."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def print_levels(found: list[Outcome]) -> None:
    """How many types of each task reach each level, of those that could be built."""
    for task in TASKS:
        of_task = [one for one in found if one.task == task and one.source == "memory" and one.result != "not built"]
        levels = Counter(one.level or "refused" for one in of_task)
        if of_task:
            print(
                f"{task:<20} {len(of_task):>4} built  "
                + "  ".join(f"{name} {count}" for name, count in levels.most_common())
            )


def table(found: list[Outcome]) -> Iterator[str]:
    """A table in Markdown with a row for each type that could be built, as it stands in docs/concepts/types.md."""
    yield "| task | type | level | parts | largest error | seconds |"
    yield "|---|---|---|---|---|---|"
    for one in found:
        if one.source != "memory" or one.result == "not built":
            continue
        opened = f"{one.level} | {'search' if one.found else 'row'} | {one.error:.0e} | {one.seconds:.2f}"
        yield f"| {one.task} | {one.model_type} | {opened if one.level else 'refused | | | '} |"


def main(types: list[str]) -> int:
    """Print what becomes of every type, or of those named; 1 where something is wrong. ``--table`` prints the table alone."""
    if types[:1] == ["--table"]:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        print(
            "\n".join(
                table(list(outcomes(classes(dict.fromkeys(TASKS, types[1:]) if types[1:] else None), folders=False)))
            )
        )
        return 0
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = []
    for outcome in outcomes(classes(dict.fromkeys(TASKS, types) if types else None)):
        found.append(outcome)
        if outcome.result == "fault" or outcome.unforeseen or types:
            mark = "unforeseen" if outcome.unforeseen else outcome.result
            print(f"{mark:<12} {outcome.source:<7} {outcome.kind}: {outcome.said[:300]}", flush=True)
    counts = Counter((outcome.task, outcome.source, outcome.result) for outcome in found)
    for (task, source, result), count in counts.items():
        print(f"{task:<20} {source:<7} {result:<22} {count}")
    faults = sum(outcome.result == "fault" for outcome in found)
    unforeseen = sum(outcome.unforeseen for outcome in found)
    print_levels(found)
    print(f"{len(found)} outcomes, {faults} faults, {unforeseen} refusals that stand for another library's error")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
