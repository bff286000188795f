"""Loading: from a name, a folder or a model in memory to a :class:`LoadedModel` whose parts are found and proved."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import (
    ArchitectureError,
    ArgumentError,
    DeviceError,
    FlowgraphError,
    NonFiniteError,
    PromptError,
    UnsupportedReadingError,
)
from .adapters import Adapter, add_adapter
from .anatomy import Anatomy, Level, upcast, without_head
from .discovery import can_search, found_and_proved, found_stages
from .eager import lock_of, share_lock
from .families import FAMILIES
from .hooks import hooks_on
from .kept_proof import Proof, Prover
from .kinds import kind_of, medium_of, quantised, task_of
from .media import layout_of, probe_feed
from .options import Options
from .parameters import input_embeddings, is_away, is_in_place, key_of, matrix_of, packing_of, version
from .plain import form_of
from .proof import TOLERANCE, OwnAttention, own_attention, own_name, prove, prove_and_answer
from .readout import with_readout
from .resolving import named_rows, resolve
from .sources import Opened, first_line, open_model
from .stacks import SOURCE, encoder_of
from .vocabulary import Labels, Vocabulary
from .weights import Weights, sample
from .wheel import Progress

_VOLATILE = (
    "_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "_attn_implementation", "use_cache",
)  # fmt: skip
"""Config entries that saving, loading or running a model may set; they do not change its computation."""
_FOREIGN = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""Errors that the library's code raises for a model of another structure, or for arguments that it cannot take."""
_OF_TYPES = re.compile(r"\b(Double|Float|Half|BFloat16|float64|float16|bfloat16|dtype|scalar type)\b")
"""Number types as errors of torch name them."""
_TOKENIZER = ("encode", "decode", "convert_ids_to_tokens", "vocab_size", "all_special_ids", "added_tokens_decoder")
"""Methods and attributes that this package uses of a tokenizer, besides calling it."""


