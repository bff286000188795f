"""Images and sounds as inputs: read, checked and brought to the numbers that a model takes."""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError, FileFormatError, PromptError
from ..models import LoadedModel
from ..models.axis import Axis, Layout
from ..models.sources import first_line

ARGUMENTS = {"pixel_values": "image", "input_values": "audio", "input_features": "audio"}
"""Argument of a model → what it holds."""
_PCM = {1: np.uint8, 2: np.int16, 4: np.int32}
_ENDS = 20
"""Part of a second at the end of a sound that has to count, one by this."""
_CHANNELS = (1, 3, 4)


class Values(Mapping[str, Tensor]):
    """The arguments of a model by name, each a tensor with one row. Two are equal if their numbers are."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {name: one.detach() for name, one in tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Values) or set(self) != set(other):
            return NotImplemented if not isinstance(other, Values) else False
        return all(torch.equal(self[name].cpu(), other[name].cpu()) for name in self)

    def __hash__(self) -> int:
        return hash(tuple((name, tuple(one.shape), float(one.double().sum())) for name, one in self.items()))

    def __repr__(self) -> str:
        return f"Values({', '.join(f'{name} {list(one.shape)}' for name, one in self.items())})"


@dataclass(frozen=True, eq=False)
class Given:
    """An image or a sound as it was given.

    Attributes
    ----------
    medium
        ``"image"`` or ``"audio"``.
    value
        A path, a picture of PIL, an array or a tensor.
    sampling_rate
        Samples of a sound per second; None where it was not said.
    argument
        Name of the model's argument, for numbers that are given as the model takes them; empty for all else.
    """

    medium: Literal["image", "audio"]
    value: Any
    sampling_rate: int | None = None
    argument: str = ""

    @property
    def file(self) -> str | None:
        """Name of the file; None where it is none."""
        return os.fspath(self.value) if isinstance(self.value, (str, os.PathLike)) else None


def given_media(image: Any, audio: Any, sampling_rate: Any) -> tuple[list[Given], bool]:
    """The images or sounds of arguments, and whether they are a batch.

    Raises
    ------
    ArgumentError
        If a sampling rate is no number of samples per second, or is given without a sound.
    PromptError
        If a value is nothing that can be an image or a sound.
    """
    medium: Literal["image", "audio"] = "image" if audio is None else "audio"
    if sampling_rate is not None:
        if audio is None:
            raise ArgumentError(f"sampling_rate={sampling_rate!r} is given without audio=; leave it out")
        is_number = isinstance(sampling_rate, (int, np.integer)) and not isinstance(sampling_rate, bool)
        if not is_number or sampling_rate < 1:
            raise ArgumentError(f"sampling_rate={sampling_rate!r}; expected the samples per second, such as 16000")
        sampling_rate = int(sampling_rate)
    value = image if audio is None else audio
    several = isinstance(value, (list, tuple)) and bool(value) and not isinstance(value[0], (int, float))
    if isinstance(value, (np.ndarray, Tensor)) and medium == "image" and value.ndim == 4 and len(value) != 1:
        value, several = [one[None] for one in value], True
    found = list(value) if several else [value]
    for one in found:
        _check_kind(one, medium)
    return [Given(medium, one, sampling_rate) for one in found], several


def _check_kind(value: Any, medium: str) -> None:
    ok = isinstance(value, (str, os.PathLike, np.ndarray, Tensor)) or (medium == "image" and hasattr(value, "convert"))
    if medium == "audio" and isinstance(value, (list, tuple)) and all(isinstance(x, (int, float)) for x in value):
        ok = True
    if not ok:
        expected = (
            "a path, a picture of PIL, or an array" if medium == "image" else "a path of a .wav file, or an array"
        )
        raise PromptError(f"{medium}= is {type(value).__name__}; expected {expected}")


def values_of(loaded: LoadedModel, given: Given) -> tuple[Values, Axis, int | None]:
    """What the model takes of an image or a sound, its positions, and the samples per second.

    Raises
    ------
    PromptError
        If the model reads something else, the size, channels or sampling rate do not fit, or a processor is needed and there
        is none.
    FileFormatError
        If a file cannot be read.
    """
    layout = loaded.anatomy.layout
    if layout is None or layout.medium != given.medium:
        raise PromptError(wrong_medium(loaded, given.medium))
    if given.argument and given.argument != layout.argument:
        raise PromptError(f"{given.argument}= is given, and {loaded.name!r} takes {layout.argument}")
    if given.medium == "image":
        values, rate = _pixels(loaded, layout, given), None
    else:
        values, rate = _sound(loaded, layout, given)
    if not bool(torch.isfinite(values).all()):
        raise PromptError(f"{given.medium}= holds NaN or infinity")
    layout.check(values.shape[1:], loaded.name)
    # Number type and device of the model; a copy, so that what is traced does not change with the user's array.
    values = values.to(device=loaded.device, dtype=loaded.dtype).clone()
    return Values({layout.argument: values}), layout.axis(values.shape[1:], steps_per_second(loaded, rate)), rate


def steps_per_second(loaded: LoadedModel, sampling_rate: int | None) -> float | None:
    """Samples, or frames of a spectrogram, that a second has; None where it is not known."""
    layout = loaded.anatomy.layout
    if sampling_rate is None or layout is None:
        return None
    if len(layout.shape) == 1:
        return float(sampling_rate)
    hop = getattr(getattr(loaded.processor, "feature_extractor", loaded.processor), "hop_length", None)
    return sampling_rate / hop if isinstance(hop, int) and hop > 0 else None


def wrong_medium(loaded: LoadedModel, given: str) -> str:
    """A sentence on an input that the model does not read; ``given`` is ``"text"``, ``"image"`` or ``"audio"``."""
    layout = loaded.anatomy.layout
    words = {"text": "a text", "image": "an image", "audio": "a sound"}
    names = {"text": "text= or ids=", "image": "image=", "audio": "audio="}
    takes = "text" if layout is None else layout.medium
    return (
        f"the prompt is {words[given]}, and {loaded.name!r} ({type(loaded.model).__name__}) reads {words[takes]}; give "
        f"flowgraph.inputs({names[takes]}…)"
    )


def _array(value: Any, name: str) -> Tensor:
    """Numbers of an array, a list or a tensor, as they are."""
    try:
        found = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise PromptError(f"{name}= holds what is no number: {first_line(error)}") from error
    if found.is_meta or found.layout != torch.strided:
        raise PromptError(
            f"{name}= is a tensor whose numbers cannot be read ({'meta' if found.is_meta else found.layout})"
        )
    if found.dtype == torch.bool or found.is_complex():
        raise PromptError(f"{name}= holds {found.dtype}; expected numbers")
    if found.numel() == 0:
        raise PromptError(f"{name}= has the shape {list(found.shape)}: it is empty")
    return found


def _no_processor(loaded: LoadedModel, layout: Layout, given: str, argument: str) -> PromptError:
    shape = ", ".join("…" if size is None else str(size) for size in layout.shape)
    return PromptError(
        f"{argument}= is {given}, and {loaded.name!r} has no processor that makes {layout.argument} of it. Pass "
        f"load_model(…, processor=), or give the numbers as the model takes them: floats of the shape [1, {shape}]"
    )


# Images ------------------------------------------------------------------------------------------------------------


def _pixels(loaded: LoadedModel, layout: Layout, given: Given) -> Tensor:
    """[1, channel, row, column] pixel values."""
    processor = getattr(loaded.processor, "image_processor", loaded.processor)
    value = given.value
    if isinstance(value, (str, os.PathLike)) or hasattr(value, "convert"):
        if processor is None:
            raise _no_processor(loaded, layout, "a file" if given.file else "a picture", "image")
        picture = picture_of(value).convert("L" if layout.shape[0] == 1 else "RGB")
        return _processed(processor, layout, images=picture)
    found = _array(value, "image")
    if given.argument or (found.ndim == 4 and found.is_floating_point()):
        return found[None] if found.ndim == 3 else found
    if found.ndim == 4:
        found = found[0]
    if found.ndim != 3:
        raise PromptError(
            f"image= has the shape {list(found.shape)}; expected [channel, row, column] or [row, column, channel]"
        )
    channels = layout.shape[0]
    is_first = found.shape[0] == channels
    if not is_first and found.shape[-1] != channels:
        counts = [n for n in (found.shape[0], found.shape[-1]) if n in _CHANNELS]
        has = f"{counts[0]} channels" if counts else "no axis of channels"
        raise PromptError(f"image= of the shape {list(found.shape)} has {has}; {loaded.name!r} takes {channels}")
    if processor is None:
        if found.is_floating_point() and is_first:
            return found[None]
        what = "whole numbers" if not found.is_floating_point() else "[row, column, channel]"
        raise _no_processor(loaded, layout, f"an array of {what}", "image")
    grid = found if is_first else found.permute(2, 0, 1)
    options: dict[str, Any] = {}
    if found.is_floating_point():
        low, high = float(found.min()), float(found.max())
        if low < 0 or high > 1:
            raise PromptError(
                f"image= holds floats from {low:.3g} to {high:.3g}; those of an image lie between 0 and 1. Pixel values as the model "
                f"takes them have four axes, [1, {channels}, row, column]"
            )
        # They are shares of the full brightness already.
        options["do_rescale"] = False
    elif int(found.min()) < 0 or int(found.max()) > 255:
        raise PromptError(f"image= holds whole numbers up to {int(found.max())}; expected 0 to 255")
    pixels = grid.cpu().numpy()
    pixels = pixels if found.is_floating_point() else pixels.astype(np.uint8)
    return _processed(processor, layout, images=pixels, input_data_format="channels_first", **options)


def picture_of(value: Any) -> Any:
    """A picture of PIL as it is, or read from a file; an array stays one.

    Raises
    ------
    PromptError, FileFormatError
        If the file is not there, or no image.
    """
    if isinstance(value, (np.ndarray, Tensor)):
        return np.asarray(value)
    if hasattr(value, "convert"):
        return value
    try:
        from PIL import Image
    except ImportError as error:
        raise ArgumentError(
            "reading an image file needs pillow, which is not installed: pip install 'transformer-flowgraph[media]'"
        ) from error
    try:
        with Image.open(value) as file:
            file.load()
            return file.copy()
    except FileNotFoundError as error:
        raise PromptError(f"image={os.fspath(value)!r}: there is no such file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FileFormatError(f"{os.fspath(value)!r} cannot be read as an image: {first_line(error)}") from error


def check_readable(given: Given) -> None:
    """Refuse a file that is no image or sound; no model is needed for that.

    Raises
    ------
    PromptError, FileFormatError
        If the file is not there, or is something else.
    """
    if given.file is not None:
        (picture_of if given.medium == "image" else _wave)(given.file)


def _processed(processor: Any, layout: Layout, **given: Any) -> Tensor:
    """What a processor makes."""
    try:
        made = processor(**given, return_tensors="pt")
    except Exception as error:  # a processor is foreign code, which may raise anything
        raise PromptError(
            f"the processor ({type(processor).__name__}) fails with {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(made, Mapping) or layout.argument not in made:
        said = ", ".join(map(str, made)) if isinstance(made, Mapping) and made else "nothing that has a name"
        raise PromptError(
            f"the processor ({type(processor).__name__}) makes {said}, and the model takes {layout.argument}: it belongs "
            "to another model"
        )
    found: Tensor = made[layout.argument]
    return found


# Sounds ------------------------------------------------------------------------------------------------------------


def _sound(loaded: LoadedModel, layout: Layout, given: Given) -> tuple[Tensor, int | None]:
    """The values that the model takes of a sound, with a row axis, and the samples per second where they are known."""
    processor = getattr(loaded.processor, "feature_extractor", loaded.processor)
    own_rate = getattr(processor, "sampling_rate", None)
    rate = given.sampling_rate
    if given.file is not None:
        samples, found_rate = _wave(given.file)
        if rate is not None and rate != found_rate:
            raise ArgumentError(f"sampling_rate={rate} is given, and {given.file!r} has {found_rate}; leave it out")
        rate = found_rate
    else:
        samples = _array(given.value, "audio")
    ready = samples.is_floating_point() and samples.ndim == len(layout.shape) + 1
    if (
        given.argument
        or ready
        or (len(layout.shape) == 2 and samples.ndim == 2 and samples.shape[1] == layout.shape[1])
    ):
        if samples.ndim == len(layout.shape):
            samples = samples[None]
        if samples.ndim != len(layout.shape) + 1 or len(samples) != 1:
            raise PromptError(
                f"audio= has the shape {list(samples.shape)}; of what the model takes, expected one row: [1, "
                f"{', '.join('…' if size is None else str(size) for size in layout.shape)}]"
            )
        _check_rate(loaded, rate, own_rate)
        return samples.float(), rate if rate is not None else own_rate
    if samples.ndim != 1:
        raise PromptError(f"audio= has the shape {list(samples.shape)}; expected the samples of one channel, [sample]")
    if not samples.is_floating_point():
        if samples.dtype != torch.int16:
            raise PromptError(f"audio= holds {samples.dtype}; expected floats between -1 and 1, or int16")
        samples = samples.float() / 2**15
    if processor is None:
        if len(layout.shape) != 1:
            raise _no_processor(loaded, layout, "a file" if given.file else "the samples of a sound", "audio")
        return samples.float()[None], rate
    if rate is None:
        raise PromptError(
            f"sampling_rate= is missing; say the samples per second of audio=. {loaded.name!r} takes {own_rate}"
        )
    _check_rate(loaded, rate, own_rate)
    made = _processed(processor, layout, raw_speech=samples.double().cpu().numpy(), sampling_rate=rate)
    _refuse_cut(loaded, processor, layout, samples, rate, made)
    return made, rate


def _refuse_cut(loaded: LoadedModel, processor: Any, layout: Layout, samples: Tensor, rate: int, made: Tensor) -> None:
    """Refuse a sound whose end a processor leaves out, as those do that fill up or cut to one length.

    Raises
    ------
    PromptError
        If what is made does not change with the end.
    """
    end = rate // _ENDS
    if None in layout.shape or len(samples) <= end:
        return
    other = samples.double().cpu().numpy().copy()
    other[-end:] = 0.5 - other[-end:]
    if not torch.equal(_processed(processor, layout, raw_speech=other, sampling_rate=rate), made):
        return
    frames = made.shape[1 if layout.turned else -1] if made.ndim == 3 else 0
    each = steps_per_second(loaded, rate)
    reads = f"{frames / each:.4g} s of it" if each and frames else "less of it"
    raise PromptError(
        f"audio= lasts {len(samples) / rate:.4g} s, and {loaded.name!r} reads {reads}: its processor leaves the end out. Cut the sound, "
        "and give its parts one by one"
    )


def _check_rate(loaded: LoadedModel, rate: int | None, own: int | None) -> None:
    if rate is not None and own is not None and rate != own:
        raise PromptError(
            f"sampling_rate={rate} does not fit: {loaded.name!r} takes {own} samples per second. Resample the sound first, with "
            f"scipy.signal.resample_poly(audio, {own}, {rate}) for instance"
        )


def _wave(path: str) -> tuple[Tensor, int]:
    """Samples of one channel, between −1 and 1, and their number per second."""
    try:
        with wave.open(path, "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except FileNotFoundError as error:
        raise PromptError(f"audio={path!r}: there is no such file") from error
    except (wave.Error, EOFError, OSError, ValueError) as error:
        raise FileFormatError(
            f"{path!r} cannot be read as a sound: {first_line(error)}. A .wav file with whole numbers (PCM) is read; give other "
            "sounds as arrays, with sampling_rate="
        ) from error
    if channels != 1:
        raise PromptError(
            f"{path!r} has {channels} channels; give one of them, or their mean, as an array with sampling_rate="
        )
    if width not in _PCM or not data:
        raise FileFormatError(
            f"{path!r} has {len(data)} bytes of samples of {8 * width} bits; expected 8, 16 or 32 bits"
        )
    numbers = np.frombuffer(data, dtype=np.dtype(_PCM[width]).newbyteorder("<")).astype(np.float64)
    # Eight bits are counted from 0, silence is 128.
    numbers = (numbers - 128) / 128 if width == 1 else numbers / 2 ** (8 * width - 1)
    return torch.from_numpy(numbers).float(), int(rate)
