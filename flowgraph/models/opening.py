"""From files or a model in memory to a model that has its weights, its device and its number type, before its parts are found."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ArchitectureError, ArgumentError
from .adapters import Adapter, add_adapter
from .given import available_device
from .kinds import quantised
from .options import Options
from .parameters import is_away, is_in_place, packing_of
from .plain import form_of
from .sources import Opened, first_line, open_model
from .wheel import Progress


def open_files(
    source: str | Path,
    device: str | torch.device,
    number_type: torch.dtype | str | None,
    beside: tuple[Any, Any],
    *,
    options: Options,
    progress: Progress | None,
) -> tuple[Opened, Adapter | None]:
    """Open a model from files, with the adapter that is added to its weights; ``beside`` is a tokenizer and a processor.

    Raises
    ------
    ArgumentError, DeviceError
        As :func:`flowgraph.load_model` says, and what :func:`flowgraph.models.sources.open_model` raises.
    """
    for place in options.places:
        available_device(place)
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    where = available_device(wanted)
    tokenizer, processor = beside
    opened = open_model(
        source,
        number_type or torch.float32,
        options,
        where,
        tokenizer=tokenizer,
        processor=processor,
        progress=progress,
    )
    opened = replace(opened, is_fresh=True)
    _check_weights(opened.model)
    # What is packed, or spread over devices, has its place.
    if options.device_map is None and not any(map(packing_of, opened.model.modules())):
        opened = replace(opened, model=opened.model.to(where))
    return (opened, None) if options.adapter is None else _with_adapter(opened, options.adapter)


def open_in_memory(
    given: Any, device: str | torch.device, number_type: torch.dtype | str | None, beside: tuple[Any, Any]
) -> Opened:
    """A model in memory on the device and in the number type that are asked for; ``beside`` is a tokenizer and a processor.

    Raises
    ------
    ArgumentError
        If it is no module, or cannot be converted.
    """
    if not isinstance(given, nn.Module):
        raise ArgumentError(
            f"load_model got {type(given).__name__}; expected a name, a folder, a Hugging Face model, a module of "
            "torch or a (model, tokenizer) pair"
        )
    # A compiled model runs the module that it was made of, whose parts have names.
    model: Any = getattr(given, "_orig_mod", given)
    name = type(model).__name__
    if not hasattr(model, "get_input_embeddings"):
        model = form_of(model)
    _check_weights(model)
    place = None if device == "auto" else available_device(device)
    model = _converted(model, place, number_type if isinstance(number_type, torch.dtype) else None)
    return Opened(name, model, *beside)


def _with_adapter(opened: Opened, adapter: str | Path) -> tuple[Opened, Adapter]:
    """The model with an adapter added to its weights."""
    if not all(map(is_in_place, opened.model.modules())):
        raise ArgumentError(
            f"adapter={str(adapter)!r} is added to weights, and those of {opened.name!r} are packed, or not in memory; open it "
            "unquantised and without offloading"
        )
    added = add_adapter(opened.model, adapter)
    return replace(opened, name=f"{opened.name}+{added.name}", model=added.model, files=""), added


def _check_weights(model: Any) -> None:
    """Refuse weights that are missing, or packed in a way that is not known."""
    kind = type(model).__name__
    # Merging takes the adapters' layers out again, whatever attributes it leaves on the model.
    if any(type(module).__module__.startswith("peft.") for module in model.modules()):
        raise ArchitectureError(
            f"{kind} carries adapters that are not merged; call model = model.merge_and_unload() first"
        )
    packed = quantised(model)
    if packed is not None:
        raise ArchitectureError(f"{kind} is {packed.name}: {packed.why}. {packed.advice}")
    gone = (part for part in model.modules() if not is_away(part))
    if any(parameter.is_meta for part in gone for parameter in part.parameters(recurse=False)):
        raise ArgumentError(
            f"{kind} has parameters on the 'meta' device, which holds no numbers, and nothing brings them in; load the weights, "
            "without init_empty_weights"
        )


def _converted(model: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """The model itself if it has the device and number type; otherwise a copy, because the user keeps theirs."""
    wrong_place = device is not None and any(p.device != device for p in model.parameters())
    wrong_type = dtype is not None and any(p.is_floating_point() and p.dtype != dtype for p in model.parameters())
    if not wrong_place and not wrong_type:
        return model
    if not all(map(is_in_place, model.modules())):
        raise ArgumentError(
            f"weights of {type(model).__name__} are packed, or kept elsewhere by accelerate, so it is not converted here; leave device= and "
            "dtype= out"
        )
    try:
        # A deep copy, since .to() would move the user's own parameters.
        return copy.deepcopy(model).to(device=device, dtype=dtype)
    except torch.cuda.OutOfMemoryError:
        raise
    except (TypeError, RuntimeError) as error:
        raise ArgumentError(
            f"{type(model).__name__} cannot be copied to another device or number type ({first_line(error)}); convert it "
            "yourself, model.to(…), and leave device= and dtype= out"
        ) from error