def _lasting(config: dict[Any, Any]) -> dict[Any, Any]:
    """The entries of a config, and of the configs in it, that are part of the model."""
    return {
        key: _lasting(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _VOLATILE
    }


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
            except _FOREIGN as error:  # an identity that fails, or what a hook itself fails with
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
        _warn_of(self.name, found, stacklevel=6)

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
            raise UnsupportedReadingError(f"{_unread(self.model, self.anatomy)}; {wanted} has no meaning for it")
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
        except _FOREIGN as error:
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


def load_model(
    name_or_path_or_model: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    device_map: Any = None,
    quantization_config: Any = None,
    revision: str | None = None,
    subfolder: str | None = None,
    trust_remote_code: bool = False,
    adapter: str | Path | None = None,
    progress: Progress | None = None,
) -> LoadedModel:
    """Load a model and prove that its parts are understood.

    Parameters
    ----------
    name_or_path_or_model
        ``"smollm2"`` or another known name (``flowgraph models`` lists them); a local folder in Hugging Face's layout; a GGUF
        file, whose weights are unpacked;
        a name on the Hugging Face hub, the only case in which the hub is asked; a model in memory (of one that torch.compile
        made, the module that it was made of); a module of torch of your own whose forward takes token ids; a
        ``(model, tokenizer)`` pair; or a :class:`LoadedModel`, which is returned as it is.
    tokenizer
        For a model in memory; a tokenizer of transformers, or a ``tokenizers.Tokenizer``, which is wrapped. Without one,
        prompts are given as token ids.
    processor
        What prepares images and sound for the model: a processor, image processor or feature extractor of transformers. Without
        one, that of the folder is taken where it holds one.
    device
        ``"auto"``: a model in memory stays where it is, others go to cuda where there is one, else to the CPU.
    dtype
        Number type, as ``torch.float16`` or ``"float16"``; ``"auto"`` takes the file's own. None: float32 for files, as it
        is for a model in memory. A model in memory is not changed: one of another device or number type is copied first.
    device_map
        In place of ``device``: where the parts of a model from files are put, as transformers has it: ``"auto"``, or a dictionary
        from names of modules to devices, ``"cpu"`` or ``"disk"``. Needs accelerate (the extra ``offload``).
    quantization_config
        How the weights of files are packed, as transformers has it.
    revision
        Branch, tag or commit of a hub's repository, as training checkpoints have them: ``"step1000"``. Config, weights and
        tokenizer are taken from it. Only for a name on the hub.
    subfolder
        Folder inside the model's folder or repository that holds the files.
    trust_remote_code
        Whether Python code that comes with the files is run. It can do whatever you can; without it such files are refused.
    adapter
        Folder of a LoRA adapter that is added to the weights. Needs peft (the extra ``adapters``).
    progress
        Called with a stage and a fraction (or None) while a known model is fetched.

    Raises
    ------
    ArgumentError
        If the model is none of these, or an option contradicts another or what is opened.
    UnknownModelError
        If there is no such name, folder or revision.
    ArchitectureError
        If no family's row fits (the message says what kind of model it is), or an identity that proves it fails.
    FileFormatError
        If the folder holds no safetensors weights, or they are damaged, incomplete or not all used by the class that its
        config names.
    FetchError
        If a known model cannot be fetched.
    DeviceError
        If the device does not exist here.
    NonFiniteError
        If the weights hold NaN.

    Warns
    -----
    UserWarning
        If the model ends in a head that is not read, such as a classifier's, if weights of the files are not used, if code of the
        files is run, or if the processor beside them cannot be made.

    Examples
    --------
    >>> model = fg.load_model("smollm2")
    >>> model.anatomy.n_heads, model.anatomy.d_model
    (9, 576)
    >>> model.anatomy.wiring
    'sequential'
    """
    options = Options(device_map, quantization_config, revision, subfolder, trust_remote_code, adapter)
    options.check(name_or_path_or_model, device)
    if isinstance(name_or_path_or_model, LoadedModel):
        return name_or_path_or_model
    if isinstance(name_or_path_or_model, tuple):
        if len(name_or_path_or_model) != 2 or tokenizer is not None:
            raise ArgumentError(
                "a model in memory is given as (model, tokenizer), or as model with tokenizer=; got a tuple of "
                f"{len(name_or_path_or_model)} and tokenizer={tokenizer!r}"
            )
        name_or_path_or_model, tokenizer = name_or_path_or_model
    _check_processor(processor)
    number_type = _dtype(dtype)
    _check_device(device)
    tokenizer = _tokenizer(tokenizer)
    if isinstance(name_or_path_or_model, (str, Path)):
        for place in options.places:
            _device(place)
        where = _device("cuda" if device == "auto" and torch.cuda.is_available() else _or_cpu(device))
        opened = open_model(
            name_or_path_or_model,
            number_type or torch.float32,
            options,
            where,
            tokenizer=tokenizer,
            processor=processor,
            progress=progress,
        )
        opened = replace(opened, is_fresh=True)
        _check_weights(opened.model)
        # What is packed, or spread over devices, has its place.
        if options.device_map is None and not any(map(packing_of, opened.model.modules())):
            opened = replace(opened, model=opened.model.to(where))
        if options.adapter is None:
            return _attach(opened, revision)
        if not all(map(is_in_place, opened.model.modules())):
            raise ArgumentError(
                f"adapter={str(options.adapter)!r} is added to weights, and those of {opened.name!r} are packed, or not in memory; open it "
                "unquantised and without offloading"
            )
        added = add_adapter(opened.model, options.adapter)
        name = f"{opened.name}+{added.name}"
        return replace(_attach(replace(opened, name=name, model=added.model, files=""), revision), adapter=added)
    if not isinstance(name_or_path_or_model, nn.Module):
        raise ArgumentError(
            f"load_model got {type(name_or_path_or_model).__name__}; expected a name, a folder, a Hugging Face model, a module of "
            "torch or a (model, tokenizer) pair"
        )
    # A compiled model runs the module that it was made of, whose parts have names.
    model = getattr(name_or_path_or_model, "_orig_mod", name_or_path_or_model)
    if not hasattr(model, "get_input_embeddings"):
        name, model = type(model).__name__, form_of(model)
    else:
        name = type(model).__name__
    _check_weights(model)
    place = None if device == "auto" else _device(device)
    model = _converted(model, place, number_type if isinstance(number_type, torch.dtype) else None)
    return _attach(Opened(name, model, tokenizer, processor))


def _attach(opened: Opened, revision: str | None = None) -> LoadedModel:
    name, model, tokenizer = opened.name, opened.model, opened.tokenizer
    encoder = encoder_of(model)
    stacks: dict[str, LoadedModel] = {}
    if encoder is not None:
        share_lock(model, encoder)
        try:
            if not hasattr(encoder, "config"):
                raise ArchitectureError(f"{type(encoder).__name__} is no model by itself, it has no config")
            found = _attach(replace(opened, name=f"{name} {SOURCE}", model=encoder))
            # Of several stages the decoder reads the last one's states.
            stacks[SOURCE] = [found, *found.stages.values()][-1]
        except ArchitectureError as error:
            warnings.warn(
                f"the encoder of {name!r} is not traced, and what is drawn ends at its last states: {error}",
                stacklevel=3,
            )
    made_of = _kinds_of_modules(model)
    with lock_of(model), _understood(model):
        # Proof and comparison run the model under hooks, so they hold its lock.
        prover = Prover(model, _proof_and_answer, opened.files)
        anatomy, proof = _parts(model, prover, keep=opened.is_fresh)
        if anatomy.embedding is None:
            layout, proved = layout_of(anatomy)
            anatomy, proof = replace(anatomy, layout=layout), proof.with_more(proved)
        anatomy, proved = with_readout(anatomy)
        proof = proof.with_more(proved)
        if stacks:
            anatomy = replace(anatomy, sources={part: one.anatomy for part, one in stacks.items()})
        own, hooks = prover.own_attention(anatomy), hooks_on(model)
        made_of_now = _kinds_of_modules(model)
        if made_of_now != made_of:
            prover.forget()
        # Without a token embedding the only tokens are those that are scored, such as letters of a sound.
        table = anatomy.embedding
        rows = (0 if anatomy.labels else anatomy.d_vocab) if table is None else int(table.weight.shape[0])
    # More tokens than rows are another model's; fewer are padding of the embedding.
    if tokenizer is not None and rows and tokenizer.vocab_size > rows:
        knows = "embeds" if anatomy.embedding is not None else "scores"
        raise ArgumentError(
            f"the tokenizer ({type(tokenizer).__name__}) has {tokenizer.vocab_size:,} tokens and {name!r} {knows} {rows:,}: "
            "it belongs to another model"
        )
    if isinstance(tokenizer, _Bare):
        tokenizer = tokenizer.wrapped(model.config)
    if anatomy.unread_head:
        warnings.warn(f"{_unread(model, anatomy)}: traces explain its states and attention only", stacklevel=3)
    if anatomy.stack.windows and anatomy.left_out:
        warnings.warn(
            f"{name!r} merges positions between its stages: the layers here are those of one stage, without {anatomy.left_out}; "
            "model.stages holds each stage as a model by itself, with its own positions",
            stacklevel=3,
        )
    elif anatomy.left_out:
        warnings.warn(
            f"no attention pattern is known of blocks {anatomy.left_out} of {name!r}: rollout and flow leave out what moves between "
            "positions there, and layers are counted without them",
            stacklevel=3,
        )
    _warn_of_replaced(name, made_of, made_of_now)
    _warn_of(name, own, stacklevel=4)
    vocabulary = Vocabulary(tokenizer, rows)
    if anatomy.exchanges:
        stacks = {
            part: LoadedModel(
                f"{name} {part}", model, None, one, Vocabulary(None, 0), proof, revision, own, opened.processor, _proved_hooks=[hooks]
            )
            for part, one in anatomy.sources.items()
        }  # fmt: skip
    made = LoadedModel(
        name,
        model,
        tokenizer,
        anatomy,
        vocabulary,
        proof,
        revision,
        own,
        opened.processor,
        stacks=stacks,
        _proved_hooks=[hooks],
    )
    return made if not anatomy.stack.windows else replace(made, stages=_stages(made))


def _stages(loaded: LoadedModel) -> dict[str, LoadedModel]:
    """The stages of a model that attends within windows, by name."""
    stages = {}
    with loaded.lock:
        found = found_stages(loaded.model, loaded.anatomy.stack.reason, _proof)
        for n, one in enumerate(found, start=1):
            if isinstance(one, str):
                warnings.warn(f"stage {n} of {loaded.name!r} is not among model.stages: {one}", stacklevel=4)
                continue
            anatomy, proof = one
            layout, proved = layout_of(anatomy)
            name = f"{loaded.name} stage {n}"
            stages[f"stage {n}"] = replace(
                loaded, name=name, anatomy=replace(anatomy, layout=layout), proof=Proof(proof | proved)
            )
    return stages


def _parts(model: Any, prover: Prover, *, keep: bool) -> tuple[Anatomy, Proof]:
    """The model's parts with their proof: by a row, else by search. Where they disagree, the proof decides.

    Raises
    ------
    ArchitectureError
        If neither is proved; the message is the row's, with what the search says after it.
    """
    try:
        return _by_row(model, prover)
    except ArchitectureError as by_row:
        if not can_search(model):
            raise
        try:
            found, _ = found_and_proved(model, prover, keep=keep)
        except ArchitectureError as by_search:
            raise ArchitectureError(
                f"{str(by_row).rstrip('.')}. Nor are its parts found by search: {by_search}"
            ) from None
        except torch.cuda.OutOfMemoryError:
            raise
        except _FOREIGN as error:  # the model itself fails on a few tokens
            said = _fails_in_its_type(model, error)
            raise ArchitectureError(
                said or f"{str(by_row).rstrip('.')}. A search fails with {type(error).__name__}: {first_line(error)}"
            ) from None
        if named_rows(model):
            warnings.warn(
                f"{str(by_row).rstrip('.')}. The row is set aside, and the parts that a search found are proved and used",
                stacklevel=4,
            )
        return found, prover.proof


def _fails_in_its_type(model: Any, error: BaseException) -> str:
    """That a model's own code does not run in the number type of its weights, and what to do; empty if that is not the reason.

    An error of torch that names a number type is the reason if the model fails with it by itself, without anything of this package.
    """
    if not isinstance(error, RuntimeError) or not _OF_TYPES.search(str(error)) or medium_of(model) != "text":
        return ""
    table = input_embeddings(model)
    if table is None or encoder_of(model) is not None:
        return ""
    try:
        with torch.no_grad():
            model(**probe_feed(model, table, 3))
    except RuntimeError as own:
        if str(own) != str(error):
            return ""
    else:
        return ""
    kind, name = type(model).__name__, str(table.weight.dtype).removeprefix("torch.")
    experts = getattr(model.config, "_experts_implementation", None)
    other = (
        f", or take other code for its experts: model.set_experts_implementation('eager') (it is {experts!r} now)"
        if experts not in (None, "eager") and hasattr(model, "set_experts_implementation")
        else ""
    )
    return (
        f"{kind} does not run here in {name}, the number type of its weights: its own code fails on a few tokens with "
        f"{type(error).__name__}: {first_line(error)}. Load it in another type, load_model(…, dtype='float32'){other}"
    )


def _by_row(model: Any, prover: Prover) -> tuple[Anatomy, Proof]:
    """The model's parts by a row, with their proof."""
    with _understood(model):
        return _proved(resolve(model), prover)


def _kinds_of_modules(model: Any) -> dict[str, str]:
    return {path: type(module).__name__ for path, module in model.named_modules()}


def _warn_of_replaced(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Warn if the model's own code replaced modules in the short passes, as BigBird does with its block-sparse attention."""
    replaced = {path: (before[path], kind) for path, kind in now.items() if before.get(path, kind) != kind}
    if replaced:
        path, (old, new) = next(iter(replaced.items()))
        warnings.warn(
            f"in a short pass the code of {name!r} replaced {len(replaced)} of its modules for good, {path} ({old}) by {new} first: "
            f"transformers does so in every pass of a text that is too short for {old}. Longer texts are answered and traced with "
            f"{new} as well; load the model again to run {old} elsewhere",
            stacklevel=4,
        )


def _warn_of(name: str, own: OwnAttention, stacklevel: int) -> None:
    """Warn if the model's own attention does not answer as eager attention does."""
    if own.fault:
        warnings.warn(
            f"{name!r}: its own attention {own.name!r} does not run here ({own.fault}), so its answers could not be held against "
            "those of eager attention, which is traced",
            stacklevel=stacklevel,
        )
    elif own.differs:
        warnings.warn(
            f"{name!r} answers differently under its own attention {own.name!r} and under eager attention: by {own.gap:.2g} of "
            "the logits' length on a short prompt. Eager attention is what is traced and shown",
            stacklevel=stacklevel,
        )


def _check_weights(model: Any) -> None:
    """Refuse weights that are missing, or packed in a way that is not known."""
    kind = type(model).__name__
    # Merging takes the adapters' layers out again, whatever attributes it leaves on the model.
    if any(type(module).__module__.startswith("peft.") for module in model.modules()):
        raise ArchitectureError(
            f"{kind} carries adapters that are not merged; call model = model.merge_and_unload() first"
        )
    packed = quantised(model)
    if packed is not None:
        raise ArchitectureError(f"{kind} is {packed.name}: {packed.why}. {packed.advice}")
    gone = (part for part in model.modules() if not is_away(part))
    if any(parameter.is_meta for part in gone for parameter in part.parameters(recurse=False)):
        raise ArgumentError(
            f"{kind} has parameters on the 'meta' device, which holds no numbers, and nothing brings them in; load the weights, "
            "without init_empty_weights"
        )


def _converted(model: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """The model itself if it has the device and number type; otherwise a copy, because the user keeps theirs."""
    wrong_place = device is not None and any(p.device != device for p in model.parameters())
    wrong_type = dtype is not None and any(p.is_floating_point() and p.dtype != dtype for p in model.parameters())
    if not wrong_place and not wrong_type:
        return model
    if not all(map(is_in_place, model.modules())):
        raise ArgumentError(
            f"weights of {type(model).__name__} are packed, or kept elsewhere by accelerate, so it is not converted here; leave device= and "
            "dtype= out"
        )
    try:
        # A deep copy, since .to() would move the user's own parameters.
        return copy.deepcopy(model).to(device=device, dtype=dtype)
    except torch.cuda.OutOfMemoryError:
        raise
    except (TypeError, RuntimeError) as error:
        raise ArgumentError(
            f"{type(model).__name__} cannot be copied to another device or number type ({first_line(error)}); convert it "
            "yourself, model.to(…), and leave device= and dtype= out"
        ) from error


@contextmanager
def _understood(model: Any) -> Iterator[None]:
    """Turn errors during search and proof of a model's parts into one: no row describes the model."""
    try:
        yield
    except (FlowgraphError, torch.cuda.OutOfMemoryError):
        raise
    except _FOREIGN as error:
        kind, name = kind_of(model), type(model).__name__
        what = (
            f" is {kind.name}, which cannot be traced: {kind.why}"
            if kind
            else " is built otherwise than any known family"
        )
        advice = f" {kind.advice}." if kind and kind.advice else ""
        raise ArchitectureError(
            f"{name}{what} ({type(error).__name__}: {first_line(error)}).{advice} Families are rows of data; see "
            "flowgraph.register_family"
        ) from error


def _proved(anatomy: Anatomy, prover: Prover) -> tuple[Anatomy, Proof]:
    """The parts with their proof; without the head if only the head is of another make than its row says.

    A row that fits by its paths may still name modules of another make, and these fail in the proof.
    """
    from_row = anatomy.family in FAMILIES.values()
    try:
        return anatomy, prover(anatomy)
    except ArchitectureError:
        # A head that was found beside the base model, or one of several, is a guess; without it the rest may still be proved.
        if not anatomy.has_head or (from_row and "ForPreTraining" not in type(anatomy.model).__name__):
            raise
        bare = without_head(anatomy)
        with suppress(ArchitectureError):  # what was said with the head says more
            return bare, prover(bare)
        raise


def _proof(anatomy: Anatomy) -> dict[str, float]:
    return _proof_and_answer(anatomy)[0]


def _proof_and_answer(anatomy: Anatomy) -> tuple[dict[str, float], Tensor | None]:
    try:
        return prove_and_answer(anatomy)
    except torch.cuda.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError) as error:
        raise ArchitectureError(
            f"the row {anatomy.family.name!r} does not describe {type(anatomy.model).__name__}: {first_line(error)}. A row "
            "of its own is needed; see flowgraph.register_family"
        ) from error


def _unread(model: Any, anatomy: Anatomy) -> str:
    """A description of a head that is not read."""
    labels = getattr(model.config, "num_labels", None)
    task = task_of(model)
    classes = f" over {labels} classes" if "classifier" in task and labels else ""
    heads = " and ".join(map(repr, anatomy.unread_head))
    return f"{type(model).__name__} is {task}, and its head {heads}{classes} is not read"


@dataclass(frozen=True)
class _Bare:
    """A ``tokenizers.Tokenizer``, until the model says which of its tokens are special."""

    tokenizer: Any

    @property
    def vocab_size(self) -> int:
        return int(self.tokenizer.get_vocab_size(with_added_tokens=False))

    def wrapped(self, config: Any) -> Any:
        """The tokenizer as transformers has it, with the special tokens that the config numbers, and its mask."""
        import transformers

        special = {}
        for name in ("bos", "eos", "pad"):
            number = getattr(config, f"{name}_token_id", None)
            token = self.tokenizer.id_to_token(number) if isinstance(number, int) and number >= 0 else None
            if token is not None:
                special[f"{name}_token"] = token
        for token in self.tokenizer.get_added_tokens_decoder().values():
            if token.special and token.content.strip("<>[]|").lower() in ("mask", "unk"):
                special[f"{token.content.strip('<>[]|').lower()}_token"] = token.content
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=self.tokenizer, clean_up_tokenization_spaces=False, **special
        )


def _tokenizer(tokenizer: Any) -> Any:
    """A tokenizer that can be used, or None.

    Raises
    ------
    ArgumentError
        If it is something else, such as the name of one.
    """
    if tokenizer is None:
        return None
    if type(tokenizer).__module__.partition(".")[0] == "tokenizers" and hasattr(tokenizer, "get_vocab_size"):
        return _Bare(tokenizer)
    lacking = [name for name in _TOKENIZER if not hasattr(tokenizer, name)]
    if not callable(tokenizer) or lacking:
        shown = repr(tokenizer) if isinstance(tokenizer, str) else f"a {type(tokenizer).__name__}"
        raise ArgumentError(
            f"tokenizer={shown} is not a tokenizer; expected one of transformers, such as "
            "transformers.AutoTokenizer.from_pretrained(name), or a tokenizers.Tokenizer"
        )
    return tokenizer


def _check_processor(processor: Any) -> None:
    if processor is not None and not callable(processor):
        shown = repr(processor) if isinstance(processor, str) else f"a {type(processor).__name__}"
        raise ArgumentError(
            f"processor={shown} is not a processor; expected one of transformers, such as "
            "transformers.AutoImageProcessor.from_pretrained(name)"
        )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | str | None:
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return dtype
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, str(dtype), None)
    if not isinstance(found, torch.dtype) or found not in TOLERANCE:
        names = ", ".join(repr(str(known).removeprefix("torch.")) for known in TOLERANCE)
        raise ArgumentError(f"dtype={dtype!r} is not a number type that a model can be traced in; expected {names}")
    return found


def _check_device(device: Any) -> None:
    """Refuse what names no device; a number is that of a GPU."""
    if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
        raise ArgumentError(
            f"device={device!r}; expected 'auto', a name such as 'cpu', the number of a GPU, or a torch.device"
        )


def _or_cpu(device: str | torch.device) -> str | torch.device:
    return "cpu" if device == "auto" else device


def _device(device: str | torch.device) -> torch.device:
    """The device, proved by putting one number on it."""
    try:
        found = torch.device(device)
        # A device that parses may still be missing; only a tensor on it shows that.
        torch.zeros(1, device=found).tolist()
    except (RuntimeError, AssertionError, ValueError) as error:  # a ValueError: a number too large
        here = "cpu" if not torch.cuda.is_available() else f"cpu, cuda ({torch.cuda.device_count()})"
        raise DeviceError(
            f"device={str(device)!r} is not available here ({first_line(error)}); this machine has: {here}"
        ) from error
    return found
