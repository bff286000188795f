"""What is shown of values that hold tensors. It is registered apart, so that tables and graphs are shown without torch."""

from __future__ import annotations

from ..charts import rendering
from ..lenses.head_scores import HeadScores
from ..values.trace import Trace
from .page.tables import head_scores_html, trace_html

rendering.html.register(Trace)(trace_html)
rendering.html.register(HeadScores)(head_scores_html)
