"""Copying: whether a head that looks at a token raises that token, through its values, its output and the unembedding."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions.passes import Pass
from ..lenses.head_scores import HeadScore
from ..models import LoadedModel
from ..models.anatomy import Anatomy, Norm, upcast
from ..models.attention_weights import attention_weights
from ..models.parameters import matrix_of
from .detectors import Kind, Repeating

COPY_SCORES = ("copying", "copying_eigenvalues")
NO_SOURCE = "what the encoder reads is no text of the decoder's tokens"
_NOTHING = 1e-6
"""An output below this part of the largest that weights of that size could write is rounding."""


def copy_scores(
    loaded: LoadedModel, prompts: Repeating, *, crossing: bool
) -> tuple[dict[str, HeadScore], dict[str, str]]:
    """Copy scores on some sequences, and for scores that the model does not have the reason."""
    anatomy = loaded.anatomy
    if not anatomy.has_head:
        return {}, dict.fromkeys(COPY_SCORES, "the model has no head over a vocabulary")
    # A masked head transforms states after the blocks, and post-norm blocks normalise the stream: neither leaves a
    # head's output a term of the logits.
    if anatomy.has_whole_head or anatomy.wiring == "post_norm":
        return {}, dict.fromkeys(COPY_SCORES, "what a head writes is no term of a logit in this model")
    if crossing:
        if prompts.source is None:
            return {}, dict.fromkeys(COPY_SCORES, NO_SOURCE)
        found = {"copying": _on_sequences(loaded, prompts, prompts.source, "cross_")}
        return found, {"copying_eigenvalues": "embeddings go through the whole encoder before these heads read them"}
    scores = {"copying": _on_sequences(loaded, prompts, prompts.ids, "")}
    if anatomy.embedding.weight.shape[1] != anatomy.d_model:
        return scores, {"copying_eigenvalues": "the embedding has another width than the states"}
    return scores | {"copying_eigenvalues": _of_weights(anatomy)}, {}


def _on_sequences(
    loaded: LoadedModel, prompts: Repeating, ids: Int[Tensor, "row position"], prefix: Literal["", "cross_"]
) -> HeadScore:
    """Mean over tokens of a token's own logit, in standard deviations of all logits that its value vector writes.

    ``ids`` are the tokens whose values these are, ``prefix`` is what the sites of the attention begin with.
    """
    unembedding = _unembedding(loaded.anatomy)
    final = loaded.anatomy.final_norm
    anatomy = loaded.anatomy.reader_of_encoder if prefix else loaded.anatomy
    # A logit that is the same for all tokens changes no probability, so the mean row goes.
    unembedding = unembedding - unembedding.mean(0)
    own, covariance = unembedding[ids], unembedding.T @ unembedding / len(unembedding)
    # The norm is linear but for its scale, and the score is a ratio: as a matrix it is worked out once for all heads.
    reads = _before(final, torch.eye(anatomy.d_model, device="cpu").to(covariance))
    values = np.empty((len(anatomy.blocks), anatomy.n_heads))

    def measure(layer: int, v: Tensor) -> Tensor:
        through = _before(anatomy.blocks[layer].attention_post_norm, reads)
        by_head = anatomy.per_query_head(upcast(v).movedim(2, 0))
        written = torch.einsum("hrtk,hkd->hrtd", by_head, anatomy.W_O(layer)) @ through
        # Variance over the vocabulary as a quadratic form: no [token, vocabulary] logits are made. Rounding may put it
        # below 0.
        spread = torch.einsum("hrtd,de,hrte->hrt", written, covariance, written).clamp(min=0).sqrt()
        least = _NOTHING * by_head.norm(dim=-1) * anatomy.W_O(layer).norm() * covariance.trace().sqrt()
        above = torch.einsum("hrtd,rtd->hrt", written, own)
        values[layer] = torch.where(spread > least, above / spread, 0.0).double().mean((1, 2)).cpu().numpy()
        return v

    run = Pass(loaded, len(ids))
    for layer in range(len(values)):
        run.edit(f"{prefix}v", layer, partial(measure, layer))
    with loaded.lock, torch.no_grad():
        run.run(prompts.feed)
    about = (
        "how far a token's own logit stands above the mean of all logits that a head writes where it looks at the token"
    )
    kind: Kind = "cross_head" if prefix else "head"
    return HeadScore("copying", values, "standard deviations", None, None, ids.numel(), about, kind)


def _of_weights(anatomy: Anatomy) -> HeadScore:
    """Σ Re λ / Σ|λ| of W_E W_V W_O W_U, gains of norms included.

    The matrix has a row and a column for each token; its eigenvalues that are not 0 are those of W_O W_U W_E W_V, which has a row
    and a column for each of the head's dimensions.
    """
    unembedding, embedding = _unembedding(anatomy), upcast(matrix_of(anatomy.embedding))
    tokens = min(len(embedding), len(unembedding))
    # A logit that is the same for all tokens changes nothing, and what all tokens have in common is no token.
    centred = embedding[:tokens] - embedding[:tokens].mean(0)
    # In double precision: eigenvalues of products of four matrices lose digits.
    between = _before(anatomy.final_norm, (unembedding[:tokens].T @ centred).double())
    values = np.empty((len(anatomy.blocks), anatomy.n_heads))
    for layer, block in enumerate(anatomy.blocks):
        reads, _ = attention_weights(anatomy, layer, "value")
        reads = anatomy.per_query_head(_before(block.attention_norm, reads.double()))
        values[layer] = _balance(anatomy.W_O(layer).double(), _before(block.attention_post_norm, between), reads)
    about = "Σ Re λ / Σ|λ| of the way from the embedding over values and output to logits: 1 raises what it reads, −1 lowers it"
    return HeadScore("copying_eigenvalues", values, "ratio", -1.0, 1.0, tokens, about)


def _balance(
    writes: Float[Tensor, "head d_head d_model"],
    between: Float[Tensor, "d_model d_model"],
    reads: Float[Tensor, "head d_model d_head"],
) -> Float[np.ndarray, "head"]:
    """Σ Re λ / Σ|λ| of every head; 0 where it writes nothing that is read."""
    values = torch.linalg.eigvals(writes @ between @ reads)
    size = values.abs().sum(-1)
    largest = writes.flatten(1).norm(dim=1) * between.norm() * reads.flatten(1).norm(dim=1)
    balance = torch.where(size > _NOTHING * largest, values.real.sum(-1) / size, 0.0)
    found: np.ndarray = balance.cpu().numpy()
    return found


def _before(norm: Norm | None, weight: Float[Tensor, "*n d_model out"]) -> Float[Tensor, "*n d_model out"]:
    """Turn weights that read the output of a norm into weights that read its input, but for the norm's scale."""
    if norm is None:
        return weight
    scaled = norm.gain(weight.shape[-2]).to(weight)[:, None] * weight
    # A LayerNorm also takes the mean out of its input; to the weights that is the same as taking the mean out of them.
    return scaled - scaled.mean(-2, keepdim=True) if norm.is_layer else scaled


def _unembedding(anatomy: Anatomy) -> Float[Tensor, "token d_model"]:
    """W_U, a row for each token; the head's modules in one."""
    *inner, last = anatomy.head
    weight = upcast(matrix_of(last)) * anatomy.logit_factor
    for module in reversed(inner):
        weight = weight @ upcast(matrix_of(module))
    return weight
