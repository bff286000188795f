"""One block of an unknown model: what it adds to the residual stream, through which modules, in which order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..eager import AttentionCall
from ..families import FUNCTION
from ..kinds import has_numbers
from ..norms import found_kind
from ..parameters import shape_of
from .record import Record, same

# Far above rounding of a sum in the model's number type, far below a part that is missing.
ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
# So many numbers determine two or three factors; whether they hold is asked of all.
_SAMPLE = 256


Role = Literal["attention", "mixer", "mlp", "beside"]
"""What a module does that adds to the stream."""
_WITH_WEIGHTS: tuple[Role, ...] = ("mixer", "beside")


class NotFoundError(Exception):
    """A part of the block was not found; the text says which, and how far the search came."""


@dataclass(eq=False)
class FoundBlock:
    """Paths from the block on, empty where there is no such module; the rest as in :class:`flowgraph.models.Stack`."""

    attention: str = ""
    attention_output: str = ""
    attention_norm: str = ""
    attention_post_norm: str = ""
    attention_factor: float = 1.0
    attention_shift: str = ""
    entering_norm: str = ""
    stream_factors: tuple[float, float] = (1.0, 1.0)
    attention_channels: str = ""
    mlp_channels: str = ""
    mixer: str = ""
    mixer_factor: float = 1.0
    query: str = ""
    key: str = ""
    value: str = ""
    fused: str = ""
    fused_layout: str = "concatenated"
    query_norm: str = ""
    key_norm: str = ""
    scale: float = 1.0
    query_factor: float = 1.0
    softcap: float | None = None
    bias: bool = False
    sinks: bool = False
    gated: bool = False
    wiring: str = "sequential"
    mlp: str = ""
    has_neurons: bool = False
    mlp_norm: str = ""
    mlp_post_norm: str = ""
    mlp_factor: float = 1.0
    mlp_beside: str = ""
    mlp_beside_factor: float = 1.0
    mlp_input: str = ""
    mlp_gate: str = ""
    mlp_gate_up: str = ""
    mlp_activation: str = ""
    mlp_output: str = ""
    sizes: tuple[int, int, int, int] = (0, 0, 0, 0)
    cross: FoundBlock | None = None
    source: str = ""

    @property
    def norms(self) -> tuple[str, str, str, str]:
        """Paths of the norms before and after attention, and before and after the MLP."""
        return self.attention_norm, self.attention_post_norm, self.mlp_norm, self.mlp_post_norm


class Attends(NamedTuple):
    """Paths of the modules by which a block attends to its own states and to those of another stack, None where it does not."""

    own: str | None
    other: str | None = None


def search_block(record: Record, path: str, attends: Attends, activations: dict[str, Any]) -> FoundBlock:
    """Everything that could be found in one block.

    Parameters
    ----------
    record
        A pass of the whole model.
    path
        The block.
    attends
        Its attention modules.
    activations
        Name → elementwise function, tried where the MLP's activation is no module.

    Raises
    ------
    NotFoundError
        If what the block adds is not explained.
    """
    x, y = record.input(path), record.output(path)
    if x is None or y is None or x.numel() != y.numel():
        raise NotFoundError(f"{path} does not give a state as long as the one that it takes")
    _refuse_several_states(record, path, attends, x, y)
    if attends.own is None or attends.other is None:
        return BlockSearch(record, path, attends.own, activations, (x, y)).run()
    said = f"{attends.other} reads no state"
    for between in _between(record, path, attends.other):
        if between.shape[-1] != x.shape[-1] or between.numel() != x.numel():
            continue
        try:
            # Attention to the block's own states, then a block of attention to others' and an MLP.
            found = BlockSearch(record, path, attends.own, activations, (x, between)).run_alone()
            rest = BlockSearch(record, path, attends.other, activations, (between, y), reads_others=True).run()
        except NotFoundError as error:
            said = str(error)
            continue
        if rest.wiring == "parallel" or (found.wiring == "post_norm") != (rest.wiring == "post_norm"):
            said = f"the parts of {path} are joined to the stream in several ways"
            continue
        if bool(found.attention_post_norm) != bool(rest.attention_post_norm):
            said = f"only one of the two attentions of {path} goes through a second norm"
            continue
        return _joined(found, rest)
    raise NotFoundError(said)


def _refuse_several_states(record: Record, path: str, attends: Attends, x: Tensor, y: Tensor) -> None:
    """Refuse a block that hands on several states of each position, mixed by factors that are made for each position.

    Raises
    ------
    NotFoundError
        With the part of the states' change that no fixed factors explain, whatever modules of the block are taken as writers.
    """
    name = attends.own or attends.other
    if name is None:
        return
    positions, width = record.attention[name][0].query.shape[2], x.shape[-1]
    count = x.numel() // (positions * width)
    if count < 2 or count * positions * width != x.numel():
        return
    # Side by side they are [state, position, d] or [position, state, d].
    is_last = x.ndim > 2 and x.shape[-2] == count
    before, after = (
        one.reshape(positions, count, width).transpose(0, 1) if is_last else one.reshape(count, positions, width)
        for one in (x, y)
    )
    written = [
        call.output.reshape(-1)
        for inside, (call, *_) in record.calls.items()
        if inside.startswith(f"{path}.") and call.output is not None and call.output.numel() == positions * width
    ]
    parts = torch.stack([*before.flatten(1), *written], 1).double().cpu()
    change = (after - before).flatten(1).T.double().cpu()
    left = change - parts @ torch.linalg.lstsq(parts, change, driver="gelsd").solution
    raise NotFoundError(
        f"{path} hands on {count} states of each position side by side and mixes them by factors that it makes for each position, so "
        f"that no part writes to one stream: 'the residual stream adds up' fails for every choice of fixed factors on these states and "
        f"on what its modules write (relative error {float(left.norm() / change.norm()):.2g})"
    )


def _between(record: Record, path: str, other: str) -> Iterator[Tensor]:
    """States that may stand between the two attentions of a block: what the second, or the norm before it, reads."""
    reads = record.input(other)
    if reads is None:
        return
    for name in record.giving(reads, path):
        before = record.input(name)
        if before is not None and found_kind(record.modules[name], reads.shape[-1]) is not None:
            yield before
    yield reads


_OF_ATTENTION = (
    "attention", "attention_output", "attention_norm", "attention_post_norm", "attention_factor", "query", "key", "value", "fused",
    "fused_layout", "query_norm", "key_norm", "scale", "query_factor", "softcap", "bias", "sinks", "gated", "sizes",
)  # fmt: skip


def _joined(own: FoundBlock, rest: FoundBlock) -> FoundBlock:
    """A block of attention alone and one of attention to another stack with an MLP, as one block."""
    return replace(rest, **{name: getattr(own, name) for name in _OF_ATTENTION}, cross=rest)


class BlockSearch:
    """The search in one block, or in a part of one with one attention at most.

    Parameters
    ----------
    record, path, attention, activations
        As for :func:`search_block`.
    states
        The state that enters, and the one that leaves.
    reads_others
        Whether keys and values are made of other states.
    """

    def __init__(
        self,
        record: Record,
        path: str,
        attention: str | None,
        activations: dict[str, Any],
        states: tuple[Tensor, Tensor],
        *,
        reads_others: bool = False,
    ) -> None:
        self.record, self.path, self.at = record, path, attention or ""
        self.activations, self.reads_others = activations, reads_others
        self.call: AttentionCall | None = record.attention[attention][0] if attention else None
        self.call_begun = record.attended_at.get(attention or "", 0)
        x, y = states
        self.shape = (x.numel() // x.shape[-1], x.shape[-1])
        self.x, self.y = self._state(x), self._state(y)
        self.rounding = ROUNDING[x.dtype]
        self.found = FoundBlock(attention=self._inside(attention) if attention else "")
        self.mlp_names: list[str] = []

    def run_alone(self) -> FoundBlock:
        """Everything that could be found of attention that nothing stands beside.

        Raises
        ------
        NotFoundError
            If attention is not all that is added.
        """
        assert self.call is not None
        describe_call(self.found, self.call, self.record, self.at)
        self._output_projection(self.call)
        if not self._attention_alone():
            raise NotFoundError(f"what {self.at} adds is not its output alone")
        self._attention_input()
        self._projections(self.call)
        return self.found

    def run(self) -> FoundBlock:
        """Everything that could be found.

        Raises
        ------
        NotFoundError
            If what is added is not explained.
        """
        if self.call is None:
            self._mixer_and_mlp()
            if self.found.mixer:
                self._mixer_input()
        else:
            describe_call(self.found, self.call, self.record, self.at)
            self._output_projection(self.call)
            self._sum()
            self._attention_input()
            if self.reads_others:
                self._projections_across(self.call)
            else:
                self._projections(self.call)
        if self.found.mlp and not self.found.mlp_beside:
            self._neurons()
        return self.found

    # What is added.

    def _output_projection(self, call: AttentionCall) -> None:
        z = call.output
        flat = z.reshape(z.shape[1], -1) if z.ndim == 4 else z.reshape(-1, z.shape[-1])
        for name in self.record.reading(flat, self.path):
            if _is_linear(self.record.modules[name]) and self._is_state(self.record.output(name)):
                self.found.attention_output = self._inside(name)
                self.added = self._output(name)
                return
        gated = self._gated_projection(flat)
        if gated:
            self.found.attention_output, self.found.gated = self._inside(gated), True
            self.added = self._output(gated)
            return
        raise NotFoundError(
            f"no linear layer of {self.path} reads exactly what the heads of {self.at} give, so what single heads write is not known"
        )

    def _gated_projection(self, z: Tensor) -> str:
        """The linear layer that reads the heads' outputs multiplied by something, each number by its own; empty if there is none.

        It runs after attention, is as wide, and reads neither the state that enters nor what attention reads.
        """
        around = self.at.rpartition(".")[0]
        read = [self.x, *([] if self.record.input(self.at) is None else [self.record_input(self.at)])]
        for name in self._names():
            x, call = self.record.input(name), self.record.calls[name][0]
            if x is None or not name.startswith((f"{self.at}.", f"{around}.")) or call.begun < self.call_begun:
                continue
            is_as_wide = x.numel() == z.numel() and x.shape[-1] == z.shape[-1]
            if not is_as_wide or not _is_linear(self.record.modules[name]) or not self._is_state(call.output):
                continue
            if not any(same(x, one) for one in read):
                return name
        return ""

    def _sum(self) -> None:
        """The wiring: x + attention + MLP, with the norms and factors in between."""
        # Vectors come first: in numbers of 16 bits a sum without them may seem close enough.
        if self._post_norm() or self._with_channel_factors():
            return
        if self._adds_up("attention", "mlp"):
            return
        if self._adds_up("attention", "mixer", "mlp") or self._adds_up("attention", "mlp", "beside"):
            return
        if self._attention_alone() or self._normed_stream() or self._shifted():
            return
        raise NotFoundError(
            f"what {self.path} adds to the residual stream is not the sum of its attention's output and one more module's"
        )

    def _with_channel_factors(self) -> bool:
        """The sum x + λ₁ · attention + λ₂ · MLP, each number of an output times its own factor (LayerScale)."""
        vectors = self._vectors()
        fits = [
            (fit.error, first, of_attention, second, names)
            for mlp, names in (self._candidates((self.added,)) if vectors else ())
            for first, of_attention in vectors
            for second, of_mlp in vectors
            if (fit := _fit(self.y, self.x, (self.added * of_attention, mlp * of_mlp), self.rounding)) is not None
            and fit.factors == (1.0, 1.0)
        ]
        if not fits:
            return False
        # Numbers of 16 bits leave room for more than one; the closest is meant.
        _, first, of_attention, second, names = min(fits, key=lambda one: one[0])
        self.found.attention_channels, self.found.mlp_channels = self._inside(first), self._inside(second)
        self.middle = self.x + self.added * of_attention
        self._mlp(names)
        return True

    def _vectors(self) -> list[tuple[str, Tensor]]:
        """Parameters of the block, one number for each of a state, that belong to no linear layer and no norm."""
        found = []
        for name, module in self.record.modules.items():
            if name != self.path and not name.startswith(f"{self.path}."):
                continue
            if _is_linear(module) or found_kind(module, self.shape[1]) is not None:
                continue
            own = module.named_parameters(recurse=False)
            found += [(f"{name}.{last}", one.detach()) for last, one in own if tuple(one.shape) == self.shape[1:]]
        return found

    def _attention_alone(self) -> bool:
        """The sum x + attention, as it is or through a norm on the stream."""
        for norm in self.record.giving(self.y, self.path):
            if self._is_norm(norm) and _is_sum(self._input(norm), self.x, self.added, self.rounding):
                self.found.wiring, self.found.attention_norm = "post_norm", self._inside(norm)
                return True
        for added, norm in [(self.added, ""), *((self._output(name), name) for name in self._norms_of(self.added))]:
            fit = _fit(self.y, self.x, (added,), self.rounding)
            if fit is not None:
                self.found.attention_factor = fit.factors[0]
                self.found.attention_post_norm = self._inside(norm) if norm else ""
                self.mlp_names = []
                return True
        return False

    def _mixer_and_mlp(self) -> None:
        """The sum x + mixer + MLP of a block that does not attend: the mixer reads what enters, the MLP the state after it."""
        if self._adds_up("mixer", "mlp") or self._adds_up("mixer", "mlp", "beside") or self._normed_stream():
            return
        for written, names in self._candidates(()):
            fit = _fit(self.y, self.x, (written,), self.rounding)
            named = [name for name in names if self._has_weights(name)]
            if fit is not None and named:
                self._alone(named, fit.factors[0])
                return
        raise NotFoundError(
            f"{self.path} does not attend, and what it adds is not the sum of a mixer's output and an MLP's"
        )

    def _shifted(self) -> bool:
        """The sum x + attention + vector + MLP, the vector a parameter of the block."""
        alone = self.added
        for path, vector in self._vectors():
            self.added = alone + vector
            if self._adds_up("attention", "mlp") and not self.found.attention_post_norm:
                self.found.attention_shift = self._inside(path)
                return True
        self.added = alone
        return False

    def _normed_stream(self) -> bool:
        """Norms on the stream before each part: n = norm(x), m = norm(α · n + β · attention), and m, MLP in y alike.

        In a block that does not attend, a mixer that reads n stands in attention's place.
        """
        nothing = torch.zeros_like(self.x)
        for first in self._norms():
            if not self._is_close(self._input(first), self.x):
                continue
            entering = self._output(first)
            if self.call is not None:
                mixing = [(self.added, [self.at])]
            else:
                mixing = [(state, self._weighty(names)) for state, names in self._candidates((entering,))]
            for second, (added, mixers) in itertools.product(self._norms(), mixing):
                reads = self.record.input(mixers[-1]) if mixers else None
                if second == first or reads is None or not same(reads, entering):
                    continue
                fit = _fit(self._input(second), nothing, (entering, added), self.rounding)
                if fit is not None and self._mlp_on_normed(self._output(second), added):
                    self._note_normed(first, second, fit, mixers[-1])
                    return True
        return False

    def _mlp_on_normed(self, middle: Tensor, added: Tensor) -> bool:
        """The MLP that reads the state in the middle and joins it, both times a factor."""
        for written, names in self._candidates((added, middle)):
            fit = _fit(self.y, torch.zeros_like(self.y), (middle, written), self.rounding)
            self.middle = middle
            if fit is None or not self._weighty(names) or not self._reads_middle(names):
                continue
            on_stream, of_mlp = fit.factors
            self.found.wiring, self.found.mlp_factor = "post_norm", of_mlp / on_stream
            self.found.stream_factors = (1.0, on_stream)
            self._mlp(names)
            return True
        return False

    def _note_normed(self, first: str, second: str, fit: _Fit, mixer: str) -> None:
        found, (on_stream, factor) = self.found, fit.factors
        found.entering_norm, found.attention_norm = self._inside(first), self._inside(second)
        found.stream_factors = (on_stream, found.stream_factors[1])
        if self.call is not None:
            found.attention_factor = factor / on_stream
        else:
            self.mixer = mixer
            found.mixer, found.mixer_factor = self._inside(mixer), factor / on_stream

    def _weighty(self, names: list[str]) -> list[str]:
        return [name for name in names if self._has_weights(name)]

    def _adds_up(self, *roles: Role) -> bool:
        """Whether outputs of modules in these roles, each times a factor, add up to what the block adds; what they are is noted.

        Attention is known, and may go through a norm. A mixer mixes tokens of the state that enters. The MLP reads the state after
        these; only beside attention alone it may read the state that enters as well. A module ``beside`` the MLP runs after it.
        """
        is_plain = roles == ("attention", "mlp")
        fits = self._fits(roles, may_be_parallel=is_plain)
        # Numbers of 16 bits leave room for more than one; the closest is meant. More parts leave too many to try them all.
        best = min(fits, key=lambda one: one[0].error, default=None) if is_plain else next(fits, None)
        if best is None:
            return False
        fit, parts = best
        found, factors = self.found, dict(zip(roles, fit.factors, strict=True))
        self.middle = self._middle(parts, factors)
        if "attention" in parts:
            found.attention_factor = factors["attention"]
            found.attention_post_norm = "".join(map(self._inside, parts["attention"].names))
        if "mixer" in parts:
            self._note_mixer(parts["mixer"], factors["mixer"], is_alone="attention" not in parts)
        if "beside" in parts:
            found.mlp_beside, found.mlp_beside_factor = self._inside(parts["beside"].weighty[-1]), factors["beside"]
        found.mlp_factor = factors["mlp"]
        self._mlp(parts["mlp"].names)
        return True

    def _fits(self, roles: tuple[Role, ...], *, may_be_parallel: bool) -> Iterator[tuple[_Fit, dict[Role, _Part]]]:
        """Sums of outputs in these roles that hold, one after the other."""
        attends = "attention" in roles
        others = [
            _Part(state, names, [name for name in names if self._has_weights(name)])
            for state, names in self._candidates((self.added,) if attends else ())
        ]
        own = [_Part(self.added, [], [])] if attends else []
        if attends and "mixer" not in roles:
            own += [_Part(self._output(name), [name], [name]) for name in self._norms_of(self.added)]
        for chosen in itertools.product(*(own if role == "attention" else others for role in roles)):
            parts = dict(zip(roles, chosen, strict=True))
            if len({id(part.state) for part in chosen}) < len(chosen):
                continue
            if any(role in parts and not parts[role].weighty for role in _WITH_WEIGHTS):
                continue
            if "beside" in parts and self._begun(parts["beside"].weighty) < self._begun(parts["mlp"].names):
                continue
            fit = _fit(self.y, self.x, tuple(part.state for part in chosen), self.rounding)
            if fit is None:
                continue
            self.middle = self._middle(parts, dict(zip(roles, fit.factors, strict=True)))
            if may_be_parallel or self._reads_middle(parts["mlp"].names):
                yield fit, parts

    def _middle(self, parts: dict[Role, _Part], factors: dict[Role, float]) -> Tensor:
        """The state after attention and mixer."""
        middle = self.x
        for role in ("attention", "mixer"):
            if role in parts:
                middle = middle + factors[role] * parts[role].state
        return middle

    def _note_mixer(self, part: _Part, factor: float, *, is_alone: bool) -> None:
        names = part.weighty
        norm = next((name for name in names if self._is_norm(name)), None) if is_alone else None
        if norm is not None:
            names = list(self.record.giving(self.record_input(norm), self.path))
            self.found.attention_post_norm = self._inside(norm)
        if not names:
            raise NotFoundError(f"{self.path}: no module is found that gives what is added in attention's place")
        if is_alone:
            self.added = part.state
        self.mixer = names[-1]
        self.found.mixer, self.found.mixer_factor = self._inside(self.mixer), factor

    def _alone(self, names: list[str], factor: float) -> None:
        """A block with one part: an MLP if it has neurons that follow from the state, else a mixer."""
        self.mlp_names, self.mixer = names, names[-1]
        reads = self.record.input(names[-1])
        if reads is None or not self._is_state(reads):
            raise NotFoundError(f"{names[-1]} does not read a state")
        self.mlp_reads = self._state(reads)
        norm = self._norm_before(reads, names[-1])
        self._neurons()
        if self.found.has_neurons:
            self.found.mlp, self.found.mlp_norm, self.found.mlp_factor = self._inside(names[-1]), norm, factor
        else:
            self.found.mixer, self.found.attention_norm, self.found.mixer_factor = self._inside(names[-1]), norm, factor

    def _begun(self, names: list[str]) -> int:
        return min(self.record.calls[name][0].begun for name in names)

    def _reads_middle(self, names: list[str]) -> bool:
        """Whether one of some modules, or the norm before it, reads the state in the middle."""
        for name in names:
            x = self.record.input(name)
            if x is None or not self._is_state(x):
                continue
            if self._is_close(self._state(x), self.middle):
                return True
            if any(
                self._is_norm(norm) and self._is_close(self._input(norm), self.middle)
                for norm in self.record.giving(x, self.path)
            ):
                return True
            # A second norm reads what the MLP gives.
            if self._is_norm(name) and self._reads_middle(
                [one for one in self.record.giving(x, self.path) if one != name]
            ):
                return True
        return False

    def _mixer_input(self) -> None:
        x = self.record.input(self.mixer)
        if x is None or not self._is_state(x):
            raise NotFoundError(f"{self.mixer} does not read a state")
        if not self.found.entering_norm:
            self.found.attention_norm = self._norm_before(x, self.mixer)

    def _norm_before(self, reads: Tensor, reader: str) -> str:
        """The norm between the state that enters the block and a module that reads it; empty if there is none."""
        for name in self.record.giving(reads, self.path):
            if self._is_norm(name) and self._is_close(self._input(name), self.x):
                if self.found.wiring == "post_norm":
                    raise NotFoundError(f"{self.path} has norms before and on the stream")
                return self._inside(name)
        if self._is_close(self._state(reads), self.x):
            return ""
        raise NotFoundError(f"{reader} reads neither the state that enters {self.path} nor a norm of it")

    def _post_norm(self) -> bool:
        """Norms on the stream itself: norm(x + attention), then norm(that + MLP)."""
        for last in self.record.giving(self.y, self.path):
            if last == self.path or not self._is_norm(last):
                continue
            summed = self._input(last)
            for first in self._norms():
                before, middle = self._input(first), self._output(first)
                if first == last or not _is_sum(before, self.x, self.added, self.rounding):
                    continue
                for mlp, names in self._candidates((self.added,)):
                    if _is_sum(summed, middle, mlp, self.rounding):
                        self.found.wiring = "post_norm"
                        self.found.attention_norm, self.found.mlp_norm = self._inside(first), self._inside(last)
                        self.middle = middle
                        self._mlp(names)
                        return True
        return False

    def _candidates(self, known: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, list[str]]]:
        """Outputs of modules that may be the MLP's, each once, with the modules that give it, inner ones first."""
        seen = list(known)
        for name in reversed(self._names()):
            output = self.record.output(name)
            if output is None or not self._is_state(output) or name == self.path or self._holds_attention(name):
                continue
            state = self._state(output)
            if any(torch.equal(state, one) for one in seen):
                continue
            seen.append(state)
            yield state, list(self.record.giving(output, self.path))

    def _mlp(self, names: list[str]) -> None:
        """The module that writes what the MLP adds, its second norm, and the norm that it reads through."""
        found = self.found
        norm = next((name for name in names if self._is_norm(name)), None)
        if norm is not None and found.wiring != "post_norm":
            inside = [
                name
                for name in self.record.giving(self.record_input(norm), self.path)
                if not self._holds_attention(name)
            ]
            if inside:
                found.mlp_post_norm, names = self._inside(norm), inside
        if bool(found.mlp_post_norm) != bool(found.attention_post_norm) and found.wiring != "post_norm":
            raise NotFoundError(f"only one of the two outputs of {self.path} goes through a second norm")
        if found.mlp_post_norm:
            found.wiring = "sandwich"
        # Dropout and the like hand on what they read.
        self.mlp_names = [name for name in names if self._has_weights(name)]
        if not self.mlp_names:
            raise NotFoundError(f"no module with weights gives what {self.path} adds beside attention")
        outer = self.mlp_names[-1]
        reads = self._input(outer)
        if not self._is_state(reads) or self._is_of_neurons(outer, reads):
            # The MLP is no module of its own: its last linear layer reads neurons, and the first one the state.
            reads = self._first_reader_state(reads)
        self.mlp_reads = reads
        found.mlp = self._inside(outer)
        if found.wiring == "post_norm":
            if not self._is_close(reads, self.middle):
                raise NotFoundError(f"the MLP of {self.path} reads something else than the state after attention")
            return
        for name in [None, *self.record.giving(reads, self.path)]:
            before = reads if name is None else self._input(name)
            if name is not None and (not self._is_state(before) or not self._is_norm(name)):
                continue
            for state, parallel in ((self.middle, False), (self.x, True)):
                if self._is_close(before, state):
                    found.mlp_norm = "" if name is None else self._inside(name)
                    if parallel:
                        if found.wiring == "sandwich":
                            raise NotFoundError(f"{self.path} is parallel and has second norms")
                        found.wiring = "parallel"
                    return
        raise NotFoundError(
            f"the MLP of {self.path} ({outer}) reads neither the state before nor the state after attention"
        )

    def _is_of_neurons(self, name: str, reads: Tensor) -> bool:
        """Whether what a linear layer reads are neurons that are as many as a state has numbers."""
        if not _is_linear(self.record.modules[name]) or any(
            self._is_close(reads, one) for one in (self.middle, self.x)
        ):
            return False
        return not any(self._is_norm(one) for one in self.record.giving(reads, self.path))

    def _first_reader_state(self, neurons: Tensor) -> Tensor:
        """The state that the linear layers read whose output is as wide as the neurons."""
        for name in self._names():
            # Of another attention of the block neither.
            if self._holds_attention(name) or any(name.startswith(f"{at}.") for at in self.record.attention):
                continue
            x = self.record.input(name)
            if _is_linear(self.record.modules[name]) and self._is_state(x) and x is not None:
                width = self._output(name).shape[-1]
                if width in (neurons.shape[-1], 2 * neurons.shape[-1]):
                    return self._state(x)
        raise NotFoundError(f"no linear layer of {self.path} makes the neurons of its MLP")

    # What attention reads.

    def _attention_input(self) -> None:
        x = self.record.input(self.at)
        if x is None or not self._is_state(x):
            raise NotFoundError(f"{self.at} does not read a state")
        self.reads = self._state(x)
        norm = "" if self.found.entering_norm else self._norm_before(x, self.at)
        if norm:
            self.found.attention_norm = norm

    def _projections(self, call: AttentionCall) -> None:
        """Linear layers that make queries, keys and values, where these are no more than that (and a rotation)."""
        heads, kv_heads, d_head, d_value = self.found.sizes
        given = {
            "query": self._by_position(call.query), "key": self._by_position(call.key), "value": self._by_position(call.value),
        }  # fmt: skip
        linear = [
            name for name in self.record.reading(self.reads, self.path)
            if _is_linear(self.record.modules[name]) and not self._is_of_mlp(name)
        ]  # fmt: skip
        single: dict[str, str] = {}
        for role, entering in given.items():
            for name in linear:
                if name in single.values():
                    continue
                made = self._output(name)
                if made.numel() != entering.numel():
                    continue
                made = made.reshape(entering.shape)
                norm = "" if role == "value" else self._head_norm(name, entering)
                if same(made, entering) or (role != "value" and (norm or self._is_turned(made, entering))):
                    single[role] = name
                    if norm:
                        setattr(self.found, f"{role}_norm", self._inside(norm))
                    break
        if len(single) == 3:
            for role, name in single.items():
                setattr(self.found, role, self._inside(name))
            if not self.found.query_norm:
                self.found.query_factor = self._factor(self._output(single["query"]), given["query"])
            return
        self.found.query_norm = self.found.key_norm = ""
        for name in linear if d_head == d_value else ():
            made = self._output(name)
            if made.shape[-1] != (heads + 2 * kv_heads) * d_head:
                continue
            made = made.reshape(made.shape[0], -1, d_head)
            layouts = {"concatenated": made[:, heads + kv_heads :]}
            if heads == kv_heads:
                layouts["interleaved"] = made[:, 2::3]
            for layout, value in layouts.items():
                if torch.equal(value, given["value"]):
                    self.found.fused, self.found.fused_layout = self._inside(name), layout
                    return

    def _projections_across(self, call: AttentionCall) -> None:
        """Linear layers that make queries of the block's own states, and keys and values of one state of another stack."""
        inside = [
            name
            for name in self.record.calls
            if name.startswith(f"{self.at}.") and _is_linear(self.record.modules[name])
        ]
        single: dict[str, str] = {}
        for role, given in (("query", call.query), ("key", call.key), ("value", call.value)):
            entering = self._by_position(given)
            for name in inside:
                x, made = self.record.input(name), self.record.output(name)
                is_own = x is not None and same(x, self.reads)
                if (
                    made is None
                    or name in single.values()
                    or made.numel() != entering.numel()
                    or is_own != (role == "query")
                ):
                    continue
                made = made.reshape(entering.shape)
                # Nothing rotates here: positions of two stacks are counted apart. Whisper's queries are multiplied by a number.
                if _error(made * self._factor(made, entering), entering) < self.rounding:
                    single[role] = name
                    break
        if len(single) == 3 and same(self.record_input(single["key"]), self.record_input(single["value"])):
            for role, name in single.items():
                setattr(self.found, role, self._inside(name))
            self.found.source = single["key"]

    def _head_norm(self, projection: str, entering: Tensor) -> str:
        """The norm of single heads that reads a projection, if its output is what enters, rotated or not."""
        for name in self.record.reading(self._flat_output(projection), self.path):
            made = self.record.output(name)
            if made is None or not self._is_norm(name) or made.numel() != entering.numel():
                continue
            # Over all heads together it is no norm of a head.
            if made.shape[-1] != entering.shape[-1]:
                continue
            # Some models norm heads after they have moved them before the positions.
            made = made[0].transpose(0, 1) if made.ndim == 4 and made.shape[1] != len(entering) else made
            if self._is_turned(made.reshape(entering.shape), entering):
                return name
        return ""

    def _factor(self, made: Tensor, entering: Tensor) -> float:
        """The one number that a projection is multiplied by before attention, as Whisper does with queries; 1 where there is none."""
        before, after = made.reshape(entering.shape).double(), entering.double()
        factor = float((before * after).sum() / before.square().sum())
        return factor if _error(before * factor, after) < self.rounding else 1.0

    def _is_turned(self, made: Tensor, entering: Tensor) -> bool:
        """Whether each head's vector kept its length but for one factor, as a rotation (with one on its angles) keeps it."""
        before, after = made.float().norm(dim=-1), entering.float().norm(dim=-1)
        factor = (before * after).sum() / before.square().sum()
        return _error(before * factor, after) < self.rounding * 10

    # Neurons.

    def _neurons(self) -> None:
        """Input projection, gate, activation and output projection of the MLP; left out if they do not explain its neurons."""
        output = next((name for name in self.mlp_names if _is_linear(self.record.modules[name])), None)
        if output is None or not self._try_neurons(output):
            return
        self.found.mlp_output, self.found.has_neurons = self._inside(output), True

    def _try_neurons(self, output: str) -> bool:
        neurons = self.record.input(output)
        if neurons is None:
            return False
        neurons = neurons.reshape(-1, neurons.shape[-1])
        width = neurons.shape[-1]
        linear = [
            name for name in self.record.reading(self.mlp_reads, self.path)
            if _is_linear(self.record.modules[name]) and not (self.at and name.startswith(f"{self.at}."))
        ]  # fmt: skip
        outputs = {name: self._output(name) for name in linear}
        narrow = [name for name in linear if outputs[name].shape[-1] == width]
        for name in narrow:
            for how, value in self._activated(outputs[name]):
                if _error(value, neurons) < self.rounding:
                    self.found.mlp_input, self.found.mlp_activation = self._inside(name), how
                    return True
                for other in narrow:
                    if other != name and _error(value * outputs[other], neurons) < self.rounding:
                        self.found.mlp_gate, self.found.mlp_input = self._inside(name), self._inside(other)
                        self.found.mlp_activation = how
                        return True
        for name in linear:
            if outputs[name].shape[-1] != 2 * width:
                continue
            gate, up = outputs[name][:, :width], outputs[name][:, width:]
            for how, value in self._activated(gate):
                if _error(value * up, neurons) < self.rounding:
                    self.found.mlp_gate_up, self.found.mlp_activation = self._inside(name), how
                    return True
        return False

    def _activated(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The block's own elementwise modules, then known functions, applied to a tensor."""
        for name in self._names():
            module = self.record.modules[name]
            made = self.record.output(name)
            if made is not None and not list(module.children()) and not list(module.parameters(recurse=False)):
                with torch.no_grad():
                    try:
                        value = module(x)
                    except (TypeError, RuntimeError, ValueError, IndexError):
                        continue
                if isinstance(value, Tensor) and value.shape == x.shape:
                    yield self._inside(name), value
        for name, function in self.activations.items():
            yield f"{FUNCTION}{name}", function(x)

    # Small words.

    def _names(self) -> list[str]:
        """Modules inside the block that ran once, outer ones after inner ones of the same path."""
        return [
            name for name in self.record.calls
            if name.startswith(f"{self.path}.") and len(self.record.calls[name]) == 1
        ]  # fmt: skip

    def _norms(self) -> Iterator[str]:
        for name in self._names():
            if self._is_state(self.record.output(name)) and self._is_norm(name):
                yield name

    def _norms_of(self, x: Tensor) -> Iterator[str]:
        for name in self.record.reading(x, self.path):
            if self._is_norm(name):
                yield name

    def _is_norm(self, name: str) -> bool:
        width = self.record.input(name)
        return width is not None and found_kind(self.record.modules[name], width.shape[-1]) is not None

    def _has_weights(self, name: str) -> bool:
        return has_numbers(self.record.modules[name])

    def _is_of_mlp(self, name: str) -> bool:
        return any(name == one or name.startswith(f"{one}.") for one in self.mlp_names)

    def _holds_attention(self, name: str) -> bool:
        return bool(self.at) and (self.at == name or self.at.startswith(f"{name}."))

    def _is_state(self, x: Tensor | None) -> bool:
        return x is not None and x.numel() == self.x.numel() and x.shape[-1] == self.shape[-1]

    def _state(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)

    def _by_position(self, x: Tensor) -> Tensor:
        return x[0].transpose(0, 1)

    def _flat_output(self, name: str) -> Tensor:
        found = self.record.output(name)
        assert found is not None
        return found

    def record_input(self, name: str) -> Tensor:
        """First input of a module that has run."""
        found = self.record.input(name)
        assert found is not None
        return found

    def _input(self, name: str) -> Tensor:
        x = self.record_input(name)
        return self._state(x) if self._is_state(x) else x.reshape(-1, x.shape[-1])

    def _output(self, name: str) -> Tensor:
        x = self._flat_output(name)
        return self._state(x) if self._is_state(x) else x.reshape(-1, x.shape[-1])

    def _inside(self, name: str) -> str:
        return name[len(self.path) + 1 :]

    def _is_close(self, x: Tensor, y: Tensor) -> bool:
        return x.shape == y.shape and _error(x, y) < self.rounding


def describe_call(found: FoundBlock, call: AttentionCall, record: Record, name: str = "") -> None:
    """Sizes, factor, cap, bias and sinks of an attention, as its call shows them."""
    q, k, v = call.query, call.key, call.value
    found.sizes = (q.shape[1], k.shape[1], q.shape[3], v.shape[3])
    scaling = call.options.get("scaling")
    own = getattr(record.modules.get(name), "scaling", None)
    scale = scaling if scaling is not None else own if isinstance(own, (int, float)) else q.shape[-1] ** -0.5
    found.scale = float(scale)
    cap = call.options.get("softcap")
    found.softcap = None if cap is None else float(cap)
    assert call.pattern is not None
    found.sinks = bool((call.pattern.float().sum(-1) < 1 - 10 * ROUNDING[call.pattern.dtype]).any())
    found.bias = any(_is_more_than_mask(added) for added in (call.options.get("position_bias"), call.mask))


def _is_more_than_mask(added: Any) -> bool:
    """Whether what is added to scores is more than nothing here and minus infinity there."""
    if not isinstance(added, Tensor) or not added.is_floating_point():
        return False
    return bool(((added != 0) & (added > -1e4)).any())


def _is_linear(module: nn.Module) -> bool:
    return len(shape_of(module) or ()) == 2


def _error(x: Tensor, y: Tensor) -> float:
    size = float(y.double().norm())
    return float((x.double() - y.double()).norm()) / (size or 1.0)


class _Part(NamedTuple):
    """What a module writes, the modules that give it, inner ones first, and those of them that have weights."""

    state: Tensor
    names: list[str]
    weighty: list[str]


class _Fit(NamedTuple):
    """Factors of parts, and the error that is left, in parts of the change."""

    factors: tuple[float, ...]
    error: float


def _is_sum(state: Tensor, before: Tensor, part: Tensor, rounding: float) -> bool:
    """Whether a state is the one before and a part, without any factor."""
    fit = _fit(state, before, (part,), rounding)
    return fit is not None and fit.factors == (1.0,)


def _fit(state: Tensor, before: Tensor, parts: tuple[Tensor, ...], rounding: float) -> _Fit | None:
    """Factors with which parts add up to the change from one state to the next, by least squares; None if they do not.

    None too if a part is not needed. A factor within rounding of 1 is 1. The change of a large state is known only to the last
    digits of that state, as after a token with massive activations.
    """
    whole, columns = (state - before).reshape(-1), [part.reshape(-1) for part in parts]
    last_digits = (8 * torch.finfo(state.dtype).eps * torch.maximum(state.abs(), before.abs())).reshape(-1)

    def is_rest(made: Tensor, expected: Tensor, digits: Tensor, slack: float) -> bool:
        allowed = slack * rounding * float(expected.norm()) + float(digits.double().norm())
        return float((made - expected).norm()) <= allowed

    # Factors follow from some of the numbers, those that are known best; whether they hold is asked of all.
    some = torch.argsort(last_digits.float())[:_SAMPLE]
    few = torch.stack([column[some].double() for column in columns], 1)
    factors = torch.linalg.lstsq(few.cpu(), whole[some, None].double().cpu()).solution[:, 0].to(whole.device)
    if not is_rest(few @ factors, whole[some].double(), last_digits[some], 10):
        return None
    matrix = torch.stack([column.double() for column in columns], 1)
    if not is_rest(matrix @ factors, whole.double(), last_digits, 1) or bool((factors.abs() < 1e-4).any()):
        return None
    near = 100 * rounding if rounding < 1e-3 else 2 * rounding
    found = tuple(1.0 if abs(f - 1) < near else float(f) for f in factors.tolist())
    return _Fit(found, _error(matrix @ factors, whole))
