"""Attribution graphs as circuit-tracer and programs of its kind write them; seeded, without any model."""

from __future__ import annotations

from typing import Any

import numpy as np

FEATURE, ATTENTION = "cross layer transcoder", "lorsa"
WORDS = ("say a city", "rivers", "Texas", "in the capital of", "Olympic & <b>sport</b>", 'quotes "inside"', "日本", "")


def attribution_graph(
    seed: int = 0, *, tokens: int = 6, layers: int = 4, features: int = 40, attention: bool = True, links: int = 120
) -> dict[str, Any]:
    """Write a graph of features, errors, embeddings and logits whose links run from earlier to later layers.

    Feature ids lie in the millions, ``feature`` is a pairing of layer and number, fields that this project does not know are in
    nodes, links, metadata and beside them; pins and groups name features.
    """
    rng = np.random.default_rng(seed)
    nodes = [
        _node(f"E_{900 + p}_{p}", "embedding", "E", p, p, clerp=f'Emb: "w{p}"', influence=None) for p in range(tokens)
    ]
    seen: set[tuple[str, int, int, int]] = set()
    while len(seen) < features:
        kind = ATTENTION if attention and rng.random() < 0.3 else FEATURE
        seen.add((kind, int(rng.integers(layers)), int(rng.integers(1_000_000, 9_000_000)), int(rng.integers(tokens))))
    for kind, layer, number, p in sorted(seen):
        name, word = f"{layer}_{number}_{p}", WORDS[number % len(WORDS)]
        more = {"influence": float(rng.uniform()), "activation": float(rng.exponential(4)), "run_idx": int(number % 7)}
        nodes.append(_node(name, kind, str(layer), layer * 10_000_000 + number, p, clerp=word, **more))
    for layer in range(layers):
        for p in range(tokens):
            error = _node(
                f"0_{layer}_{p}", "mlp reconstruction error", str(layer), -1, p, influence=float(rng.uniform())
            )
            nodes.append(error)
            if attention:
                nodes.append(_node(f"a{layer}_{p}", "lorsa error", str(layer), -1, p, influence=float(rng.uniform())))
    last = tokens - 1
    for n, chance in enumerate((0.61, 0.2, 0.05)):
        said = f'Output " T{n}" (p={chance:.3f})'
        more = {"token_prob": chance, "is_target_logit": n == 0, "influence": None}
        nodes.append(_node(f"{layers}_{n}_{last}", "logit", str(layers), n, last, clerp=said, **more))
    return {
        "metadata": {
            "slug": "rivers", "scan": "gemma-2-2b", "transcoder_list": ["a", "b"], "prompt": "", "schema_version": 1,
            "prompt_tokens": [f" w{p}" for p in range(tokens)], "node_threshold": 0.8,
            "info": {"source_urls": ["https://example.org/set"], "transcoder_set": "set"}, "later": {"x": [1, None, 2.5]},
            "pruning_settings": {"node_threshold": 0.8, "edge_threshold": 0.98},
        },
        "qParams": {
            "pinnedIds": [node["node_id"] for node in nodes[tokens : tokens + 3]], "linkType": "both", "clickedId": nodes[tokens]["node_id"],
            "supernodes": [["rivers", *(node["node_id"] for node in nodes[tokens : tokens + 2])], ["city", nodes[tokens + 2]["node_id"]]],
            "sg_pos": "1,2",
        },
        "features": [],
        "nodes": nodes,
        "links": _links(rng, nodes, links, layers),
    }  # fmt: skip


def _node(name: str, kind: str, layer: str, feature: int, position: int, **more: Any) -> dict[str, Any]:
    fields = {"token_prob": 0.0, "is_target_logit": False, "influence": None, "activation": None, "clerp": ""}
    fields |= {"jsNodeId": f"{layer}_{feature}-0", "reverse_ctx_idx": 0}
    place = {"node_id": name, "feature": feature, "layer": layer, "ctx_idx": position, "feature_type": kind}
    return place | fields | more


def _links(rng: np.random.Generator, nodes: list[dict[str, Any]], count: int, layers: int) -> list[dict[str, Any]]:
    """Every node leads to a later one where there is one, the rest are random; weights of both signs, and one of 0."""
    depth = np.array([-1 if node["layer"] == "E" else int(node["layer"]) for node in nodes])
    pairs: dict[tuple[int, int], float] = {}
    order = [int(n) for n in rng.permutation(len(nodes))]
    while len(pairs) < count:
        source = order.pop() if order else int(rng.integers(len(nodes)))
        later = np.flatnonzero(depth > depth[source])
        later = later[depth[later] == layers] if depth[source] == layers - 1 else later
        if len(later):
            pairs[source, int(rng.choice(later))] = float(rng.normal(0, 3))
    links = [
        {"source": nodes[s]["node_id"], "target": nodes[t]["node_id"], "weight": weight}
        for (s, t), weight in pairs.items()
    ]
    links[0]["weight"], links[1]["note"] = 0.0, {"by": "hand"}
    return links
