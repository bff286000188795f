"""Read a trace from a file that somebody else may have made: every number, length, number type and index is checked.

The length of the header is checked before it is parsed, and nothing in the file is executed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..atomic_file import as_path
from ..charts import rendering
from ..errors import FileFormatError, FlowgraphError
from ..models.families import Wiring
from ..models.stacks import SOURCE
from ..values.edge_weights import EdgeWeights
from ..values.graph_info import StackInfo
from ..values.inputs import Row, row_of_dict
from ..values.joint import Joint, joint_dict
from ..values.mixed import is_beside
from ..values.node import EXCHANGING, NODE_KINDS, Node
from ..values.reading import Reading
from ..values.trace import Trace
from .checked import Checked, parsed_json
from .json_file import info_of

VERSION = 1
KEY = "flowgraph"
SESSION = "session"
"""Tensor of bytes: the session of the app, where the file was saved there. It holds answers, and nothing of it is read here."""
SHARED_BY_LAYERS = ("rotary.cos", "rotary.sin")
"""Sites that are the same in all layers of most models; they are then written once."""
# safetensors would parse a header of any length before this project could look at it.
LARGEST_HEADER = 64 * 2**20
MOST_VALUES = 3_000_000
"""Most lists, objects and entries in a header; most of those of a recorded reading are its strings."""
MOST_LAYERS = 10_000
MOST_HEADS = 100_000
MOST_EXPERTS = 100_000
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_STATE, _QUERY, _KEY = ("T", "d_model"), ("H", "T", "d_head"), ("K", "T", "d_head")
_AXES: Mapping[str, tuple[str, ...]] = {
    "sites.resid_pre": _STATE, "sites.resid_mid": _STATE, "sites.resid_post": _STATE, "sites.attn_out": _STATE,
    "sites.mlp_out": _STATE, "sites.mixer_out": _STATE, "sites.pattern": ("H", "T", "T"), "sites.q": _QUERY, "sites.q_proj": _QUERY, "sites.k": _KEY,
    "sites.k_proj": _KEY, "sites.v": ("K", "T", "d_value"), "sites.z": ("H", "T", "d_value"), "sites.z_gate": ("H", "T", "d_value"), "sites.neurons": ("T", "d_mlp"),
    "sites.norm_scales.attention": ("T",), "sites.norm_scales.mlp": ("T",), "sites.norm_scales.attention_post": ("T",),
    "sites.norm_scales.mlp_post": ("T",), "sites.norm_scales.query": ("H", "T"), "sites.norm_scales.key": ("K", "T"),
    "sites.resid_cross": _STATE, "sites.cross_out": _STATE, "sites.cross_pattern": ("H", "T", "S"), "sites.cross_q": _QUERY,
    "sites.cross_k": ("K", "S", "d_head"), "sites.cross_v": ("K", "S", "d_value"), "sites.cross_z": ("H", "T", "d_value"),
    "sites.norm_scales.cross": ("T",), "sites.norm_scales.cross_post": ("T",), "biases.cross": ("d_model",),
    "sites.rotary.cos": ("T", "rotated"), "sites.rotary.sin": ("T", "rotated"), "biases.attn": ("d_model",), "biases.mlp": ("d_model",),
}  # fmt: skip
"""Tensor → its axes after that of the layers."""
_ROUNDED = 1.02
"""A probability in half precision may lie a little above 1."""
_WEIGHTS = {
    "attention": 4,
    "attention_summed": 3,
    "head": 3,
    "residual": 2,
    "mlp": 2,
    "mlp_in": 2,
    "residual_mlp": 2,
    "rest": 2,
    "mixer": 2,
    "sink": 3,
    "expert_index": 3,
    "expert": 3,
    "shared_expert": 2,
}
"""Array of edge weights → number of its axes."""
_ADDITIVE = ("attention", "proximity", "logits")
"""Methods whose numbers for heads add up, in files that do not say so."""
_NEEDED_WEIGHTS = ("attention", "attention_summed", "head")
_TOP = tuple(f"{end}_{what}" for end in ("top", "bottom") for what in ("token_ids", "logits", "probabilities"))
_OF_TARGET = ("logit", "probability", "log_probability", "rank")
_ONLY_ANSWERS = (
    "which holds answers and not the tensors of a pass; 'flowgraph app FILE' shows them. To have the trace, trace its prompt again: "
    "here, or in the app, whose sessions hold the trace of what they have run"
)


@rendering.load.register(Trace)
def load_trace(path: str | Path) -> Trace:
    """Read a trace that :func:`flowgraph.files.trace_file.save_trace` wrote, or the one in a session that the app saved.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged, not a trace, a session without a trace, of a version this release does not read, or any
        value in it is wrong; the message names the place.
    """
    path = as_path(path)
    try:
        _refuse_header(path)
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if SESSION in names and file.get_slice(SESSION).get_dtype() == "U8":
                names.remove(SESSION)
                _refuse_no_trace(path, file.metadata())
            header = _header(path, file.metadata())
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise FileFormatError(f"{str(path)!r} cannot be read as a trace: {error}") from error
    try:
        return _Reader(Checked(header), tensors).trace()
    except FlowgraphError as error:
        raise FileFormatError(f"{str(path)!r} is not a whole trace: {error}") from error


def _refuse_header(path: Path) -> None:
    """Refuse a header that is too long, before it is read."""
    with path.open("rb") as file:
        begins = file.read(8)
    if begins.startswith(b"PK\x03\x04"):
        raise FileFormatError(
            f"{str(path)!r} is no trace: it is a zip, as a session of the app of release 0.1 is, {_ONLY_ANSWERS}"
        )
    size = int.from_bytes(begins, "little")
    if size > LARGEST_HEADER:
        raise FileFormatError(
            f"{str(path)!r} cannot be read as a trace: its header is said to have {size:,} bytes; at most "
            f"{LARGEST_HEADER // 2**20} MiB are read"
        )


def _refuse_no_trace(path: Path, metadata: Mapping[str, str] | None) -> None:
    if not metadata or KEY not in metadata:
        raise FileFormatError(
            f"{str(path)!r} is a session of the app that was saved without its trace, {_ONLY_ANSWERS}"
        )


def _header(path: Path, metadata: Mapping[str, str] | None) -> Any:
    if not metadata or KEY not in metadata:
        raise FileFormatError(
            f"{str(path)!r} is a safetensors file, but not a trace; traces are written by Trace.save()"
        )
    try:
        header = parsed_json(metadata[KEY].encode("utf-8", "surrogatepass"), MOST_VALUES)
    except FileFormatError as error:
        raise FileFormatError(f"{str(path)!r} is not a whole trace: its header: {error}") from error
    version = header.get("version") if isinstance(header, dict) else None
    if type(version) is not int or version != VERSION:
        raise FileFormatError(
            f"{str(path)!r} is a trace of version {str(version)[:40]}; this release reads version {VERSION}"
        )
    return header


@dataclass
class _Reader:
    """Takes a trace out of its header and its tensors, which are checked against each other.

    Attributes
    ----------
    sizes
        Name of an axis → its length, as the header or the first tensor with this axis says it.
    """

    header: Checked
    tensors: dict[str, Tensor]
    sizes: dict[str, int] = field(default_factory=dict)

    def trace(self) -> Trace:
        """The trace."""
        plain = self._plain()
        sites = self._sites()
        biases = self._group("biases.")
        for name, value in [
            *((f"sites.{name}", v) for name, v in sites.items()),
            *((f"biases.{name}", v) for name, v in biases.items()),
        ]:
            # The first tensor with an axis sets its length, and every later one has to agree.
            self._check_axes(name, value, ("rows", *self._axes(name)))
        self._check_heads()
        for name in sites.keys() & {"pattern", "cross_pattern"}:
            if not bool(((sites[name] >= 0) & (sites[name] <= _ROUNDED)).all()):
                raise FileFormatError(f"sites.{name} holds numbers that are no probabilities")
        stacks = self._stacks()
        single = self._single()
        self._check_aims(plain, single["logits"])
        readings = {name: self._reading(name, entry, plain) for name, entry in self.header.field("readings").entries()}
        joint = _joint(plain, stacks, sites)
        weights = {
            name: self._weights(name, entry, plain, stacks, joint)
            for name, entry in self.header.field("weights").entries()
        }
        values = self._group("fed.")
        said = self.header.optional("fed")
        fed_of_both = said is not None and isinstance(said.value, dict) and "mixed" in said.value
        for name, value in values.items():
            # Sizes and masks of images beside a text are whole numbers, and have a row for each image.
            if is_beside(name) and fed_of_both:
                fits = value.ndim > 0 and (not value.is_floating_point() or bool(value.isfinite().all()))
            else:
                fits = (
                    value.is_floating_point()
                    and value.ndim > 1
                    and value.shape[0] == 1
                    and bool(value.isfinite().all())
                )
            if not fits:
                raise FileFormatError(f"fed.{name[:60]} is no row of finite numbers")
        # Each check takes its tensors out, so a tensor that is left belongs to nothing.
        if self.tensors:
            raise FileFormatError(f"the tensor {min(self.tensors)[:60]!r} is none of a trace")
        fed = self.header.optional("fed")
        # Files of earlier releases say only which ids went in.
        row = None if fed is None or fed.value is None else row_of_dict(fed.value, plain["token_ids"], values)
        if row is not None:
            row = replace(row, encoder=self._source(stacks))
        return Trace(
            **plain,
            **single,
            fed=row,
            classes=self._classes(),
            sites=sites,
            biases=biases,
            recorded_weights=weights,
            recorded_readings=readings,
            stacks=stacks,
        )

    def _source(self, stacks: Mapping[str, Trace]) -> Row | None:
        """What the encoder reads."""
        if stacks:
            return next(iter(stacks.values())).fed
        said = self.header.optional("source")
        if said is None:
            return None
        ids = said.field("ids").indices()
        return row_of_dict({name: entry.value for name, entry in said.entries() if name != "ids"}, ids)

    def _stacks(self) -> dict[str, Trace]:
        """Traces of the other stacks, each with its own header and tensors."""
        said = self.header.optional("stacks")
        found: dict[str, Trace] = {}
        for name, entry in [] if said is None else said.entries():
            if name not in (SOURCE, EXCHANGING) or found or entry.optional("stacks") is not None:
                entry.refuse(f"one stack, {SOURCE!r} or {EXCHANGING!r}, that holds no other")
            reader = _Reader(entry, self._group(f"stacks.{name}."))
            found[name] = reader.trace()
            if reader.sizes.get("S", self.sizes["T"]) != self.sizes["T"]:
                entry.refuse(f"attention to {self.sizes['T']} tokens, as many as there are")
            if "S" in self.sizes and len(found[name].tokens) != self.sizes["S"]:
                entry.refuse(f"{self.sizes['S']} tokens, as many as are attended to")
        return found

    def _plain(self) -> dict[str, Any]:
        """The values of the header, each of its type; they also set the lengths of some axes."""
        about = self.header.field("trace")
        tokens = about.field("tokens").texts()
        if not tokens:
            about.field("tokens").refuse("at least one token")
        ids = about.field("token_ids").indices()
        fed = self.header.optional("fed")
        # An image or a sound has positions and no ids.
        is_media = fed is not None and isinstance(fed.value, dict) and "axis" in fed.value
        if len(ids) != (0 if is_media else len(tokens)):
            about.field("token_ids").refuse(f"{len(tokens)} integers, one for each token")
        n_layers, n_heads = about.field("n_layers").index(MOST_LAYERS + 1), about.field("n_heads").index(MOST_HEADS + 1)
        for name, count in (("n_layers", n_layers), ("n_heads", n_heads)):
            if count < 1:
                about.field(name).refuse("1 or more")
        layers = about.field("layers").window(n_layers)
        self.sizes |= {"T": len(tokens), "H": n_heads, "rows": layers[1] - layers[0]}
        return {
            "model_name": about.field("model_name").text(),
            "family": about.field("family").text(),
            "wiring": about.field("wiring").one_of(get_args(Wiring)),
            "prompt": about.field("prompt").or_none(Checked.text),
            "tokens": tokens,
            "token_ids": ids,
            "position": about.field("position").index(len(tokens)),
            "target": about.field("target").or_none(Checked.index),
            "foil": about.field("foil").or_none(Checked.index),
            "target_token": about.field("target_token").or_none(Checked.text),
            "foil_token": about.field("foil_token").or_none(Checked.text),
            "layers": layers,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "causal": about.field("causal").flag(),
            "fingerprint": {name: entry.text() for name, entry in about.field("fingerprint").entries()},
        }

    def _sites(self) -> dict[str, Tensor]:
        sites = self._group("sites.")
        states = sites.pop("resid", None)
        if states is not None:
            self._check_axes("sites.resid", states, ("rows + 1", *_STATE), rows=1)
            twice = [name for name in ("resid_pre", "resid_post") if name in sites]
            if twice:
                raise FileFormatError(f"sites.{twice[0]} is there beside sites.resid, which holds it")
            sites |= {"resid_pre": states[:-1], "resid_post": states[1:]}
        for name, other in self.header.field("aliases").entries():
            # An alias may only stand in for a tensor that the file holds.
            if name in sites or other.text() not in sites:
                other.refuse("the name of a tensor, for one that is not there itself")
            sites[name] = sites[other.text()]
        for name in SHARED_BY_LAYERS:
            if name in sites and sites[name].ndim == 3 and len(sites[name]) == 1:
                sites[name] = sites[name].expand(self.sizes["rows"], -1, -1)
        return sites

    def _single(self) -> dict[str, Any]:
        """Tensors without an axis of layers."""
        found: dict[str, Any] = {
            name: self.tensors.pop(name, None) for name in ("logits", "position_embedding", "final_scale")
        }
        axes = {"logits": ("V",), "position_embedding": _STATE, "final_scale": ("T",)}
        if found["logits"] is not None and found["logits"].ndim == 2:
            axes["logits"] = ("T", "V")
        for name, value in found.items():
            if value is not None:
                self._check_axes(name, value, axes[name])
        return found

    def _group(self, prefix: str) -> dict[str, Tensor]:
        """Take out the tensors whose names begin with ``prefix``."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.tensors.pop(name) for name in names}

    def _axes(self, name: str) -> tuple[str, ...]:
        if name not in _AXES:
            raise FileFormatError(f"the tensor {name[:60]!r} is none of a trace")
        return _AXES[name]

    def _check_axes(self, name: str, value: Tensor, axes: tuple[str, ...], rows: int = 0) -> None:
        """Refuse a tensor with other axes, or with entries that are no finite numbers."""
        # The states have one row more than layers.
        known = self.sizes | {"rows + 1": self.sizes["rows"] + rows}
        shape = tuple(value.shape)
        expected = tuple(known.get(axis, size) for axis, size in zip(axes, shape, strict=False))
        if len(shape) != len(axes) or shape != expected or 0 in shape:
            said = ", ".join(f"{axis} = {known[axis]}" if axis in known else axis for axis in axes)
            raise FileFormatError(f"{name} has shape {list(shape)}; expected [{said}]")
        self.sizes |= {axis: size for axis, size in zip(axes, shape, strict=True) if axis not in known}
        if value.dtype not in _FLOATS:
            raise FileFormatError(f"{name} has {value.dtype}; expected floating-point numbers")
        if not bool(torch.isfinite(value).all()):
            raise FileFormatError(f"{name} holds numbers that are not finite")

    def _check_heads(self) -> None:
        if "K" in self.sizes and self.sizes["H"] % self.sizes["K"]:
            raise FileFormatError(
                f"{self.sizes['K']} key/value heads cannot be shared by trace.n_heads = {self.sizes['H']}"
            )

    def _check_aims(self, plain: Mapping[str, Any], logits: Tensor | None) -> None:
        """Refuse a target without its text, or ids that the logits do not have."""
        about = self.header.field("trace")
        for name in ("target", "foil"):
            if (plain[name] is None) != (plain[f"{name}_token"] is None):
                about.field(f"{name}_token").refuse(f"a text where trace.{name} is a number, and null where it is null")
            if logits is None and plain[name] is not None:
                about.field(name).refuse("null, since there are no logits")
        if logits is not None:
            for name in ("target", "foil"):
                about.field(name).or_none(lambda entry: entry.index(self.sizes["V"]))
            # A classifier scores its classes, whose number has nothing to do with the tokens.
            if self._classes() is None:
                for entry in about.field("token_ids").items():
                    entry.index(self.sizes["V"])

    def _classes(self) -> tuple[str, ...] | None:
        """Names of a classifier's classes; None of other models."""
        said = self.header.optional("classes")
        if said is None:
            return None
        found = said.texts()
        if len(found) != self.sizes.get("V"):
            said.refuse("the name of each class")
        return found

    def _arrays(self, prefix: str, axes: Mapping[str, int], needed: tuple[str, ...]) -> dict[str, Any]:
        """Take out the arrays of a record, by name; ``axes`` gives their numbers of axes."""
        found = self._group(prefix)
        missing = [name for name in needed if name not in found]
        if missing:
            raise FileFormatError(f"the tensor {prefix + missing[0]!r} is missing")
        for name, value in found.items():
            if name not in axes:
                raise FileFormatError(f"the tensor {(prefix + name)[:60]!r} is none of a trace")
            is_whole = name.endswith(("_ids", "_rank", "_index"))
            if value.ndim != axes[name]:
                raise FileFormatError(f"{prefix + name} has {value.ndim} axes; expected {axes[name]}")
            if value.dtype not in ((torch.int32, torch.int64) if is_whole else (torch.float32, torch.float64)):
                raise FileFormatError(
                    f"{prefix + name} has {value.dtype}; expected {'whole' if is_whole else 'floating-point'} numbers"
                )
            # No expert is −1.
            least, most = (-1, MOST_EXPERTS) if name.endswith("_index") else (0, None)
            if is_whole and bool((value < least).any()):
                raise FileFormatError(f"{prefix + name} holds numbers below {least}")
            if most is not None and bool((value > most).any()):
                raise FileFormatError(f"{prefix + name} holds numbers above {most:,}")
            if not is_whole and not bool(torch.isfinite(value).all()):
                raise FileFormatError(f"{prefix + name} holds numbers that are not finite")
        return {name: value.numpy() for name, value in found.items()}

    def _weights(
        self, name: str, entry: Checked, plain: Mapping[str, Any], stacks: Mapping[str, Trace], joint: Joint | None
    ) -> EdgeWeights:
        arrays = self._arrays(f"weights.{name}.", _WEIGHTS, _NEEDED_WEIGHTS)
        info = info_of(entry.field("info"))
        about = entry.field("info")
        others = tuple(StackInfo(other, one.tokens, one.n_layers) for other, one in stacks.items())
        # Recorded weights must be those of the trace in this file.
        for what, said, right in (
            ("method", info.method, name), ("tokens", info.tokens, plain["tokens"]), ("layers", info.layers, plain["layers"]),
            ("total_layers", info.total_layers, plain["n_layers"]), ("position", info.position, plain["position"]),
        ):  # fmt: skip
            if said != right:
                about.field(what).refuse(f"what the trace says, {str(right)[:60]}")
        if info.stacks != others:
            about.refuse(f"the trace's {len(others)} stacks beside the last one, with their tokens and layers")
        _check_joint(entry, joint)
        heads, most = arrays["attention"].shape[1], max(plain["n_heads"], *(one.n_heads for one in stacks.values()), 0)
        if heads not in (0, most):
            raise FileFormatError(f"weights.{name}.attention has {heads} heads; the trace has {most}")
        count, first = len(plain["tokens"]), 0
        if joint is not None:
            count, first = joint.count, joint.positions[None].start
        positions = entry.field("query_positions").indices(count)
        if len(set(positions)) != len(positions) or first + plain["position"] not in positions:
            # The explained position has to be among them: readings and graphs start there.
            entry.field("query_positions").refuse("different positions, among them that of the trace")
        numbers: dict[str, Any] = {
            what: entry.field(what).or_none(Checked.number) for what in ("unembed", "embedding", "position_embedding")
        }
        additive = entry.optional("additive")
        return EdgeWeights(
            info=info,
            parallel=entry.field("parallel").flag(),
            query_positions=positions,
            ends_in_logit=entry.field("ends_in_logit").flag(),
            additive=name in _ADDITIVE if additive is None else additive.flag(),
            biases={what: number.number() for what, number in entry.field("biases").entries()},
            undefined=tuple(_state(state, plain, stacks) for state in entry.field("undefined").items()),
            joint=joint,
            **numbers,
            **arrays,
        )

    def _reading(self, name: str, entry: Checked, plain: Mapping[str, Any]) -> Reading:
        """A reading of the layers and positions of the trace, by head for outputs of heads."""
        foil = ["foil"] * (entry.field("foil").value is not None)
        single = (*(f"{aim}_{what}" for aim in ("target", *foil) for what in _OF_TARGET), "entropy", "norm")
        arrays = self._arrays(f"readings.{name}.", dict.fromkeys(_TOP, 2) | dict.fromkeys(single, 1), (*_TOP, *single))
        rows, count = self.sizes["rows"], len(plain["tokens"])
        shape = entry.field("shape").indices()
        by_head = name in ("head_out", "cross_head_out")
        if shape != ((rows, plain["n_heads"], count) if by_head else (rows, count)):
            entry.field("shape").refuse("the layers and tokens of the trace, with its heads between them for head_out")
        _check_readings(name, arrays, math.prod(shape))
        strings = _strings(entry.field("strings"))
        reading = Reading(
            **arrays,
            top_tokens=_tokens(f"readings.{name}.top_token_ids", arrays["top_token_ids"], strings),
            bottom_tokens=_tokens(f"readings.{name}.bottom_token_ids", arrays["bottom_token_ids"], strings),
            target=entry.field("target").index(),
            target_token=entry.field("target_token").text(),
            foil=entry.field("foil").or_none(Checked.index),
            foil_token=entry.field("foil_token").text() if foil else None,
            shape=shape,
        )
        return _named(reading, entry, ("layer", "head", "position") if by_head else ("layer", "position"))


