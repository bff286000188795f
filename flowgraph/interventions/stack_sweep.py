"""All heads of an encoder–decoder, each changed by itself in a row of its own: those of the encoder, of the decoder, and between them.

A row runs its whole stack. What a head of the decoder changes leaves the encoder as it is, so rows of the decoder take the encoder's
last states of the unchanged run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import ArgumentError
from ..models import LoadedModel
from ..models.anatomy import Anatomy, upcast
from ..models.hooks import on_result
from ..models.kinds import base_of
from ..models.stacks import SOURCE, encoder_of
from ..models.wheel import Progress
from .ablation import answer_tokens_of
from .measures import measure_of
from .metrics import Metric
from .passes import Pass, logits_of_states
from .prompts import Batch
from .sweep import WIDEST, Size, block_bytes
from .ticks import ticking

SELF, CROSS = "decoder.self", "decoder.cross"


def attentions_of(loaded: LoadedModel) -> dict[str, tuple[str, Anatomy]]:
    """Kind of attention, as in :attr:`flowgraph.Trace.attention` → the site of its heads' outputs, and its parts."""
    found = {SELF: ("z", loaded.anatomy), CROSS: ("cross_z", loaded.anatomy.reader_of_encoder)}
    return found | {f"{name}.self": ("z", one.anatomy) for name, one in loaded.stacks.items()}


class StackSweep:
    """The unchanged run of the prompts, the values that replace heads, and the metric; as :class:`Sweep` for several stacks."""

    def __init__(self, loaded: LoadedModel, clean: Batch, others: Batch | None, how: str, metric: Metric) -> None:
        self.loaded, self.metric = loaded, metric
        self.base = others if how == "denoise" and others is not None else clean
        self.encoded: Any = None
        # The values that replace heads come from one of the two runs, and only that one keeps them.
        giver = None if how == "zero" else clean if how == "denoise" else others
        kept: dict[str, dict[int, Tensor]] = {}
        last: dict[int, Tensor] = {}
        for batch in (clean, others):
            if batch is not None:
                run = self._run(batch, gives=batch is giver)
                last[id(batch)] = run[0]
                kept = run[1] or kept
        self.values = kept
        if how == "mean":
            self.values = {
                kind: {layer: upcast(z).mean(0, keepdim=True).to(z.dtype) for layer, z in of.items()}
                for kind, of in kept.items()
            }
        logits = logits_of_states(loaded, last[id(clean)])
        answers = answer_tokens_of(clean, logits)
        self.measure, self.unchanged = measure_of(loaded, metric, answers), last[id(self.base)]
        self.clean = _numbers(metric(logits, answers))
        paired = how in ("resample", "denoise") and others is not None
        self.corrupted = _numbers(metric(logits_of_states(loaded, last[id(others)]), answers)) if paired else None

    def run(self, size: Size, progress: Progress | None, cancel: Callable[[], bool] | None) -> dict[str, np.ndarray]:
        """Kind of attention → [prompt, layer, head] effects."""
        prompts = len(self.base)
        before = _numbers(self.measure(self.unchanged, torch.arange(prompts, device="cpu")))
        kinds = attentions_of(self.loaded)
        counts = {kind: len(one.attending) * one.n_heads * prompts for kind, (_, one) in kinds.items()}
        tick = ticking("changing each head", sum(counts.values()), progress, cancel, unit="heads of a prompt")
        effects = {}
        for kind, (site, anatomy) in kinds.items():
            found = np.zeros((prompts, len(anatomy.blocks), anatomy.n_heads))
            attending = torch.tensor(anatomy.attending, dtype=torch.long, device="cpu")
            every = torch.cartesian_prod(
                attending, *(torch.arange(count, device="cpu") for count in (anatomy.n_heads, prompts))
            )
            # Of nothing a split would still give one part, with no row.
            for rows in every.split(size.rows) if len(every) else ():
                tick(len(rows))
                layer, head, prompt = rows.numpy().T
                found[prompt, layer, head] = self._measured(kind, site, anatomy, rows) - before[prompt]
            effects[kind] = found
        tick(0)
        return effects

    def _measured(self, kind: str, site: str, anatomy: Anatomy, rows: Int[Tensor, "row 3"]) -> np.ndarray:
        """[row] metric of the changed runs."""
        run, prompt = Pass(self.loaded, len(rows)), rows[:, 2]
        stack, _, _ = kind.partition(".")
        changed = run.stacks.get(stack, run)
        for layer in rows[:, 0].unique().tolist():
            of = self.values.get(kind, {}).get(layer)
            changed.edit(site, layer, partial(_replaced, rows, layer, anatomy.n_heads, of))
        at = prompt.to(self.base.ids.device)
        feed = {name: value[at] for name, value in self.base.feed.items()}
        if stack not in run.stacks and self.encoded is not None:
            feed["encoder_outputs"] = type(self.encoded)(last_hidden_state=self.encoded.last_hidden_state[at])
        states = run.run(feed)
        last = states[torch.arange(len(rows), device=states.device), self.base.positions[at]]
        measured: np.ndarray = _numbers(self.measure(last, prompt))
        return measured

    def _run(self, batch: Batch, *, gives: bool) -> tuple[Tensor, dict[str, dict[int, Tensor]]]:
        """[prompt, d_model] last states at the explained positions, and the outputs of heads by kind of attention and layer."""
        run = Pass(self.loaded, len(batch))
        kinds = attentions_of(self.loaded) if gives else {}
        passes = {kind: run.stacks.get(kind.partition(".")[0], run) for kind in kinds}
        for kind, (site, anatomy) in kinds.items():
            passes[kind].keep((site,), anatomy.attending)
        handle = on_result(encoder_of(self.loaded.model), self._keep_encoded) if batch is self.base else None
        try:
            states = run.run(batch.feed)
        finally:
            if handle is not None:
                handle.remove()
        kept = {
            kind: {layer: passes[kind].kept[site, layer] for layer in anatomy.attending}
            for kind, (site, anatomy) in kinds.items()
        }
        return states[torch.arange(len(batch), device=states.device), batch.positions], kept

    def _keep_encoded(self, _module: Any, _args: tuple[Any, ...], output: Any) -> None:
        # Where a decoder takes nothing ready, every row runs both stacks.
        if "encoder_outputs" in signature(base_of(self.loaded.model).forward).parameters:
            self.encoded = output


