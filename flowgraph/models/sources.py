"""Models from a known name, a folder or the hub. Files are read as data; code that comes with them never runs.

The hub is asked only for a name that could be one of its own, and is neither a known name nor a path.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
import json
import os
import re
import shutil
import socket
import struct
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import ArchitectureError, ArgumentError, FileFormatError, FlowgraphError, UnknownModelError
from .bars import no_bars
from .known import KNOWN_MODELS, fetch
from .options import Options, require
from .wheel import Progress

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?", re.ASCII)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack")
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "tekken*")
# Reading files of unknown making fails in as many ways as they can be damaged.
_UNREADABLE = (
    ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    SafetensorError, StrictDataclassError, struct.error,
)  # fmt: skip
_KNOWN_PACKINGS = ("bitsandbytes", "torchao")
_EIGHT_BITS = ("I8", "U8", "F8_E4M3", "F8_E5M2")
_MASK = re.compile(r"(^|\.)(attn|attention)\.(attention\.)?(masked_)?bias$")
"""Causal masks that GPTs used to save as a bias of the attention itself, beside the biases of its linear layers."""
_BESIDE = re.compile(r"(^|\.)(pooler|cls\.seq_relationship|sop_classifier)\.")
"""Modules that read the last state beside a language model's head: BERT's pooler, and on top of it the classifier of next
sentences or of their order. They change nothing before the last state."""


@dataclass(frozen=True)
class Opened:
    """What was opened: the model under its name, its tokenizer and its processor, None where there is none.

    ``is_fresh`` says that nothing has changed the model's modules since its class made them from files, ``files`` which files these
    are; empty where that is not known.
    """

    name: str
    model: Any
    tokenizer: Any
    processor: Any
    is_fresh: bool = False
    files: str = ""


def open_model(
    name_or_path: str | Path,
    dtype: torch.dtype | str,
    options: Options,
    place: torch.device,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    progress: Progress | None = None,
) -> Opened:
    """A known name, a folder or a hub name, opened where the options say.

    Parameters
    ----------
    name_or_path
        A known name comes before a folder of the same name; ``./name`` and a ``Path`` are folders.
    dtype
        Number type, or ``"auto"`` for the file's own.
    options
        How the files are opened.
    place
        Device of the whole model, where the options have no map of devices.
    tokenizer, processor
        Taken instead of the folder's own, which are then not read.
    progress
        Told the stages of fetching a known model.

    Raises
    ------
    ArgumentError, UnknownModelError, FileFormatError, ArchitectureError, FetchError
        As for :func:`flowgraph.load_model`.
    """
    text = str(name_or_path)
    given = Opened(text, None, tokenizer, processor)
    if isinstance(name_or_path, str) and text in KNOWN_MODELS:
        for option in ("revision", "subfolder"):
            options.refuse(option, f"{text!r} is a known model, which is one pinned version")
        return _read_folder(fetch(text, progress=progress), dtype, options, place, given)
    there = _existing(text)
    if there is not None and there.is_dir():
        options.refuse("revision", f"{text!r} is a folder on this machine")
        folder = _inside(there, options.subfolder)
        return _read_folder(folder, dtype, options, place, replace(given, name=folder.resolve().name or str(folder)))
    if there is not None and there.suffix.lower() == ".gguf":
        for option in ("revision", "subfolder", "quantization_config"):
            options.refuse(option, f"{text!r} is one file, whose weights are unpacked when they are read")
        return _read_gguf(there, dtype, options, replace(given, name=there.stem))
    if there is not None:
        raise UnknownModelError(
            f"{text!r} is a file; a model is a folder with config.json and *.safetensors in it, or a file that ends in .gguf"
        )
    if isinstance(name_or_path, Path) or _is_path(text):
        raise UnknownModelError(f"there is no folder {text!r}{nearest(text)}")
    return _read_hub(text, dtype, options, place, given)


def _inside(folder: Path, subfolder: str | None) -> Path:
    """A folder inside a folder, which it does not leave."""
    if subfolder is None:
        return folder
    inner = folder / subfolder
    if not inner.resolve().is_relative_to(folder.resolve()):
        raise ArgumentError(
            f"subfolder={subfolder!r} leads out of {str(folder)!r}; expected a folder inside it, such as 'text_encoder'"
        )
    if not inner.is_dir():
        raise UnknownModelError(f"there is no folder {subfolder!r} in {str(folder)!r}")
    return inner


def nearest(text: str) -> str:
    """The known names that a name may have been meant for, as the end of a message."""
    near = difflib.get_close_matches(text.lower().rpartition("/")[2], KNOWN_MODELS, n=2, cutoff=0.5)
    if near:
        return f". Did you mean {' or '.join(map(repr, near))}?"
    return f". Known names are {', '.join(map(repr, KNOWN_MODELS))}"


def first_line(error: BaseException) -> str:
    """First line of an error's text; with the second line if the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _existing(text: str) -> Path | None:
    """The path if something exists there; None otherwise, or if the text cannot be a path."""
    try:
        place = Path(text).expanduser()
        return place if text.strip() and place.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, no such user behind ~, a null byte
        return None