def _joint(plain: Mapping[str, Any], stacks: Mapping[str, Trace], sites: Mapping[str, Tensor]) -> Joint | None:
    """The chain of the steps of a trace's stacks; None for one stack, and where no pattern says which layers read another."""
    if not stacks:
        return None
    if EXCHANGING in stacks:
        other, pattern = stacks[EXCHANGING], sites.get("cross_pattern")
        if pattern is None:
            return None
        between = int(pattern.flatten(1).any(1).sum())
        if between > other.n_layers:
            raise FileFormatError(
                f"sites.cross_pattern has {between} layers that read another stack of {other.n_layers}"
            )
        return Joint.exchanging((len(other.tokens), other.n_layers), (len(plain["tokens"]), plain["n_layers"]), between)
    others = [(name, len(one.tokens), one.n_layers) for name, one in stacks.items()]
    return Joint.of([*others, (None, len(plain["tokens"]), plain["n_layers"])])


def _check_joint(entry: Checked, joint: Joint | None) -> None:
    """Refuse weights whose steps are not those of the trace's stacks."""
    said = entry.optional("joint")
    if joint is None:
        if said is not None and said.value is not None:
            said.refuse("null, since the trace is of one stack")
        return
    for name, rows in joint_dict(joint).items():
        found = entry.field("joint").field(name)
        for one, right in zip(found.items(len(rows)), rows, strict=False):
            if one.value != right:
                one.refuse(f"{right}, as the stacks of the trace have it")
        if len(found.value) != len(rows):
            found.refuse(f"a list of {len(rows)}, as the stacks of the trace have it")