def stack_size_of(loaded: LoadedModel, batch: Batch, others: Batch | None, max_bytes: int) -> Size:
    """As :func:`size_of` for several stacks: a row runs both of them.

    Raises
    ------
    ArgumentError
        If not even one row fits.
    """
    anatomy, width = loaded.anatomy, loaded.dtype.itemsize
    lengths = {"": batch.n_tokens} | dict.fromkeys(loaded.stacks, batch.n_source)
    models = {"": loaded} | dict(loaded.stacks)
    read = 4 * anatomy.n_heads * batch.n_tokens * batch.n_source * max(4, width)
    row = sum(block_bytes(models[name], length) for name, length in lengths.items()) + read + 8 * 4 * anatomy.d_vocab
    # What is fed, and the last states of both stacks.
    row += sum(value[0].numel() * value.element_size() for value in batch.feed.values())
    row += sum(2 * length * models[name].anatomy.d_model * width for name, length in lengths.items())
    kept = sum(
        len(one.blocks) * one.n_heads * one.d_value * (batch.n_source if kind == f"{SOURCE}.self" else batch.n_tokens)
        for kind, (_, one) in attentions_of(loaded).items()
    )
    prompts = len(batch) + (0 if others is None else len(others))
    base = prompts * (kept * width + row)
    if max_bytes < base + row:
        raise ArgumentError(
            f"max_bytes={max_bytes:,} does not hold the unchanged runs and one changed row ({base + row:,} bytes); raise it, or "
            "give fewer or shorter prompts"
        )
    numbers = sum(length * models[name].anatomy.mlp_width for name, length in lengths.items())
    heads = sum(len(one.attending) * one.n_heads for _, one in attentions_of(loaded).values())
    rows = max(1, min(WIDEST // (4 * numbers), (max_bytes - base) // row, heads * len(batch)))
    return Size(rows, rows, rows, base + rows * row)


def _replaced(rows: Int[Tensor, "row 3"], layer: int, n_heads: int, values: Tensor | None, z: Tensor) -> Tensor:
    """Outputs of a layer's heads in which each row of this layer has its own head replaced."""
    own = (rows[:, 0] == layer).nonzero()[:, 0]
    head, prompt = rows[own, 1], rows[own, 2]
    by_head = z.clone().unflatten(-1, (n_heads, -1))
    new: Tensor | float = 0.0
    if values is not None:
        new = values.unflatten(-1, by_head.shape[2:])[prompt % len(values), :, head]
    by_head[own, :, head] = new
    changed: Tensor = by_head.flatten(-2)
    return changed


def _numbers(values: Tensor) -> Any:
    return values.double().cpu().numpy()
