"""Attention as people hand it over, checked and brought to one form: tensors, arrays or lists, of one model or of two stacks."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor, is_complex

from ...errors import ArgumentError
from ...values.trace import Trace
from .attention_codes import AttentionPanel

SHAPES = "[layer, head, query, key], a list of [1, head, query, key], or [head, query, key] for one layer"
_EAGER = 'load the model with attn_implementation="eager", since others (sdpa, flash) do not give their attention out'
_ASK = "make sure you set output_attentions=True when you call the model, and pass outputs.attentions"
_LONGEST_SHOWN = 40


@dataclass(frozen=True)
class Given:
    """What was handed over under one argument: its layers, not yet converted, and the number of the first."""

    argument: str
    layers: list[Any]
    first: int = 0


def given(value: Any, argument: str) -> Given:
    """Take apart an argument into layers of [head, query, key], without converting numbers.

    Raises
    ------
    ArgumentError
        If it is not attention of one sequence; the message says what it was.
    """
    if isinstance(value, Trace):
        return Given(argument, list(value.pattern), value.layers[0])
    if isinstance(value, (Tensor, np.ndarray)):
        return Given(argument, _layers_of_array(value, argument))
    if isinstance(value, Mapping) or hasattr(value, "attentions"):
        raise ArgumentError(f"{argument}= is a {type(value).__name__}; pass its field, outputs.attentions ({_ASK})")
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ArgumentError(f"{argument}= is a {type(value).__name__}; expected {SHAPES} as tensor, array or list")
    if len(value) == 0:
        raise ArgumentError(f"{argument}= is empty; {_ASK}; {_EAGER}")
    missing = [n for n, layer in enumerate(value) if layer is None]
    if missing:
        raise ArgumentError(f"{argument}[{missing[0]}] is None: the model gave no attention there; {_EAGER}")
    return Given(argument, _layers_of_list(value, argument))


def panel(
    found: Given,
    name: str,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    include_layers: Sequence[int] | None,
    include_heads: Sequence[int] | None = None,
) -> AttentionPanel:
    """Choose layers and heads, convert them and check them against the tokens.

    Raises
    ------
    ArgumentError
        If layers differ in shape, the tokens do not match, a layer or head is not there, or a number is not a weight.
    """
    known = range(found.first, found.first + len(found.layers))
    layers = chosen(include_layers, known, "include_layers", noun="layer", source=found.argument)
    arrays = [_array(found.layers[layer - found.first], f"{found.argument}[{layer - found.first}]") for layer in layers]
    shapes = {array.shape: layer for layer, array in zip(layers, arrays, strict=True)}
    if len(shapes) > 1:
        (one, first), (other, second) = list(shapes.items())[:2]
        raise ArgumentError(
            f"{found.argument}= has layers of different shapes: layer {first} is {list(one)}, layer {second} is "
            f"{list(other)}; every layer needs the same [head, query, key]"
        )
    _check_shape(arrays[0].shape, found.argument, name, len(queries), len(keys))
    heads = chosen(include_heads, range(arrays[0].shape[0]), "include_heads", noun="head", source=found.argument)
    weights = np.stack([array[list(heads)] for array in arrays])
    _check_weights(weights, found.argument, layers, heads)
    return AttentionPanel(name, tuple(queries), tuple(keys), layers, heads, weights)


def chosen(asked: Sequence[int] | None, known: range, argument: str, *, noun: str, source: str) -> tuple[int, ...]:
    """The numbers that were asked for, in order and each once; all that are known if nothing was asked for.

    Raises
    ------
    ArgumentError
        If nothing is left, or one is not a whole number or not known.
    """
    if asked is None:
        return tuple(known)
    if isinstance(asked, (str, bytes)) or not hasattr(asked, "__iter__"):
        raise ArgumentError(f"{argument}={asked!r}; expected a list of {noun} numbers")
    numbers = sorted({whole(one, known, argument, noun=noun, source=source) for one in asked})
    if not numbers:
        raise ArgumentError(f"{argument}= is empty; name at least one {noun}, or leave it out for all")
    return tuple(numbers)


def whole(asked: Any, known: Sequence[int], argument: str, *, noun: str, source: str) -> int:
    """One number that must be among those known.

    Raises
    ------
    ArgumentError
        If it is not a whole number or not known.
    """
    try:
        number = operator.index(asked)
    except TypeError:
        raise ArgumentError(f"{argument}= has {asked!r}; expected whole numbers") from None
    if number not in known:
        there = f"{known[0]} to {known[-1]}" if isinstance(known, range) else ", ".join(map(str, known))
        raise ArgumentError(f"{argument}= asks for {noun} {number}; {source}= has {there} (counted from 0)")
    return number


def token_texts(tokens: Any, argument: str, *, prettify: bool) -> tuple[str, ...]:
    """The tokens as strings; with ``prettify`` the marks of tokenizers become what they stand for.

    ``Ġ`` and ``▁`` become a space, ``Ċ`` a newline, and ``</w>`` goes.

    Raises
    ------
    ArgumentError
        If they are missing, one string, or not strings.
    """
    if tokens is None:
        raise ArgumentError(f"{argument}= is missing; pass the list tokenizer.convert_ids_to_tokens(input_ids[0])")
    if isinstance(tokens, (str, bytes)) or not hasattr(tokens, "__iter__"):
        raise ArgumentError(
            f"{argument}= is a {type(tokens).__name__}; expected a list of token strings, one for each position"
        )
    listed = list(tokens)
    for n, token in enumerate(listed):
        if not isinstance(token, str):
            shown = repr(token)[:_LONGEST_SHOWN]
            raise ArgumentError(
                f"{argument}[{n}] is {shown}, a {type(token).__name__}; expected strings, as from "
                "tokenizer.convert_ids_to_tokens(input_ids[0])"
            )
    return tuple(_pretty(token) if prettify else token for token in listed)


def _pretty(token: str) -> str:
    return token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n").replace("</w>", "")


def _layers_of_array(value: Any, argument: str) -> list[Any]:
    shape = list(value.shape)
    if value.ndim == 3:
        return [value]
    if value.ndim == 5 and shape[1] == 1:
        return [layer[0] for layer in value]
    if value.ndim != 4:
        raise ArgumentError(f"{argument}= has the shape {shape}; expected {SHAPES}")
    if shape[0] == 0:
        raise ArgumentError(f"{argument}= has the shape {shape}, no layer at all; {_ASK}")
    return list(value)


def _layers_of_list(value: Sequence[Any], argument: str) -> list[Any]:
    if not isinstance(value[0], (Tensor, np.ndarray)):
        if isinstance(value[0], Sequence) and any(isinstance(part, (Tensor, type(None))) for part in value[0]):
            raise ArgumentError(
                f"{argument}[0] is a {type(value[0]).__name__} of tensors, as model.generate gives for each step; expected "
                f"one forward pass over the whole text: {SHAPES}"
            )
        return _layers_of_array(_numbers(value, argument), argument)
    if value[0].ndim == 2:
        return [np.stack([_array(head, f"{argument}[{n}]", axes=2) for n, head in enumerate(value)])]
    return [_one_sequence(layer, f"{argument}[{n}]") for n, layer in enumerate(value)]


def _one_sequence(layer: Any, name: str) -> Any:
    shape = list(getattr(layer, "shape", ()))
    if len(shape) == 4 and shape[0] > 1:
        raise ArgumentError(
            f"{name} has the shape {shape}, a batch of {shape[0]}; expected one sequence: [layer[i:i + 1] for layer in …]"
        )
    return layer[0] if len(shape) == 4 and shape[0] == 1 else layer


def _array(value: Any, name: str, axes: int = 3) -> Float32[np.ndarray, "..."]:
    """Plain float32 of a tensor of any kind and place."""
    if isinstance(value, Tensor):
        kind = "complex numbers" if is_complex(value) else ""
        found = np.zeros(0, np.float32) if kind else value.detach().float().cpu().numpy()
    else:
        found = np.asarray(value)
        kind = "" if found.dtype.kind in "fiub" else f"{found.dtype} entries"
    if kind:
        raise ArgumentError(f"{name} has {kind}; expected attention weights, which are real numbers")
    if found.ndim != axes:
        expected = "[head, query, key] or [1, head, query, key]" if axes == 3 else "[query, key] like the others"
        raise ArgumentError(f"{name} has the shape {list(found.shape)}; expected {expected}")
    return found.astype(np.float32, copy=False)


def _numbers(value: Sequence[Any], argument: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{argument}= is a list that is no regular block of numbers ({error}); expected {SHAPES}"
        ) from None


def _check_shape(shape: tuple[int, ...], argument: str, name: str, queries: int, keys: int) -> None:
    if 0 in shape:
        raise ArgumentError(f"{argument}= has layers of the shape {list(shape)}, which hold nothing; expected {SHAPES}")
    _, rows, columns = shape
    if name != "cross" and "reads" not in name and rows != columns:
        raise ArgumentError(
            f"{argument}= has {rows} queries and {columns} keys; attention within one text is square. Attention of a "
            "decoder to an encoder belongs into cross_attention=; with a cache, run the whole text in one pass"
        )
    if (rows, columns) == (queries, keys):
        return
    if name == "cross":
        expected = f"{queries} decoder_tokens= and {keys} encoder_tokens= (its queries are the decoder's tokens)"
    else:
        expected = f"{queries} tokens"
    raise ArgumentError(
        f"{argument}= has {rows} queries and {columns} keys, but there are {expected}; every position needs its token, "
        "special tokens too"
    )


def _check_weights(weights: np.ndarray, argument: str, layers: tuple[int, ...], heads: tuple[int, ...]) -> None:
    bad = ~np.isfinite(weights)
    what, why = "is not a finite number", "a row that was masked entirely, or an overflow in half precision"
    if not bad.any():
        bad = weights < 0
        what, why = "is negative", "these look like scores; pass probabilities, as they are after the softmax"
    if bad.any():
        layer, head, query, key = np.unravel_index(int(bad.argmax()), bad.shape)
        value = weights[layer, head, query, key]
        raise ArgumentError(
            f"{argument}= {what} at layer {layers[layer]}, head {heads[head]}, query {query}, key {key}: {value:g} "
            f"({int(bad.sum()):,} such numbers; {why})"
        )