def _state(entry: Checked, plain: Mapping[str, Any], stacks: Mapping[str, Trace]) -> Node:
    parts = list(entry.items(4))
    if len(parts) not in (3, 4):
        entry.refuse("a kind, a layer and a position, and of another stack its name")
    kind: Any = parts[0].one_of(NODE_KINDS)
    stack = parts[3].one_of(tuple(stacks)) if parts[3:] else None
    layers, tokens = (
        (plain["n_layers"], plain["tokens"]) if stack is None else (stacks[stack].n_layers, stacks[stack].tokens)
    )
    layer = parts[1].or_none(lambda number: number.index(layers))
    position = parts[2].or_none(lambda number: number.index(len(tokens)))
    return Node(kind, layer=layer, position=position, stack=stack)


def _named(reading: Reading, entry: Checked, expected: tuple[str, ...]) -> Reading:
    """The reading with the names of its axes, layers and tokens."""
    axes = entry.optional("axes")
    # Files of earlier releases have no names.
    if axes is None or not axes.texts():
        return reading
    if axes.texts() != expected:
        axes.refuse(f"{list(expected)}")
    first, tokens = entry.optional("first_layer"), entry.optional("prompt_tokens")
    return reading.named(
        axes.texts(),
        first_layer=0 if first is None else first.index(MOST_LAYERS),
        prompt_tokens=() if tokens is None else tokens.texts(),
    )


