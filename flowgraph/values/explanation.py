"""A graph in sentences, each with the numbers that it stands on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentence:
    """One sentence and what it stands on.

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
