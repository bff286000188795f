"""What a page looks like on paper: seen by the page itself while Chromium prints it."""

from __future__ import annotations

from typing import Any

_WATCH = """(stage) => {
  const cy = CYTOSCAPE;
  const seen = () => {
    const root = document.querySelector('[data-printing]');
    const canvas = document.querySelector(`${stage} > canvas.printed`);
    const colours = new Set();
    if (canvas) {
      const data = new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer);
      for (let i = 0; i < data.length; i += 7) if (data[i]) colours.add(data[i]);
    }
    const box = document.querySelector(stage).getBoundingClientRect();
    const nodes = cy.nodes().not('.off').map((node) => node.renderedBoundingBox({ includeLabels: false }));
    return {
      printing: Boolean(root),
      theme: cy.container().closest('[data-theme]').dataset.theme,
      viewport: [cy.zoom(), cy.pan().x, cy.pan().y],
      stage: [box.width, box.height],
      canvas: canvas && [canvas.width, canvas.height, canvas.clientWidth, canvas.clientHeight],
      colours: colours.size,
      outside: nodes.filter((at) => at.x1 < -1 || at.y1 < -1 || at.x2 > box.width + 1 || at.y2 > box.height + 1).length,
      wide: document.documentElement.scrollWidth,
    };
  };
  window.seenOnPaper = { before: seen() };
  // After the page's own.
  addEventListener('beforeprint', () => { window.seenOnPaper.paper = seen(); });
  addEventListener('afterprint', () => { window.seenOnPaper.after = seen(); });
}"""


def printed(page: Any, cytoscape: str, stage: str) -> tuple[bytes, dict[str, Any]]:
    """The PDF that a page is printed as, and what there was to see ``before``, on ``paper`` and ``after``.

    ``cytoscape`` is the expression that gives the picture, ``stage`` the selector of what it stands in.
    """
    page.evaluate(_WATCH.replace("CYTOSCAPE", cytoscape), stage)
    pdf = page.pdf(prefer_css_page_size=True)
    return pdf, page.evaluate("window.seenOnPaper")


def whole_on_paper(seen: dict[str, Any]) -> None:
    """Everything is on the paper, light and at its width, and the screen is as it was."""
    paper = seen["paper"]
    assert paper["printing"]
    assert paper["theme"] == "light"
    assert paper["outside"] == 0
    assert paper["stage"] == [980, 500]
    width, height, shown_width, shown_height = paper["canvas"]
    assert (width, height) == (4 * shown_width, 4 * shown_height) == (3920, 2000)
    assert paper["colours"] > 4  # more than a blank sheet
    assert seen["after"] == seen["before"]
    assert seen["before"]["canvas"] is None
