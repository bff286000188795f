"""Attention weights as whole numbers of 8 or 16 bits, so that a page can hold those of long texts and say how exact they are."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from ...charts.text import visible
from ...errors import ArgumentError

MOST_CHARACTERS = 32 * 2**20
"""Characters of numbers that a page may hold; above it notebooks become slow to open and to save."""


@dataclass(frozen=True, eq=False)
class AttentionPanel:
    """One kind of attention, ready to be drawn.

    Attributes
    ----------
    name
        What it is called where there are several: ``"encoder"``, ``"decoder"``, ``"cross"``, ``"text reads vision"`` …; else
        ``"attention"``.
    queries, keys
        [query], [key] token texts.
    layers, heads
        [layer], [head] their numbers in the model, from 0.
    weights
        [layer, head, query, key] attention weights: finite, not negative.
    """

    name: str
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    weights: Float32[np.ndarray, "layer head query key"]

    @property
    def argument(self) -> str:
        """Name of the argument it came by."""
        return self.name if self.name == "attention" else f"{self.name}_attention"


@dataclass(frozen=True, eq=False)
class Codes:
    """The weights of a panel as text.

    Attributes
    ----------
    text
        Base64 of little-endian codes [layer, head, query, key]; of causal weights only keys up to the query.
    bits
        8 or 16 for each code.
    scale
        Weight of the largest code; the smallest, 0, is the weight 0.
    causal
        Whether all keys after the query weigh nothing and are left out.
    """

    text: str
    bits: int
    scale: float
    causal: bool

    @property
    def error(self) -> float:
        """The most by which a weight can differ from its code: half a step."""
        return self.scale / ((1 << self.bits) - 1) / 2


def attention_data(panels: list[AttentionPanel]) -> list[dict[str, Any]]:
    """[panel] what scripts are given of attention: plain data, ready for JSON.

    Raises
    ------
    ArgumentError
        As for :func:`encode`.
    """
    return [_data(panel, codes) for panel, codes in zip(panels, encode(panels), strict=True)]


def _data(panel: AttentionPanel, codes: Codes) -> dict[str, Any]:
    return {
        "name": panel.name,
        "queries": [visible(token) for token in panel.queries],
        "keys": [visible(token) for token in panel.keys],
        "layers": panel.layers,
        "heads": panel.heads,
        "bits": codes.bits,
        "scale": codes.scale,
        "error": codes.error,
        "causal": codes.causal,
        "codes": codes.text,
    }


def encode(panels: list[AttentionPanel]) -> list[Codes]:
    """Codes of all panels of a page: 16 bits each if they fit into :data:`MOST_CHARACTERS`, otherwise 8.

    Raises
    ------
    ArgumentError
        If they do not fit with 8 bits either; the message says how many layers would.
    """
    causal = [_is_causal(panel.weights) for panel in panels]
    counts = [_count(panel, triangle) for panel, triangle in zip(panels, causal, strict=True)]
    bits = 16 if _characters(sum(counts), 16) <= MOST_CHARACTERS else 8
    if _characters(sum(counts), bits) > MOST_CHARACTERS:
        per_layer = sum(count / len(panel.layers) for count, panel in zip(counts, panels, strict=True))
        fit = int(MOST_CHARACTERS / _characters(1, 8) / per_layer)
        advice = (
            f"show fewer layers: include_layers= with {fit} of them fits"
            if fit
            else "one layer alone is too much: show a part of the text, as attention[..., a:b, a:b] with tokens[a:b]"
        )
        raise ArgumentError(
            f"{sum(counts):,} attention weights would make a page of {_characters(sum(counts), 8) / 2**20:.0f} MB at 8 bits; "
            f"the limit is {MOST_CHARACTERS / 2**20:.0f} MB. {advice[0].upper()}{advice[1:]}"
        )
    return [_codes(panel.weights, bits, triangle) for panel, triangle in zip(panels, causal, strict=True)]


def _characters(count: int, bits: int) -> float:
    """Length of the base64 text of that many codes."""
    return count * bits / 8 * 4 / 3


def _count(panel: AttentionPanel, causal: bool) -> int:
    layers, heads, queries, keys = panel.weights.shape
    return int(layers * heads * (queries * (queries + 1) // 2 if causal else queries * keys))


def _is_causal(weights: Float32[np.ndarray, "layer head query key"]) -> bool:
    queries, keys = weights.shape[2:]
    if queries != keys or queries == 1:
        return False
    return all(not np.triu(head, 1).any() for layer in weights for head in layer)


def _codes(weights: Float32[np.ndarray, "layer head query key"], bits: int, causal: bool) -> Codes:
    # Probabilities keep 1 as their largest code, so that equal weights have equal codes on every page.
    scale, top = max(1.0, float(weights.max())), (1 << bits) - 1
    # A layer at a time: in double precision the whole would be twice as large again as what was handed over.
    parts = [
        _packed(np.rint(layer.astype(np.float64) / scale * top).astype(f"<u{bits // 8}"), causal) for layer in weights
    ]
    return Codes(base64.b64encode(b"".join(parts)).decode("ascii"), bits, scale, causal)


def _packed(codes: Shaped[np.ndarray, "head query key"], causal: bool) -> bytes:
    if not causal:
        return codes.tobytes()
    rows, columns = np.tril_indices(codes.shape[1])
    return codes[:, rows, columns].tobytes()
