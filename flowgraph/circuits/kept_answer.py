"""How much of an answer some parts of a run keep, when everything else comes from counterfactual runs.

f = (m − m_counterfactual) / (m_clean − m_counterfactual), with m the logit difference answer − foil, and the same with the answer's
log-probability; the smaller of the two counts. The difference alone could be kept by a run that says neither. f is never clipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import ArgumentError, PromptError
from ..interventions.metrics import AnswerTokens, Metric, log_probability, logit_difference
from ..interventions.part_runs import Keys, PartRuns
from ..interventions.parts import PartNumbers
from ..interventions.prompts import Answers, Prompts, batch_of, prompts_of
from ..interventions.ticks import Tick
from ..models import LoadedModel

MEASURES = (logit_difference, log_probability)
"""Both have to be kept: the smaller part counts."""
LEAST_GAP = 1.0
"""Least difference between clean and counterfactual run of which a part is a number that means something, in logits."""
_LEAST_OF_LOG = 0.1
"""Least fall of the answer's log-probability, as a part of the least gap in logits."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What is left of the answer in some runs.

    Attributes
    ----------
    by_measure
        [row, measure] part of the gap that is kept.
    rank
        [row] the answer's rank; 1 is best.
    probability
        [row] the answer's probability.
    """

    by_measure: Float[Tensor, "row measure"]
    rank: Int[Tensor, "row"]
    probability: Float[Tensor, "row"]

    @property
    def f(self) -> Float[Tensor, "row"]:
        """[row] the smaller part."""
        smallest: Tensor = self.by_measure.amin(1)
        return smallest


class KeptAnswer:
    """A prompt's answer, counterfactual prompts with other answers, and runs between the two.

    Parameters
    ----------
    loaded
        The model.
    prompt, corrupted
        One prompt, and its counterfactuals of the same length.
    target, foil
        The answer, and what it is compared with, one or one for each counterfactual; default the first prediction of each run.
    metric
        One measure in the place of both.
    least_gap
        Counterfactuals that move the logit difference by less are refused; a tenth of it is the least of log-probability, in nats.
    keys, tick
        As for :class:`PartRuns`.

    Attributes
    ----------
    runs
        The runs.
    target, foils
        Token id of the answer, and of what it is compared with beside each counterfactual.
    gaps
        [pair, measure] the clean run's measure less the counterfactual's.

    Raises
    ------
    ArgumentError
        If there is not one prompt, a counterfactual has the same answer, or moves it by less than ``least_gap``.
    PromptError
        If a counterfactual has another length.
    """

    def __init__(
        self, loaded: LoadedModel, prompt: Prompts, corrupted: Prompts, *, target: Answers = None, foil: Answers = None,
        metric: Metric | None = None, least_gap: float = LEAST_GAP, keys: Keys = "shown", tick: Tick | None = None,
    ) -> None:  # fmt: skip
        clean = prompts_of(loaded, prompt, "prompt", target=target)
        if len(clean) != 1:
            raise ArgumentError(
                f"prompt= holds {len(clean)} prompts; a picture is of one, so give one, and its counterfactuals as corrupted="
            )
        others = prompts_of(loaded, corrupted, "corrupted", foil=foil)
        for n, other in enumerate(others):
            if other.length != clean[0].length:
                raise PromptError(
                    f"corrupted prompt {n} has {other.length} tokens, and the prompt {clean[0].length}, so a part has no counterpart; "
                    "exchange words for others of equally many tokens, as flowgraph.counterfactuals proposes them"
                )
        both = batch_of(loaded, [clean[0], *others], "corrupted")
        # The position that is explained is the prompt's.
        both.positions[1:] = both.positions[0]
        self.loaded, self.least_gap = loaded, least_gap
        self.measures = MEASURES if metric is None else (metric,)
        self.runs = PartRuns(loaded, both, keys=keys, tick=tick)
        logits = self.runs.logits
        best = logits.argmax(-1)
        self.target = int(best[0]) if clean[0].target is None else clean[0].target
        given = [clean[0].foil if one.foil is None else one.foil for one in others]
        self.foils = torch.tensor(
            [int(best[n + 1]) if one is None else one for n, one in enumerate(given)], device=logits.device
        )
        self._answers = AnswerTokens(
            torch.full_like(self.foils, self.target), self.foils, logits[:1].expand(len(self.foils), -1)
        )
        self._check_answers()
        pair = torch.arange(len(self.foils), device=logits.device)
        self._low = self._measured(logits[1:], pair)
        self.gaps = self._measured(logits[:1].expand(len(pair), -1), pair) - self._low
        self._check_gaps()

    @property
    def numbers(self) -> PartNumbers:
        """Numbers of the parts."""
        return self.runs.numbers

    @property
    def pairs(self) -> int:
        """Number of counterfactuals."""
        return self.runs.pairs

    @property
    def clean(self) -> Kept:
        """The clean run itself, beside the first counterfactual."""
        return self._kept(self.runs.logits[:1], torch.zeros(1, dtype=torch.long, device=self.foils.device))

    def kept(self, gates: Bool[Tensor, "row part"] | Float[Tensor, "row part"], pair: Int[Tensor, "row"]) -> Kept:
        """What is left of the answer with the parts of each row shown, beside the counterfactual of each row."""
        return self._kept(self.runs.of(gates, pair), pair.to(self.foils.device))

    def f(self, masks: Bool[Tensor, "picture part"]) -> Float[Tensor, "picture pair"]:
        """[picture, pair] the part of the answer that each picture keeps beside each counterfactual."""
        by_picture: Tensor = self.of(masks).f.unflatten(0, (len(masks), self.pairs))
        return by_picture

    def of(self, masks: Bool[Tensor, "picture part"]) -> Kept:
        """What is left with every picture beside every counterfactual; rows: all counterfactuals of a picture, then the next."""
        pair = torch.arange(self.pairs, device="cpu").repeat(len(masks))
        return self.kept(masks.repeat_interleave(self.pairs, 0), pair)

    def _measured(self, logits: Tensor, pair: Tensor) -> Float[Tensor, "row measure"]:
        answers = self._answers.of(pair)
        return torch.stack([measure(logits, answers) for measure in self.measures], 1)

    def _kept(self, logits: Tensor, pair: Tensor) -> Kept:
        found: Tensor = (self._measured(logits, pair) - self._low[pair]) / self.gaps[pair]
        own = logits.detach()[:, self.target]
        return Kept(
            found,
            (logits.detach() > own[:, None]).sum(-1) + 1,
            logits.detach().double().softmax(-1)[:, self.target],
        )

    def _check_answers(self) -> None:
        same = (self.foils == self.target).nonzero()
        if len(same):
            answer = self.loaded.answers.string(self.target)
            raise ArgumentError(
                f"counterfactual {int(same[0])} has the same answer {answer!r} as the prompt, so nothing is lost with it; exchange a "
                "word that the answer depends on, or name what the answer is compared with as foil="
            )

    def _check_gaps(self) -> None:
        allowed = [self.least_gap * (_LEAST_OF_LOG if one is log_probability else 1.0) for one in self.measures]
        for n, gaps in enumerate(self.gaps.tolist()):
            for measure, gap, least in zip(self.measures, gaps, allowed, strict=True):
                if not gap > 0 or gap < least:
                    raise ArgumentError(
                        f"counterfactual {n} moves the {measure.name} of {self.loaded.answers.string(self.target)!r} by {gap:.3g} "
                        f"{measure.unit}, and {least:g} is the least of which a part says something (least_gap={self.least_gap:g}); "
                        "exchange a word that the answer depends on, or lower least_gap="
                    )
