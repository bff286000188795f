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

REGIONS = ("visual_feats", "visual_pos")
"""Arguments of a model that reads regions of an image beside a text: a vector and a box of each."""
_BEGINNINGS = ("pixel_", "image_", "mm_", "aspect_ratio_", "cross_attention_mask", *REGIONS)
IMAGE = "image"
"""Role of a position that holds a piece of an image."""

IMAGE_PART: Mapping[str, str] = {"type": "image"}
"""The place of an image in the content of a message."""


_RESAMPLERS = ("perceiver_config", "qformer_config", "projector_patch_to_query_dict")
"""Parts of a config that make vectors of a whole image, which lie nowhere on it."""


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
    except Exception as error:  # a processor is foreign code, which may raise anything
        raise PromptError(
            f"the processor ({type(processor).__name__}) fails on this text and these images with {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(made, Mapping) or "input_ids" not in made:
        raise PromptError(
            f"the processor ({type(processor).__name__}) gives no input_ids for this text and these images"
        )
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


def require_images(loaded: LoadedModel, beside: Values | None = None) -> None:
    """Refuse images for a model of texts alone, and regions for one that reads none.

    Raises
    ------
    PromptError
        Naming the model.
    """
    if set(beside or ()) & set(REGIONS):
        raise PromptError(
            f"{loaded.name!r} takes no regions of an image beside a text; leave visual_feats= and visual_pos= out"
        )
    if "pixel_values" not in inspect.signature(loaded.anatomy.model.forward).parameters:
        raise PromptError(f"{loaded.name!r} takes no images beside a text; leave image= out")


def axis_of(loaded: LoadedModel, ids: Sequence[int], beside: Values) -> Axis:
    """The positions of a text with images: tokens, and pieces of images with their place in pixels of the model's input."""
    token = image_token_of(loaded.model)
    labels = list(loaded.vocabulary.strings(ids))
    places: list[Place | None] = [None] * len(ids)
    roles: list[str | None] = [None] * len(ids)
    where = [n for n, one in enumerate(ids) if one == token]
    for place, (name, box) in zip(where, _pieces(loaded, beside, len(where)), strict=True):
        labels[place], places[place], roles[place] = name, box, IMAGE
    return Axis("token", tuple(labels), tuple(places), tuple(roles))


def _pieces(loaded: LoadedModel, beside: Values, count: int) -> Iterator[tuple[str, Place | None]]:
    """Names and boxes of the pieces of all images."""
    grids = list(_grids(loaded, beside, count))
    if sum(rows * columns for rows, columns, _, _ in grids) != count:
        # Said is only what is sure: pieces may be latents of the whole image, or crops of it put together.
        yield from ((f"piece {n}", None) for n in range(count))
        return
    for number, (rows, columns, high, wide) in enumerate(grids):
        which = f"image {number} " if len(grids) > 1 else ""
        for row, column in itertools.product(range(rows), range(columns)):
            box = (row * high, column * wide, (row + 1) * high, (column + 1) * wide)
            yield f"{which}patch {row},{column}", box


def _grids(loaded: LoadedModel, beside: Values, count: int) -> Iterator[tuple[int, int, float, float]]:
    """(rows, columns, height, width) of the pieces of each image, in pixels; none where they are not known."""
    config = loaded.model.config
    vision, pixels = getattr(config, "vision_config", None), beside.get("pixel_values")
    patch = getattr(vision, "patch_size", None)
    patch = patch[0] if isinstance(patch, (list, tuple)) and len(set(patch)) == 1 else patch
    if not count or not isinstance(patch, int) or pixels is None or any(hasattr(config, name) for name in _RESAMPLERS):
        return
    said = beside.get("image_grid_thw")
    if said is not None:
        merge = int(getattr(vision, "spatial_merge_size", 1))
        for time, rows, columns in said.tolist():
            if time == 1:
                yield rows // merge, columns // merge, float(merge * patch), float(merge * patch)
        return
    sizes = beside.get("image_sizes")
    if pixels.ndim not in (4, 5) or (pixels.ndim == 5 and sizes is not None):
        return
    # [image, channel, row, column], or [1, image or crop, channel, row, column].
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    shapes = [tuple(flat.shape[-2:])] * len(flat) if sizes is None else [tuple(one) for one in sizes.tolist()]
    cells = [(high // patch, wide // patch) for high, wide in shapes]
    # Square groups of patches are put together into one piece.
    merge = math.isqrt(sum(rows * columns for rows, columns in cells) // count)
    if merge and all(rows % merge == 0 and columns % merge == 0 for rows, columns in cells):
        yield from (
            (rows // merge, columns // merge, float(merge * patch), float(merge * patch)) for rows, columns in cells
        )


def regions_of(loaded: LoadedModel, beside: Values | None) -> Values:
    """Vectors and boxes of regions, [1, region, …] each, as the model takes them.

    Raises
    ------
    PromptError
        If one is missing, or has another shape or other numbers than the model takes.
    """
    if beside is None or set(beside) != set(REGIONS):
        given = "nothing beside the text" if beside is None else ", ".join(sorted(beside))
        raise PromptError(
            f"{loaded.name!r} reads a text and regions of an image, which a detector has found; give both: inputs(text=…, visual_feats=…, "
            f"visual_pos=…), got {given}"
        )
    config = loaded.model.config
    found = {}
    for name, size in zip(REGIONS, (config.visual_feat_dim, config.visual_pos_dim), strict=True):
        value = beside[name] if beside[name].ndim == 3 else beside[name][None]
        if value.ndim != 3 or len(value) != 1 or value.shape[-1] != size or not value.shape[1]:
            raise PromptError(
                f"{name}= has the shape {list(beside[name].shape)}; {loaded.name!r} takes [region, {size}], one prompt at a time"
            )
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise PromptError(f"{name}= holds what is no finite floating-point number; give an array of floats")
        found[name] = value
    counts = [one.shape[1] for one in found.values()]
    if counts[0] != counts[1]:
        raise PromptError(
            f"visual_feats= has {counts[0]} regions and visual_pos= has {counts[1]}; give a box for each region"
        )
    return Values(found)


def axis_of_regions(values: Values) -> Axis:
    """The positions of regions, with their boxes as they were given."""
    boxes = values["visual_pos"][0].tolist()
    places = tuple(tuple(map(float, box)) if len(box) == 4 else None for box in boxes)
    return Axis("region", tuple(f"region {n}" for n in range(len(boxes))), places)
