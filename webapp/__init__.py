"""The flowgraph web app: explore the flow of a prompt in the browser.

Imported as ``flowgraph_webapp``. It uses flowgraph's public names only; ``flowgraph app`` starts it.
"""
