"""The plotly figures of results as functions: each is the method ``figure`` of its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...analyses import EdgeTokens, HeadCircuit, LayerOverlap, NormFilter, RegularizationNeurons, Trajectory
from ...charts.table import ThemeName
from ...circuits.faithfulness import Faithfulness
from ...errors import ArgumentError
from ...lenses.head_scores import HeadScores
from ...values.arguments import takes
from ...values.reading import LensColour, Reading
from ...values.token_matrix import TokenMatrix

if TYPE_CHECKING:
    import plotly.graph_objects


@takes(Trajectory)
def trajectory_figure(found: Trajectory, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw rank and log-probability of target and foil through all states, and of what attention and MLP add by themselves.

    The method ``figure`` of what :func:`flowgraph.trajectory` finds; ``theme`` is ``"light"`` or ``"dark"``.
    """
    return found.figure(theme=theme)


@takes(NormFilter)
def norm_filter_figure(found: NormFilter, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw the tokens that a norm moves most: their ranks before and after, and which step changes their log-probability.

    The method ``figure`` of what :func:`flowgraph.norm_filter` finds; ``theme`` is ``"light"`` or ``"dark"``.
    """
    return found.figure(theme=theme)


@takes(RegularizationNeurons)
def regularization_figure(found: RegularizationNeurons, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw how often neurons are active against the entropy of what they write, with some others for comparison.

    The method ``figure`` of what :func:`flowgraph.regularization_neurons` finds; ``theme`` is ``"light"`` or ``"dark"``.
    """
    return found.figure(theme=theme)


@takes(LayerOverlap)
def overlap_figure(found: LayerOverlap, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw top-k overlap layer by layer: every place as a dot, the mean as a line.

    The method ``figure`` of what :func:`flowgraph.overlap_by_layer` finds; ``theme`` is ``"light"`` or ``"dark"``.
    """
    return found.figure(theme=theme)


@takes(HeadCircuit)
def head_circuit_figure(found: HeadCircuit, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw what a head reads and writes: numbers of each source as bars, and the top tokens of query, key and value.

    The method ``figure`` of what :func:`flowgraph.head_circuit` finds; ``theme`` is ``"light"`` or ``"dark"``.
    """
    return found.figure(theme=theme)


@takes(EdgeTokens)
def edge_tokens_figure(found: EdgeTokens, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw the tokens that the vector along an edge promotes and suppresses, by their logits.

    The method ``figure`` of what :func:`flowgraph.edge_tokens` finds; ``theme`` is ``"light"`` or ``"dark"``.
    """
    return found.figure(theme=theme)


@takes(Faithfulness)
def faithfulness_figure(found: Faithfulness, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw faithfulness over the number of edges, with its band; the lines at 0 and 1 are no edge and the whole model.

    The method ``figure`` of what :func:`flowgraph.faithfulness` finds; ``theme`` is ``"light"`` or ``"dark"``.
    """
    return found.figure(theme=theme)


@takes(Reading)
def lens_figure(
    reading: Reading, *, colour: LensColour = "probability", theme: ThemeName = "light"
) -> plotly.graph_objects.Figure:
    """Draw a reading of two axes as a grid: the top token of every vector, coloured by one number.

    Parameters
    ----------
    reading
        A reading of shape (layer, position), such as that of :func:`flowgraph.logit_lens`, or any other of two axes.
    colour
        As for :meth:`flowgraph.Reading.chart`.
    theme
        ``"light"`` or ``"dark"``.

    Raises
    ------
    ArgumentError
        If the reading has not two axes, or ``colour`` is another word.
    """
    return reading.figure(colour=colour, theme=theme)


@takes(TokenMatrix)
def matrix_figure(matrix: TokenMatrix, *, theme: ThemeName = "light") -> plotly.graph_objects.Figure:
    """Draw one matrix of tokens as a heatmap, or one row of it as bars.

    Parameters
    ----------
    matrix
        A :class:`flowgraph.TokenMatrix` of two axes or one; of several layers take one with ``matrix.layer(n)``.
    theme
        ``"light"`` or ``"dark"``.

    Raises
    ------
    ArgumentError
        If it has three axes.
    """
    if matrix.ndim == 3:
        raise ArgumentError(f"matrix has the axes {matrix.axes}; one layer can be drawn, such as matrix.layer(-1)")
    return matrix.figure(theme=theme)


@takes(HeadScores)
def head_scores_figure(
    scores: HeadScores, score: str | None = None, *, theme: ThemeName = "light"
) -> plotly.graph_objects.Figure:
    """Draw one score of all heads as a heatmap over layers and heads.

    Parameters
    ----------
    scores
        From :func:`flowgraph.head_scores`.
    score
        As for :meth:`flowgraph.HeadScores.chart`.
    theme
        ``"light"`` or ``"dark"``.

    Raises
    ------
    ArgumentError
        If the score does not exist or is not defined for this prompt.
    """
    return scores.figure(score=score, theme=theme)
