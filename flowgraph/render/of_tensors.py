"""What is shown of values that hold tensors. It is registered apart, so that tables and graphs are shown without torch."""

from __future__ import annotations

from ..charts import rendering
from ..values.trace import Trace
from .page.tables import trace_html

rendering.html.register(Trace)(trace_html)
