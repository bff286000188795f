"""The figure of circuits in the real model: what is stored is consistent, and the script that made it still runs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import flowgraph
from tests import circuit_figure
from tests.circuit_figure import EVERY, FOLDER, NAME, RANDOM, SEARCHED, main, rounded

PAGE = (Path(__file__).parent.parent / "docs" / "gallery" / "ioi_circuits.md").read_text(encoding="utf-8")


def opened(folder):
    return json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))


def rows(found):
    """The table of the gallery."""
    names = {"backward": "`backward`", "eap-ig": "`eap-ig`, from 1 % of the gap on", "eap-qk": "`eap-qk`, the same"}
    names |= {EVERY: "all, in the order of `eap-ig`", RANDOM: "all, in a random order"}
    for name, shown in names.items():
        circuit = found["circuits"][name]
        curve = circuit["curve"]
        cells = [
            "{:.2f} [{:.2f}, {:.2f}]".format(curve[part], *curve[band])
            for part, band in (("value", "band"), ("area", "area_band"), ("distance", "distance_band"))
        ]
        yield f"| {shown} | {circuit['edges']:,} | {' | '.join(cells)} |"


@pytest.fixture(scope="module")
def stored():
    return opened(FOLDER)


def check(found):
    """What has to hold of any run."""
    assert set(found["circuits"]) == {*SEARCHED, RANDOM}
    assert found["prompts_in_both"] == 0
    for name, circuit in found["circuits"].items():
        curve = circuit["curve"]
        edges, values, metric = (np.array(curve[part]) for part in ("edges", "values", "metric_by_size"))
        assert edges[0] == 0
        assert edges[-1] == circuit["edges"] <= circuit["model_edges"]
        assert {int(np.ceil(size * edges[-1] - 1e-9)) for size in circuit_figure.SIZES} <= set(edges.tolist())
        full, empty = curve["metric_of_model"], metric[0]
        np.testing.assert_allclose(values, (metric - empty) / (full - empty), atol=2e-4)
        shares = edges / edges[-1]
        assert curve["area"] == pytest.approx(np.trapezoid(values, shares), abs=1e-3)
        assert curve["distance"] == pytest.approx(np.trapezoid(np.abs(1 - values), shares), abs=1e-3)
        assert values[-1] == curve["value"]
        assert max(curve["right_by_size"]) <= found["measured_prompts"]
        for band, value in zip(curve["bands"], values, strict=True):
            assert band[0] - 1e-3 <= value <= band[1] + 1e-3, (name, value)
        if name != RANDOM:
            assert circuit["search"]["prompts"] == found["search_prompts"]
            assert circuit["search"]["forwards"] <= circuit["search"].get("budget", 10**9)
    for name in (EVERY, RANDOM):
        assert found["circuits"][name]["edges"] > 0.99 * found["circuits"][name]["model_edges"]
        assert found["circuits"][name]["curve"]["value"] == pytest.approx(1, abs=0.01)
    backward = found["circuits"]["backward"]
    assert backward["edges"] <= backward["search"]["tested"]
    for heads in [circuit["heads"] for circuit in found["circuits"].values() if "heads" in circuit]:
        sent = [row["sent"] for row in heads["strongest"]]
        assert sent == sorted(sent, reverse=True)
        assert all(len(named) <= heads["by_role_in_model"][role] for role, named in heads["by_role"].items())


def test_what_is_stored_is_consistent(stored):
    check(stored)
    assert stored["measured_prompts"] >= 32
    assert stored["circuits"]["backward"]["search"]["budget"] == 500 * stored["search_prompts"]


def test_the_gallery_says_what_is_stored(stored):
    for row in rows(stored):
        assert row in PAGE, row
    text = " ".join(PAGE.split())
    assert f"with {stored['search_prompts']} prompts and measured on {stored['measured_prompts']} others" in text
    backward = stored["circuits"]["backward"]
    search, heads = backward["search"], {row["head"]: row for row in backward["heads"]["strongest"]}
    assert f"cut {search['tested']:,} edges within its 500 forwards per prompt, confirmed {backward['edges']:,}" in text
    assert f"left {search['untested']:,} likely ones untested" in text
    for name, role in (
        ("L23H3", "negative_copying"), ("L16H0", "previous_token"), ("L17H4", "induction"), ("L24H4", "negative_mover")
    ):  # fmt: skip
        assert f"{heads[name]['ablation_effect']:+.2f}".replace("-", "−") in text
        assert role in heads[name]["roles"]
    for name in ("L23H0", "L23H1"):
        assert "name_mover" in heads[name]["roles"]
        assert abs(heads[name]["ablation_effect"]) < 0.05
    for name in ("backward", "eap-ig", "eap-qk"):
        circuit = stored["circuits"][name]
        assert circuit["curve"]["band"][1] < 0.5
        assert all(one["band"][1] < 0.6 for one in circuit["other_ablations"].values())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_stored_pictures_are_small_and_show_the_stored_numbers(stored, theme, tmp_path):
    path = FOLDER / f"{NAME}-{theme}.svg"
    assert path.stat().st_size < 60_000
    circuit_figure.draw(stored, tmp_path / "again.svg", theme)
    pictures = [ElementTree.parse(one).getroot() for one in (path, tmp_path / "again.svg")]
    texts = [[part.text for part in picture.iter("{http://www.w3.org/2000/svg}text")] for picture in pictures]
    assert texts[0] == texts[1]
    assert {"backward", "eap-qk", EVERY, RANDOM} <= set(texts[0])
    lines = [[part.get("d") for part in picture.iter("{http://www.w3.org/2000/svg}path")] for picture in pictures]
    assert len(lines[0]) == len(lines[1])


def test_numbers_are_rounded_wherever_they_stand():
    assert rounded({"a": [1.23456789, 2], "b": {"c": (None, "x", 1e-9 / 3)}}) == {
        "a": [1.2346, 2],
        "b": {"c": [None, "x", 3.3333e-10]},
    }


@pytest.mark.parametrize("wrong", [["--prompts", "0"], ["--search", "0"], ["--budget", "many"]])
def test_bad_arguments(wrong, capsys):
    with pytest.raises(SystemExit):
        main(wrong)
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.real_model
def test_the_strongest_head_reads_the_name_that_occurs_twice_and_writes_against_it(smollm2):
    for one in flowgraph.task(smollm2, "ioi", count=4).examples:
        trace = flowgraph.trace(smollm2, one.clean, target=one.target, foil=one.foil)
        twice = [token == one.foil for token in trace.tokens]
        assert sum(twice) == 2
        assert trace.pattern[23, 3, -1][twice].sum() > 0.5
        assert flowgraph.direct_logit_attribution(trace).heads_by_source[23, 3][twice].sum() > 1


@pytest.mark.slow(seconds=40)
@pytest.mark.real_model
def test_the_script_measures_and_draws(tmp_path, monkeypatch, smollm2):
    # Fewer curves, and fewer points of each: every one is a run of every prompt. The model is the one that other tests loaded.
    monkeypatch.setattr(circuit_figure.fg, "load_model", {"smollm2": smollm2}.__getitem__)
    monkeypatch.setattr(circuit_figure, "_SEQUENCES", 2)
    monkeypatch.delitem(circuit_figure.SEARCHED, "eap-qk")
    monkeypatch.setattr(circuit_figure, "_OTHERS", ("mean",))
    monkeypatch.setattr(circuit_figure, "SIZES", (0.1, 1.0))
    monkeypatch.setattr(circuit_figure, "_REFERENCE", 24)
    main(["--prompts", "2", "--search", "1", "--budget", "20", "--folder", str(tmp_path)])
    found = opened(tmp_path)
    check(found)
    assert (found["measured_prompts"], found["search_prompts"]) == (2, 1)
    assert found["circuits"]["backward"]["search"]["forwards"] <= 20
    assert len(list(tmp_path.glob("*.svg"))) == 2
