"""Runs in which some parts are live, and every other part gives what it gave in a counterfactual run.

The prompt's own tokens enter. A part that is shown is computed from the state that reaches it. A part that is not shown adds what it
added in the run of the counterfactual prompt, of equal length. So with all parts shown the run is the prompt's own, and with none it
is the counterfactual's, but for what the tokens that differ bring to the last state themselves. Nothing else passes: a shown term's
weight is computed with the live query, with live keys at the sources that the head is shown to read from this position, and with the
counterfactual's keys at all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import ArgumentError, GraphTooLargeError, UnsupportedReadingError
from ..models import LoadedModel
from ..models.anatomy import fill, upcast
from ..models.eager import AttentionCall
from ..models.forward import Feed
from ..models.softmax_capture import apart
from .ablation import answer_logits
from .parts import PartNumbers
from .passes import Pass
from .prompts import Batch
from .shared_runs import Attended, SharedLayer, SharedRuns, can_share, shared_sites
from .ticks import Tick

Keys = Literal["shown", "all"]
"""Which keys of a shown term's head are live: those of sources that are shown, or all."""
_TOKENS = 1024
"""Positions that run together, over all rows."""
_NUMBERS = 2**26
"""Numbers of one tensor of gates or scores, at most."""
_MOST = 2**27
"""Most parts that a run may have; a gate of each is held, and their scores."""
_PROVED = 1e-3
"""Largest relative error of a pattern that is made again from queries and keys."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """What a layer gave in the counterfactual runs, [pair, …]; None for what it has not."""

    z: Tensor
    attended: Attended | None
    mlp: Tensor | None
    mixer: Tensor | None


class PartRuns:
    """A prompt and its counterfactuals, ready to be run with any parts shown.

    Parameters
    ----------
    loaded
        The model.
    both
        The prompt in row 0, its counterfactuals behind it, all of one length.
    keys
        ``"shown"``: sources that are not shown keep the counterfactual's keys, so nothing unseen enters through the softmax;
        ``"all"``: every key is live.
    tick
        Called before some rows run together, with their number.

    Attributes
    ----------
    numbers
        Numbers of the parts.
    valid
        [part] whether the part exists: no mask hides it, and the layer has such a part.
    logits
        [1 + pair, d_vocab] logits of the prompt and of its counterfactuals, by the model itself.
    live_layers
        Layers whose keys are all live under ``"shown"`` as well, since their patterns cannot be made again from queries and keys.

    Raises
    ------
    GraphTooLargeError
        If the prompt has too many parts.
    UnsupportedReadingError
        If the model has no head, reads an encoder, multiplies heads' outputs by a gate, or is known by its patterns alone.
    """

    def __init__(self, loaded: LoadedModel, both: Batch, *, keys: Keys = "shown", tick: Tick | None = None) -> None:
        anatomy = loaded.anatomy
        loaded.require_head("a picture's test")
        anatomy.refuse_stacks("a picture's test by counterfactual prompts")
        anatomy.refuse_gates("a picture's test by counterfactual prompts")
        self.loaded, self.both, self.keys, self.tick = loaded, both, keys, tick
        self.numbers = PartNumbers(
            len(anatomy.blocks), anatomy.n_heads, both.n_tokens, _first_change(loaded, both), anatomy.has_mixers
        )
        if len(self.numbers) > _MOST:
            raise GraphTooLargeError(
                f"{both.n_tokens} tokens from position {self.numbers.first} on have {len(self.numbers):,} parts, and at most {_MOST:,} are "
                "tested; give a shorter prompt, or counterfactuals that exchange a later word"
            )
        self.shared: list[SharedRuns] | None = None
        with loaded.lock, torch.no_grad():
            self.layers, self.valid, self.logits = self._recorded()
            # Whole passes serve every model; what is shared serves those of which it gives the same.
            if self.shared is not None and not self._agrees():
                self.shared = None

    @property
    def pairs(self) -> int:
        """Number of counterfactuals."""
        return len(self.both) - 1

    @property
    def live_layers(self) -> tuple[int, ...]:
        """Layers that attend, and whose patterns cannot be made again."""
        attended = enumerate(one.attended for one in self.layers)
        return tuple(n for n, one in attended if one is not None and one.scale is None)

    def of(
        self, gates: Float[Tensor, "row part"] | Bool[Tensor, "row part"], pair: Int[Tensor, "row"]
    ) -> Float[Tensor, "row d_vocab"]:
        """[row, d_vocab] logits with the parts of each row shown, beside the counterfactual of each row.

        Truth values show a part or not. Numbers between 0 and 1 let a part of its change pass, and are differentiable.
        """
        is_exact = gates.dtype == torch.bool
        learns = not is_exact and gates.requires_grad
        step = self.rows_at_once(whole=not is_exact or self.shared is None)
        found = []
        with self.loaded.lock, torch.set_grad_enabled(learns):
            for start in range(0, len(gates), step):
                rows = slice(start, start + step)
                if self.tick is not None:
                    self.tick(len(gates[rows]))
                if is_exact and self.shared is not None:
                    found.append(self._shared(gates[rows], pair[rows]))
                else:
                    found.append(self._run(gates[rows], pair[rows], learns))
        return torch.cat(found)

    def rows_at_once(self, *, whole: bool = True) -> int:
        """How many rows run together: ``whole`` passes, or such that share what they have in common."""
        anatomy, numbers = self.loaded.anatomy, self.numbers
        scores = anatomy.n_heads * numbers.rows * numbers.n_tokens
        if not whole:
            return max(1, _NUMBERS // len(numbers))
        return max(1, min(_NUMBERS // max(len(numbers), scores), _TOKENS // numbers.n_tokens))

    def _shared(self, shown: Bool[Tensor, "row part"], pair: Int[Tensor, "row"]) -> Tensor:
        """Logits of rows that share what they have in common, those of each counterfactual together."""
        assert self.shared is not None
        terms, mlps, _ = self.numbers.split(shown.cpu())
        found = self.logits.new_empty(len(shown), self.logits.shape[1])
        for n, runs in enumerate(self.shared):
            own = (pair == n).nonzero()[:, 0].cpu()
            if len(own):
                found[own.to(found.device)] = runs.of(terms[own], mlps[own])
        return found

    def _agrees(self) -> bool:
        """Whether shared runs with every part shown give the prompt's own logits."""
        everything = self.valid.expand(self.pairs, -1)
        error = (self._shared(everything, torch.arange(self.pairs, device="cpu")) - self.logits[:1]).abs().max()
        spread = self.logits[0].max() - self.logits[0].min()
        allowed = _PROVED if self.loaded.anatomy.dtype in (torch.float32, torch.float64) else 50 * _PROVED
        return bool(error <= allowed * spread)

    def _recorded(self) -> tuple[list[_Layer], Bool[Tensor, "part"], Tensor]:
        """The counterfactual runs by layer, which parts exist, and the logits of all prompts."""
        loaded, both, first = self.loaded, self.both, self.numbers.first
        anatomy = loaded.anatomy
        run = Pass(loaded, len(both))
        calls: dict[int, AttentionCall] = {}
        for layer in anatomy.attending:
            run.watch(layer, partial(calls.__setitem__, layer))
        run.keep(("z", "mlp_out", "mixer_out"))
        if shares := can_share(anatomy):
            run.keep(shared_sites(anatomy))
            run.keep_calls()
        states = run.run(both.feed)
        rows = torch.arange(first, both.n_tokens, device=both.ids.device)
        layers = []
        shape = (self.numbers.n_layers, self.numbers.n_heads, self.numbers.rows, both.n_tokens)
        terms = torch.zeros(shape, dtype=torch.bool, device="cpu")
        for layer, block in enumerate(anatomy.blocks):
            call = calls.get(layer)
            if layer in anatomy.attending and (call is None or call.pattern is None):
                raise UnsupportedReadingError(
                    f"a picture's test needs the attention pattern of layer {layer}, and {type(block.attention).__name__} showed none "
                    "in this run"
                )
            attended = None
            if call is not None and call.pattern is not None:
                pattern = call.pattern[:, :, first:]
                terms[layer] = (pattern > 0).any(0).cpu()
                made = _how_made(call, call.pattern, rows, (block.scale, anatomy.attention_softcap))
                attended = Attended(call.key[1:], call.value[1:], pattern[1:], *(made or (None, None)))
            z, mlp, mixer = (run.kept.get((site, layer)) for site in ("z", "mlp_out", "mixer_out"))
            assert z is not None
            layers.append(_Layer(z[1:], attended, *(None if one is None else one[1:] for one in (mlp, mixer))))
        kinds = ("mlp", "mixer") if self.numbers.has_mixers else ("mlp",)
        outputs = [
            torch.tensor([getattr(layer, kind) is not None for layer in layers], device="cpu").repeat_interleave(
                self.numbers.rows
            )
            for kind in kinds
        ]
        if shares:
            self.shared = [self._sharing(run, layers, states, n) for n in range(self.pairs)]
        return layers, torch.cat([terms.flatten(), *outputs]), answer_logits(loaded, states, both.positions)

    def _sharing(self, run: Pass, layers: Sequence[_Layer], states: Tensor, pair: int) -> SharedRuns:
        """Runs beside one counterfactual that share what they have in common."""
        first, is_parallel = self.numbers.first, run.anatomy.wiring == "parallel"

        def kept(site: str, layer: int) -> Tensor | None:
            found = run.kept.get((site, layer))
            return None if found is None else upcast(found[pair + 1])

        made = []
        for n, layer in enumerate(layers):
            entering, middle, mlp = (kept(site, n) for site in ("resid_pre", "resid_mid", "mlp_out"))
            middle = entering if is_parallel else middle
            attended, summed, out = layer.attended, kept("attn_sum", n), kept("attn_out", n)
            # Every layer that shares has them.
            assert attended is not None
            assert entering is not None
            assert middle is not None
            assert mlp is not None
            made.append(
                SharedLayer(
                    before=entering[:first], entering=entering[first:], middle=middle[first:],
                    attn_sum=None if summed is None else summed[first:], attn_out=None if out is None else out[first:],
                    mlp=mlp[first:], attended=attended.of(slice(pair, pair + 1)),
                )
            )  # fmt: skip
        embedded, at = upcast(run.kept["resid_pre", 0]), int(self.both.positions[0])
        return SharedRuns(
            self.loaded, made, run.calls["attention"].calls, start=(embedded[0] - embedded[pair + 1])[first:],
            last=upcast(states[pair + 1, at]), at=at - first, strict=self.keys == "shown",
        )  # fmt: skip

    def _run(self, gates: Tensor, pair: Tensor, learns: bool) -> Tensor:
        """Logits of rows that run together."""
        device = self.both.ids.device
        count = len(gates)
        terms, mlps, mixers = self.numbers.split(gates.to(device))
        # Rows of one counterfactual read its values without a copy.
        chosen = slice(None) if self.pairs == 1 else pair.to(device)
        run = Pass(self.loaded, count, gradients=learns)
        calls: dict[int, AttentionCall] = {}
        for layer, recorded in enumerate(self.layers):
            if recorded.attended is not None:
                run.watch(layer, partial(calls.__setitem__, layer))
                edit = partial(self._heads, layer, recorded.attended, terms[:, layer], chosen)
                run.edit("z", layer, partial(_with_call, edit, calls, layer))
            for site, kept, shown in (("mlp_out", recorded.mlp, mlps), ("mixer_out", recorded.mixer, mixers)):
                if kept is not None and shown is not None:
                    run.edit(site, layer, partial(self._output, kept, shown[:, layer], chosen))
        states = run.run(_repeated(self.both.part(slice(1)).feed, count))
        return answer_logits(self.loaded, states, self.both.positions[:1].expand(count))

    def _heads(
        self, layer: int, theirs: Attended, shown: Tensor, pair: slice | Tensor, call: AttentionCall, z: Tensor
    ) -> Tensor:
        """Heads' outputs in which terms that are not shown are the counterfactual's."""
        first, kept = self.numbers.first, upcast(self.layers[layer].z)[pair][:, self.numbers.first :]
        if shown.dtype == torch.bool and not bool(shown.any()):
            return torch.cat([z[:, :first], kept.expand(len(z), -1, -1).to(z.dtype)], 1)
        change = theirs.of(pair).change(call, shown, strict=self.keys == "shown")
        added = fill(change, self.loaded.anatomy.d_value).flatten(2)
        return torch.cat([z[:, :first], (kept + added).to(z.dtype)], 1)

    def _output(self, kept: Tensor, shown: Tensor, pair: slice | Tensor, x: Tensor) -> Tensor:
        """What an MLP or a mixer writes, at positions that are not shown the counterfactual's."""
        first = self.numbers.first
        theirs, own = kept[pair][:, first:], x[:, first:]
        mask = shown[..., None]
        made = (
            torch.where(mask, own, theirs)
            if shown.dtype == torch.bool
            else theirs + mask.to(own.dtype) * (own - theirs)
        )
        return torch.cat([x[:, :first], made], 1)


