"""Loading: from a name, a folder or a model in memory to a :class:`LoadedModel` whose parts are found and proved."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import ArchitectureError
from .cautions import warn_of_attention, warn_of_parts, warn_of_replaced
from .discovery import found_stages
from .eager import share_lock
from .given import check_device, check_processor, fitting_tokenizer, number_type_of, split_pair, usable_tokenizer
from .kept_proof import Proof
from .loaded import LoadedModel
from .media import layout_of
from .opening import open_files, open_in_memory
from .options import Options
from .proving import errors_of, prove_opened
from .sources import Opened
from .stacks import SOURCE, encoder_of
from .vocabulary import Vocabulary
from .wheel import Progress


def load_model(
    name_or_path_or_model: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    device_map: Any = None,
    quantization_config: Any = None,
    revision: str | None = None,
    subfolder: str | None = None,
    trust_remote_code: bool = False,
    adapter: str | Path | None = None,
    progress: Progress | None = None,
) -> LoadedModel:
    """Load a model and prove that its parts are understood.

    Parameters
    ----------
    name_or_path_or_model
        ``"smollm2"`` or another known name (``flowgraph models`` lists them); a local folder in Hugging Face's layout; a GGUF
        file, whose weights are unpacked;
        a name on the Hugging Face hub, the only case in which the hub is asked; a model in memory (of one that torch.compile
        made, the module that it was made of); a module of torch of your own whose forward takes token ids; a
        ``(model, tokenizer)`` pair; or a :class:`LoadedModel`, which is returned as it is.
    tokenizer
        For a model in memory; a tokenizer of transformers, or a ``tokenizers.Tokenizer``, which is wrapped. Without one,
        prompts are given as token ids.
    processor
        What prepares images and sound for the model: a processor, image processor or feature extractor of transformers. Without
        one, that of the folder is taken where it holds one.
    device
        ``"auto"``: a model in memory stays where it is, others go to cuda where there is one, else to the CPU.
    dtype
        Number type, as ``torch.float16`` or ``"float16"``; ``"auto"`` takes the file's own. None: float32 for files, as it
        is for a model in memory. A model in memory is not changed: one of another device or number type is copied first.
    device_map
        In place of ``device``: where the parts of a model from files are put, as transformers has it: ``"auto"``, or a dictionary
        from names of modules to devices, ``"cpu"`` or ``"disk"``. Needs accelerate (the extra ``offload``).
    quantization_config
        How the weights of files are packed, as transformers has it.
    revision
        Branch, tag or commit of a hub's repository, as training checkpoints have them: ``"step1000"``. Config, weights and
        tokenizer are taken from it. Only for a name on the hub.
    subfolder
        Folder inside the model's folder or repository that holds the files.
    trust_remote_code
        Whether Python code that comes with the files is run. It can do whatever you can; without it such files are refused.
    adapter
        Folder of a LoRA adapter that is added to the weights. Needs peft (the extra ``adapters``).
    progress
        Called with a stage and a fraction (or None) while a known model is fetched.

    Raises
    ------
    ArgumentError
        If the model is none of these, or an option contradicts another or what is opened.
    UnknownModelError
        If there is no such name, folder or revision.
    ArchitectureError
        If no family's row fits (the message says what kind of model it is), or an identity that proves it fails.
    FileFormatError
        If the folder holds no safetensors weights, or they are damaged, incomplete or not all used by the class that its
        config names.
    FetchError
        If a known model cannot be fetched.
    DeviceError
        If the device does not exist here.
    NonFiniteError
        If the weights hold NaN.

    Warns
    -----
    UserWarning
        If the model ends in a head that is not read, such as a classifier's, if weights of the files are not used, if code of the
        files is run, or if the processor beside them cannot be made.

    Examples
    --------
    >>> model = fg.load_model("smollm2")
    >>> model.anatomy.n_heads, model.anatomy.d_model
    (9, 576)
    >>> model.anatomy.wiring
    'sequential'
    """
    options = Options(device_map, quantization_config, revision, subfolder, trust_remote_code, adapter)
    options.check(name_or_path_or_model, device)
    if isinstance(name_or_path_or_model, LoadedModel):
        return name_or_path_or_model
    given, tokenizer = split_pair(name_or_path_or_model, tokenizer)
    check_processor(processor)
    number_type = number_type_of(dtype)
    check_device(device)
    beside = (usable_tokenizer(tokenizer), processor)
    if not isinstance(given, (str, Path)):
        return _attach(open_in_memory(given, device, number_type, beside))
    opened, added = open_files(given, device, number_type, beside, options=options, progress=progress)
    loaded = _attach(opened, revision)
    return loaded if added is None else replace(loaded, adapter=added)


def _attach(opened: Opened, revision: str | None = None) -> LoadedModel:
    """The model with its parts found and proved; what is not as it seems is warned of."""
    name, model = opened.name, opened.model
    stacks = _encoder(opened)
    proved = prove_opened(opened, {part: one.anatomy for part, one in stacks.items()})
    anatomy, own = proved.anatomy, proved.own_attention
    tokenizer, rows = fitting_tokenizer(opened.tokenizer, name, anatomy)
    warn_of_parts(name, anatomy, stacklevel=4)
    warn_of_replaced(name, proved.replaced, stacklevel=4)
    warn_of_attention(name, own, stacklevel=4)
    made = LoadedModel(
        name, model, tokenizer, anatomy, Vocabulary(tokenizer, rows), proved.proof, revision, own, opened.processor, stacks=stacks,
        _proved_hooks=[proved.hooks],
    )  # fmt: skip
    if anatomy.exchanges:
        made = replace(made, stacks=_exchanging(made))
    return made if not anatomy.stack.windows else replace(made, stages=_stages(made))


def _encoder(opened: Opened) -> dict[str, LoadedModel]:
    """The encoder that a decoder reads, as a model by itself; empty for a model of one stack, or if it cannot be traced."""
    encoder = encoder_of(opened.model)
    if encoder is None:
        return {}
    share_lock(opened.model, encoder)
    try:
        if not hasattr(encoder, "config"):
            raise ArchitectureError(f"{type(encoder).__name__} is no model by itself, it has no config")
        found = _attach(replace(opened, name=f"{opened.name} {SOURCE}", model=encoder))
    except ArchitectureError as error:
        warnings.warn(
            f"the encoder of {opened.name!r} is not traced, and what is drawn ends at its last states: {error}",
            stacklevel=4,
        )
        return {}
    # Of several stages the decoder reads the last one's states.
    return {SOURCE: [found, *found.stages.values()][-1]}


def _exchanging(loaded: LoadedModel) -> dict[str, LoadedModel]:
    """The stacks that read each other in the same layers, by name."""
    return {
        part: replace(
            loaded, name=f"{loaded.name} {part}", tokenizer=None, anatomy=one, vocabulary=Vocabulary(None, 0), stacks={},
            _proved_hooks=[*loaded._proved_hooks], _wide={}, _digests={},
        )
        for part, one in loaded.anatomy.sources.items()
    }  # fmt: skip


def _stages(loaded: LoadedModel) -> dict[str, LoadedModel]:
    """The stages of a model that attends within windows, by name."""
    stages = {}
    with loaded.lock:
        found = found_stages(loaded.model, loaded.anatomy.stack.reason, errors_of)
        for n, one in enumerate(found, start=1):
            if isinstance(one, str):
                warnings.warn(f"stage {n} of {loaded.name!r} is not among model.stages: {one}", stacklevel=4)
                continue
            anatomy, proof = one
            layout, proved = layout_of(anatomy)
            name = f"{loaded.name} stage {n}"
            stages[f"stage {n}"] = replace(
                loaded, name=name, anatomy=replace(anatomy, layout=layout), proof=Proof(proof | proved)
            )
    return stages
