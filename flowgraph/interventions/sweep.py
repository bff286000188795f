"""All heads in one climb through the layers, each changed by itself in a row of its own.

A change of a head changes nothing below it. So the rows of a layer's heads join the climb behind that layer's attention, whose
result is known except for the one head. All rows pass a layer before any row passes the next. They go through a layer in parts
that keep the processor busy and fit its caches. In the last block only the explained position goes through the MLP and the
unembedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ArgumentError
from ..models import LoadedModel
from ..models.anatomy import upcast
from ..models.wheel import Progress
from .ablation import answer_tokens_of
from .blocks import after_attention, is_whole, mixed
from .measures import measure_of
from .metrics import Metric
from .passes import Pass, logits_of_states
from .prompts import Batch
from .ticks import Tick, ticking

WIDEST = 11 * 2**18
"""Bytes of the widest tensor in a block. Products of this size run at full speed; larger ones fetch memory again for each."""
_LOGIT_ROWS = 64


@dataclass(frozen=True)
class Size:
    """Sizes of the batches of a sweep.

    Attributes
    ----------
    rows
        Rows that climb together, and whose states are held.
    in_block, in_head
        How many of them at most are in a block, and in the unembedding, at a time.
    total
        Bytes of it all, besides the model.
    """

    rows: int
    in_block: int
    in_head: int
    total: int


class Sweep:
    """The unchanged run of the prompts, the values that replace heads, and the metric."""

    def __init__(self, loaded: LoadedModel, clean: Batch, others: Batch | None, how: str, metric: Metric) -> None:
        self.loaded, self.anatomy, self.how, self.metric = loaded, loaded.anatomy, how, metric
        # Clean and other prompts run once; every changed row starts from the states that are kept here.
        runs = {name: self._run(one) for name, one in (("clean", clean), ("others", others)) if one is not None}
        base, self.base = (others, "others") if how == "denoise" and others is not None else (clean, "clean")
        self.positions = base.positions
        last = {name: states[range(len(one)), one.positions] for name, (_, states, one) in runs.items()}
        logits = logits_of_states(loaded, last["clean"])
        answers = answer_tokens_of(clean, logits)
        self.measure, self.unchanged = measure_of(loaded, metric, answers), last[self.base]
        self.clean = _numbers(metric(logits, answers))
        paired = how in ("resample", "denoise")
        self.corrupted = _numbers(metric(logits_of_states(loaded, last["others"]), answers)) if paired else None
        self.calls = {kind: recorder.calls for kind, recorder in runs[self.base][0].calls.items()}
        self.states = runs[self.base][0].kept
        self.values = self._values({name: run.kept for name, (run, _, _) in runs.items()})

    def run(self, size: Size, progress: Progress | None, cancel: Callable[[], bool] | None) -> np.ndarray:
        """[prompt, layer, head] effects."""
        layers, prompts = len(self.anatomy.blocks), len(self.positions)
        # By the same way as the changed runs, so that what rounds alike cancels.
        before = self._measured(self.unchanged, torch.arange(prompts, device="cpu"), size.in_head)
        # A layer that does not attend has no heads, and their effect stays 0.
        attending = torch.tensor(self.anatomy.attending, dtype=torch.long, device="cpu")
        counts = (torch.arange(count, device="cpu") for count in (self.anatomy.n_heads, prompts))
        every = torch.cartesian_prod(attending, *counts)
        tick = ticking("changing each head", int((layers - every[:, 0]).sum()), progress, cancel, unit="blocks")
        effects = np.zeros((prompts, layers, self.anatomy.n_heads))
        # Rows of several layers share a climb, so early layers do not run almost empty.
        for rows in every.split(size.rows):
            layer, head, prompt = rows.numpy().T
            last = self._climbed(rows, size.in_block, tick)
            effects[prompt, layer, head] = self._measured(last, rows[:, 2], size.in_head) - before[prompt]
        tick(0)
        return effects

    def _climbed(self, rows: Int[Tensor, "row 3"], at_once: int, tick: Tick) -> Float[Tensor, "row d_model"]:
        """Last states at the explained positions, of rows (layer, head, prompt) in the order of their layers."""
        run, end = Pass(self.loaded, 0), len(self.anatomy.blocks) - 1
        like = self.states["resid_pre", 0]
        states, last = like.new_empty(len(rows), *like.shape[1:]), like.new_empty(len(rows), like.shape[-1])
        with run.hooked():
            for layer in range(int(rows[0, 0]), end + 1):
                # Rows come in the order of their layers: those before `below` are climbing already, the next ones join
                # here.
                below, joined = (int((rows[:, 0] < above).sum()) for above in (layer, layer + 1))
                for part in (*_parts(0, below, at_once), *_parts(below, joined, at_once)):
                    tick(part.stop - part.start)
                    joins, entering = part.start >= below, states[part]
                    # In the last block a row goes through attention whole and through the MLP at one position, so it is
                    # not run as one module, unless what stands beside its attention or MLP has to be.
                    whole = is_whole(self.anatomy.blocks[layer])
                    if whole or (not joins and layer < end):
                        states[part] = self._through(run, layer, rows[part], None if joins else entering)
                        if layer == end:
                            last[part] = states[part][range(part.stop - part.start), self.positions[rows[part, 2]]]
                        continue
                    if joins:
                        entering, z = self._joining(layer, rows[part])
                    else:
                        z = mixed(self.anatomy, layer, entering, self.calls["attention"][layer], rows[part, 2])
                    if layer == end:
                        at = range(len(z)), self.positions[rows[part, 2]]
                        last[part] = after_attention(self.anatomy, layer, entering[at], z[at])
                    else:
                        states[part] = after_attention(self.anatomy, layer, entering, z)
        return last

    def _through(self, run: Pass, layer: int, rows: Int[Tensor, "row 3"], entering: Tensor | None) -> Tensor:
        """[row, position, d_model] states behind a block that runs as one module; ``entering`` is None for rows that join here."""
        call = self.calls["module"][layer]
        if entering is not None:
            return run.block(layer, entering, call, rows[:, 2])
        entering, z = self._joining(layer, rows)
        alone = Pass(self.loaded, len(rows))
        # Only this block runs, so no other layer's heads are changed.
        alone.edit("z", layer, lambda _: z)
        with alone.hooked():
            return alone.block(layer, entering, call, rows[:, 2])

    def _joining(self, layer: int, rows: Int[Tensor, "row 3"]) -> tuple[Tensor, Tensor]:
        """[row, position, …] states that enter a layer and z of its heads: those of the unchanged run but for one head."""
        head, prompt = rows[:, 1], rows[:, 2]
        z = self.states["z", layer][prompt]
        by_head, own = z.unflatten(-1, (self.anatomy.n_heads, -1)), (range(len(z)), slice(None), head)
        value = self.values.get(layer)
        by_head[own] = 0.0 if value is None else value.unflatten(-1, by_head.shape[2:])[prompt % len(value), :, head]
        return self.states["resid_pre", layer][prompt], z

    def _measured(self, last: Tensor, prompt: Int[Tensor, "row"], at_once: int) -> np.ndarray:
        """[row] metrics."""
        parts = zip(last.split(at_once), prompt.split(at_once), strict=True)
        measured: np.ndarray = _numbers(torch.cat([self.measure(states, own) for states, own in parts]))
        return measured

    def _run(self, batch: Batch) -> tuple[Pass, Tensor, Batch]:
        run = Pass(self.loaded, len(batch))
        run.keep(("resid_pre",))
        run.keep(("z",), self.anatomy.attending)
        run.keep_calls()
        return run, run.run(batch.feed), batch

    def _values(self, kept: dict[str, dict[tuple[str, int], Tensor]]) -> dict[int, Tensor]:
        """Layer → [prompt or 1, position, width] z that heads are replaced by; empty for zero."""
        if self.how == "zero":
            return {}
        source = kept["clean" if self.how == "denoise" else "others"]
        values = {layer: source["z", layer] for layer in self.anatomy.attending}
        if self.how == "mean":
            values = {layer: upcast(z).mean(0, keepdim=True).to(z.dtype) for layer, z in values.items()}
        return values


def size_of(loaded: LoadedModel, batch: Batch, others: Batch | None, max_bytes: int) -> Size:
    """Find the largest batches that fit, up to the size beyond which larger ones are no faster.

    Raises
    ------
    ArgumentError
        If not even one row fits.
    """
    anatomy, n_tokens = loaded.anatomy, batch.n_tokens
    anatomy.require_attention(None, "the effect of each head")
    in_block, in_head = block_bytes(loaded, n_tokens), 8 * 4 * anatomy.d_vocab
    held = (n_tokens + 1) * anatomy.d_model * loaded.dtype.itemsize
    base = _base_bytes(loaded, batch, others)
    least = base + held + max(in_block, in_head)
    if max_bytes < least:
        raise ArgumentError(
            f"max_bytes={max_bytes:,} does not hold the unchanged runs and one changed row ({least:,} bytes); raise it, or "
            "give fewer or shorter prompts"
        )
    # What works at a time takes half of what is left at most, so that enough rows climb together.
    every, share = len(anatomy.blocks) * anatomy.n_heads * len(batch), (max_bytes - base - held) // 2
    blocks = max(1, min(WIDEST // (4 * n_tokens * anatomy.mlp_width), share // in_block, every))
    heads = max(1, min(_LOGIT_ROWS, share // in_head, every))
    work = max(blocks * in_block, heads * in_head)
    rows = min(every, (max_bytes - base - work) // held)
    return Size(rows, blocks, heads, base + rows * held + work)


def _parts(start: int, stop: int, at_once: int) -> Iterator[slice]:
    """Rows in parts of about equal size."""
    count = -(-(stop - start) // at_once)
    edges = [start + (stop - start) * n // count for n in range(count + 1)] if count else []
    return (slice(*ends) for ends in pairwise(edges))


def _base_bytes(loaded: LoadedModel, batch: Batch, others: Batch | None) -> int:
    """Bytes that the unchanged runs keep: states and z of every layer, and logits."""
    anatomy = loaded.anatomy
    rows = len(batch) + (0 if others is None else len(others))
    kept = len(anatomy.blocks) * batch.n_tokens * (anatomy.d_model + anatomy.n_heads * anatomy.d_value)
    # While they run, the block in work comes on top, as in a sweep.
    return rows * (kept * loaded.dtype.itemsize + 2 * 4 * anatomy.d_vocab + block_bytes(loaded, batch.n_tokens))


def block_bytes(loaded: LoadedModel, n_tokens: int) -> int:
    """An upper bound of the bytes of one row while a block works on it."""
    anatomy = loaded.anatomy
    widths = 8 * anatomy.d_model + 6 * anatomy.n_heads * anatomy.d_value + 5 * anatomy.mlp_width
    patterns = 4 * anatomy.n_heads * n_tokens**2
    return (n_tokens * widths + patterns) * max(4, loaded.dtype.itemsize)


def _numbers(values: Tensor) -> Any:
    return values.double().cpu().numpy()
