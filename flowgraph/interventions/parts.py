"""The parts of a run that a picture shows or leaves out, numbered: attention terms, MLPs and mixers at positions.

A *term* is what one head reads at one position from one source: pattern · value · W_O. Terms, and what an MLP or a mixer writes at a
position, are all that a layer adds to the residual stream, biases apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import ArgumentError


@dataclass(frozen=True, order=True)
class Part:
    """One part of a run.

    Attributes
    ----------
    layer, position
        Where it writes.
    head, source
        Of a term: its head, and the position that it reads; None for an MLP or a mixer.
    is_mixer
        Whether it is what a mixer writes, and not an MLP.
    """

    layer: int
    position: int
    head: int | None = None
    source: int | None = None
    is_mixer: bool = False

    def __str__(self) -> str:
        if self.head is not None:
            return f"L{self.layer}H{self.head}@{self.position} ← {self.source}"
        return f"L{self.layer}.{'mixer' if self.is_mixer else 'mlp'}@{self.position}"


@dataclass(frozen=True)
class PartNumbers:
    """Numbers of parts: terms [layer, head, query, source], then MLPs [layer, position], then mixers, if there are any.

    Queries and positions count from ``first``: before it nothing differs between two runs, so nothing there can be replaced.
    """

    n_layers: int
    n_heads: int
    n_tokens: int
    first: int
    has_mixers: bool = False

    @property
    def rows(self) -> int:
        """Number of positions from ``first`` on."""
        return self.n_tokens - self.first

    @property
    def terms(self) -> int:
        """Number of terms, also of those that no mask lets pass."""
        return self.n_layers * self.n_heads * self.rows * self.n_tokens

    @property
    def outputs(self) -> int:
        """Number of MLPs at positions, also in layers without one."""
        return self.n_layers * self.rows

    def __len__(self) -> int:
        return self.terms + self.outputs * (2 if self.has_mixers else 1)

    def split(self, mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Masks or gates [row, part] as terms [row, layer, head, query, source], MLPs and mixers [row, layer, position]."""
        terms = mask[:, : self.terms].unflatten(-1, (self.n_layers, self.n_heads, self.rows, self.n_tokens))
        outputs = mask[:, self.terms :].unflatten(-1, (-1, self.n_layers, self.rows))
        return terms, outputs[:, 0], outputs[:, 1] if self.has_mixers else None

    def joined(
        self,
        terms: Bool[Tensor, "layer head position source"],
        mlps: Bool[Tensor, "layer position"],
        mixers: Bool[Tensor, "layer position"] | None = None,
    ) -> Bool[Tensor, "part"]:
        """One mask from masks over all positions of the prompt."""
        whole = [terms[:, :, self.first :].flatten(), mlps[:, self.first :].flatten()]
        if self.has_mixers:
            whole.append(torch.zeros_like(whole[1]) if mixers is None else mixers[:, self.first :].flatten())
        return torch.cat(whole)

    def part(self, number: int) -> Part:
        """The part of a number."""
        if number < self.terms:
            rest, source = divmod(number, self.n_tokens)
            rest, row = divmod(rest, self.rows)
            return Part(rest // self.n_heads, self.first + row, rest % self.n_heads, source)
        rest, row = divmod(number - self.terms, self.rows)
        is_mixer, layer = divmod(rest, self.n_layers)
        return Part(layer, self.first + row, is_mixer=bool(is_mixer))

    def number(self, part: Part) -> int:
        """The number of a part.

        Raises
        ------
        ArgumentError
            If there is no such part, or it stands before ``first``.
        """
        sizes = {"layer": self.n_layers, "head": self.n_heads, "source": self.n_tokens, "position": self.n_tokens}
        for name, size in sizes.items():
            value = getattr(part, name)
            if value is not None and not 0 <= value < size:
                raise ArgumentError(f"{part}: {name}={value} does not exist; it must lie in 0…{size - 1}")
        row = part.position - self.first
        if row < 0:
            raise ArgumentError(
                f"{part} stands before position {self.first}, the first at which the prompts differ, so it is equal in both runs"
            )
        if part.head is not None and part.source is not None:
            place = (part.layer * self.n_heads + part.head) * self.rows + row
            return place * self.n_tokens + part.source
        if part.is_mixer and not self.has_mixers:
            raise ArgumentError(f"{part}: the model has no mixers")
        return self.terms + part.is_mixer * self.outputs + part.layer * self.rows + row

    def parts(self, numbers: Iterable[int]) -> Iterator[Part]:
        """The parts of several numbers, in their order."""
        return map(self.part, numbers)

    def mask(self, pictures: Iterable[Tensor]) -> Bool[Tensor, "row part"]:
        """[row, part] True at the numbers of each picture, [part of it]."""
        rows = [torch.zeros(len(self), dtype=torch.bool, device="cpu").index_fill(0, one, True) for one in pictures]
        return torch.stack(rows)
