"""A trace as one ``.safetensors`` file: tensors as they are, everything else as JSON in the header.

Nothing in such a file is executed when it is read. Tensors that share memory in the trace are written once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import FileFormatError
from ..graph_info import GraphInfo, info_dict
from ..methods.weights import EdgeWeights
from ..nodes import Node
from ..prompting import row_dict, row_of_dict
from ..reading import Reading
from ..recorded import Trace
from .files import atomic_write_bytes

VERSION = 1
_KEY = "flowgraph"
_PLAIN = (
    "model_name", "family", "wiring", "prompt", "tokens", "token_ids", "position", "target", "foil", "target_token",
    "foil_token", "layers", "n_layers", "n_heads", "causal", "fingerprint",
)  # fmt: skip
_SINGLE = ("logits", "position_embedding", "final_scale")
_STATES = ("resid_pre", "resid_post")
_SHARED_BY_LAYERS = ("rotary.cos", "rotary.sin")
"""Sites that are the same in all layers of most models, and then written once."""
_ABOUT_READINGS = ("target", "target_token", "foil", "foil_token", "shape")
_NAMES_OF_READINGS = ("axes", "first_layer", "prompt_tokens")


def save_trace(trace: Trace, path: str | Path) -> Path:
    """Write a trace, whole or not at all.

    Raises
    ------
    ArgumentError
        If the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    header: dict[str, Any] = {"format": "flowgraph trace", "version": VERSION}
    header["trace"] = {name: getattr(trace, name) for name in _PLAIN} | {"fingerprint": dict(trace.fingerprint)}
    header["fed"] = None if trace.fed is None else row_dict(trace.fed)
    header["aliases"] = _put_sites(trace, tensors)
    tensors |= {f"biases.{name}": value for name, value in trace.biases.items()}
    tensors |= {name: getattr(trace, name) for name in _SINGLE if getattr(trace, name) is not None}
    header["weights"] = {name: _put_weights(name, w, tensors) for name, w in trace.recorded_weights.items()}
    header["readings"] = {name: _put_reading(name, r, tensors) for name, r in trace.recorded_readings.items()}
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return atomic_write_bytes(path, save(contiguous, {_KEY: json.dumps(header)}))


def load_trace(path: str | Path) -> Trace:
    """Read a trace that :func:`save_trace` wrote.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged, not a trace, or of a version this release does not read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        return _trace(header, tensors)
    except (OSError, SafetensorError) as error:
        raise FileFormatError(f"{str(path)!r} cannot be read as a trace: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{str(path)!r} is not a whole trace: {type(error).__name__}: {error}") from error


def _header(path: str | Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    if not metadata or _KEY not in metadata:
        raise FileFormatError(
            f"{str(path)!r} is a safetensors file, but not a trace; traces are written by Trace.save()"
        )
    header: dict[str, Any] = json.loads(metadata[_KEY])
    if header.get("version") != VERSION:
        raise FileFormatError(
            f"{str(path)!r} is a trace of version {header.get('version')!r}; this release reads version {VERSION}"
        )
    return header


def _put_sites(trace: Trace, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Add the sites to ``tensors``; returns which sites are other names of one tensor."""
    aliases: dict[str, str] = {}
    seen: dict[int, str] = {}
    sites = dict(trace.sites)
    shared = [sites[name] for name in _STATES if name in sites]
    if len(shared) == 2 and shared[0].untyped_storage().data_ptr() == shared[1].untyped_storage().data_ptr():
        tensors["sites.resid"] = torch.cat((shared[0], shared[1][-1:]))
        for name in _STATES:
            del sites[name]
    for name, value in sites.items():
        if name in _SHARED_BY_LAYERS and value.stride(0) == 0:
            value = value[:1]
        first = seen.setdefault(value.data_ptr(), name)
        if first == name:
            tensors[f"sites.{name}"] = value
        else:
            aliases[name] = first
    return aliases


def _trace(header: dict[str, Any], tensors: dict[str, Tensor]) -> Trace:
    plain = header["trace"]
    sites = _group(tensors, "sites.")
    states = sites.pop("resid", None)
    if states is not None:
        sites |= {"resid_pre": states[:-1], "resid_post": states[1:]}
    sites |= {name: sites[first] for name, first in header["aliases"].items()}
    rows = plain["layers"][1] - plain["layers"][0]
    sites |= {name: sites[name].expand(rows, -1, -1) for name in _SHARED_BY_LAYERS if len(sites.get(name, ())) == 1}
    tuples = {name: tuple(plain[name]) for name in ("tokens", "token_ids", "layers")}
    # Files of earlier releases say only which ids went in.
    fed = None if header.get("fed") is None else row_of_dict(header["fed"], tuples["token_ids"])
    single: dict[str, Any] = {name: tensors.get(name) for name in _SINGLE}
    return Trace(
        **{**{name: plain[name] for name in _PLAIN}, **tuples},
        **single,
        sites=sites,
        fed=fed,
        biases=_group(tensors, "biases."),
        recorded_weights={name: _weights(name, data, tensors) for name, data in header["weights"].items()},
        recorded_readings={name: _reading(name, data, tensors) for name, data in header["readings"].items()},
    )


def _group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _put_weights(name: str, weights: EdgeWeights, tensors: dict[str, Tensor]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for item in fields(weights):
        value = getattr(weights, item.name)
        if isinstance(value, np.ndarray):
            tensors[f"weights.{name}.{item.name}"] = torch.from_numpy(np.array(value))
        elif item.name == "info":
            plain["info"] = info_dict(value)
        elif item.name == "undefined":
            plain["undefined"] = [[node.kind, node.layer, node.position] for node in value]
        else:
            plain[item.name] = dict(value) if isinstance(value, Mapping) else value
    return plain


def _weights(name: str, plain: dict[str, Any], tensors: Mapping[str, Tensor]) -> EdgeWeights:
    arrays: dict[str, Any] = {field: value.numpy() for field, value in _group(tensors, f"weights.{name}.").items()}
    info = plain["info"]
    info = GraphInfo(**{**info, "tokens": tuple(info["tokens"]), "layers": tuple(info["layers"])})
    rest = {key: value for key, value in plain.items() if key not in ("info", "undefined")}
    undefined = tuple(Node(kind, layer=layer, position=position) for kind, layer, position in plain["undefined"])
    return EdgeWeights(
        info=info, undefined=undefined, **arrays, **{**rest, "query_positions": tuple(rest["query_positions"])}
    )


def _put_reading(name: str, reading: Reading, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Numbers become tensors; of the tokens only each id's string is written."""
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


def _reading(name: str, plain: dict[str, Any], tensors: Mapping[str, Tensor]) -> Reading:
    arrays: dict[str, Any] = {field: value.numpy() for field, value in _group(tensors, f"readings.{name}.").items()}
    strings = {int(token_id): text for token_id, text in plain["strings"].items()}
    tokens: dict[str, Any] = {
        f"{end}_tokens": tuple(tuple(strings[int(i)] for i in row) for row in arrays[f"{end}_token_ids"])
        for end in ("top", "bottom")
    }
    reading = Reading(
        **arrays,
        **tokens,
        **{name: plain.get(name) for name in _ABOUT_READINGS} | {"shape": tuple(plain["shape"])},
    )
    # Files of earlier releases have no names.
    names = {name: plain[name] for name in _NAMES_OF_READINGS if plain.get(name)}
    return reading.named(**names) if "axes" in names else reading
