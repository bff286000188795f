"""The exact effect of every head: each changed by itself, all of them in one climb through the layers.

Below a head nothing changes when the head does. So a batch enters the model at the layer of its lowest head with the states of
the unchanged run; at each layer the rows of that layer's heads join it, behind its attention, whose result is known but for the
one head. In the last block only the explained position goes through the MLP, and only it through the unembedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError, CancelledError
from ..models import LoadedModel, load_model
from ..models.anatomy import wide
from ..models.wheel import Progress
from ..table import Table, Tabular
from .ablation import _one_for_each, aims_of
from .blocks import after_attention, mixed
from .metrics import Aims, Metric, metric_of
from .passes import Pass, logits_of_states
from .prompts import Answers, Batch, Prompts, batch_of, prompts_of

How = Literal["zero", "mean", "resample", "denoise"]
MAX_BYTES = 2**30
"""Memory that a sweep works in, unless ``max_bytes`` says otherwise."""
_TOKENS = 512
_LOGIT_ROWS = 64


@dataclass(frozen=True, eq=False)
class HeadEffects(Tabular):
    """What changing each head by itself does to the metric.

    Attributes
    ----------
    by_prompt
        [prompt, layer, head] metric of the changed run − metric of the run that was changed.
    clean
        [prompt] metric of the clean run.
    corrupted
        [prompt] metric of the corrupted run; None for ``"zero"`` and ``"mean"``.
    how, metric, unit
        How heads were changed, and what was measured.
    model
        Name of the model.
    """

    by_prompt: Float[np.ndarray, "prompt layer head"]
    clean: Float[np.ndarray, "prompt"]
    corrupted: Float[np.ndarray, "prompt"] | None
    how: str
    metric: str
    unit: str
    model: str

    @property
    def effects(self) -> Float[np.ndarray, "layer head"]:
        """[layer, head] mean over the prompts, in ``unit``."""
        mean: np.ndarray = self.by_prompt.mean(0)
        return mean

    def __repr__(self) -> str:
        effects = self.effects
        layer, head = (int(i) for i in np.unravel_index(np.abs(effects).argmax(), effects.shape))
        return (
            f"HeadEffects({self.model!r}, {self.how}, {effects.shape[0]} layers × {effects.shape[1]} heads, "
            f"{len(self.by_prompt)} prompts; strongest L{layer}H{head}: {effects[layer, head]:+.4g} {self.unit})"
        )

    def table(self) -> Table:
        """One row for each head, the strongest first: ``layer``, ``head``, ``effect`` in the metric's unit."""
        effects = self.effects
        order = np.argsort(-np.abs(effects), axis=None, kind="stable")
        layer, head = np.unravel_index(order, effects.shape)
        return Table(repr(self), {"layer": layer, "head": head, "effect": effects[layer, head]})

    def arrays(self) -> dict[str, np.ndarray]:
        """``effects``, ``by_prompt``, ``clean`` and, where there is one, ``corrupted``."""
        found = {"effects": self.effects, "by_prompt": self.by_prompt, "clean": self.clean}
        return found if self.corrupted is None else found | {"corrupted": self.corrupted}