def _is_path(text: str) -> bool:
    """Whether a text that names nothing here is still a path; the hub is then not asked."""
    folder, slash, _ = text.rpartition("/")
    return not _HUB_NAME.fullmatch(text) or (bool(slash) and _existing(folder) is not None)


def _read_folder(
    folder: Path, dtype: torch.dtype | str, options: Options, place: torch.device, given: Opened
) -> Opened:
    _check_folder(folder, options)
    files = _files_of(folder)  # before they are read: what is written meanwhile is something else
    with _readable(f"the model in {str(folder)!r}"):
        model = _pretrained(str(folder), dtype, options, place, local_files_only=True)
        if not hasattr(model.config, "quantization_config"):
            _refuse_packed(folder)
    tokenizer, processor = given.tokenizer, given.processor
    if tokenizer is None and any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        with _readable(f"the tokenizer in {str(folder)!r}"):
            tokenizer = _pretrained_tokenizer(str(folder), options, local_files_only=True)
    if processor is None and any((folder / name).is_file() for name in _PROCESSOR_FILES):
        processor = _pretrained_processor(str(folder), options, local_files_only=True)
    return Opened(given.name, model, tokenizer, processor, files=files)


def _files_of(folder: Path) -> str:
    """What the weights of a folder are: name, size and time of each file; a file that is written anew has another time."""
    found = sorted(folder.glob("*.safetensors"))
    seen = [(str(one.resolve()), one.stat()) for one in found]
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}" for name, stat in seen)


def _read_gguf(file: Path, dtype: torch.dtype | str, options: Options, given: Opened) -> Opened:
    """A model from a GGUF file, through transformers' own reader; its weights are unpacked into plain numbers."""
    import transformers

    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    with _readable(f"the GGUF file {str(file)!r}"):
        config = transformers.AutoConfig.from_pretrained(str(file.parent), trust_remote_code=False, **where)
        kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        if kind is None:
            raise ArchitectureError(
                f"{str(file)!r} is of type {config.model_type!r}, of which transformers has no language model of one stack"
            )
        said = {} if options.device_map is None else {"device_map": options.device_map}
        with no_bars(), _offloading(options) as (folder, keep):
            model, report = kind.from_pretrained(
                str(file.parent), config=config, dtype=dtype, output_loading_info=True, **where, **said, **folder
            )
            keep(model)
        _check_report(str(file), model, report)
    tokenizer = given.tokenizer
    if tokenizer is None:
        with _readable(f"the tokenizer in {str(file)!r}"), no_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(file.parent), trust_remote_code=False, **where)
    return replace(given, model=model, tokenizer=tokenizer)


def _check_folder(folder: Path, options: Options) -> None:
    """Refuse a folder that the library would misread, unpickle, or ask the hub or the user about."""
    if (folder / "adapter_config.json").is_file():
        raise ArchitectureError(
            f"the folder {str(folder)!r} holds an adapter (adapter_config.json), not a whole model: open its base model with "
            "adapter=folder, or merge it once, with "
            "PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(other_folder)"
        )
    if not (folder / "config.json").is_file():
        raise FileFormatError(f"the folder {str(folder)!r} has no config.json, so it is not a Hugging Face model")
    _check_config(folder / "config.json", options)
    if not any(folder.glob("*.safetensors")):
        other = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        raise FileFormatError(
            f"the folder {str(folder)!r} has no *.safetensors; found {', '.join(other) or 'no weights'}. Pickled weights "
            "can run code when they are opened and are never read here: convert them once, with "
            "AutoModel.from_pretrained(folder).save_pretrained(other_folder)"
        )


