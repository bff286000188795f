"""Contributions: ``proximity`` against its published formula with every part written out, norms against every vector."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

import flowgraph
from flowgraph.kernels.proximity import proximity_of_parts
from flowgraph.methods.norms import norm_of_sum
from flowgraph.methods.parts import AttentionParts, MlpParts, attention_parts, mlp_parts

from .pairs import Base, Row, compared, timed
from .subject import Setup, bare_forward, load, prompt


def rows(setup: Setup) -> Iterator[Row]:
    """All layers of a GPT-2-small shape and of the model; parts of the work by themselves; a long prompt."""
    shaped = load(setup.shape)
    lengths = (8, 16) if setup.small else (64, 128)
    for loaded, name, n_tokens in [
        *((shaped, setup.shape, n) for n in lengths),
        (setup.loaded, setup.title, lengths[0]),
    ]:
        trace = flowgraph.trace(loaded, prompt(loaded, n_tokens))
        # The formula takes seconds each time.
        yield from _whole(trace, f"{name} T = {n_tokens}", min(setup.pairs, 3))
        yield from _parts(trace, f"one layer, {name} T = {n_tokens}", setup.pairs)
    yield _long(shaped, f"{setup.shape} T = {32 if setup.small else 512}", 32 if setup.small else 512, setup.pairs)


def _whole(trace: flowgraph.Trace, name: str, pairs: int) -> list[Row]:
    """Weights of every edge, from the trace on."""
    ours = flowgraph.edge_weights(trace, method="proximity")
    theirs = every_layer(trace)
    difference = max(float(np.abs(ours.attention[row] - share.numpy()).max()) for row, share in enumerate(theirs))
    base = Base("dense formula", lambda: every_layer(trace), note=f"largest difference of shares {difference:.0e}")
    run = lambda: flowgraph.edge_weights(trace, method="proximity")  # noqa: E731
    return compared(f"proximity, {name}", run, [base], pairs=pairs)


def _parts(trace: flowgraph.Trace, name: str, pairs: int) -> Iterator[Row]:
    """The compiled loop, and the norms of head sums from Gram matrices, for one layer."""
    parts = attention_parts(trace, 0)
    whole, coefficient, vectors = (torch.from_numpy(part) for part in (parts.whole, parts.coefficient, parts.vectors))
    yield timed(
        f"proximity_of_parts, {name}",
        lambda: proximity_of_parts(parts.whole, parts.coefficient, parts.vectors),
        "dense formula",
        lambda: nearness(whole, coefficient, vectors),
        pairs=min(pairs, 5),
    )
    difference = np.abs(norm_of_sum(parts) - sum_lengths(coefficient, vectors).numpy()).max()
    base = Base(
        "vectors [T, S, d]", lambda: sum_lengths(coefficient, vectors), note=f"largest difference {difference:.0e}"
    )
    yield from compared(f"norm_of_sum, {name}", lambda: norm_of_sum(parts), [base], pairs=pairs)


def _long(loaded: flowgraph.LoadedModel, name: str, n_tokens: int, pairs: int) -> Row:
    """A long prompt, for which nobody writes out all parts."""
    ids = prompt(loaded, n_tokens)
    trace = flowgraph.trace(loaded, ids)
    return timed(
        f"proximity, {name}",
        lambda: flowgraph.edge_weights(trace, method="proximity"),
        "forward, all logits",
        lambda: bare_forward(loaded, ids, last_only=False),
        pairs=min(pairs, 5),
    )


def every_layer(trace: flowgraph.Trace) -> list[Tensor]:
    """[head, query_pos, key_pos] shares of each layer by the formula as it was published; the MLP's step is made as well."""
    found = []
    for row in range(len(trace.pattern)):
        found.append(attention_shares(attention_parts(trace, row)))
        if trace.wiring != "parallel":
            mlp_shares(mlp_parts(trace, row))
    return found


def attention_shares(parts: AttentionParts) -> Tensor:
    """c = max(0, ‖y‖₁ − ‖y − part‖₁) / Σ of all parts of y."""
    whole, coefficient, vectors = (torch.from_numpy(part) for part in (parts.whole, parts.coefficient, parts.vectors))
    near = nearness(whole, coefficient, vectors)
    rest = [torch.from_numpy(part) for part in (parts.residual, parts.mlp) if part is not None]
    total = near.sum((0, 2)) + sum(_near(whole, part) for part in rest)
    return near / total[:, None]


def mlp_shares(parts: MlpParts) -> tuple[Tensor, Tensor]:
    """Shares of the MLP and of the stream in the state after both."""
    whole = torch.from_numpy(parts.whole)
    mlp, residual = _near(whole, torch.from_numpy(parts.mlp)), _near(whole, torch.from_numpy(parts.residual))
    return mlp / (mlp + residual), residual / (mlp + residual)


def nearness(whole: Tensor, coefficient: Tensor, vectors: Tensor) -> Tensor:
    """[head, query_pos, key_pos] max(0, ‖y‖₁ − ‖y − part‖₁), every part a vector of its own."""
    parts = torch.einsum("hts,hsd->tshd", coefficient, vectors)
    distance = (whole[:, None, None] - parts).abs().sum(-1)
    return (whole.abs().sum(-1)[:, None, None] - distance).clamp(min=0).permute(2, 0, 1)


def _near(whole: Tensor, part: Tensor) -> Tensor:
    return (whole.abs().sum(-1) - (whole - part).abs().sum(-1)).clamp(min=0)


def sum_lengths(coefficient: Tensor, vectors: Tensor) -> Tensor:
    """[query_pos, key_pos] length of what all heads together bring, every sum a vector of its own."""
    return torch.einsum("hts,hsd->tsd", coefficient, vectors).norm(dim=-1)
