"""Models that read an image or a sound: the inputs that they are probed with, and how they make positions of an input.

Nothing is taken from a model's name. What a position reads follows from the convolutions of the pass, which positions are special
from whether they change with the input, their roles from the parameters that they come from, and the order of patches is proved by
derivatives: the state of a patch depends on the pixels of its box alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError
from .anatomy import Anatomy
from .axis import Layout
from .eager import eager_attention
from .forward import run
from .hooks import on_call, on_result
from .kinds import base_of, input_name, medium_of
from .parameters import device_of
from .stacks import encoder_of

_FRAMES = 7
"""Frames of a probe of sound: more than the windows of tiny models."""
# Weak, so that a model that is gone takes its entry along.
_shape: WeakKeyDictionary[Any, tuple[int, ...]] = WeakKeyDictionary()
_ROLES = (("cls", "CLS"), ("class", "CLS"), ("dist", "distillation"), ("register", "register"), ("storage", "register"))


def probe_feed(model: Any, table: Any, n_tokens: int, context: int | None = None) -> dict[str, Tensor]:
    """Arguments for a short pass: ids spread over the vocabulary, or noise of a size that the model takes.

    Parameters
    ----------
    model
        The model.
    table
        Its token embedding; None for a model of images or sound.
    n_tokens
        Length of a text.
    context
        Longest text that the model takes.
    """
    if table is not None:
        # None of them is 0: that row is often padding and all zeros.
        rows = table.weight.shape[0]
        ids = torch.linspace(1, rows - 1, n_tokens, dtype=torch.float64, device=device_of(table)).long()[None]
        return {"input_ids": ids if context is None else ids[:, :context]}
    like = next(one for one in model.parameters() if one.is_floating_point())
    return {input_name(model): _noise(shape_of(model), like)}


def short_source(model: Any, count: int) -> dict[str, Tensor]:
    """Arguments of an encoder–decoder for its encoder: a text of ``count`` tokens, or noise of a size that the encoder takes."""
    encoder = encoder_of(model)
    of_text = medium_of(encoder) == "text"
    return probe_feed(model if of_text else encoder, model.get_input_embeddings() if of_text else None, count)


def regions(model: Any, count: int) -> dict[str, Tensor]:
    """Arguments of a model of a text and regions of an image for ``count`` regions: noise, and boxes within the image."""
    like = next(one for one in model.parameters() if one.is_floating_point())
    config = model.config
    boxes = torch.sigmoid(_noise((count, config.visual_pos_dim), like, seed=32))
    return {"visual_feats": _noise((count, config.visual_feat_dim), like), "visual_pos": boxes}


def _noise(shape: tuple[int, ...], like: Tensor, seed: int = 31) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((1, *shape), generator=generator, dtype=torch.float32, device="cpu").to(like)


def shape_of(model: Any) -> tuple[int, ...]:
    """Shape, without the row axis, of an input that the model takes; a small one where it takes several."""
    if model not in _shape:
        small = [one for one in _small_shapes(model) if _runs(model, one)]
        _shape[model] = small[0] if small else _own_shape(model)
    return _shape[model]


def _small_shapes(model: Any) -> Iterator[tuple[int, ...]]:
    """Shape of an image of six patches, for models that take images of any size; of bands over all frames, as Whisper reads them."""
    config = _config(model)
    bands, most = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
    if medium_of(model) == "audio" and isinstance(bands, int) and isinstance(most, int):
        yield bands, 2 * most
    patch, size = getattr(config, "patch_size", None), getattr(config, "image_size", None)
    # An image smaller than a window is filled up with padding.
    has_windows = getattr(config, "window_size", None) is not None
    if (
        medium_of(model) == "image"
        and isinstance(patch, int)
        and isinstance(size, int)
        and 3 * patch < size
        and not has_windows
    ):
        yield int(getattr(config, "num_channels", None) or 3), 2 * patch, 3 * patch


def _config(model: Any) -> Any:
    """The part of a config that speaks of the input."""
    for name in ("vision_config", "audio_config"):
        inner = getattr(model.config, name, None)
        if inner is not None:
            return inner
    return model.config


def _runs(model: Any, shape: tuple[int, ...]) -> bool:
    like = next(one for one in model.parameters() if one.is_floating_point())
    try:
        with torch.inference_mode(mode=False), torch.no_grad(), eager_attention(model), _same_settings(model):
            model(**{input_name(model): _noise(shape, like)})
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    return True


@contextmanager
def _same_settings(model: Any) -> Iterator[None]:
    """Modules keep their settings, whatever a pass sets: Swin's windows shrink with a small image and never grow again."""
    plain = (bool, int, float, str, tuple, type(None))
    before = [
        (module, {name: value for name, value in vars(module).items() if isinstance(value, plain)})
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, settings in before:
            vars(module).update(settings)


def _own_shape(model: Any) -> tuple[int, ...]:
    """Shape of an input as the config says it."""
    config = _config(model)
    if medium_of(model) == "image":
        size = getattr(config, "image_size", None) or 224
        rows, columns = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        return int(getattr(config, "num_channels", None) or 3), int(rows), int(columns)
    names = ("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim")
    bands = next((int(found) for name in names if (found := getattr(config, name, None))), 0)
    if bands:
        return int(getattr(config, "max_length", None) or 2 * _FRAMES), bands
    kernels, strides = getattr(config, "conv_kernel", ()), getattr(config, "conv_stride", ())
    kernel, stride = _chained(list(zip(kernels, strides, strict=False)))
    return (kernel + (_FRAMES - 1) * stride if kernels else 8000,)


def _chained(steps: list[tuple[int, int]]) -> tuple[int, int]:
    """(samples that one position reads, samples between positions) of convolutions in a row."""
    kernel, stride = 1, 1
    for size, step in steps:
        kernel, stride = kernel + (size - 1) * stride, stride * step
    return kernel, stride


class _ReachedError(Exception):
    """The first block has been reached."""


def layout_of(anatomy: Anatomy) -> tuple[Layout, dict[str, float]]:
    """How the model makes positions of its input, and what proves it.

    Raises
    ------
    ArchitectureError
        If the state that enters the first block has fewer positions than the convolutions of the input give.
    """
    model = anatomy.model
    medium, argument = medium_of(model), input_name(model)
    assert medium in ("image", "audio")
    shape = shape_of(model)
    like = anatomy.like
    convolutions: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(output, Tensor) and isinstance(module, (nn.Conv1d, nn.Conv2d)):
            convolutions.append((module, args[0], output))

    first = _first_state(anatomy, {argument: _noise(shape, like)}, note)
    second = _first_state(anatomy, {argument: _noise(shape, like, seed=32)})
    again = _first_state(anatomy, {argument: _noise(shape, like)})
    if again.shape != first.shape or not torch.equal(again, first):
        raise ArchitectureError(
            f"{type(model).__name__} makes other positions of one input each time (it leaves some out at random), so a trace of it "
            "could not be repeated"
        )
    if anatomy.level == "patterns":
        patterns = run(
            anatomy, {argument: _noise(shape, like)}, sites=frozenset({"pattern"}), layers=range(1), logits_at=None
        )
        seen = patterns.sites["pattern"].shape[-1]
        if seen != first.numel() // first.shape[-1]:
            raise ArchitectureError(
                f"the attention of {type(model).__name__} sees {seen} positions where a state has {first.numel() // first.shape[-1]}: it "
                "runs on parts of the input by themselves"
            )
    states, others = first.reshape(-1, first.shape[-1]), second.reshape(-1, second.shape[-1])
    still = [i for i in range(len(states)) if bool(torch.equal(states[i], others[i]))]
    grid = _grid(convolutions, len(states) - len(still), medium)
    if grid is None and anatomy.stack.windows:
        grid = _merged_grid(convolutions, len(states))
    # What does not change with the input comes first in every model seen; elsewhere nothing is said of the places.
    is_leading = still == list(range(len(still)))
    plain: tuple[Layout, dict[str, float]] = Layout(medium, argument, shape, "item", count=len(states)), {}
    if grid is None or not is_leading:
        return plain
    kernel, stride, padding, turned = grid
    is_banded = len(kernel) < len(shape) and medium == "audio"  # all bands of a spectrogram in one position
    if padding and not is_banded:
        return plain
    turned = turned or (is_banded and convolutions[0][1].shape[-1] != shape[-1])
    roles = _roles(anatomy, {argument: _noise(shape, like)}, len(still), len(states))
    # Windows are known of this size alone.
    of_one_size = anatomy.stack.windows or (
        (is_banded or len(kernel) == 2) and _is_fixed(anatomy, shape, stride, turned)
    )
    if of_one_size:
        sizes: tuple[int | None, ...] = shape
    elif is_banded:
        sizes = (None, shape[1]) if turned else (shape[0], None)
    else:
        sizes = (shape[0], None, None) if medium == "image" else (None,) if len(kernel) == 1 else (None, shape[1])
    kind: Literal["patch", "frame"] = "frame" if len(kernel) == 1 else "patch"
    layout = Layout(medium, argument, sizes, kind, roles, kernel, stride, padding, turned)
    if layout.n_positions(shape) != len(states) - len(still):
        if is_banded:
            return plain
        raise ArchitectureError(
            f"{type(model).__name__} makes {len(states) - len(still)} positions of an input of the shape {list(shape)}, where its "
            f"convolutions give {layout.n_positions(shape)}"
        )
    if kind == "frame" and not is_banded:
        return layout, {}
    error = _locality_error(anatomy, {argument: _noise(shape, like)}, layout, len(still))
    if error > 1e-6:
        return Layout(medium, argument, shape, "item", roles, count=len(states) - len(still)), {}
    read = "frames of its time" if is_banded else "pixels of its box"
    return layout, {f"a {kind}'s first state reads the {read}": error}


def _first_state(anatomy: Anatomy, feed: dict[str, Tensor], note: Any = None) -> Tensor:
    """The state that enters the first block; the pass ends there."""
    found: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _ReachedError

    handles = [on_call(anatomy.blocks[0].module, stop)]
    # What merges positions is seen by itself: blocks of earlier stages hand on what they read.
    earlier = map(base_of(anatomy.model).get_submodule, anatomy.stack.passed)
    handles += [on_result(one, lambda _module, args, output: (args[0], *output[1:])) for one in earlier]
    if note is not None:
        handles += [on_result(one, note) for one in anatomy.model.modules() if isinstance(one, (nn.Conv1d, nn.Conv2d))]
    try:
        with torch.inference_mode(mode=False), eager_attention(anatomy.model):
            grad = any(one.requires_grad for one in feed.values())
            with torch.set_grad_enabled(grad):
                anatomy.model(**feed)
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found[0].requires_grad else found[0].detach()


def _grid(
    convolutions: list[tuple[nn.Module, Tensor, Tensor]], n_positions: int, medium: str
) -> tuple[tuple[int, ...], tuple[int, ...], int, bool] | None:
    """Kernel, stride, padding and whether the grid is turned, of the convolutions that make positions; None if there are none."""
    for module, _x, y in convolutions:
        if isinstance(module, nn.Conv2d) and y[0, 0].numel() == n_positions and module.padding in ((0, 0), "valid", 0):
            return tuple(module.kernel_size), tuple(module.stride), 0, medium == "audio"
    steps: list[tuple[int, int]] = []
    padding = 0
    for module, _x, y in convolutions:
        if not isinstance(module, nn.Conv1d) or module.padding == "same" or module.dilation != (1,):
            return None
        padding += 0 if isinstance(module.padding, str) else module.padding[0] * _chained(steps)[1]
        steps.append((module.kernel_size[0], module.stride[0]))
        # A layer whose number of positions the next one changes is not the last.
        if y.shape[-1] == n_positions:
            kernel, stride = _chained(steps)
            return (kernel,), (stride,), padding, False
    return None


def _merged_grid(
    convolutions: list[tuple[nn.Module, Tensor, Tensor]], n_positions: int
) -> tuple[tuple[int, ...], tuple[int, ...], int, bool] | None:
    """The same of a grid whose positions were merged, as many along rows as along columns; None if there is none."""
    for side in (2, 4, 8, 16):
        found = _grid(convolutions, n_positions * side**2, "image")
        if found is not None:
            kernel, stride, padding, turned = found
            return tuple(side * n for n in kernel), tuple(side * n for n in stride), padding, turned
    return None


def _is_fixed(anatomy: Anatomy, shape: tuple[int, ...], stride: tuple[int, ...], turned: bool) -> bool:
    """Whether an input of another size is refused: one step longer along each axis of the grid, of a sound along its frames."""
    steps = (*[0] * (len(shape) - len(stride)), *stride)
    if medium_of(anatomy.model) == "audio":
        steps = (stride[-1], 0) if turned else (0, stride[-1])
    return not _runs(anatomy.model, tuple(n + step for n, step in zip(shape, steps, strict=True)))


def _roles(anatomy: Anatomy, feed: dict[str, Tensor], n_special: int, n_positions: int) -> tuple[str, ...]:
    """Roles of the special positions: each comes from a parameter of its own, which other positions do not depend on."""
    if not n_special:
        return ()
    inside = {id(one) for block in anatomy.blocks for one in block.module.parameters()}
    candidates = {
        name: one.detach().clone().requires_grad_()
        for name, one in anatomy.model.named_parameters()
        if id(one) not in inside and one.shape[-1] == anatomy.d_model and one.numel() < n_positions * anatomy.d_model
    }
    tensors = dict(anatomy.model.named_parameters())
    kept = {name: tensors[name] for name in candidates}
    roles = []
    with _swapped(anatomy.model, candidates, kept), torch.enable_grad():
        # A feed that asks for derivatives keeps the pass differentiable.
        state = _first_state(anatomy, {name: one.clone().requires_grad_() for name, one in feed.items()})
        rows = state.reshape(-1, state.shape[-1])
        for i in [*range(n_special), n_positions - 1]:
            probe = torch.linspace(1, 2, rows.shape[-1], dtype=rows.dtype, device=rows.device)
            found = torch.autograd.grad(
                (rows[i] * probe).sum(), list(candidates.values()), retain_graph=True, allow_unused=True
            )
            roles.append(
                {n for n, slope in zip(candidates, found, strict=True) if slope is not None and bool(slope.any())}
            )
    common = roles.pop()
    return tuple(_role(sorted(names - common)) for names in roles)


@contextmanager
def _swapped(model: Any, new: dict[str, Tensor], old: dict[str, Tensor]) -> Iterator[None]:
    """Other tensors in the places of some parameters; the model's own come back afterwards."""

    def put(values: dict[str, Any]) -> None:
        for name, value in values.items():
            path, _, last = name.rpartition(".")
            model.get_submodule(path)._parameters[last] = value

    put(new)
    try:
        yield
    finally:
        put(old)


def _role(names: list[str]) -> str:
    """Role of a special position, from the name of its parameter."""
    if not names:
        return "special"
    last = names[0].rpartition(".")[2]
    return next((role for part, role in _ROLES if part in last), last.removesuffix("_token").removesuffix("_tokens"))


def _locality_error(anatomy: Anatomy, feed: dict[str, Tensor], layout: Layout, n_special: int) -> float:
    """Largest part of a position's derivative by the input that lies outside its place, over some positions."""
    (name, values), *_ = feed.items()
    pixels = values.clone().requires_grad_()
    state = _first_state(anatomy, {name: pixels})
    rows = state.reshape(-1, state.shape[-1])[n_special:]
    axis = layout.axis(values.shape[1:], rate=1.0)  # places in frames, not in seconds
    worst = 0.0
    probe = torch.linspace(1, 2, rows.shape[-1], dtype=rows.dtype, device=rows.device)
    for i in sorted({0, 1, len(rows) // 2 + 1, len(rows) - 1} & set(range(len(rows)))):
        (slope,) = torch.autograd.grad((rows[i] * probe).sum(), pixels, retain_graph=True)
        place = axis.places[n_special + i]
        assert place is not None
        top, left, bottom, right = (None, int(place[0]), None, int(place[1])) if len(place) == 2 else map(int, place)
        grid = slope[0].transpose(-1, -2) if layout.turned else slope[0]
        outside = grid.clone()
        outside[..., top:bottom, left:right] = 0
        whole = float(grid.norm())
        worst = max(worst, float(outside.norm()) / whole if whole else 1.0)
    return worst
