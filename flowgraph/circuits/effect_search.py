"""The search for the few parts of a run that keep an answer against counterfactual prompts.

Every part gets a score: the integral of what is kept over a gate that all parts share, ∫ ∂f/∂g dα at g = α for every part, by
midpoints. Scores sum to f of all parts, which is 1, up to the error of the quadrature. Parts are taken in the order of their signed
scores, so helpful ones first; exact runs find the shortest picture that keeps enough, take out what can be spared, and exchange parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .kept_answer import Kept, KeptAnswer

_TOP = 1.2
"""Keeping more than this is no merit: what works against the answer is then left out on purpose."""
_BEGINNINGS = (0.02, 0.1, 0.25)
"""Gates of what is not shown, for the gradient beside a picture: a part that nothing reads has none at 0."""


Measured = Callable[[Kept, Tensor], Tensor]
"""What is left of the answer, and the counterfactual of each row → [row] what is measured."""


@dataclass(eq=False)
class EffectSearch:
    """Scores and exact runs of pictures, given as the numbers of their parts.

    Attributes
    ----------
    answer
        The prompt, its counterfactuals, and runs between them.
    goal
        The part of the answer that is to be kept.
    tell
        Called with what is being done, in words, before each step.
    rows
        Number of rows that were run.
    scored
        Sum of the scores of all parts. Far from 1 the gradients do not see the way: attention is saturated, say.
    """

    answer: KeptAnswer
    goal: float = 0.8
    tell: Callable[[str], None] = lambda _stage: None
    rows: int = field(default=0, init=False)
    scored: float = field(default=float("nan"), init=False)

    def f(self, pictures: Sequence[Tensor]) -> Float[Tensor, "picture"]:
        """[picture] the part of the answer that each keeps, [numbers of its parts]: the mean over the counterfactuals."""
        self.rows += len(pictures) * self.answer.pairs
        return self.answer.f(self.answer.numbers.mask(pictures)).mean(1).double().cpu()

    def scores(self, within: Int[Tensor, "n"] | None = None, points: int = 8) -> Float[Tensor, "part"]:
        """[part] ∫ ∂f/∂g over the gate that all parts ``within`` share; −∞ of all others. f is the mean of both measures here."""
        return self._along(self.answer.runs.valid if within is None else self._mask(within), points, _mean_part)

    def effects(self, shown: Int[Tensor, "n"], points: int = 8) -> Float[Tensor, "part"]:
        """[part] ∫ ∂m/∂g over the gate that all shown parts share, m the first measure in its unit; −∞ of what is not shown.

        Effects sum to what the picture keeps of the gap, up to the error of the quadrature.
        """
        gaps = self.answer.gaps[:, 0]

        def measured(kept: Kept, pair: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
            return kept.by_measure[:, 0] * gaps[pair.to(gaps.device)]

        return self._along(self._mask(shown), points, measured)

    def additions(self, keep: Int[Tensor, "n"]) -> Float[Tensor, "part"]:
        """[part] ∂f/∂g of what is not shown, beside a picture; −∞ of what is."""
        shown = self._mask(keep)
        rest = self.answer.runs.valid & ~shown
        gates = shown.float() + rest * torch.tensor(_BEGINNINGS, device="cpu")[:, None]
        return self._slopes(gates, _mean_part).masked_fill(~rest, -torch.inf)

    def _mask(self, picture: Int[Tensor, "n"]) -> Bool[Tensor, "part"]:
        return self.answer.numbers.mask([picture])[0]

    def _along(self, on: Bool[Tensor, "part"], points: int, measured: Measured) -> Float[Tensor, "part"]:
        """[part] the integral of slopes over the gate that some parts share, by midpoints; −∞ of all others."""
        places = (torch.arange(points, device="cpu") + 0.5) / points
        return self._slopes(on * places[:, None], measured).masked_fill(~on, -torch.inf)

    def _slopes(self, gates: Float[Tensor, "row part"], measured: Measured) -> Float[Tensor, "part"]:
        """[part] mean over rows and counterfactuals of ∂/∂gate of what is measured."""
        answer, total = self.answer, torch.zeros(gates.shape[1], device="cpu")
        count = len(gates) * answer.pairs
        self.rows += count
        step = answer.runs.rows_at_once()
        for start in range(0, count, step):
            # Rows are made as they are run: all of a long prompt would take much memory.
            number = torch.arange(start, min(start + step, count), device="cpu")
            pair = number % answer.pairs
            leaf = gates[number // answer.pairs].requires_grad_()
            (slope,) = torch.autograd.grad(measured(answer.kept(leaf, pair), pair).sum(), leaf)
            total += slope.float().sum(0) / count
        return total

    def chosen(self, most: int) -> Int[Tensor, "n"]:
        """The parts of a picture of at most ``most``: those of the best scores, by exact runs of several choices.

        The first choice is by scores among all parts; the second by scores within eight times as many, the weaker half of which is
        taken out again and again. Where the better one keeps less than the goal, parts are exchanged by exact runs.
        """
        self.tell("scoring every part")
        scores = self.scores(points=4)
        self.scored = float(scores[self.answer.runs.valid].sum())
        order = scores.argsort(descending=True)[: int(self.answer.runs.valid.sum())]
        first = keep = order[:most]
        if len(order) > most:
            keep = order[: 8 * most]
            while len(keep) > most:
                self.tell(f"scoring within {len(keep)} parts")
                keep = self.scores(keep, points=4).topk(max(most, len(keep) // 2)).indices
        kept = self.f([first, keep])
        best = int(kept.argmax())
        keep, f = (first, keep)[best], float(kept[best])
        return keep if f >= self.goal else self.improved(keep, f)

    def improved(self, keep: Int[Tensor, "n"], f: float, *, rounds: int = 2, width: int = 24) -> Int[Tensor, "n"]:
        """As many parts that keep more: the parts that help most come in, the most dispensable go out, by exact runs."""
        size = len(keep)
        for _ in range(rounds):
            larger = self._with_best(keep, width, max(4, size // 5))
            larger = _less(larger, self._without_each(larger).topk(len(larger) - size).indices)
            kept = float(self.f([larger])[0])
            if kept <= f:
                break
            keep, f = larger, kept
            if f >= self.goal:
                break
        return keep

    def _with_best(self, keep: Int[Tensor, "n"], width: int, count: int) -> Int[Tensor, "m"]:
        """A picture and the ``count`` parts that help it most, by exact runs of the ``width`` best by gradient."""
        self.tell("exchanging parts")
        gains = self.additions(keep)
        new = gains.topk(min(width, int(torch.isfinite(gains).sum()))).indices
        if not len(new):
            return keep  # every part is shown
        added = self.f([torch.cat([keep, one[None]]) for one in new])
        return torch.cat([keep, new[added.topk(min(len(new), count)).indices]])

    def _without_each(self, keep: Int[Tensor, "n"], some: Int[Tensor, "m"] | None = None) -> Float[Tensor, "k"]:
        """What a picture keeps without each of its parts, or without each of some."""
        places = range(len(keep)) if some is None else some.tolist()
        return self.f([torch.cat([keep[:i], keep[i + 1 :]]) for i in places])

    def pruned(self, keep: Int[Tensor, "n"], *, rate: float = 0.25) -> tuple[Int[Tensor, "m"], float]:
        """Take out parts while enough is kept: each one's worth by an exact run without it, the most dispensable together."""
        f, fresh = self.f([keep])[0].item(), True
        known = torch.zeros(len(self.answer.numbers), dtype=torch.float64, device="cpu")
        while len(keep) > 1 and f >= self.goal:
            n = len(keep)
            tested = torch.arange(n, device="cpu")
            if not fresh and n > 40:
                tested = known[keep].argsort()[: n // 2 + 1]
            fresh = False
            without = self._without_each(keep, tested)
            known[keep[tested]] = 2 * (without - _TOP).clamp(min=0) - without.clamp(max=_TOP)
            weakest = tested[known[keep[tested]].argsort()]
            counts = sorted({max(1, int(n * rate * x)) for x in (1, 0.7, 0.45, 0.25, 0.12)} | {1}, reverse=True)
            smaller = [_less(keep, weakest[:k]) for k in counts]
            kept = self.f(smaller).tolist()
            # Several at once only if that spends less than most of what may be lost.
            fits = (
                i
                for i, k in enumerate(counts)
                if kept[i] >= self.goal and (k == 1 or kept[i] >= self.goal + (f - self.goal) * 0.6)
            )
            best = next(fits, None)
            if best is None:
                break
            keep, f = smaller[best], kept[best]
        return keep, f

    def exchanged(
        self, keep: Int[Tensor, "n"], f: float, *, rounds: int = 3, width: int = 48
    ) -> tuple[Int[Tensor, "m"], float]:
        """Add the parts that help most, by exact runs of the best by gradient, and take out again, while the picture gets smaller."""
        for _ in range(rounds):
            smaller, kept = self.pruned(self._with_best(keep, width, max(4, len(keep) // 6)))
            if len(smaller) >= len(keep):
                break
            keep, f = smaller, kept
        return keep, f


def _mean_part(kept: Kept, _pair: Tensor) -> Tensor:
    """[row] the part of the answer that is kept, the mean of both measures."""
    return kept.by_measure.mean(1)


def _less(keep: Int[Tensor, "n"], out: Int[Tensor, "m"]) -> Int[Tensor, "k"]:
    """A picture without the parts at some of its places."""
    return keep[torch.ones(len(keep), dtype=torch.bool, device="cpu").index_fill(0, out, False)]
