"""Circuits of IOI in the real default model, measured on prompts they were not searched with: ``python -m tests.circuit_figure``.

The numbers go to ``notebooks/figures/ioi_circuits.json``, the figure of them beside it, in both themes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

import flowgraph as fg
from flowgraph.charts.table import ThemeName
from flowgraph.circuits.faithfulness import SIZES, Faithfulness
from flowgraph.interventions.ablation import Ablation
from flowgraph.interventions.plan import circuit_edges
from flowgraph.render.scene.style import THEMES, Theme

FOLDER = Path(__file__).parent.parent / "notebooks" / "figures"
NAME = "ioi_circuits"
MODEL, TASK, CORRUPTION, SEED = "smollm2", "ioi", "abc", 0
EVERY = "eap-ig, every edge"
SEARCHED: dict[str, dict[str, Any]] = {
    "backward": {"method": "backward"},
    "eap-ig": {"method": "eap-ig"},
    "eap-qk": {"method": "eap-qk"},
    EVERY: {"method": "eap-ig", "threshold": 0.0},
}
RANDOM = "random order"
"""Every edge of the model in an order that was drawn: what any circuit has to beat."""
_REFERENCE, _SEQUENCES = 64, 8
_OTHERS: tuple[Ablation, ...] = ("mean", "zero")
_HEADS = 20


def measure(model: fg.LoadedModel, *, prompts: int, search: int, budget: int | None) -> dict[str, Any]:
    """Search on some prompts, measure on others; what is found as plain data.

    Parameters
    ----------
    model
        The model.
    prompts
        How many prompts circuits are measured on.
    search
        How many other prompts they are searched with.
    budget
        Forwards of the backward search for each of its prompts; None for the default.
    """
    drawn = fg.task(model, TASK, corruption=CORRUPTION, count=search + prompts, seed=SEED)
    seen, held_out = (replace(drawn, examples=part) for part in (drawn.examples[:search], drawn.examples[search:]))
    most: dict[str, Any] = {} if budget is None else {"budget": budget * search}
    graphs = {
        name: fg.discover(model, data=seen, **options, **(most if name == "backward" else {}))
        for name, options in SEARCHED.items()
    }
    every = graphs[EVERY]
    graphs[RANDOM] = replace(every, weight=np.random.default_rng(SEED).permutation(len(every)) + 1.0)
    roles = fg.head_roles(model, seen, sequences=_SEQUENCES)
    reference = [
        one.corrupted for one in fg.task(model, TASK, corruption=CORRUPTION, count=_REFERENCE, seed=SEED + 1).examples
    ]
    size = len(graphs["backward"])
    circuits = {name: _circuit(model, held_out, graph, roles, reference, size) for name, graph in graphs.items()}
    for name in SEARCHED:
        info = graphs[name].info
        circuits[name]["search"] = {"threshold": info.filters["threshold"], **info.options}
    return {
        "model": model.name,
        "task": TASK,
        "seed": SEED,
        "search_prompts": search,
        "measured_prompts": len(held_out),
        "prompts_in_both": len(set(seen.examples) & set(held_out.examples)),
        "role_prompts": len(seen),
        "reference_prompts_of_mean": len(reference),
        "role_thresholds": dict(roles.thresholds),
        "circuits": circuits,
        "overlap": {name: _overlap(graphs["backward"], graphs[name]) for name in ("eap-qk", EVERY) if name in graphs},
    }


def _circuit(
    model: fg.LoadedModel,
    data: fg.TaskData,
    graph: fg.FlowGraph,
    roles: fg.HeadRoles,
    reference: list[Any],
    size: int,
) -> dict[str, Any]:
    """A circuit's curve, what is left of it under other ablations, and its heads."""
    sizes = sorted({*SIZES, size / len(graph)}) if len(graph) > size else SIZES
    curve = fg.faithfulness(model, data, graph, sizes=sizes)
    found: dict[str, Any] = {"edges": len(graph), "model_edges": curve.model_edges, "curve": _curve(curve)}
    if len(graph) > curve.model_edges / 2:
        return found
    others = {
        how: fg.faithfulness(model, data, graph, how=how, reference=reference if how == "mean" else None, sizes=(1.0,))
        for how in _OTHERS
    }
    found["other_ablations"] = {how: {"value": one.value, "band": one.band} for how, one in others.items()}
    return found | {"heads": _heads(graph, roles)}


def _curve(curve: Faithfulness) -> dict[str, Any]:
    """Faithfulness at every size; the prompts whose right answer is ahead of the wrong one."""
    bands = curve.bands
    return {
        "ablation": curve.how,
        "metric": curve.metric,
        "unit": curve.unit,
        "edges": curve.edges.tolist(),
        "values": curve.values.tolist(),
        "bands": None if bands is None else bands.tolist(),
        "metric_by_size": curve.by_prompt.mean(1).tolist(),
        "right_by_size": (curve.by_prompt > 0).sum(1).tolist(),
        "metric_of_model": float(curve.full.mean()),
        "right_of_model": int((curve.full > 0).sum()),
        "value": curve.value,
        "band": curve.band,
        "area": curve.area,
        "area_band": curve.area_band,
        "distance": curve.distance,
        "distance_band": curve.distance_band,
    }


