"""Explanations: a graph in sentences, each with the edges and nodes whose numbers it gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentence:
    """One sentence, with its edges and nodes.

    Attributes
    ----------
    text
        The sentence.
    edges, nodes
        Indices of the edges and nodes of the graph whose numbers it gives.
    """

    text: str
    edges: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Explanation:
    """Sentences about a graph, the most general first."""

    sentences: tuple[Sentence, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.sentences))

    def __len__(self) -> int:
        return len(self.sentences)
