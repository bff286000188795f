"""The readout of a classifier: from the last states to the numbers of its classes.

Nothing is taken from a head's name. The model's own code behind its blocks is a function of the last states: the model is run with
its blocks passed over and given states in place of theirs. Derivatives then tell which positions it reads, and whether it is an
affine function of the normed states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .anatomy import Anatomy, Place, Readout, upcast
from .eager import eager_attention, evaluating
from .forward import run
from .hooks import on_call, on_result
from .kinds import base_of, medium_of
from .media import probe_feed

_TOKENS = 7
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


class Tail(nn.Module):
    """What a model computes behind its blocks, as a function of the last states.

    Parameters
    ----------
    anatomy
        The model's parts.
    feed
        Arguments of a short pass; they say how the model is called.
    """

    model: Any

    def __init__(self, anatomy: Anatomy, feed: Mapping[str, Tensor]) -> None:
        super().__init__()
        # Not as a submodule: the model's parameters are not this module's.
        object.__setattr__(self, "model", anatomy.model)
        self.blocks = [block.module for block in anatomy.blocks]
        self.norm: Any = None if anatomy.final_norm is None else [anatomy.final_norm.module]
        # The last norm may be the last block's own.
        last = anatomy.blocks[-1].leaves
        self.is_behind_norm = last is not None
        if self.is_behind_norm:
            self.norm = [last]
        self.feed = dict(feed)
        self.rest: list[tuple[Any, ...] | None] = []
        self.length = 1
        # Decoders without a token for padding take one text at a time.
        config = anatomy.model.config.get_text_config()
        self.is_single = "input_ids" in self.feed and getattr(config, "pad_token_id", None) is None
        self._note_outputs()

    def __deepcopy__(self, _memo: Any) -> Tail:
        return self

    def _note_outputs(self) -> None:
        """What blocks return beside the state, and the modules that run behind them, whose parameters are this module's."""
        done: list[int] = []

        def note(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            done.append(1)
            self.rest.append(tuple(output[1:]) if isinstance(output, tuple) else None)

        def behind(module: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
            if len(done) == len(self.blocks) and module not in found and any(True for _ in module.parameters(False)):
                found.append(module)

        found: list[nn.Module] = []
        with evaluating(self.model), torch.no_grad(), ExitStack() as hooks:
            for block in dict.fromkeys(self.blocks):
                hooks.callback(on_result(block, note).remove)
            for module in self.model.modules():
                hooks.callback(on_call(module, behind).remove)
            self.model(**self.feed)
        self.used = nn.ModuleList(found)

    def forward(self, states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_class"]:
        """[row, class] numbers of the classes, each state read as if it stood at every position that is read."""
        return self.of(states[:, None].expand(-1, self.length, -1))

    def of(
        self, states: Float[Tensor, "row position d_model"], *, normed: bool = False
    ) -> Float[Tensor, "row d_class"]:
        """[row, class] numbers of the classes, of all last states together; ``normed``: of what the final norm gives."""
        rows = len(states)
        if rows > 1 and self.is_single:
            return torch.cat([self.of(one[None], normed=normed) for one in states])
        like = next(one for one in self.model.parameters() if one.is_floating_point())
        states = states.to(like.dtype)
        feed = {name: self._fitted(name, value, states) for name, value in self.feed.items()}
        with evaluating(self.model), self._passed_over(states, normed or self.is_behind_norm):
            output = self.model(**feed).logits
        return upcast(output.reshape(rows, -1))

    def _fitted(self, name: str, value: Tensor, states: Tensor) -> Tensor:
        """The feed with as many rows as the states, and as many positions where it has any."""
        if name == "input_ids" and value.shape[1] != states.shape[1]:
            # Any token will do that is no padding: the states are given.
            value = value[:, -1:].expand(-1, states.shape[1])
        return value[:1].expand(len(states), *value.shape[1:])

    @contextmanager
    def _passed_over(self, states: Tensor, normed: bool) -> Iterator[None]:
        """Blocks hand on what they get, and the last one the given states, or the final norm gives them."""
        count = 0

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            at, count = count, count + 1
            x = args[0] if args else kwargs["hidden_states"]
            rest = self.rest[at]
            if at == len(self.blocks) - 1:
                x = states
            return x if rest is None else (x, *rest)

        def given(*_args: Any, **_kwargs: Any) -> Any:
            return states

        modules = [(block, forward) for block in dict.fromkeys(self.blocks)]
        modules += [(one, given) for one in (self.norm or [] if normed else [])]
        before = [(module, module.__dict__.get("forward")) for module, _ in modules]
        try:
            for module, instead in modules:
                module.__dict__["forward"] = instead
            yield
        finally:
            for module, own in before:
                if own is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = own


def with_readout(anatomy: Anatomy) -> tuple[Anatomy, dict[str, float]]:
    """The parts with the readout of a classifier, and its proof; as they were where there is none, or none is found."""
    model = anatomy.model
    labels = labels_of(model)
    is_scored = labels is not None or type(model).__name__.endswith("ForCTC")
    if anatomy.level != "stream" or not is_scored or medium_of(model) is None:
        return anatomy, {}
    try:
        found = _readout(anatomy, labels)
    except torch.cuda.OutOfMemoryError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        # A head of another kind, which takes or gives something else: it stays unread, and that is said.
        return anatomy, {}
    return (anatomy, {}) if found is None else found


def labels_of(model: Any) -> tuple[str, ...] | None:
    """[class] names of the classes that a model scores; None for a model of another task."""
    named = getattr(model.config, "id2label", None)
    kind = type(model).__name__
    if not named or not kind.endswith(("Classification", "Classifier", "ForImageClassificationWithTeacher")):
        return None
    try:
        return tuple(str(named[n]) for n in range(len(named)))
    except KeyError:
        return None


def _readout(anatomy: Anatomy, labels: tuple[str, ...] | None) -> tuple[Anatomy, dict[str, float]] | None:
    model = anatomy.model
    feed = probe_feed(model, anatomy.embedding, _TOKENS, anatomy.context)
    layers = range(len(anatomy.blocks))
    record = run(anatomy, feed, sites=frozenset({"resid_post"}), layers=layers, logits_at=None)
    last = record.sites["resid_post"][-1]
    with torch.inference_mode(mode=False), torch.no_grad(), eager_attention(model):
        logits = upcast(model(**feed).logits)
    if logits.shape[:2] == (1, len(last)) and logits.ndim == 3:
        return _at_each_position(anatomy, labels, last, logits[0])
    if labels is None or logits.shape != (1, len(labels)):
        return None
    tail = Tail(anatomy, feed)
    rounding = _ROUNDING[last.dtype]
    error = _error(tail.of(last[None]), logits)
    if not error < rounding:
        return None
    read = _positions_read(tail, last)
    place: Place = "several"
    if read == [0] and len(last) > 1:
        place = "first"
    elif read == [len(last) - 1]:
        place = "last"
    n_special = 0 if anatomy.layout is None else len(anatomy.layout.special)
    # A state is read alone as if it stood everywhere; patches are looked for behind the special positions.
    tail.length = n_special + 1
    if place != "several":
        at = last[read[0]][None]
        error = max(error, _error(tail(at), logits))
        if not error < rounding:
            return None
    is_affine = _affine_error(tail, last) < rounding
    config = model.config.get_text_config()
    padding = getattr(config, "pad_token_id", None) if place == "last" and "input_ids" in feed else None
    readout = Readout(place, labels, is_affine, tail, anatomy.final_norm, padding)
    named: dict[str, Any] = {"head": (), "head_kind": "classes"}
    head: tuple[Any, ...] = (tail,)
    linear = None if place == "several" or not is_affine else _linear(anatomy, last[read[0]], logits[0], rounding)
    final_norm = None
    if linear is not None:
        path, module = linear
        named, head, final_norm = {"head": (path,), "head_kind": "linear"}, (module,), anatomy.final_norm
    family: Any = replace(anatomy.family, **named)
    made = replace(
        anatomy, family=family, head=head, d_vocab=len(labels), unread_head=(), readout=readout, labels=labels,
        final_norm=final_norm, softcap=None,
    )  # fmt: skip
    return made, {"the head behind the last states = logits of the classes": error}


def _at_each_position(
    anatomy: Anatomy, labels: tuple[str, ...] | None, last: Tensor, logits: Float[Tensor, "position d_class"]
) -> tuple[Anatomy, dict[str, float]] | None:
    """The parts of a model that scores each position by itself: a classifier of tokens, or of the letters in a sound."""
    if labels is not None and len(labels) != logits.shape[1]:
        return None
    found = _linear(anatomy, last, logits, _ROUNDING[last.dtype])
    if found is None:
        return None
    path, module = found
    family = replace(anatomy.family, head=(path,), head_kind="linear")
    made = replace(
        anatomy, family=family, head=(module,), d_vocab=logits.shape[1], unread_head=(), labels=labels, softcap=None
    )
    x = last if anatomy.final_norm is None else anatomy.final_norm.module(last)
    return made, {"final norm and head = logits": _error(upcast(module(x)), logits)}


def _positions_read(tail: Tail, last: Float[Tensor, "position d_model"]) -> list[int]:
    """Positions whose last states the classes depend on."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        states = last.detach().clone()[None].requires_grad_()
        logits = tail.of(states)
        weights = torch.linspace(1, 2, logits.shape[1], dtype=logits.dtype, device=logits.device)
        (slope,) = torch.autograd.grad((logits * weights).sum(), states)
    return [i for i, row in enumerate(slope[0]) if bool(row.any())]


def _affine_error(tail: Tail, last: Float[Tensor, "position d_model"]) -> float:
    """How far the classes are from an affine function of what the final norm gives."""
    generator = torch.Generator("cpu").manual_seed(17)
    shape = (2, *last.shape)
    x, y = torch.randn(shape, generator=generator, dtype=torch.float32).to(last)
    rows = torch.stack([x, y, 3 * x - 2 * y, torch.zeros_like(x)])
    with torch.inference_mode(mode=False), torch.no_grad():
        at_x, at_y, between, _ = tail.of(rows, normed=True)
    return _error(3 * at_x - 2 * at_y, between)


def _linear(
    anatomy: Anatomy, state: Float[Tensor, "*n d_model"], logits: Float[Tensor, "*n d_class"], rounding: float
) -> tuple[str, nn.Module] | None:
    """The one linear layer that makes the classes of the normed states that are read; None if there is none."""
    base = base_of(anatomy.model)
    x = state
    if anatomy.final_norm is not None:
        with torch.no_grad():
            x = anatomy.final_norm.module(state)
    for name, module in anatomy.model.named_modules():
        if not isinstance(module, nn.Linear) or module.weight.shape != (logits.shape[-1], x.shape[-1]):
            continue
        if any(module is one for one in base.modules()):
            continue
        with torch.no_grad():
            if _error(upcast(module(x)), logits) < rounding:
                return name, module
    return None


def _error(value: Tensor, expected: Tensor) -> float:
    value, expected = value.detach().double(), expected.detach().double()
    return float((value - expected).norm()) / (float(expected.norm()) or 1.0)