def _check_config(file: Path, options: Options) -> None:
    import transformers

    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{str(file)!r} is damaged, it is not JSON: {first_line(error)}") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str):
        raise FileFormatError(f"{str(file)!r} names no model_type, so it does not say what model this is")
    own = code_of(config)
    if options.trust_remote_code and own:
        elsewhere = [reference for reference in own.values() if "--" in reference]
        if elsewhere:
            raise ArchitectureError(
                f"{str(file)!r} takes its code from the hub ({', '.join(elsewhere)}), which is not asked for a folder; put the "
                "Python files into the folder, or open the model by its name on the hub"
            )
        return
    if model_type not in transformers.CONFIG_MAPPING:
        said = ", ".join(sorted(set(own.values())))
        code = (
            f"It brings Python code of its own (auto_map: {said}), which is not run unless you say "
            "trust_remote_code=True. That code can do on this machine whatever you can: read it first, and say so only of files "
            "that you trust"
            if own
            else "A newer release may; otherwise build the model yourself and pass (model, tokenizer)"
        )
        raise ArchitectureError(
            f"{str(file)!r} says model_type {model_type!r}, which transformers {transformers.__version__} does not know. {code}"
        )


def code_of(config: Any) -> dict[str, str]:
    """Auto class → file and class of the Python code that a model brings; empty for a model without code of its own."""
    found = config.get("auto_map") if isinstance(config, dict) else getattr(config, "auto_map", None)
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except FlowgraphError:
        raise
    except _UNREADABLE as error:
        raise FileFormatError(f"{what} cannot be read: {first_line(error)}") from error


def _read_hub(name: str, dtype: torch.dtype | str, options: Options, place: torch.device, given: Opened) -> Opened:
    offline = not _hub_answers()
    # Only where it is given: without one the library's own default is taken.
    said = {"revision": options.revision, "subfolder": options.subfolder}
    files = {"local_files_only": offline, **{key: value for key, value in said.items() if value is not None}}
    try:
        model = _pretrained(name, dtype, options, place, **files)
        tokenizer = given.tokenizer
        if tokenizer is None:
            tokenizer = _pretrained_tokenizer(name, options, **files)
        processor = given.processor
        if processor is None and any(_has_file(name, file, files) for file in _PROCESSOR_FILES):
            processor = _pretrained_processor(name, options, **files)
        commit = getattr(model.config, "_commit_hash", None)
        return Opened(name, model, tokenizer, processor, files=f"{name} {options.subfolder} {commit}" if commit else "")
    except FlowgraphError:
        raise
    except _UNREADABLE as error:
        hub = "the Hugging Face hub cannot be reached from here" if offline else f"the hub says: {first_line(error)}"
        at = "" if options.revision is None else f" at revision {options.revision!r}"
        raise UnknownModelError(
            f"{name!r}{at} is not a known model, not a folder and not among the hub's files on this machine, and "
            f"{hub.rstrip('.')}{nearest(name)}"
        ) from error


def _has_file(name: str, file: str, files: Mapping[str, Any]) -> bool:
    """Whether a repository of the hub holds a file."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        name, file, **files, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return found is not None


def _hub_answers() -> bool:
    """Whether the hub's host can be reached: the hub's own client would try five times before it says no."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    # A proxy answers for the hub: the host itself may be out of reach.
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout=5):
            return True
    except OSError:
        return False


def _pretrained(source: str, dtype: torch.dtype | str, options: Options, place: torch.device, **files: Any) -> Any:
    # Said aloud, because without it the library asks on the terminal whether to run the model's own code.
    files["trust_remote_code"] = False
    import transformers

    if options.trust_remote_code:
        plain, _ = transformers.PretrainedConfig.get_config_dict(source, **files)
        own = code_of(plain)
        if own:
            _warn_of_code(source, own)
            files["trust_remote_code"] = True
    config = transformers.AutoConfig.from_pretrained(source, **files)
    is_packed = options.quantization_config is not None or _is_packed(source, config)
    said: dict[str, Any] = {"config": config, "dtype": dtype, "use_safetensors": True, **files}
    kind = _opened_class(_saved_class(source, config, files), config)
    if options.device_map is not None:
        said["device_map"] = options.device_map
    if options.quantization_config is not None:
        said["quantization_config"] = options.quantization_config
    if is_packed:
        require("accelerate", "quantised", "a quantised model")
        said.setdefault("device_map", {"": place})
    # Sizes that do not fit are reported, and refused by name.
    with no_bars(), _offloading(options) as (folder, keep):
        try:
            model, report = kind.from_pretrained(
                source, output_loading_info=True, ignore_mismatched_sizes=True, **said, **folder
            )
        except (ImportError, TypeError, ValueError, KeyError, AttributeError) as error:
            if not is_packed:
                raise
            how = "as it is packed" if options.quantization_config is None else f"with {options.quantization_config!r}"
            raise ArgumentError(
                f"{source!r} cannot be opened {' '.join(how.split())} here: {first_line(error)}"
            ) from error
        keep(model)
    options.check_names([name for name, _ in (*model.named_modules(), *model.named_parameters()) if name])
    _check_report(source, model, report)
    return model


