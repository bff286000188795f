"""Images in a text: what a model of both takes beside token ids, and where on the image each image token lies."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ..errors import PromptError
from ..models import LoadedModel
from ..models.axis import Axis, Place
from ..models.kinds import image_token_of
from ..models.sources import first_line
from .media import Given, Values, picture_of

_BEGINNINGS = ("pixel_", "image_", "mm_", "aspect_ratio_", "cross_attention_mask")
IMAGE = "image"
"""Role of a position that holds a piece of an image."""

IMAGE_PART: Mapping[str, str] = {"type": "image"}
"""The place of an image in the content of a message."""


def is_beside(name: str) -> bool:
    """Whether an argument of a model speaks of images beside token ids."""
    return name.startswith(_BEGINNINGS)


def beside_of(prompt: Mapping[str, Any]) -> Values | None:
    """The arguments of images in a processor's output; None where there are none."""
    found = {name: torch.as_tensor(value) for name, value in prompt.items() if is_beside(name) and value is not None}
    return Values(found) if found else None


def processor_of(loaded: LoadedModel) -> Any:
    """The processor that puts texts and images together.

    Raises
    ------
    PromptError
        If the model takes no images, or has no processor.
    """
    require_images(loaded)
    processor = loaded.processor
    if processor is None or not hasattr(processor, "tokenizer"):
        found = "there is none" if processor is None else f"there is a {type(processor).__name__}, which takes no text"
        raise PromptError(
            f"image= beside a text needs the processor of {loaded.name!r}, which puts both together, and {found}: "
            "load_model(…, processor=transformers.AutoProcessor.from_pretrained(…)), which says what it lacks if it cannot be made, or "
            "give what a processor returned"
        )
    return processor


def with_places(messages: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Messages with as many places of images as there are images; without any, the images stand before the first user's text.

    Raises
    ------
    PromptError
        If there are other numbers of both.
    """
    turns = [{**turn, "content": _parts(turn)} for turn in messages]
    places = sum(part == IMAGE_PART for turn in turns for part in turn["content"])
    if places == 0:
        first = next((turn for turn in turns if turn["role"] == "user"), turns[0])
        first["content"] = [*[dict(IMAGE_PART)] * count, *first["content"]]
    elif places != count:
        raise PromptError(
            f"messages= has {places} places of images, {{'type': 'image'}}, and image= has {count} images; give one for each"
        )
    return list(turns)


def _parts(turn: Mapping[str, Any]) -> list[Any]:
    """The content of a message as a list of parts."""
    content = turn.get("content") or []
    listed = [content] if isinstance(content, str) else content
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in listed]


def processed(
    loaded: LoadedModel, text: str, images: Sequence[Given], *, is_rendered: bool = False
) -> Mapping[str, Any]:
    """What the model's processor makes of a text and its images; ``is_rendered`` by a chat template, which places the images.

    Raises
    ------
    PromptError
        If the model takes no images, has no processor, an image cannot be read, or the processor refuses.
    """
    processor = processor_of(loaded)
    placed = [one for name in ("image_token", "boi_token") if (one := getattr(processor, name, None))]
    if not is_rendered and placed and not any(one in text for one in placed):
        if getattr(processor, "chat_template", None):
            content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            is_rendered = True
        else:
            text = f"{placed[-1] * len(images)}{text}"
    pictures = [picture_of(one.value) for one in images]
    begin = getattr(processor.tokenizer, "bos_token", None)
    # A template that wrote the special tokens gets no second ones.
    options = {"add_special_tokens": False} if is_rendered and begin and text.startswith(begin) else {}
    try:
        made: Mapping[str, Any] = processor(text=text, images=pictures, return_tensors="pt", **options)
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise PromptError(
            f"the processor ({type(processor).__name__}) fails on this text and these images with {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    return made


def refuse_missing_images(loaded: LoadedModel, ids: Sequence[int], beside: Values | None) -> None:
    """Refuse a prompt that has the places of an image and no image.

    Raises
    ------
    PromptError
        Naming the places.
    """
    token = image_token_of(loaded.model)
    places = [n for n, one in enumerate(ids) if one == token]
    if places and "pixel_values" not in (beside or {}):
        raise PromptError(
            f"the prompt has {len(places)} places of an image, the first at position {places[0]}, and no image; give text= and image=, or "
            "what the processor returned, with its pixel_values"
        )


def require_images(loaded: LoadedModel) -> None:
    """Refuse images for a model of texts alone.

    Raises
    ------
    PromptError
        Naming the model.
    """
    if "pixel_values" not in inspect.signature(loaded.anatomy.model.forward).parameters:
        raise PromptError(f"{loaded.name!r} takes no images beside a text; leave image= out")


def axis_of(loaded: LoadedModel, ids: Sequence[int], beside: Values) -> Axis:
    """The positions of a text with images: tokens, and pieces of images with their place in pixels of the model's input."""
    token = image_token_of(loaded.model)
    labels = list(loaded.vocabulary.strings(ids))
    places: list[Place | None] = [None] * len(ids)
    roles: list[str | None] = [None] * len(ids)
    runs = [list(run) for is_image, run in itertools.groupby(range(len(ids)), lambda n: ids[n] == token) if is_image]
    for number, run in enumerate(runs):
        which = f"image {number} " if len(runs) > 1 else ""
        for place, (name, box) in zip(run, _pieces(loaded, beside, number, len(run)), strict=True):
            labels[place], places[place], roles[place] = f"{which}{name}", box, IMAGE
    return Axis("token", tuple(labels), tuple(places), tuple(roles))


def _pieces(loaded: LoadedModel, beside: Values, number: int, count: int) -> Iterator[tuple[str, Place | None]]:
    """Names and boxes of the pieces of one image."""
    grid, size = _grid(loaded, beside, number, count)
    for n in range(count):
        if grid is None:
            yield f"piece {n}", None
            continue
        row, column = divmod(n, grid[1])
        box: Place | None = None
        if size is not None:
            high, wide = size[0] / grid[0], size[1] / grid[1]
            box = (row * high, column * wide, (row + 1) * high, (column + 1) * wide)
        yield f"patch {row},{column}", box


def _grid(
    loaded: LoadedModel, beside: Values, number: int, count: int
) -> tuple[tuple[int, int] | None, tuple[float, float] | None]:
    """(rows, columns) of the pieces of an image, and its (height, width) in pixels; None where they are not known."""
    sizes = beside.get("image_grid_thw")
    if sizes is not None and number < len(sizes):
        vision = loaded.model.config.vision_config
        merge, patch = int(getattr(vision, "spatial_merge_size", 1)), int(vision.patch_size)
        rows, columns = (int(n) // merge for n in sizes[number][-2:])
        if rows * columns == count:
            return (rows, columns), (float(rows * merge * patch), float(columns * merge * patch))
    pixels, side = beside.get("pixel_values"), math.isqrt(count)
    height_width = None if pixels is None or pixels.ndim < 4 else (float(pixels.shape[-2]), float(pixels.shape[-1]))
    if side * side != count or (height_width is not None and height_width[0] != height_width[1]):
        return None, None
    return (side, side), height_width
