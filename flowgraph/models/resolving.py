"""Which family's row describes a model: by the type that its config names, else by structure; and why none does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import ArchitectureError
from .anatomy import Anatomy
from .building import build
from .families import FAMILIES, FUNCTION, Family, Stack
from .kinds import base_of, is_encoder_decoder, kind_of, reads_choices
from .parameters import is_matrix
from .paths import find, list_of

_FAR = 6
"""A row that misses more paths than this has nothing in common with the model but its age."""


def resolve(model: Any) -> Anatomy:
    """Find the parts of ``model`` by the row of its family.

    The row whose ``model_types`` name the model's type is taken; otherwise the first row that fits by structure.

    Raises
    ------
    ArchitectureError
        If no row fits; the message says what kind of model it is, or what could not be found and how to write a row.
    """
    config = model.config.get_text_config()
    model_type = getattr(config, "model_type", "")
    # The decoder of such a model alone looks like a row's, and would be another model; a model of choices looks like one too.
    if is_encoder_decoder(model) or reads_choices(model):
        raise ArchitectureError(no_row(model, model_type))
    named = named_rows(model)
    failures: dict[str, list[str]] = {}
    # A row that names the type is the only candidate: its failure is then said, and no other row is tried in its place.
    for row in named or FAMILIES.values():
        missing = _missing(model, row)
        if not missing:
            return build(model, row)
        failures[row.name] = missing
    raise ArchitectureError(no_row(model, model_type, failures))


def named_rows(model: Any) -> list[Family]:
    """Rows that name the type of a model."""
    model_type = getattr(model.config.get_text_config(), "model_type", "")
    return [row for row in FAMILIES.values() if model_type in row.model_types]


def no_row(model: Any, model_type: str, failures: dict[str, list[str]] | None = None) -> str:
    """The reason why a model is not traced: its kind, or else the nearest row and the paths that are missing."""
    kind = type(model).__name__
    known = f"Known families: {', '.join(FAMILIES)}."
    found = kind_of(model)
    if found is not None:
        advice = f"{found.advice}. " if found.advice else ""
        return f"{kind} (model_type {model.config.model_type!r}) is {found.name}, which cannot be traced: {found.why}. {advice}{known}"
    nearest = min(failures or {}, key=lambda name: len((failures or {})[name]), default=None)
    missing = (failures or {}).get(nearest or "", [])
    if nearest is None or len(missing) > _FAR:
        return (
            f"no architecture row fits {kind} (model_type {model_type!r}): its blocks are not laid out as those of any known "
            f"family. {known} A layout that differs only in names can be added as a row; see flowgraph.register_family"
        )
    return (
        f"no architecture row fits {kind} (model_type {model_type!r}). Nearest is {nearest!r}; not found: "
        f"{', '.join(missing)}. {known} To add one, write a row and register it: "
        f"from flowgraph.models import FAMILIES, register_family; register_family(dataclasses.replace("
        f"FAMILIES[{nearest!r}], name={model_type!r}, model_types=({model_type!r},), stacks=…)). The row is proved on the "
        "model when it is loaded."
    )


def _missing(model: Any, row: Family) -> list[str]:
    """Paths of the row that the model does not have, or that lead to a module without the weights that the row needs."""
    base = base_of(model)
    missing = []
    for stack in row.stacks:
        root = find(base, stack.root) if stack.root else base
        # An optional root that is missing is the base model itself.
        root = base if root is None and stack.root.endswith("?") else root
        if root is None:
            missing += [stack.root, *_required_paths(stack)]
            continue
        blocks = list_of(root, stack.blocks)
        if not blocks:
            missing += [stack.blocks, *_required_paths(stack)]
            continue
        for path in filter(None, (stack.embedding, stack.position_embedding, stack.final_norm)):
            fault = _fault(root, path, matrix=path == stack.embedding)
            missing += [] if fault is None else [fault]
        found = find(blocks[0], stack.attention.module)
        if (
            stack.attention.scale == "module"
            and not stack.attention.scales
            and found is not None
            and not hasattr(found, "scaling")
        ):
            # Without it the row says that there is a factor and the model does not say which.
            where = stack.attention.module
            missing += [] if hasattr(found, "scale_attn") else [f"{where}.scaling or {where}.scale_attn"]
        matrices = _matrix_paths(stack)
        for path in filter(None, _block_paths(stack)):
            # Every block is looked at: mixtures of experts may have a first block of another make.
            faults = {i: _fault(block, path, matrix=path in matrices) for i, block in enumerate(blocks)}
            missing += _of_blocks({i: fault for i, fault in faults.items() if fault is not None}, len(blocks))
    return missing


def _fault(start: Any, path: str, *, matrix: bool) -> str | None:
    """The fault of a path: the path if it leads nowhere, with a remark if its module has no weight matrix; None without one."""
    found = find(start, path)
    if found is None:
        return None if path.endswith("?") else path
    if matrix and not is_matrix(found):
        return f"{path} ({type(found).__name__} has no weight matrix)"
    return None


def _of_blocks(faults: dict[int, str], n_blocks: int) -> list[str]:
    """The faults of one path in all blocks, each named once with its blocks."""
    if len(faults) == n_blocks:
        return [faults[0]]
    where: dict[str, list[int]] = {}
    for i, fault in faults.items():
        where.setdefault(fault, []).append(i)
    return [f"{fault} in block {', '.join(map(str, at))}" for fault, at in where.items()]


def _matrix_paths(stack: Stack) -> set[str]:
    """Paths in a block that must lead to a linear layer."""
    attention = stack.attention
    inner = (attention.query, attention.key, attention.value, attention.fused, attention.output)
    return {*inner, stack.mlp_output, stack.mlp_input, stack.mlp_gate, stack.mlp_gate_up}


def _required_paths(stack: Stack) -> list[str]:
    """Paths within a block. They all count as missing if there are no blocks, so a row with blocks is nearer."""
    return [path for path in _block_paths(stack) if path and not path.endswith("?")]


def _block_paths(stack: Stack) -> Iterator[str]:
    attention = stack.attention
    yield from (attention.module, attention.query, attention.key, attention.value, attention.fused, attention.output)
    yield from (attention.query_norm, attention.key_norm, stack.attention_norm, stack.attention_post_norm)
    if stack.cross_attention is not None:
        cross = stack.cross_attention
        yield from (cross.module, cross.query, cross.key, cross.value, cross.fused, cross.output)
        yield from (cross.query_norm, cross.key_norm, stack.cross_norm, stack.cross_post_norm)
    yield from (stack.mlp_norm, stack.mlp_post_norm, stack.mlp_output, stack.mlp, stack.mlp_beside, stack.mixer)
    if not stack.mlp_activation.startswith(FUNCTION):
        yield stack.mlp_activation
    yield from (stack.mlp_input, stack.mlp_gate, stack.mlp_gate_up)