def _check_readings(name: str, arrays: Mapping[str, np.ndarray], count: int) -> None:
    """``count`` vectors were read, and what should be probabilities are."""
    for what, value in arrays.items():
        # The number of listed tokens is the file's own, the same in ids, logits and probabilities.
        k = arrays["top_logits" if what.startswith("top") else "bottom_logits"].shape[1]
        expected = (count, k)[: value.ndim]
        if value.shape != expected or 0 in value.shape:
            raise FileFormatError(f"readings.{name}.{what} has shape {list(value.shape)}; expected {list(expected)}")
        if what.endswith(("_probability", "_probabilities")) and not what.endswith("log_probability"):
            _check_probabilities(f"readings.{name}.{what}", value)


def _check_probabilities(place: str, value: Float[np.ndarray, "..."]) -> None:
    wrong: Bool[np.ndarray, "..."] = (value < 0) | (value > _ROUNDED)
    if wrong.any():
        raise FileFormatError(f"{place} holds numbers that are no probabilities")


def _strings(entry: Checked) -> dict[int, str]:
    """Token id → text."""
    found = {}
    for name, text in entry.entries():
        if not (name.isascii() and name.isdecimal() and len(name) <= 10):
            # No more than ten digits, so that no name costs time to parse.
            text.refuse("to be named by a token id")
        found[int(name)] = text.text()
    return found


def _tokens(place: str, ids: Int[np.ndarray, "N k"], strings: Mapping[int, str]) -> tuple[tuple[str, ...], ...]:
    missing = set(ids.ravel().tolist()) - strings.keys()
    if missing:
        raise FileFormatError(f"{place} holds the token id {min(missing)}, whose text is missing")
    return tuple(tuple(strings[i] for i in row) for row in ids.tolist())
