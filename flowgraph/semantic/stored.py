"""Readings of weights, kept on the disk: the input weights of a neuron are the same for every prompt.

A reading is a function of the vector and of the model's head. The key is a digest of all numbers of both, so a fine-tuned copy or
a merged adapter never gets the readings of another model. The file is only a cache: a damaged one is made again, and deleting it
costs only time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..lenses.logit_lens import read
from ..models import LoadedModel
from ..models.cache import cache_folder
from ..models.parameters import numbers_of
from ..values.reading import NodeReading
from ..values.trace import Trace

logger = logging.getLogger(__name__)

MOST_READINGS = 100_000
"""Readings kept for one head, some 100 MB; beyond this number the oldest are deleted."""

WORTHWHILE = 2**22
"""Numbers in the head's matrix above which looking a reading up is quicker than reading again."""

_FORMAT = 1
# If another process holds the store for longer, the readings are made again instead.
_WAIT_S = 5.0
_AT_ONCE = 500  # SQLite takes so many values in one statement


def read_weights(trace: Trace, vectors: Float[Tensor, "N d_model"], k: int) -> list[NodeReading]:
    """[N] readings of weights, from the disk if they were made before under the same target and foil.

    The numbers are those of the run that made them: the same product in another batch may round differently in the last place.
    """
    aim = {"target": trace.target, "foil": trace.foil}
    loaded = trace.model
    if not len(vectors) or loaded.anatomy.d_vocab * loaded.anatomy.d_model < WORTHWHILE:
        return list(read(trace, vectors, k=k, **aim))
    path = store_of(loaded)
    keys = [_key(vector, k, trace) for vector in vectors]
    found = {key: _reading(row, loaded) for key, row in _look_up(path, keys).items()}
    missing = [n for n, key in enumerate(keys) if key not in found]
    if missing:
        fresh = read(trace, vectors[missing], k=k, **aim)
        made = {keys[n]: reading for n, reading in zip(missing, fresh, strict=True)}
        tops, bottoms = fresh.top_token_ids.tolist(), fresh.bottom_token_ids.tolist()
        _keep(path, {keys[n]: _row(made[keys[n]], *ids) for n, *ids in zip(missing, tops, bottoms, strict=True)})
        found |= made
    return [found[key] for key in keys]


def store_of(loaded: LoadedModel) -> Path:
    """File with the readings of a model's head. Its name is a digest of all numbers that a reading depends on, but the vector."""
    anatomy = loaded.anatomy
    modules = (*([] if anatomy.final_norm is None else [anatomy.final_norm.module]), *anatomy.head)
    # Number of the format, device and head: any change of them gives another file.
    about = (
        _FORMAT,
        anatomy.family.name,
        str(loaded.device),
        anatomy.softcap,
        anatomy.logit_factor,
        [str(module) for module in modules],
    )
    digest = hashlib.sha256(repr(about).encode())
    for module in modules:
        for parameter in numbers_of(module):
            digest.update(loaded.digest(parameter))
    return cache_folder() / "readings" / f"{digest.hexdigest()[:32]}.sqlite"


def _key(vector: Float[Tensor, "d_model"], k: int, trace: Trace) -> bytes:
    # k, target and foil change what a reading holds, so they are part of its key.
    digest = hashlib.sha256(repr((k, trace.target, trace.foil, str(vector.dtype))).encode())
    digest.update(vector.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.digest()


def _row(reading: NodeReading, top: Sequence[int], bottom: Sequence[int]) -> str:
    """JSON of a reading. Tokens are kept as ids, since their spelling belongs to the tokenizer."""
    return json.dumps(reading.to_dict() | {"top_tokens": top, "bottom_tokens": bottom})


def _reading(row: str, loaded: LoadedModel) -> NodeReading:
    data: dict[str, Any] = json.loads(row)
    tokens = {name: loaded.answers.strings(data[name]) for name in ("top_tokens", "bottom_tokens")}
    return NodeReading.from_dict(data | tokens)


def _look_up(path: Path, keys: Sequence[bytes]) -> dict[bytes, str]:
    """Rows of the keys that are in the file."""
    if not path.is_file():
        return {}
    found: dict[bytes, str] = {}
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_S)) as store:
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                found |= dict(store.execute(f"SELECT key, reading FROM readings WHERE key IN ({marks})", some))
    except sqlite3.OperationalError as error:  # locked for long, or not readable: as if it were not there
        logger.warning("the stored readings in %s were not used: %s", path, error)
    except sqlite3.DatabaseError as error:
        logger.warning("the stored readings in %s are damaged and are made again: %s", path, error)
        path.unlink(missing_ok=True)
        return {}
    return found


def _keep(path: Path, rows: Mapping[bytes, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The outer `store` is a transaction: other processes see all of these rows, or none.
        with closing(sqlite3.connect(path, timeout=_WAIT_S)) as store, store:
            store.execute("CREATE TABLE IF NOT EXISTS readings (key BLOB PRIMARY KEY, reading TEXT NOT NULL)")
            store.executemany("INSERT OR REPLACE INTO readings VALUES (?, ?)", rows.items())
            # Row ids grow with each insertion, so the smallest are the oldest.
            store.execute("DELETE FROM readings WHERE rowid <= (SELECT max(rowid) FROM readings) - ?", (MOST_READINGS,))
    except (OSError, sqlite3.Error) as error:  # a full or read-only disk: the readings are made all the same
        logger.warning("readings could not be stored in %s: %s", path, error)
