"""Proofs of models from files, kept in the cache folder: what was proved once is not proved again while nothing has changed.

A kept proof counts for the same files (their sizes and times, or the hub's commit), config, row, code of this package, torch,
transformers, number type, device and instructions of the processor. Anything else is proved when it is opened. Every trace is held
against the identities of what it kept all the same, and every hook that is added is proved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic_file import atomic_write_text
from ..errors import FlowgraphError
from .anatomy import Anatomy
from .cache import cache_folder
from .discovery.kept import key_of
from .hooks import hooks_on
from .parameters import is_in_place, packing_of
from .proof import TOLERANCE, OwnAttention, own_attention, own_name, unpacking_error

_FOLDER = ".proofs"
_MOST_BYTES = 2**20
_MOST_PROOFS = 500

Prove = Callable[[Anatomy], tuple[dict[str, float], Tensor | None]]
"""Proves a model's parts; the errors of the identities, and the logits of the short pass where it has any."""


class Proof(dict[str, float]):
    """Identity → largest relative error, and when that was seen.

    Attributes
    ----------
    made
        Date and time (UTC, ISO 8601) at which the model was proved.
    torch, transformers
        Versions that it was proved with.
    is_kept
        Whether this proof is of an earlier opening of the same files, and was read from the cache folder.
    """

    def __init__(
        self,
        errors: Mapping[str, float],
        made: str = "",
        torch: str = "",
        transformers: str = "",
        *,
        is_kept: bool = False,
    ) -> None:
        super().__init__(errors)
        self.made = made or datetime.now(UTC).isoformat(timespec="seconds")
        self.torch, self.transformers = torch or version("torch"), transformers or version("transformers")
        self.is_kept = is_kept

    @property
    def text(self) -> str:
        """When, and with what, the model was proved, in words."""
        how = "kept from" if self.is_kept else "proved at"
        return f"{how} {self.made}, torch {self.torch}, transformers {self.transformers}"

    def with_more(self, errors: Mapping[str, float]) -> Proof:
        """The proof with identities of further parts."""
        return Proof({**self, **errors}, self.made, self.torch, self.transformers, is_kept=self.is_kept)

    def __repr__(self) -> str:
        return f"{dict(self)!r}  # {self.text}"


class Prover:
    """Proves the parts of one model that is opened, or finds that they were proved.

    Parameters
    ----------
    model, prove
        The model, and what proves its parts.
    files
        What the model's files are, so that other files have another proof; empty for a model that is not of files, or that was
        changed since: nothing is kept of it.
    """

    def __init__(self, model: Any, prove: Prove, files: str) -> None:
        self._model, self._prove = model, prove
        self._key = self._key_of(files) if files else None
        self._place: Path | None = None
        self._kept: dict[str, Any] | None = None
        self.proof = Proof({})
        """What was proved last."""
        self._logits: Tensor | None = None

    def __call__(self, anatomy: Anatomy) -> Proof:
        """The proof of these parts.

        Raises
        ------
        ArchitectureError, NonFiniteError
            As for :func:`flowgraph.models.proof.prove`; what fails is never kept.
        """
        self._place = None if self._key is None else _place(self._key, anatomy)
        self._kept = None if self._place is None else _read(self._place, anatomy)
        self._logits = None
        if self._kept is not None:
            data = self._kept
            self.proof = Proof(data["errors"], data["made"], data["torch"], data["transformers"], is_kept=True)
        else:
            errors, self._logits = self._prove(anatomy)
            self.proof = Proof(errors)
        return self.proof

    def own_attention(self, anatomy: Anatomy) -> OwnAttention:
        """How the answers of the parts that were proved last differ under the model's own attention."""
        name = own_name(self._model)
        if self._kept is not None and self._kept["own"]["name"] == name:
            return OwnAttention(name, self._kept["own"]["gap"], TOLERANCE[anatomy.dtype])
        # The proof ran the same prompt under eager attention; of a classifier it knows other answers.
        own = own_attention(anatomy, self._logits if anatomy.readout is None else None)
        # An implementation that does not run today may do so tomorrow.
        if self._place is not None and self._kept is None and not own.fault:
            _keep(self._place, self.proof, own)
        return own

    def forget(self) -> None:
        """Keep nothing: the passes have changed the model's own modules, which a kept proof would not do."""
        if self._place is not None:
            with suppress(OSError):
                self._place.unlink(missing_ok=True)

    def _key_of(self, files: str) -> str | None:
        model = self._model
        parameters = [*model.parameters()]
        whole = all(is_in_place(one) and packing_of(one) is None for one in model.modules())
        if not whole or len({one.device for one in parameters}) != 1 or hooks_on(model):
            return None
        key = key_of(model)
        return (
            None if key is None else "\n".join((key, files, str(parameters[0].device), *_machine(parameters[0].device)))
        )


def _machine(device: torch.device) -> tuple[str, ...]:
    """What computes: its instructions, and how far it may round."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return name, torch.get_float32_matmul_precision()


def _place(key: str, anatomy: Anatomy) -> Path:
    """The file of a proof: one for each row, and for each part of it that was left out."""
    parts = (key, repr(anatomy.family), anatomy.level, str(anatomy.has_head), str(anatomy.dtype))
    digest = hashlib.blake2b("\n".join(parts).encode(), digest_size=16)
    return cache_folder() / _FOLDER / f"{digest.hexdigest()}.json"


def _read(place: Path, anatomy: Anatomy) -> dict[str, Any] | None:
    """A kept proof; None where there is none, or it is damaged, or says what would not have been proved."""
    # What cannot be read is proved, as if it had never been kept.
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        if place.stat().st_size > _MOST_BYTES:
            return None
        data = json.loads(place.read_text(encoding="utf-8"))
        errors = {str(name): float(error) for name, error in data["errors"].items()}
        holds = [
            error <= max(TOLERANCE[anatomy.dtype], unpacking_error(anatomy, name)) for name, error in errors.items()
        ]
        own = {"name": str(data["own"]["name"]), "gap": float(data["own"]["gap"])}
        said = {name: str(data[name]) for name in ("made", "torch", "transformers")}
        datetime.fromisoformat(said["made"])
        return {"errors": errors, "own": own, **said} if errors and all(holds) else None
    return None


def _keep(place: Path, proof: Proof, own: OwnAttention) -> None:
    """Keep a proof; the oldest ones make room. A folder that cannot be written keeps nothing."""
    data = {
        "errors": dict(proof), "own": {"name": own.name, "gap": own.gap}, "made": proof.made, "torch": proof.torch,
        "transformers": proof.transformers,
    }  # fmt: skip
    with suppress(OSError, FlowgraphError):
        place.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(place, json.dumps(data))
        kept = sorted(place.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)
        for one in kept[:-_MOST_PROOFS]:
            one.unlink(missing_ok=True)