def head_effects(
    model: Any,
    clean: Prompts,
    corrupted: Prompts | None = None,
    how: How | None = None,
    *,
    target: Answers = None,
    foil: Answers = None,
    metric: Metric | Callable[..., Any] | None = None,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
    max_bytes: int = MAX_BYTES,
) -> HeadEffects:
    """Change every head by itself, at all positions, and measure what each does to the answer.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts.
    clean
        One or several prompts of one length: traces, texts or lists of token ids.
    corrupted
        For ``"resample"`` and ``"denoise"`` a corrupted prompt for each, or one for all; for ``"mean"`` the set to average
        over.
    how
        ``"zero"`` (default without ``corrupted``), ``"mean"``, ``"resample"`` (default with it): the head of the clean run is
        replaced; ``"denoise"``: the clean head is put into the corrupted run.
    target, foil, metric
        As for :func:`flowgraph.ablate`.
    progress
        Called with a stage in words and the fraction done.
    cancel
        Asked before each block; the sweep stops when it says True.
    max_bytes
        Memory to work in, besides the model; batches are made so that :func:`sweep_size` stays below.

    Raises
    ------
    CancelledError
        If ``cancel`` said so.
    ArgumentError
        If ``how`` needs corrupted prompts, or not even one row fits into ``max_bytes``.
    PromptError, TargetError, NonFiniteError, UnsupportedReadingError
        As for :func:`flowgraph.ablate`.

    References
    ----------
    Michel et al. (2019), "Are Sixteen Heads Really Better than One?"; Wang et al. (2022), "Interpretability in the Wild".

    Examples
    --------
    >>> found = fg.head_effects(trace.model, trace, "The capital of Peru is the city of", foil=" Kyoto")
    >>> divmod(int(found.effects.argmin()), 9)  # the head whose loss costs most
    (23, 1)
    """
    loaded = load_model(model)
    loaded.require_head("an intervention's effect on the answer")
    how = _how(how, corrupted)
    found = prompts_of(loaded, clean, "clean", target=target, foil=foil)
    batch = batch_of(loaded, found, "clean")
    others = None
    if corrupted is not None:
        theirs = prompts_of(loaded, corrupted, "corrupted")
        others = batch_of(loaded, theirs if how == "mean" else _one_for_each(found, theirs, "corrupted"), "corrupted")
        if others.n_tokens != batch.n_tokens:
            batch_of(loaded, [*found, *theirs], "clean and corrupted")
    rows = _rows(loaded, batch, others, max_bytes)
    with loaded.lock, torch.no_grad():
        sweep = _Sweep(loaded, batch, others, how, metric_of(metric))
        by_prompt = sweep.run(rows, progress, cancel)
    return HeadEffects(by_prompt, sweep.clean, sweep.corrupted, how, sweep.metric.name, sweep.metric.unit, loaded.name)


def sweep_size(model: Any, clean: Prompts, corrupted: Prompts | None = None, *, max_bytes: int = MAX_BYTES) -> int:
    """Bytes that :func:`head_effects` will work in besides the model, known before it runs.

    Parameters
    ----------
    model, clean, corrupted, max_bytes
        As for :func:`head_effects`.

    Raises
    ------
    ArgumentError
        If not even one row fits into ``max_bytes``.

    Examples
    --------
    >>> fg.sweep_size(trace.model, trace) < 2**28
    True
    """
    loaded = load_model(model)
    batch = batch_of(loaded, prompts_of(loaded, clean, "clean"), "clean")
    others = None if corrupted is None else batch_of(loaded, prompts_of(loaded, corrupted, "corrupted"), "corrupted")
    rows = _rows(loaded, batch, others, max_bytes)
    return _base_bytes(loaded, batch, others) + rows * _row_bytes(loaded, batch.n_tokens)


