"""Norm-based maps: how long the vectors are that each token hands to each other, and how much of a token is its context's.

Kobayashi et al. (2021): residual stream and norm belong to the map. What a token gets from itself, through attention and along
the stream, is then one vector, which no graph of separate edges holds; hence a matrix.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ..errors import ArgumentError
from ..values.arguments import takes
from ..values.token_matrix import TokenMatrix, origin_of
from ..values.trace import Trace
from .norms import norm_of_sum
from .parts import AttentionParts, attention_parts


@takes(Trace)
def norm_map(trace: Trace, *, residual: bool = True, layer_norm: bool = False) -> TokenMatrix:
    """Lengths ‖Σ_h A^h_ts u^h_s‖₂ of what token t gets from token s in each layer.

    Parameters
    ----------
    trace
        A trace with its model. Of an encoder–decoder, the decoder's attention to itself is measured.
    residual
        Add the residual stream x_t to what a token gets from itself: ‖Σ_h A^h_tt u^h_t + x_t‖₂.
    layer_norm
        Take vectors after the norm that follows, frozen at its scale: in post-norm blocks over the sum with the residual
        stream, in sandwich blocks over what attention adds. Elsewhere none follows.

    Returns
    -------
    [layer, query_pos, key_pos] norms, a :class:`flowgraph.TokenMatrix`, in the unit of the residual stream; masked keys have 0.

    Raises
    ------
    ArgumentError
        If ``layer_norm`` is asked for where no norm follows attention.

    References
    ----------
    Kobayashi et al. (2020), "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms"; Kobayashi et al.
    (2021), "Incorporating Residual and Normalization Layers into Analysis of Masked Language Models".

    Examples
    --------
    >>> fg.norm_map(trace).shape  # layer, query position, key position
    (30, 8, 8)
    """
    found = [_map(part, residual) for part in _parts(trace, layer_norm)]
    measure = _measure(trace, "norms of what tokens hand over", residual, layer_norm)
    return TokenMatrix(np.stack(found), ("layer", "query_pos", "key_pos"), measure, "norm", **origin_of(trace))


@takes(Trace)
def mixing_ratio(trace: Trace, *, residual: bool = True, layer_norm: bool = False) -> TokenMatrix:
    """Share of a token's new vector that comes from other tokens: ‖others‖ / (‖others‖ + ‖itself‖).

    ``others`` is the sum of what all other tokens hand over, taken as one vector; ``itself`` is the diagonal of
    :func:`norm_map`.

    Parameters
    ----------
    trace, residual, layer_norm
        As for :func:`norm_map`.

    Returns
    -------
    [layer, query_pos] between 0 (nothing from others) and 1, a :class:`flowgraph.TokenMatrix`; 0 where both are zero.

    Raises
    ------
    ArgumentError
        As for :func:`norm_map`.

    References
    ----------
    Kobayashi et al. (2021), "Incorporating Residual and Normalization Layers into Analysis of Masked Language Models".

    Examples
    --------
    >>> fg.mixing_ratio(trace).shape  # layer, query position
    (30, 8)
    """
    rows = []
    for part in _parts(trace, layer_norm):
        apart = part.coefficient.copy()
        t = np.arange(apart.shape[1])
        apart[:, t, t] = 0
        others = np.linalg.norm(np.einsum("hts,hsd->td", apart, part.vectors, optimize=True), axis=-1)
        whole = others + _itself(part, residual)
        rows.append(np.divide(others, whole, out=np.zeros_like(whole), where=whole > 0))
    measure = _measure(trace, "mixing ratio", residual, layer_norm)
    return TokenMatrix(np.stack(rows), ("layer", "query_pos"), measure, "share", **origin_of(trace))


def _measure(trace: Trace, name: str, residual: bool, layer_norm: bool) -> str:
    """What is measured, with the parts of the block that belong to it."""
    own = f", self-attention of the {trace.role}" * ("cross_pattern" in trace.sites)
    return f"{name}{own}{', residual stream included' * residual}{', after the norm' * layer_norm}"


def _parts(trace: Trace, layer_norm: bool) -> list[AttentionParts]:
    if layer_norm and trace.wiring not in ("post_norm", "sandwich"):
        raise ArgumentError(
            f"layer_norm=True, but no norm follows attention in the {trace.wiring} blocks of {trace.model_name!r}: the norm "
            "before it is inside the values already; leave layer_norm out"
        )
    trace.model.anatomy.refuse_gates("the map of norms")
    return [attention_parts(trace, row, normed=layer_norm) for row in range(trace.layers[1] - trace.layers[0])]


def _map(parts: AttentionParts, residual: bool) -> Float[np.ndarray, "T S"]:
    found = norm_of_sum(parts)
    np.fill_diagonal(found, _itself(parts, residual))
    return found


def _itself(parts: AttentionParts, residual: bool) -> Float[np.ndarray, "T"]:
    """Norm of what each token gets from itself."""
    own = parts.coefficient.diagonal(axis1=1, axis2=2)
    vector = np.einsum("ht,htd->td", own, parts.vectors)
    if residual:
        vector = vector + parts.residual
    length: np.ndarray = np.linalg.norm(vector, axis=-1)
    return length
