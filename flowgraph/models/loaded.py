"""A model that can be traced, with what was proved of it, and what every part of the package asks of it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import (
    ArchitectureError,
    ArgumentError,
    FlowgraphError,
    NonFiniteError,
    PromptError,
    UnsupportedReadingError,
)
from .adapters import Adapter
from .anatomy import Anatomy, Level, upcast
from .cautions import unread_in_words, warn_of_attention
from .eager import lock_of
from .hooks import hooks_on
from .kept_proof import Proof
from .parameters import is_in_place, key_of, matrix_of, version
from .proof import OwnAttention, own_attention, own_name, prove
from .proving import FOREIGN
from .sources import first_line
from .vocabulary import Labels, Vocabulary
from .weights import Weights, sample

_VOLATILE = (
    "_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "_attn_implementation", "use_cache",
)  # fmt: skip
"""Config entries that saving, loading or running a model may set; they do not change its computation."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that can be traced.

    Attributes
    ----------
    name
        Known name, hub name, folder or class name; for captions.
    model, tokenizer
        The Hugging Face objects; ``tokenizer`` may be None for a model in memory.
    anatomy
        Its parts, as the family's row found them.
    vocabulary
        Its tokens as strings.
    proof
        Identity → largest relative error seen when the model was proved: when it was attached, or at an earlier opening of the same
        files with the same versions, number type and device (``proof.is_kept``). ``proof.made``, ``proof.torch`` and
        ``proof.transformers`` say when and with what; see :class:`flowgraph.models.kept_proof.Proof`.
    revision
        Branch, tag or commit of the hub's repository, as given by the caller; None without one.
    own_attention
        Difference between the answers under the model's own attention and those under eager attention, which is traced.
    processor
        The Hugging Face object that prepares images and sound for the model; None where there is none.
    adapter
        The adapter that was added to the weights; None without one. See :meth:`without_adapter`.
    stacks
        Name → the other stacks of the model, each as a model by itself: the ``"encoder"`` whose last states a decoder reads.
    stages
        ``"stage 1"``, ``"stage 2"`` … → the stages of a model that attends within windows and merges positions between stages, as Swin
        does, each as a model by itself with its own positions. The model itself shows the stage with the most layers.
    """

    name: str
    model: Any
    tokenizer: Any
    anatomy: Anatomy
    vocabulary: Vocabulary
    proof: Proof
    revision: str | None = None
    own_attention: OwnAttention | None = None
    processor: Any = None
    adapter: Adapter | None = None
    stacks: Mapping[str, LoadedModel] = field(default_factory=dict)
    stages: Mapping[str, LoadedModel] = field(default_factory=dict)
    _proved_hooks: list[frozenset[tuple[str, int]]] = field(default_factory=list, repr=False)
    _wide: dict[tuple[Any, ...], Tensor] = field(default_factory=dict, repr=False)
    _digests: dict[tuple[int, int, bytes], bytes] = field(default_factory=dict, repr=False)

    @property
    def level(self) -> Level:
        """What is known of the model, and proved: ``"patterns"``, ``"stream"`` or ``"full"``; see the attribute ``proof``."""
        return self.anatomy.level

    def __repr__(self) -> str:
        a = self.anatomy
        revision = "" if self.revision is None else f"revision {self.revision!r}, "
        heads = f"{a.n_heads} heads" if a.attending else "no attention"
        level = "" if self.level == "full" else f", level {self.level!r}"
        unread = f", head {', '.join(a.unread_head)} not read" if a.unread_head else ""
        return (
            f"LoadedModel({self.name!r}, {revision}family {a.family.name!r}, {len(a.blocks)} layers × {heads}, "
            f"d_model {a.d_model}, {self.dtype}, {self.device}{level}{unread}{self._own_answers()})"
        )

    def _own_answers(self) -> str:
        own = self.own_attention
        packed = self.anatomy.packing
        return (f", {packed}" if packed else "") + (f", {own.text}" if own is not None and own.differs else "")

    def check_hooks(self) -> None:
        """Prove the model again if hooks were added or removed since the last proof.

        Raises
        ------
        ArchitectureError
            If the model with its hooks does not do what its row says.
        """
        with self.lock:
            now = hooks_on(self.model)
            # A set of hooks that was proved once needs no second proof when it comes back.
            if now in self._proved_hooks:
                return
            try:
                prove(self.anatomy)
            # These say more by themselves, and neither is a fault of a hook.
            except (NonFiniteError, torch.cuda.OutOfMemoryError):
                raise
            except FOREIGN as error:  # an identity that fails, or what a hook itself fails with
                raise ArchitectureError(
                    f"hooks were added to {self.name!r} or taken away since it was loaded, and with them it does not do what "
                    f"its row says: {first_line(error)}. Remove the hook to trace the model, or change the run with flowgraph.ablate and "
                    "flowgraph.patch"
                ) from error
            self._proved_hooks.append(now)

    def check_attention(self) -> None:
        """Compare the model's own attention with eager attention again if it was switched since the last comparison.

        Warns
        -----
        UserWarning
            If the answers differ under it, or it does not run here.
        """
        with self.lock:
            if self.own_attention is None or self.own_attention.name == own_name(self.model):
                return
            found = own_attention(self.anatomy)
            # The one field that follows the model: what else was proved does not depend on it.
            object.__setattr__(self, "own_attention", found)
        warn_of_attention(self.name, found, stacklevel=6)

    @contextmanager
    def without_adapter(self) -> Iterator[LoadedModel]:
        """The model without its adapter, for comparison; on leaving it is in the weights again.

        What is given is the base model under its own name. Meanwhile the model is locked, so other threads wait.

        Raises
        ------
        ArgumentError
            If the model was loaded without an adapter.
        """
        if self.adapter is None:
            raise ArgumentError(f"{self.name!r} was loaded without an adapter; load_model(…, adapter=folder) adds one")
        with self.adapter.off():
            yield replace(self, name=self.name.removesuffix(f"+{self.adapter.name}"), adapter=None)

    @cached_property
    def weights(self) -> Weights:
        """The weights as they are now; its digest changes when they do."""
        return Weights(self.model)

    @property
    def lock(self) -> threading.RLock:
        """The lock for running or changing the model; two loads of one model share it."""
        return lock_of(self.model)

    @property
    def device(self) -> torch.device:
        """Device of the token embedding; without one, of the first parameter."""
        return self.anatomy.device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the token embedding; without one, of the first parameter."""
        return self.anatomy.dtype

    @property
    def has_attribution(self) -> bool:
        """Whether a logit of the model is the sum of its parts: norm and linear head over a residual stream that adds up."""
        anatomy = self.anatomy
        return anatomy.has_head and not anatomy.has_whole_head and anatomy.wiring != "post_norm"

    @property
    def answers(self) -> Vocabulary:
        """What the head scores: the vocabulary, or the names of a classifier's classes."""
        return self.vocabulary if self._labels is None else self._labels

    @cached_property
    def _labels(self) -> Labels | None:
        return None if self.anatomy.labels is None else Labels(self.anatomy.labels)

    def require_head(self, wanted: str) -> None:
        """Refuse a model without a head over a vocabulary; ``wanted`` is the thing that needs one, in words.

        Raises
        ------
        UnsupportedReadingError
            If the model ends in hidden states, or in something else than logits over a vocabulary.
        """
        self.anatomy.require_stream(wanted)
        if self.anatomy.unread_head:
            raise UnsupportedReadingError(
                f"{unread_in_words(self.model, self.anatomy)}; {wanted} has no meaning for it"
            )
        if not self.anatomy.has_head:
            raise UnsupportedReadingError(
                f"{self.name!r} ({type(self.model).__name__}) has no head over a vocabulary, so {wanted} has no meaning for it; "
                "tracing, attention and norms work, readings and targets need a language model"
            )

    @contextmanager
    def running(self, n_tokens: int) -> Iterator[None]:
        """Turn errors of the model's own code in a pass into errors of this package.

        Raises
        ------
        PromptError
            If the model cannot run these tokens.
        """
        try:
            yield
        except (FlowgraphError, torch.cuda.OutOfMemoryError):
            raise
        except FOREIGN as error:
            raise PromptError(
                f"{self.name!r} ({type(self.model).__name__}) fails on this prompt of {n_tokens} tokens with "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error

    def widened(self, module: Any) -> Tensor:
        """A module's weight in at least float32; a copy that has to be made for that is kept for the next call."""
        weight: Tensor = module.weight
        if is_in_place(module):
            weight = weight.detach()
            if weight.dtype in (torch.float32, torch.float64):
                return weight
        key = (*key_of(module), sample(weight) if is_in_place(module) else b"")
        if key not in self._wide:
            # One wide copy at a time: it is as large as the embedding, and readings use one after the other.
            self._wide.clear()
            self._wide[key] = upcast(matrix_of(module))
        return self._wide[key]

    def fingerprint(self) -> dict[str, str]:
        """Short digests of the config and of the weights, and the revision where one was asked for.

        The weights' digest covers name and shape of every parameter and 64 numbers spread over each, so that merged
        adapters and fine-tuned copies differ.
        """
        config = _lasting(self.model.config.to_dict())
        digest = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16)
        revision = {} if self.revision is None else {"revision": self.revision}
        return {"config": digest.hexdigest(), "weights": self.weights.digest(), **revision}

    def digest(self, parameter: Tensor) -> bytes:
        """SHA-256 of all numbers of a parameter, kept while neither it nor a sample of its numbers changes."""
        # The version misses changes through .data; the sample sees those.
        key = (parameter.data_ptr(), version(parameter), sample(parameter))
        if key not in self._digests:
            digest = hashlib.sha256(f"{tuple(parameter.shape)}{parameter.dtype}".encode())
            numbers: Any = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(numbers)
            self._digests[key] = digest.digest()
        return self._digests[key]


def _lasting(config: dict[Any, Any]) -> dict[Any, Any]:
    """The entries of a config, and of the configs in it, that are part of the model."""
    return {
        key: _lasting(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _VOLATILE
    }