class _Sweep:
    """The unchanged run of the prompts, what heads are replaced by, and the metric."""

    def __init__(self, loaded: LoadedModel, clean: Batch, others: Batch | None, how: str, metric: Metric) -> None:
        self.loaded, self.anatomy, self.how, self.metric = loaded, loaded.anatomy, how, metric
        runs = {name: self._run(one) for name, one in (("clean", clean), ("others", others)) if one is not None}
        base, self.base = (others, "others") if how == "denoise" and others is not None else (clean, "clean")
        self.positions = base.positions
        logits = {name: self._answers(states, one.positions) for name, (_, states, one) in runs.items()}
        self.aims = aims_of(clean, logits["clean"])
        self.clean = _numbers(metric(logits["clean"], self.aims))
        paired = how in ("resample", "denoise")
        self.corrupted = _numbers(metric(logits["others"], self.aims)) if paired else None
        self.block_calls, self.attention_calls = runs[self.base][0].block_calls, runs[self.base][0].attention_calls
        self.states = runs[self.base][0].kept
        self.values = self._values({name: run.kept for name, (run, _, _) in runs.items()})

    def run(self, rows: int, progress: Progress | None, cancel: Callable[[], bool] | None) -> np.ndarray:
        """[prompt, layer, head] effects, ``rows`` of the batch at a time."""
        layers, heads, prompts = len(self.anatomy.blocks), self.anatomy.n_heads, len(self.positions)
        before = self.clean if self.corrupted is None or self.how != "denoise" else self.corrupted
        effects = np.empty((prompts, layers, heads))
        parts = list(_parts(layers, heads, prompts, rows))
        blocks = [layers - part[0][0] for part, _ in parts]
        done, total = 0, sum(blocks)
        for part, chosen in parts:
            for step in self._climb(part, chosen):
                if isinstance(step, np.ndarray):
                    for n, (layer, head) in enumerate(part):
                        effects[chosen, layer, head] = step[n] - before[chosen]
                    continue
                if cancel is not None and cancel():
                    raise CancelledError(f"the sweep over the heads was cancelled after {done / total:.0%} of the work")
                if progress is not None:
                    progress("changing each head", done / total)
                done += 1
        if progress is not None:
            progress("changing each head", 1.0)
        return effects

    def _climb(self, part: Sequence[tuple[int, int]], chosen: slice) -> Iterator[int | np.ndarray]:
        """Run the blocks above the lowest of some heads: each layer before it runs, and [head, prompt] metrics at the end."""
        run = Pass(self.loaded, 0)
        last = len(self.anatomy.blocks) - 1
        states: Tensor | None = None
        with run.hooked():
            for layer in range(part[0][0], last + 1):
                yield layer
                heads = [head for joined, head in part if joined == layer]
                batches = [] if states is None else [self._block(run, layer, states, chosen)]
                batches += [self._joining(layer, heads, chosen)] if heads else []
                states = torch.cat(batches)
        assert states is not None
        yield self._measured(states, len(part), chosen)

    def _block(self, run: Pass, layer: int, states: Tensor, chosen: slice) -> Tensor:
        """Rows that joined below, one block on; at the last layer what is explained alone goes through the MLP."""
        run.rows = len(states)
        if layer < len(self.anatomy.blocks) - 1:
            return run.block(layer, states, self.block_calls[layer])
        z = mixed(self.anatomy, layer, states, self.attention_calls[layer])
        return after_attention(self.anatomy, layer, self._explained(states, chosen), self._explained(z, chosen))

    def _joining(self, layer: int, heads: list[int], chosen: slice) -> Tensor:
        """Rows of a layer's heads after that layer, head by head: z is that of the unchanged run but for one head."""
        width, value = self.anatomy.d_head, self.values.get(layer)
        entering = self.states["resid_pre", layer][chosen].repeat(len(heads), 1, 1)
        z = self.states["z", layer][chosen].repeat(len(heads), 1, 1)
        for n, own in enumerate(z.chunk(len(heads))):
            columns = slice(heads[n] * width, (heads[n] + 1) * width)
            own[..., columns] = 0.0 if value is None else (value if len(value) == 1 else value[chosen])[..., columns]
        if layer == len(self.anatomy.blocks) - 1:
            entering, z = self._explained(entering, chosen), self._explained(z, chosen)
        return after_attention(self.anatomy, layer, entering, z)

    def _explained(self, x: Tensor, chosen: slice) -> Tensor:
        """[row, width] each row at the position that is explained."""
        positions = self.positions[chosen]
        return x[torch.arange(len(x), device=x.device), positions.repeat(len(x) // len(positions))]

    def _measured(self, states: Tensor, heads: int, chosen: slice) -> np.ndarray:
        aims = Aims(self.aims.targets[chosen], self.aims.foils[chosen], self.aims.clean[chosen])
        count = len(aims.targets)
        step = max(1, _LOGIT_ROWS // count)
        found = [
            self.metric(logits_of_states(self.loaded, states[n * count : (n + step) * count]), aims.repeated(min(step, heads - n)))
            for n in range(0, heads, step)
        ]  # fmt: skip
        measured: np.ndarray = _numbers(torch.cat(found)).reshape(heads, count)
        return measured

    def _run(self, batch: Batch) -> tuple[Pass, Tensor, Batch]:
        run = Pass(self.loaded, len(batch))
        run.keep(("resid_pre", "z"))
        run.keep_calls()
        return run, run.run(batch.ids), batch

    def _answers(self, states: Tensor, positions: Tensor) -> Tensor:
        return logits_of_states(self.loaded, states[torch.arange(len(states), device=states.device), positions])

    def _values(self, kept: dict[str, dict[tuple[str, int], Tensor]]) -> dict[int, Tensor]:
        """Layer → [prompt or 1, position, width] z that heads are replaced by; empty for zero."""
        if self.how == "zero":
            return {}
        source = kept["clean" if self.how == "denoise" else "others"]
        values = {layer: source["z", layer] for layer in range(len(self.anatomy.blocks))}
        if self.how == "mean":
            values = {layer: wide(z).mean(0, keepdim=True).to(z.dtype) for layer, z in values.items()}
        return values


def _parts(layers: int, heads: int, prompts: int, rows: int) -> Iterator[tuple[list[tuple[int, int]], slice]]:
    """Heads in the order of the layers, and prompts, that run together."""
    every = [(layer, head) for layer in range(layers) for head in range(heads)]
    at_once = min(prompts, rows)
    for first in range(0, prompts, at_once):
        chosen = slice(first, min(first + at_once, prompts))
        step = max(1, rows // (chosen.stop - chosen.start))
        for start in range(0, len(every), step):
            yield every[start : start + step], chosen


def _rows(loaded: LoadedModel, batch: Batch, others: Batch | None, max_bytes: int) -> int:
    """How many rows of the batch fit; beyond what keeps a processor busy more of them are no faster."""
    left = max_bytes - _base_bytes(loaded, batch, others)
    row = _row_bytes(loaded, batch.n_tokens)
    if left < row:
        raise ArgumentError(
            f"max_bytes={max_bytes:,} does not hold the unchanged runs and one changed row ({max_bytes - left + row:,} bytes); "
            "raise it, or give fewer or shorter prompts"
        )
    useful = max(1, _TOKENS // batch.n_tokens)
    return int(min(left // row, max(useful, 1), len(loaded.anatomy.blocks) * loaded.anatomy.n_heads * len(batch)))


def _base_bytes(loaded: LoadedModel, batch: Batch, others: Batch | None) -> int:
    """What the unchanged runs keep: states and z of every layer, and logits."""
    anatomy = loaded.anatomy
    rows = len(batch) + (0 if others is None else len(others))
    kept = len(anatomy.blocks) * batch.n_tokens * (anatomy.d_model + anatomy.n_heads * anatomy.d_head)
    # While they run, the block in work comes on top, as in a sweep.
    return rows * (kept * loaded.dtype.itemsize + 2 * 4 * anatomy.d_vocab + _row_bytes(loaded, batch.n_tokens))


def _row_bytes(loaded: LoadedModel, n_tokens: int) -> int:
    """An upper bound of what one row takes while a block or the head works on it."""
    anatomy = loaded.anatomy
    widths = 8 * anatomy.d_model + 6 * anatomy.n_heads * anatomy.d_head + 5 * anatomy.blocks[0].mlp_output.d_in
    patterns = 4 * anatomy.n_heads * n_tokens**2
    return (n_tokens * widths + patterns) * max(4, loaded.dtype.itemsize) + 8 * 4 * anatomy.d_vocab


def _how(how: str | None, corrupted: Prompts | None) -> How:
    chosen = how or ("zero" if corrupted is None else "resample")
    if chosen not in get_args(How):
        raise ArgumentError(f"how={how!r} must be one of {', '.join(get_args(How))}")
    if chosen == "zero" and corrupted is not None:
        raise ArgumentError(
            "how='zero' uses no corrupted prompts; say how='resample', 'mean' or 'denoise', or leave them out"
        )
    if chosen != "zero" and corrupted is None:
        raise ArgumentError(
            f"how={chosen!r} needs corrupted=: a corrupted prompt for each, or for 'mean' the prompts to average"
        )
    return chosen  # type: ignore[return-value]


def _numbers(values: Tensor) -> Any:
    return values.double().cpu().numpy()
