"""Edge methods: one file per method, one table, one checker in the tests that runs over all of them.

Loaded when first asked for, so that naming the methods does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..importing import late_names

if TYPE_CHECKING:
    from ..values.edge_weights import EdgeWeights
    from ..values.graph_info import DEFAULT_METHOD
    from .build import MAX_EDGES, build_graph
    from .edge_methods import EDGE_METHODS, EdgeMethod, register_method
    from .weigh import edge_weights

_MODULE_OF = {
    "DEFAULT_METHOD": "build", "EDGE_METHODS": "edge_methods", "MAX_EDGES": "build", "EdgeMethod": "edge_methods",
    "EdgeWeights": "build", "build_graph": "build", "edge_weights": "weigh", "register_method": "edge_methods",
}  # fmt: skip

__all__ = [
    "DEFAULT_METHOD", "EDGE_METHODS", "MAX_EDGES", "EdgeMethod", "EdgeWeights", "build_graph", "edge_weights",
    "register_method",
]  # fmt: skip


__getattr__ = late_names(__name__, _MODULE_OF)


def __dir__() -> list[str]:
    return sorted(__all__)