def _with_call(
    edit: Callable[[AttentionCall, Tensor], Tensor], calls: dict[int, AttentionCall], layer: int, z: Tensor
) -> Tensor:
    with apart():
        return edit(calls.pop(layer), z)


def _how_made(
    call: AttentionCall, pattern: Tensor, rows: Int[Tensor, "row"], said: tuple[float, float | None]
) -> tuple[float, float | None] | None:
    """Scale and soft cap with which a pattern is made of queries and keys; None if it is not, up to rounding."""
    scale, softcap = call.options.get("scaling"), call.options.get("softcap")
    candidates = [said]
    if isinstance(scale, (int, float)):
        candidates.append((float(scale), said[1] if softcap is None else float(softcap)))
    allowed = _PROVED if pattern.dtype in (torch.float32, torch.float64) else 50 * _PROVED
    return next((one for one in candidates if float(call.pattern_error(*one, rows)) <= allowed), None)


def _first_change(loaded: LoadedModel, both: Batch) -> int:
    """The first position at which some prompt differs from the first one, where no position sees a later one; 0 otherwise.

    Raises
    ------
    ArgumentError
        If a counterfactual is the prompt itself.
    """
    clean, others = both.part(slice(1)).feed, both.part(slice(1, None)).feed
    for n in range(len(both) - 1):
        same = all(torch.equal(clean[name], both.part(slice(n + 1, n + 2)).feed[name]) for name in clean)
        if same:
            raise ArgumentError(
                f"counterfactual {n} is the prompt itself, so nothing could be lost; exchange a word that the answer depends on"
            )
    if not loaded.anatomy.causal or both.values is not None or others.keys() != {"input_ids"}:
        return 0
    differs = (both.ids[1:] != both.ids[:1]).any(0).nonzero()
    return int(differs[0])


def _repeated(feed: Feed, rows: int) -> Feed:
    """The arguments of one prompt for several rows."""
    return {name: value.repeat(rows, *[1] * (value.ndim - 1)) for name, value in feed.items()}
