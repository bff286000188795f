"""What every method writes on its weights: which trace they come from."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..values.graph_info import GraphInfo, StackInfo
from ..values.trace import Trace
from ..version import __version__


def origin(trace: Trace, method: str, unit: str) -> GraphInfo:
    """Description of a trace for weights of one method; level and totals are filled in when a graph is built."""
    probability = None
    if trace.logits is not None and trace.target is not None:
        row = trace.logits if trace.logits.ndim == 1 else trace.logits[trace.position]
        probability = float(torch.softmax(row.double(), -1)[trace.target])
    return GraphInfo(
        method=method,
        unit=unit,
        level="token",
        model=trace.model_name,
        tokens=trace.tokens,
        layers=trace.layers,
        total_layers=trace.n_layers,
        position=trace.position,
        total_edges=0,
        total_share=0.0,
        target=trace.target,
        target_token=trace.target_token,
        target_probability=probability,
        foil=trace.foil,
        foil_token=trace.foil_token,
        provenance=provenance(trace),
        stacks=tuple(StackInfo(name, one.tokens, one.n_layers) for name, one in trace.stacks.items()),
    )


def provenance(trace: Trace) -> dict[str, Any]:
    """What a graph of a trace has to say of the model and the programs that it was made with."""
    kinds = {str(site.dtype).removeprefix("torch.") for site in trace.sites.values()}
    own = None if trace.loaded is None else trace.loaded.own_attention
    return {
        **trace.fingerprint,
        "dtype": ", ".join(sorted(kinds)) if trace.loaded is None else str(trace.loaded.dtype).removeprefix("torch."),
        **({} if own is None or not own.differs else {"attention": own.text}),
        **_limits(trace),
        "token_ids": list(trace.token_ids),
        **{f"{name}_token_ids": list(one.token_ids) for name, one in trace.stacks.items()},
        **{f"{name}_reads": medium for name, one in trace.stacks.items() if (medium := _medium(one))},
        **_fed(trace),
        "flowgraph": __version__,
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
    }


def _limits(trace: Trace) -> dict[str, Any]:
    """What is not known of the model, where it is not all; nothing for a model that attends in every layer and is open whole."""
    if trace.loaded is None:
        return {}
    anatomy = trace.loaded.anatomy
    level = {"known": "patterns"} if anatomy.level == "patterns" else {}
    first, stop = trace.layers
    silent = [layer for layer in range(first, stop) if layer not in anatomy.attending]
    packed = {"weights_packed": anatomy.packing} if anatomy.packing else {}
    left_out = {"blocks_left_out": anatomy.left_out} if anatomy.left_out else {}
    return level | left_out | packed | ({"without_attention": silent} if silent else {})


def _medium(trace: Trace) -> str:
    """``"image"`` or ``"audio"``, whatever a stack reads that is no text; empty for a text, and where it is not known."""
    if trace.axis.kind == "region":
        return "regions of an image"
    layout = None if trace.loaded is None else trace.loaded.anatomy.layout
    return "" if trace.axis.kind == "token" or layout is None else layout.medium


def _fed(trace: Trace) -> dict[str, list[int]]:
    """What the model was given beside the ids."""
    given = {} if trace.fed is None else {"token_types": trace.fed.token_types, "position_ids": trace.fed.position_ids}
    return {name: list(values) for name, values in given.items() if values is not None}


def called(function: str, **arguments: Any) -> str:
    """A call as text: what was given, without what was left at None."""
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items() if value is not None)
    return f"flowgraph.{function}({given})"


def array(tensor: Tensor) -> np.ndarray:
    """The tensor as a numpy array on the CPU, at least float32; no copy where none is needed."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy()