@contextmanager
def _offloading(options: Options) -> Iterator[tuple[dict[str, str], Callable[[Any], None]]]:
    """A folder for weights that the library has to write anew before it can leave them on disk, as those of experts.

    It lives as long as the model that it is kept for.
    """
    if options.device_map is None:
        yield {}, lambda _model: None
        return
    folder = tempfile.mkdtemp(prefix="flowgraph-offload-")
    kept: list[Any] = []
    try:
        yield {"offload_folder": folder}, kept.append
    finally:
        if kept and any(Path(folder).iterdir()):
            weakref.finalize(kept[0], shutil.rmtree, folder, ignore_errors=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _warn_of_code(source: str, own: Mapping[str, str]) -> None:
    warnings.warn(
        f"trust_remote_code=True: Python code that comes with {source!r} is run now ({', '.join(sorted(set(own.values())))}); it can "
        "do on this machine whatever you can",
        stacklevel=2,
    )


def _is_packed(source: str, config: Any) -> bool:
    """Whether a config says that the weights are packed; a packing that is not known here is refused."""
    said = getattr(config, "quantization_config", None)
    if said is None:
        return False
    method = said.get("quant_method") if isinstance(said, dict) else getattr(said, "quant_method", None)
    if getattr(method, "value", method) in _KNOWN_PACKINGS:
        return True
    raise ArchitectureError(
        f"{source!r} is a quantised model (quantization_config in its config, quant_method "
        f"{getattr(method, 'value', method)!r}): its weights are packed in a way that is not known here, and the model cannot be taken apart "
        f"into them; known are {' and '.join(_KNOWN_PACKINGS)}. Take the unquantised model, or dequantise this one yourself and save it: model.dequantize().save_pretrained(folder)"
    )


def _refuse_packed(folder: Path) -> None:
    """Refuse weights of eight bits without a config for them: the library would read them as plain numbers, without scales."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                # The type is in the header, so no tensor is read.
                kind = tensors.get_slice(key).get_dtype()
                if key.endswith((".weight", ".bias")) and not _MASK.search(key) and kind in _EIGHT_BITS:
                    raise ArchitectureError(
                        f"{str(folder)!r} is a quantised model ({key} is saved as {kind}), whose config has no "
                        "quantization_config: its numbers mean nothing without their scales. Take the unquantised model, or "
                        "dequantise this one yourself and save it"
                    )


def _saved_class(source: str, config: Any, files: Mapping[str, Any]) -> Any:
    """The class that the config says the weights were saved with: of transformers, or of trusted code that comes with them."""
    import transformers

    said = config.architectures
    named = [said] if isinstance(said, str) else said or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise FileFormatError(
            f"the config of {source!r} names {said!r} as its architectures; expected a list of names of classes, such as "
            '["LlamaForCausalLM"]'
        )
    if not named:
        raise ArchitectureError(
            f"the config of this {config.model_type!r} model names no architectures, so it does not say whether its weights "
            'hold a head; add for example "architectures": ["LlamaForCausalLM"] to its config.json'
        )
    own = [reference for reference in code_of(config).values() if reference.rpartition(".")[2] == named[0]]
    if files["trust_remote_code"] and own:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        places = {key: value for key, value in files.items() if key in ("local_files_only", "revision")}
        return get_class_from_dynamic_module(own[0], source, **places)
    kind: Any = getattr(transformers, named[0], None)
    # A base class that runs nothing, such as PreTrainedModel itself, holds no weights.
    is_class = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    is_model = is_class and getattr(kind, "forward", None) is not nn.Module.forward
    if not is_model:
        raise ArchitectureError(
            f"{source!r} was saved as {named[0]!r} (architectures in its config), which is no model class of transformers "
            f"{transformers.__version__}. Code that comes with a model is not run unless you say trust_remote_code=True: build the "
            "model yourself and pass (model, tokenizer), or name the class that its weights fit in config.json"
        )
    if not _go_together(config, kind):
        raise FileFormatError(
            f"the config of {source!r} contradicts itself: model_type {config.model_type!r} and architectures "
            f"{named[0]!r}, which is of type {kind.config_class.model_type!r}"
        )
    return kind


def _go_together(config: Any, kind: Any) -> bool:
    """Whether a class is made for a config, or transformers lists it for the config's type, as Llama's class for EXAONE."""
    from transformers.models.auto import modeling_auto

    if not isinstance(kind.config_class, type) or isinstance(config, kind.config_class):
        return True
    listed = (
        names.get(config.model_type, ())
        for name, names in vars(modeling_auto).items()
        if name.endswith("_MAPPING_NAMES")
    )
    return any(kind.__name__ in ((names,) if isinstance(names, str) else names) for names in listed)


def _opened_class(kind: Any, config: Any) -> Any:
    """The class itself; the masked model for a pretraining class with a second head beside the one over the vocabulary.

    BERT's pretraining class has two heads with separate outputs: the one over the vocabulary is read, the other is named as
    unused.
    """
    import transformers

    masked = transformers.MODEL_FOR_MASKED_LM_MAPPING.get(type(config), None)
    if masked is None or not kind.__name__.endswith("ForPreTraining"):
        return kind
    with torch.device("meta"):  # its parts without their numbers
        parts = kind(copy.deepcopy(config))
    return kind if parts.get_output_embeddings() is None else masked


def _absent(report: Mapping[str, Any]) -> list[str]:
    """Weights that the folder lacks. A pooler reads the last state beside the head, and no result here reads it."""
    wrong_size = {str(key[0]) for key in report["mismatched_keys"]}
    return sorted(key for key in report["missing_keys"] if key not in wrong_size and not _BESIDE.search(key))


def _check_report(source: str, model: Any, report: Mapping[str, Any]) -> None:
    """Refuse a folder that does not hold the whole model; name the weights that are missing, of another size, or left over."""
    kind = type(model).__name__
    named = "the class its config names" if kind in (model.config.architectures or ()) else "the class it is opened as"
    left = sorted(str(key) for key in report["unexpected_keys"])
    own = {name for name, _ in model.named_buffers()}
    # What the class makes itself, and once saved, is no weight: masks, position ids, rotary angles.
    left = [
        key
        for key in left
        if not _MASK.search(key) and not any(key.endswith(name) or name.endswith(key) for name in own)
    ]
    beside = [key for key in left if _BESIDE.search(key)]
    unused = [key for key in left if key not in beside]
    for keys, fault in (
        (_absent(report), f"lacks weights that {kind} needs, and random ones would stand in for them"),
        (
            sorted(str(key[0]) for key in report["mismatched_keys"]),
            f"has other sizes than its config says of weights that {kind} needs",
        ),
        (
            unused,
            f"holds weights that {kind}, {named}, does not use, so it would be another model than was saved",
        ),
    ):
        if keys:
            raise FileFormatError(f"{source!r} {fault}: {', '.join(keys[:5])}{' …' if len(keys) > 5 else ''}")
    if beside:
        warnings.warn(
            f"{source!r} is opened as {kind}, which does not use {', '.join(beside)}: they read the last state beside the "
            "head, and nothing shown here depends on them",
            stacklevel=2,
        )


def _pretrained_tokenizer(source: str, options: Options, **files: Any) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=options.trust_remote_code, **files)


def _pretrained_processor(source: str, options: Options, **files: Any) -> Any:
    """The processor of images, sound and text that lies beside a model; None, with a warning, where it cannot be made here."""
    import transformers

    said: list[str] = []
    for kind in (transformers.AutoProcessor, transformers.AutoImageProcessor, transformers.AutoFeatureExtractor):
        try:
            found = kind.from_pretrained(source, trust_remote_code=options.trust_remote_code, **files)
        except _UNREADABLE as error:
            said.append(first_line(error))
            continue
        # Where only a tokenizer is found it is returned as such.
        if not isinstance(found, transformers.PreTrainedTokenizerBase):
            return found
    missing = importlib.util.find_spec("PIL") is None
    needed = ", which may need pillow (pip install 'transformer-flowgraph[media]')" if missing else ""
    warnings.warn(
        f"the processor beside {source!r} cannot be made here ({said[0] if said else 'only its tokenizer is found'}){needed}, so images "
        "and sound are not prepared for the model; pass processor=, or what it would give",
        stacklevel=2,
    )
    return None