def _heads(graph: fg.FlowGraph, roles: fg.HeadRoles) -> dict[str, Any]:
    """The heads that send in a circuit, those whose edges weigh most first, with what each is without the circuit."""
    sent: dict[fg.Node, float] = {}
    for edge, weight in zip(circuit_edges(graph) or (), graph.weight.tolist(), strict=True):
        if edge.source.kind == "head":
            sent[edge.source] = sent.get(edge.source, 0.0) + abs(weight)
    order = sorted(sent, key=lambda head: -sent[head])
    effects = roles["ablation_effect"]
    rows = [
        {"head": str(head), "sent": sent[head], "ablation_effect": float(effects[head.layer, head.head]),
         "roles": dict(roles.of(head))}
        for head in order[:_HEADS]
    ]  # fmt: skip
    named: dict[str, list[str]] = {}
    for head in order:
        for role in roles.of(head):
            named.setdefault(role, []).append(str(head))
    of_model = {role: len(nodes) for role, nodes in roles.roles.items()}
    return {"count": len(order), "strongest": rows, "by_role": named, "by_role_in_model": of_model}


def _strongest(graph: fg.FlowGraph, count: int) -> fg.FlowGraph:
    return graph.keep(np.sort(np.argsort(-np.abs(graph.weight), kind="stable")[:count]))


def _overlap(a: fg.FlowGraph, b: fg.FlowGraph) -> dict[str, Any]:
    """What two circuits share, both cut to as many edges."""
    least = min(len(a), len(b))
    found = fg.compare(_strongest(a, least), _strongest(b, least))
    return {
        "edges_of_each": least,
        "shared_edges": len(found.edges.shared),
        "edge_jaccard": found.edges.jaccard,
        "head_jaccard": found.heads.jaccard,
        "sign_agreement": found.sign_agreement,
    }


def draw(found: Mapping[str, Any], path: Path, theme: ThemeName) -> None:
    """Draw faithfulness over the number of edges, a line for each circuit, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # The same numbers give the same file: no date, and names of parts that are not drawn anew each time.
    style = {"svg.hashsalt": NAME, "svg.fonttype": "none", "font.size": 9.5, "font.family": "DejaVu Sans"}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(7.4, 4.2), facecolor=THEMES[theme].background)
        _draw_lines(axes, found["circuits"], THEMES[theme])
        _dress(axes, found, THEMES[theme])
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _draw_lines(axes: Any, circuits: Mapping[str, Any], colours: Theme) -> None:
    lines = {"backward": colours.attention, "eap-qk": colours.target, EVERY: colours.mlp, RANDOM: colours.muted}
    for height in (0.0, 1.0):
        axes.axhline(height, color=colours.muted, linewidth=0.8, linestyle=(0, (4, 3)))
    for name in [name for name in lines if name in circuits]:
        colour, curve = lines[name], circuits[name]["curve"]
        edges, values = curve["edges"][1:], curve["values"][1:]
        axes.plot(edges, values, "-o", color=colour, linewidth=1.8, markersize=3.5, label=name)
        if curve["bands"] is not None:
            low, high = zip(*curve["bands"][1:], strict=True)
            axes.fill_between(edges, low, high, color=colour, alpha=0.18, linewidth=0)
    last = circuits["eap-ig"]["curve"]
    axes.plot(
        last["edges"][-1], last["value"], "D", color=colours.mlp, markersize=7, label="eap-ig, above its threshold"
    )


def _dress(axes: Any, found: Mapping[str, Any], colours: Theme) -> None:
    axes.set_xscale("log")
    axes.set_facecolor(colours.background)
    axes.set_xlabel("edges that are kept, the strongest first", color=colours.ink)
    axes.set_ylabel("faithfulness (0 no edge, 1 whole model)", color=colours.ink)
    axes.tick_params(colors=colours.muted, which="both")
    axes.grid(color=colours.line, linewidth=0.6)
    for side in axes.spines.values():
        side.set_color(colours.line)
    curve = found["circuits"]["backward"]["curve"]
    title = (
        f"{found['task'].upper()} in {found['model']}, searched with {found['search_prompts']} prompts, measured on {found['measured_prompts']} others\n"
        f"{curve['ablation']} ablation, {curve['metric']}; bands hold 95 % of the draws of the prompts"
    )
    axes.set_title(title, loc="left", fontsize=9.5, color=colours.ink)
    axes.legend(
        frameon=False, labelcolor=colours.ink, fontsize=8.5, ncols=5, loc="upper center", bbox_to_anchor=(0.47, -0.15),
        columnspacing=1.2, handlelength=1.5, handletextpad=0.5,
    )  # fmt: skip


def rounded(value: Any) -> Any:
    """The same data with five digits of every number that is not whole."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(prog="python -m tests.circuit_figure", description=__doc__)
    parser.add_argument("--prompts", type=int, default=32, help="prompts to measure on (default 32)")
    parser.add_argument("--search", type=int, default=8, help="other prompts to search with (default 8)")
    parser.add_argument("--budget", type=int, help="forwards of the backward search for each of its prompts")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files go (default notebooks/figures)")
    parser.add_argument("--draw", action="store_true", help="only draw what was measured before")
    chosen = parser.parse_args(arguments)
    if min(chosen.prompts, chosen.search) < 1:
        parser.error(f"--prompts {chosen.prompts} and --search {chosen.search} must be at least 1")
    numbers = chosen.folder / f"{NAME}.json"
    if not chosen.draw:
        model = fg.load_model(MODEL)
        found = measure(model, prompts=chosen.prompts, search=chosen.search, budget=chosen.budget)
        chosen.folder.mkdir(parents=True, exist_ok=True)
        numbers.write_text(json.dumps(rounded(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for theme in get_args(ThemeName):
        draw(json.loads(numbers.read_text(encoding="utf-8")), chosen.folder / f"{NAME}-{theme}.svg", theme)


if __name__ == "__main__":
    main()
