"""The figure of the study of true pictures: ``python -m tests.studies.truth_figure ROWS`` takes the file that the study wrote.

The numbers go to ``notebooks/figures/true_pictures.json``, the figure of them beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowgraph.charts import rendering
from flowgraph.charts.axis import Axis, Role
from flowgraph.charts.lines import Lines, Panel, Rule, Series
from tests.studies.truth import SIZES

FOLDER = Path(__file__).parent.parent.parent / "notebooks" / "figures"
NAME = "true_pictures"
_AT_50, _AT_1000 = SIZES.index(50), SIZES.index(1000)
LINES: dict[str, tuple[Role, str, int | None]] = {
    "explain_answer, at most 50 parts": ("main", "explain_answer", None),
    "proximity, 50 parts": ("attention", "proximity", _AT_50),
    "proximity, 1,000 parts": ("mlp", "proximity", _AT_1000),
    "50 parts at random": ("muted", "random", None),
}
"""Name of a line → its role, and the column and size that it shows."""


def stored(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns of the figure, one value for each prompt that was measured."""
    done = [row for row in rows if row["unseen"]]
    found: dict[str, list[Any]] = {"kind": [row["kind"] for row in done], "prompt": [row["prompt"] for row in done]}
    found["worst"] = [round(row["explain_answer"]["worst"], 4) for row in done]
    for name, (_, column, size) in LINES.items():
        values = [row[column] for row in done]
        if column == "explain_answer":
            values = [value["mean"] for value in values]
        found[name] = [round(value if size is None else value[size], 4) for value in values]
    return found


def chart(found: Mapping[str, Sequence[float]]) -> Lines:
    """What is kept of the answer, prompts in the order of it."""

    def line(name: str, role: Role) -> Series:
        values = np.sort(np.array(found[name], dtype=float))[::-1]
        place = np.arange(1, len(values) + 1, dtype=float)
        return Series(name, role, place, values, lambda n: (f"{values[n]:.2f}",), is_joined=True)

    series = tuple(line(name, role) for name, (role, _, _) in LINES.items())
    rules = (Rule("x", 1.0, "all"), Rule("x", 0.8, "80 %"), Rule("x", 0.0, "nothing"))
    count = len(found["prompt"])
    return Lines(
        "How much of the answer pictures keep beside prompts that the search did not see",
        Axis(f"{count} prompts, each line in its own order"),
        (Panel(Axis("part of the answer that is kept (smaller of two measures)"), series, rules),),
        about=f"mean over two unseen counterfactual prompts for each of {count} prompts",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="the file that the study wrote")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    found = stored([json.loads(line) for line in options.rows.read_text().splitlines()])
    (options.folder / f"{NAME}.json").write_text(
        json.dumps(found, indent=0, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    # The caption stands on the page.
    rendering.picture(chart(found), options.folder / f"{NAME}.svg", caption=False)
    for ending in ("txt", "tex"):
        (options.folder / f"{NAME}.caption.{ending}").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
