"""A trace as one ``.safetensors`` file: tensors as they are, everything else as JSON in the header.

Tensors that share memory in the trace are written once. :mod:`flowgraph.files.trace_reader` reads such a file and checks every
value in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ..atomic_file import atomic_write_bytes
from ..charts import rendering
from ..values.edge_weights import EdgeWeights
from ..values.graph_info import info_dict
from ..values.inputs import row_dict
from ..values.joint import joint_dict
from ..values.reading import Reading
from ..values.trace import Trace
from .trace_reader import KEY, SHARED_BY_LAYERS, VERSION

_PLAIN = (
    "model_name", "family", "wiring", "prompt", "tokens", "token_ids", "position", "target", "foil", "target_token",
    "foil_token", "layers", "n_layers", "n_heads", "causal", "fingerprint",
)  # fmt: skip
_SINGLE = ("logits", "position_embedding", "final_scale")
_STATES = ("resid_pre", "resid_post")
_ABOUT_READINGS = ("target", "target_token", "foil", "foil_token", "shape")
_SELDOM = ("mixer", "joint", "sink", "expert_index", "expert", "shared_expert")
"""Fields of weights that most do not have; files then stay as earlier releases write them."""
_NAMES_OF_READINGS = ("axes", "first_layer", "prompt_tokens")


@rendering.save.register(Trace)
def save_trace(trace: Trace, path: str | Path) -> Path:
    """Write a trace, whole or not at all.

    Raises
    ------
    ArgumentError
        If the file cannot be written.
    """
    tensors, header = _written(trace)
    # The file holds plain memory, whatever device and strides the trace has.
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return atomic_write_bytes(path, save(contiguous, {KEY: json.dumps(header)}))


def _written(trace: Trace) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a trace; those of other stacks stand in it as traces of their own."""
    tensors: dict[str, Tensor] = {}
    header: dict[str, Any] = {"format": "flowgraph trace", "version": VERSION}
    header["trace"] = {name: getattr(trace, name) for name in _PLAIN} | {"fingerprint": dict(trace.fingerprint)}
    header["fed"] = None if trace.fed is None else row_dict(trace.fed)
    if trace.fed is not None:
        tensors |= {f"fed.{name}": value for name, value in (trace.fed.values or trace.fed.beside or {}).items()}
    if trace.classes is not None:
        header["classes"] = trace.classes
    header["aliases"] = _put_sites(trace, tensors)
    tensors |= {f"biases.{name}": value for name, value in trace.biases.items()}
    tensors |= {name: getattr(trace, name) for name in _SINGLE if getattr(trace, name) is not None}
    header["weights"] = {name: _put_weights(name, w, tensors) for name, w in trace.recorded_weights.items()}
    header["readings"] = {name: _put_reading(name, r, tensors) for name, r in trace.recorded_readings.items()}
    if (
        trace.fed is not None
        and trace.fed.encoder is not None
        and not trace.stacks
        and trace.fed.encoder.ids is not None
    ):
        # An encoder that is traced says itself what it reads.
        header["source"] = {"ids": trace.fed.encoder.ids, **row_dict(trace.fed.encoder)}
    for name, stack in trace.stacks.items():
        own, header.setdefault("stacks", {})[name] = _written(stack)
        tensors |= {f"stacks.{name}.{key}": value for key, value in own.items()}
    return tensors, header


def _put_sites(trace: Trace, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Add the sites to ``tensors``; returns which sites are other names of one tensor."""
    aliases: dict[str, str] = {}
    seen: dict[int, str] = {}
    sites = dict(trace.sites)
    shared = [sites[name] for name in _STATES if name in sites]
    # Both names share one tensor with one state more than layers, as they do in the trace.
    if len(shared) == 2 and shared[0].untyped_storage().data_ptr() == shared[1].untyped_storage().data_ptr():
        tensors["sites.resid"] = torch.cat((shared[0], shared[1][-1:]))
        for name in _STATES:
            del sites[name]
    for name, value in sites.items():
        # Angles that are the same in all layers are a view with stride 0: one of them is enough.
        if name in SHARED_BY_LAYERS and value.stride(0) == 0:
            value = value[:1]
        # Queries without rotary embedding are the projections themselves, under two names.
        first = seen.setdefault(value.data_ptr(), name)
        if first == name:
            tensors[f"sites.{name}"] = value
        else:
            aliases[name] = first
    return aliases


def _put_weights(name: str, weights: EdgeWeights, tensors: dict[str, Tensor]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for item in fields(weights):
        value = getattr(weights, item.name)
        if isinstance(value, np.ndarray):
            tensors[f"weights.{name}.{item.name}"] = torch.from_numpy(np.array(value))
        elif item.name == "info":
            plain["info"] = info_dict(value)
        elif item.name == "undefined":
            plain["undefined"] = [
                [node.kind, node.layer, node.position, *([] if node.stack is None else [node.stack])] for node in value
            ]
        elif item.name in _SELDOM and value is None:
            continue
        elif item.name == "joint":
            plain["joint"] = joint_dict(value)
        else:
            plain[item.name] = dict(value) if isinstance(value, Mapping) else value
    return plain


def _put_reading(name: str, reading: Reading, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Turn the numbers of a reading into tensors; each token id's string is written once."""
    strings: dict[int, str] = {}
    plain: dict[str, Any] = {name: getattr(reading, name) for name in (*_ABOUT_READINGS, *_NAMES_OF_READINGS)}
    for item in fields(reading):
        value = getattr(reading, item.name)
        if isinstance(value, np.ndarray):
            tensors[f"readings.{name}.{item.name}"] = torch.from_numpy(np.array(value))
    for end in ("top", "bottom"):
        for ids, tokens in zip(getattr(reading, f"{end}_token_ids"), getattr(reading, f"{end}_tokens"), strict=True):
            strings.update(zip(map(int, ids), tokens, strict=True))
    return plain | {"strings": strings}
