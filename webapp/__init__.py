"""The flowgraph web app: explore the flow of a prompt in the browser.

Imported as ``flowgraph_webapp``. It uses flowgraph's public names only; ``flowgraph app`` starts it.
"""

from .registered import on_first_use

on_first_use(f"{__name__}.panels")
