"""The notebooks: execute them, and bring them into the form that they are stored in: ``python -m tests.notebooks [NUMBER …]``.

Whoever opens a stored notebook on a web page should see what it says without running it, and a repository should not carry
megabytes of pictures. So text, tables and PNG pictures are kept. What is interactive is taken out and its place says so:
pages in frames, which hold hundreds of kB each; Jupyter widgets, which are nothing without their kernel; plotly figures, which
would need kaleido and a browser to become still. Nothing of the machine is kept: no paths, no times, no widget state.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from traitlets.config import Config

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
MOST_BYTES = 150_000
PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
KEPT = ("text/plain", "text/html", "text/markdown", "image/png")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""This tree's package; and no bar that says how far the loading of weights is, which no notebook is about."""
COMPILING = "flowgraph: compiling its loops for this machine"
_NUMBER = re.compile(r"[-−+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")
_NEAR, _SMALL = 0.02, 0.002


def paths() -> list[Path]:
    """All notebooks, in the order of their numbers."""
    return sorted(FOLDER.glob("*.ipynb"))


def opened(path: Path) -> NotebookNode:
    """A notebook as it is stored."""
    return nbformat.read(path, as_version=4)


def executed(notebook: NotebookNode, folder: Path, claims: str = "") -> NotebookNode:
    """The notebook after a run from top to bottom in ``folder``, and ``claims`` checked among its variables afterwards.

    Raises
    ------
    CellExecutionError
        If a cell, or a claim, fails.
    """
    ran = nbformat.from_dict(notebook)
    for cell in ran.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if claims:
        ran.cells.append(new_code_cell(claims))
    # A folder of its own for the reader's settings of IPython, which must play no part, and for sockets in place of open ports.
    with tempfile.TemporaryDirectory() as private:
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{private}/kernel"}})
        client = NotebookClient(
            ran, config=sockets, timeout=600, startup_timeout=300, kernel_name="python3", record_timing=False
        )
        client.resources = {"metadata": {"path": str(folder)}}
        client.execute(env={**os.environ, **ENVIRONMENT, "IPYTHONDIR": private})
    if claims:
        ran.cells.pop()
    for cell in ran.cells:
        if cell.cell_type == "code":
            # Said once on a new machine, whichever notebook comes first there.
            cell.outputs = [one for one in cell.outputs if COMPILING not in one.get("text", "")]
    return ran


def normal(notebook: NotebookNode) -> NotebookNode:
    """The form that a notebook is stored in."""
    kept = nbformat.from_dict(notebook)
    kept.metadata, kept.nbformat, kept.nbformat_minor = nbformat.from_dict(METADATA), 4, 5
    run = 0
    for cell in kept.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            run += 1
            cell.execution_count = run
            cell.outputs = [still(output, run) for output in joined(cell.outputs)]
    return kept


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs in which what was printed in several pieces, as it happened to arrive, is one."""
    found: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and found and found[-1].get("name") == output.name:
            found[-1].text += output.text
        else:
            found.append(nbformat.from_dict(output))
    return found


def still(output: NotebookNode, run: int) -> NotebookNode:
    """An output without what only lives when the cell runs."""
    if "data" not in output:
        return output
    data: dict[str, Any] = output.data
    plain = data.get("text/plain", "")
    kept = {kind: data[kind] for kind in KEPT if kind in data}
    if PLOTLY in data:
        title = data[PLOTLY]["layout"].get("title", {}).get("text", "")
        kept = {"text/plain": f"[plotly figure “{title}”: run the cell to see it]"}
    elif WIDGET in data or "<iframe" in data.get("text/html", ""):
        kept = {"text/plain": f"{plain}\n[interactive: run the cell to see it]".lstrip()}
    found = {"output_type": output.output_type, "data": kept, "metadata": {}}
    if output.output_type == "execute_result":
        found["execution_count"] = run
    return nbformat.from_dict(found)


def written(notebook: NotebookNode) -> str:
    """The content of the file."""
    return nbformat.writes(notebook, version=4) + "\n"


def complaints(notebook: NotebookNode) -> list[str]:
    """What was written to the standard error, and errors."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.text for output in outputs if output.get("name") == "stderr"]
    return texts + [output.evalue for output in outputs if output.output_type == "error"]


def text_of(cell: NotebookNode) -> str:
    """What the outputs of a cell say, tables without their tags."""
    found = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        page = re.sub(r"(?s)<style.*?</style>|<[^>]*>", " ", data.get("text/html", ""))
        found += [output.get("text", ""), data.get("text/plain", ""), unescape(page)]
    return "\n".join(part for part in found if part)


def numbers_of(text: str) -> list[float]:
    """All numbers in a text, those in names as well."""
    return [float(found.replace(",", "").replace("−", "-")) for found in _NUMBER.findall(text)]


def differences(stored: str, fresh: str) -> list[str]:
    """Where two texts differ: in a word, or in a number by more than rounding on another machine explains."""
    # A new version of the package is no reason to run everything again.
    stored, fresh = (re.sub(r"flowgraph \d[\d.]*", "flowgraph", text) for text in (stored, fresh))
    words, others = (_NUMBER.sub("#", text).split() for text in (stored, fresh))
    if words != others:
        pairs = [f"{one!r} is now {other!r}" for one, other in zip(words, others, strict=False) if one != other]
        return pairs or [f"{len(words)} words are now {len(others)}"]
    pairs = zip(numbers_of(stored), numbers_of(fresh), strict=True)
    return [f"{a:g} is now {b:g}" for a, b in pairs if abs(a - b) > max(_SMALL, _NEAR * max(abs(a), abs(b)))]


def main(numbers: list[str]) -> None:
    """Execute the notebooks of these numbers, or all, and write them back."""
    for path in paths():
        if numbers and path.name.split("_")[0] not in numbers:
            continue
        with tempfile.TemporaryDirectory() as folder:
            ran = executed(opened(path), Path(folder))
        if said := complaints(ran):
            raise SystemExit(f"{path.name} writes to the standard error: {said[0]}")
        content = written(normal(ran))
        path.write_text(content, encoding="utf-8")
        print(f"{path.name}: {len(content.encode()):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
