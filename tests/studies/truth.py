"""How much of an answer pictures keep: every method at several sizes, over prompts of eight kinds.

``python -m tests.studies.truth [--every N] [--from K] [--model NAME] [--out FILE]`` runs every N-th of the hundred prompts from the K-th
on, one thread, and prints a table with bands over prompts. Each picture is measured beside counterfactual prompts that no search saw.
Of a known masked model the prompts are one text with one token masked, where the model gives back that token.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import flowgraph as fg
from flowgraph.circuits.contrasts import shared_out
from flowgraph.circuits.graph_faithfulness import blind_picture
from flowgraph.circuits.kept_answer import LEAST_GAP, KeptAnswer
from tests.studies.prompts import MASKED, PROMPTS

SIZES = (20, 50, 100, 300, 1000)
METHODS = ("proximity", "norms", "attention")


def ranked(trace: fg.Trace, method: str, answer: KeptAnswer) -> torch.Tensor:
    """Numbers of the parts in the order of |weight| of a method; methods without MLPs rank terms alone."""
    weights = fg.edge_weights(trace, method=method)
    numbers, first = answer.numbers, answer.numbers.first
    terms = torch.from_numpy(np.abs(weights.attention)).float()[:, :, first:]
    mlps = torch.zeros(numbers.n_layers, numbers.rows) - 1
    if weights.mlp is not None:
        mlps = torch.from_numpy(np.abs(weights.mlp)).float()[:, first:]
    size = torch.cat([terms.flatten(), mlps.flatten()])
    size[~answer.runs.valid] = -1
    order = size.argsort(descending=True)
    return order[size[order] > 0]


def of_prompt(
    model: fg.LoadedModel, prompt: str | Sequence[int], answer: str, position: int | None = None
) -> dict[str, Any]:
    """What pictures of each method keep beside unseen counterfactuals: mean over them at each size."""
    trace = fg.trace(model, prompt, position=position)
    prompt = "".join(trace.tokens) if position is not None else prompt
    if trace.target_token != answer:
        return {"prompt": prompt, "unseen": 0, "error": f"the model answers {trace.target_token!r} and not {answer!r}"}
    begin = time.process_time()
    searched, unseen = shared_out(model, trace, None, None, seed=0, least_gap=LEAST_GAP)
    proposing = time.process_time() - begin
    found: dict[str, Any] = {"prompt": prompt, "tokens": len(trace.tokens), "answer": trace.target_token}
    if not unseen:
        return found | {"unseen": 0}
    begin = time.process_time()
    graph = fg.explain_answer(model, trace, corrupted=searched, unseen=unseen, readings=False)
    kept = graph.info.provenance["kept"]
    found |= {
        "unseen": len(unseen), "seconds": round(time.process_time() - begin + proposing, 2), "parts": kept["terms"] + kept["outputs"],
        "explain_answer": {"mean": kept["f"], "worst": kept["low"], "searched": kept["searched"]["f"]}, "rank": kept["rank"],
        "random": kept["random"], "other_heads": kept.get("other_heads"), "rows": kept["rows"],
    }  # fmt: skip
    beside = KeptAnswer(model, trace, unseen)
    draw = np.random.default_rng(0)
    for method in METHODS:
        order = ranked(trace, method, beside)
        masks = beside.numbers.mask([order[:size] for size in SIZES])
        found[method] = beside.f(masks).mean(1).tolist()
    blind = []
    for size in SIZES:
        shown = torch.zeros(len(beside.numbers), dtype=torch.bool)
        shown[ranked(trace, "proximity", beside)[:size]] = True
        blind.append(blind_picture(beside.numbers, beside.runs.valid, shown, draw))
    found["random of proximity's sizes"] = beside.f(torch.stack(blind)).mean(1).tolist()
    return found


def masked(model: fg.LoadedModel, name: str) -> Iterator[tuple[str, list[int], str, int]]:
    """Name of the model, token ids with one of them masked, the token that was there, and its position."""
    text, step = MASKED[name]
    ids = model.tokenizer.encode(text)
    for position in range(1, len(ids) - 1, step):
        answer = model.vocabulary.string(ids[position])
        yield name, [*ids[:position], model.tokenizer.mask_token_id, *ids[position + 1 :]], answer, position


def chosen(every: int, start: int) -> Iterator[tuple[str, str, str]]:
    """Kind, prompt and answer."""
    whole = [(kind, prompt, answer) for kind, prompts in PROMPTS.items() for prompt, answer in prompts.items()]
    yield from whole[start::every]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures over all prompts, in words."""
    done = [row for row in rows if row.get("unseen")]
    lines = [
        f"{len(rows)} prompts, {len(done)} with their answer and with counterfactuals for the search and for the test"
    ]
    lines += [
        f"  left out: {row['prompt']!r}: {row.get('error', 'one counterfactual')}" for row in rows if row not in done
    ]
    mean, worst = (np.array([row["explain_answer"][name] for row in done]) for name in ("mean", "worst"))
    seconds, draw = np.array([row["seconds"] for row in done]), np.random.default_rng(0)
    again = draw.integers(len(done), size=(1000, len(done)))

    def part(values: np.ndarray) -> str:
        low, high = np.percentile((values >= 0.8)[again].mean(1), (2.5, 97.5))
        return f"{int((values >= 0.8).sum())} of {len(values)} [{low:.0%}, {high:.0%}]"

    lines.append(
        f"explain_answer, at most 50 parts: mean over unseen prompts ≥ .8 in {part(mean)}; the worst of them in {part(worst)}"
    )
    lines.append(
        f"  median {np.median(mean):.2f}, least {mean.min():.2f}; answer first in {sum(row['rank'] == 1 for row in done)}"
    )
    random = np.array([row["random"] for row in done])
    lines.append(f"  blind pictures: median {np.median(random):.3f}, largest {random.max():.3f}")
    other = np.array([row["other_heads"] for row in done if row["other_heads"] is not None])
    if len(other):
        lines.append(f"  other heads at the same places: median {np.median(other):.2f}, largest {other.max():.2f}")
    lines.append(
        f"  seconds of CPU: median {np.median(seconds):.1f}, 90 % {np.percentile(seconds, 90):.1f}, most {seconds.max():.1f}"
    )
    for kind in (*PROMPTS, *MASKED):
        own = [row for row in done if row["kind"] == kind]
        if own:
            values = [row["explain_answer"]["mean"] for row in own]
            lines.append(f"  {kind}: {sum(v >= 0.8 for v in values)} of {len(own)}, median {np.median(values):.2f}")
    lines.append("median kept, and prompts ≥ .8, at " + ", ".join(f"{size:,}" for size in SIZES) + " parts:")
    for name in (*METHODS, "random of proximity's sizes"):
        values = np.array([row[name] for row in done])
        cells = [f"{np.median(values[:, n]):.2f} ({int((values[:, n] >= 0.8).sum())})" for n in range(len(SIZES))]
        lines.append(f"  {name}: " + "  ".join(cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="start")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path, help="a file for one line of JSON for each prompt")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, rows = fg.load_model(options.model), []
    prompts: Iterator[tuple[Any, ...]] = chosen(options.every, options.start)
    if options.model in MASKED:
        prompts = islice(masked(model, options.model), options.start, None, options.every)
    for kind, *asked in prompts:
        try:
            row = {"kind": kind} | of_prompt(model, *asked)
        except fg.ArgumentError as error:
            text = asked[0] if isinstance(asked[0], str) else "".join(model.vocabulary.strings(asked[0]))
            row = {"kind": kind, "prompt": text, "unseen": 0, "error": str(error)}
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.out is not None:
            options.out.write_text("\n".join(map(json.dumps, rows)))
    print(table(rows))


if __name__ == "__main__":
    main()
