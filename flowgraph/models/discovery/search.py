"""From a model to a row: its blocks, what each adds, its embedding and its head, all found in one pass of a few tokens."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..eager import AttentionCall, asks_for_attention
from ..families import Attention, Family, Sizes, Stack
from ..kinds import base_of, medium_of
from ..media import probe_feed, short_source
from ..norms import found_kind
from ..parameters import bias_of, input_embeddings, matrix_of, output_embeddings, shape_of
from ..paths import block_of
from ..stacks import DECODER_IDS, decoder_embeddings, encoder_of
from ..windows import order_of
from .block import ROUNDING, Attends, FoundBlock, NotFoundError, describe_call, search_block
from .derivatives import gate_error, mixes_tokens, mixing_error
from .record import record_pass, same

_TOKENS = 7
"""Length of the pass: more than the proof's, so that windows and chunks of tiny models show."""
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "logit_softcapping", "final_logits_softcap")
_PROJECTIONS = ("query", "key", "value", "fused", "query_norm", "key_norm")
_NOTHING_ATTENDS = (
    "no module asks the library for an attention function, and no softmax of products meets values; where queries, keys, values and "
    "pattern are outputs of modules, flowgraph.register_attention names them"
)
# Models say the longest input under many names.
_CONTEXT = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length", "context_length",
    "max_target_positions",
)  # fmt: skip


class Search:
    """The search in one model, from one pass of a few tokens."""

    def __init__(self, model: Any) -> None:
        encoder = encoder_of(model)
        self.model = model
        own = decoder_embeddings(model) if encoder is not None else input_embeddings(model)
        self.table: Any = own if encoder is not None or medium_of(model) == "text" else None
        # Without a cache, which some models cannot fill for layers that do not attend.
        accepts = inspect.signature(model.forward).parameters
        for count in (_TOKENS, _TOKENS - 1):
            self.given = probe_feed(model, self.table, count)
            if encoder is not None:
                self.given = {**short_source(model, _TOKENS + 2), DECODER_IDS: self.given["input_ids"]}
            self.feed: dict[str, Any] = {**self.given, **({"use_cache": False} if "use_cache" in accepts else {})}
            self.record = record_pass(model, self.feed)
            # Attention to another stack is told by its length, so that the two must differ.
            if encoder is None or any(map(self._reads_others, self.record.attention)):
                break
        self.given_scales: tuple[float, ...] = ()
        self.dtype = next(one for one in model.parameters() if one.is_floating_point()).dtype
        if encoder is not None:
            # The encoder is a model by itself, and is searched as one.
            inside = {id(module) for module in encoder.modules()}
            attention = self.record.attention
            self.record.attention = {
                name: calls for name, calls in attention.items() if id(self.record.modules[name]) not in inside
            }

    def row(self) -> Family:
        """The row of a model, with every fitted number in it.

        Raises
        ------
        NotFoundError
            If its parts are not found; the text says which part, and how far the search came.
        """
        self._refuse_windows()
        blocks, paths = self._blocks()
        order = self._order(blocks, len(paths))
        found = [
            search_block(self.record.of_run(f"{blocks}.{n}", order[:i].count(n)) if len(order) > len(paths) else self.record,
                         f"{blocks}.{n}", paths[n], _functions())
            for i, n in enumerate(order)
        ]  # fmt: skip
        self.given_scales = tuple(one.scale for one in found)
        attending = [one for one in found if one.attention]
        crossing = [one.cross for one in found if one.cross is not None]
        if len(crossing) < len(found) and (crossing or encoder_of(self.model) is not None):
            where = "some of its blocks do" if crossing else "its blocks do"
            raise NotFoundError(f"{where} not attend to the encoder's states between attention and MLP")
        between = self._between_stacks(crossing)
        self._check_gates(blocks, order, found)
        found = [self._mlp_alone(f"{blocks}.{n}", one) for n, one in zip(order, found, strict=True)]
        self._check_mlps(blocks, order, found)
        entering = self._entering_norm(found, repeated=len(order) > len(paths))
        first = f"{blocks}.{order[0]}"
        first_state = self.record.output(f"{first}.{entering}") if entering else self.record.input(first)
        last_state = self.record.calls[f"{blocks}.{order[-1]}"][-1].output
        assert first_state is not None
        assert last_state is not None
        config = self.model.config.get_text_config()
        heads, kv_heads, d_head, d_value = _sizes([one.sizes for one in [*attending, *crossing]] or [(1, 1, 1, 1)])
        embedding, scale, positions = self._embedding(first_state)
        final_norm = self._final_norm(last_state, blocks)
        if entering and not final_norm:
            raise NotFoundError(
                "its stream goes through a norm at the beginning of each block, and through none after the last one"
            )
        stack = Stack(
            blocks=self._from_base(blocks),
            mixer=_merged([one.mixer for one in found]),
            mixer_factor=_agreed("factors of mixers", [one.mixer_factor for one in found if one.mixer] or [1.0]),
            attention=_with_query_factors(_attention(found), found),
            cross_attention=_attention(crossing) if crossing else None,
            source_projection=between,
            cross_norm=_merged([one.attention_norm for one in crossing]),
            cross_post_norm=_merged([one.attention_post_norm for one in crossing]),
            wiring=cast("Any", _wiring([one.wiring for one in found])),
            entering_norm=entering,
            stream_factors=(
                _agreed("factors of the stream before attention", [one.stream_factors[0] for one in found]),
                _agreed("factors of the stream before the MLP", [one.stream_factors[1] for one in found]),
            ),
            norms=tuple(one.norms for one in found) if len({one.wiring for one in found}) > 1 else (),
            attention_norm=_merged([one.attention_norm for one in found]),
            attention_post_norm=_merged([one.attention_post_norm for one in found]),
            mlp_norm=entering or _merged([one.mlp_norm for one in found]),
            mlp_post_norm=_merged([one.mlp_post_norm for one in found]),
            mlp_factor=_agreed("factors of the MLP", [one.mlp_factor for one in found if one.mlp] or [1.0]),
            mlp_beside=_merged([one.mlp_beside for one in found]),
            mlp_beside_factor=_agreed(
                "factors of second MLPs", [one.mlp_beside_factor for one in found if one.mlp_beside] or [1.0]
            ),
            **_mlp_paths(found),
            embedding=embedding,
            embedding_scale="none" if scale in (None, 1.0) else scale,
            embedding_is_residual=scale is not None,
            position_embedding=positions,
            final_norm=final_norm,
            role="decoder" if self._is_causal() else "encoder",
            parts=_parts(found),
            channel_factors=(
                _merged([one.attention_channels for one in found]), _merged([one.mlp_channels for one in found]),
            ),
            order=tuple(order) if len(order) > len(paths) else (),
            sizes=Sizes(heads, kv_heads, d_head, d_value, first_state.shape[-1]),
        )  # fmt: skip
        added = self._logit_bias()
        head, kind, factor, cap = self._head(final_norm, last_state, added)
        model_type = self._type(config)
        return Family(
            name=model_type, model_types=(model_type,), stacks=(stack,), norm=None, head=head, head_kind=cast("Any", kind),
            logit_factor=factor, logit_softcap=cap, context=_CONTEXT, found=True, logit_bias=added if head else "",
        )  # fmt: skip

    def _between_stacks(self, crossing: list[FoundBlock]) -> str:
        """The linear layer between the encoder's last states and what keys and values read; empty where they read these themselves.

        Where neither is so, projections of these states are taken for unknown.
        """
        sources = [self.record.input(one.source) for one in crossing if one.source]
        encoder = encoder_of(self.model)
        path = next((name for name, module in self.record.modules.items() if module is encoder), "")
        last = self.record.output(path) if path else None
        read = sources[0] if len(sources) == len(crossing) and sources else None
        if last is not None and read is not None and all(one is not None and same(one, read) for one in sources):
            if same(last, read):
                return ""
            for name in self.record.reading(last):
                made = self.record.output(name)
                if len(shape_of(self.record.modules[name]) or ()) == 2 and made is not None and same(made, read):
                    return self._from_base(name)
        for one in crossing:
            one.query = one.key = one.value = ""
        return ""

    def _entering_norm(self, found: list[FoundBlock], *, repeated: bool) -> str:
        """The norm at the beginning of every block that the stream itself goes through; empty if there is none."""
        entering = str(_agreed("norms on the stream that enters", [one.entering_norm for one in found]))
        if entering and repeated:
            raise NotFoundError("its stream goes through norms at the beginning of blocks that run several times")
        return entering

    def _refuse_windows(self) -> None:
        """Refuse attention that runs on several parts of one input."""
        parts = {call.query.shape[0] for several in self.record.attention.values() for call in several}
        if parts - {1}:
            raise NotFoundError(
                f"its attention runs within windows: of one input it sees {max(parts)} parts, each by itself, in an order of its own, so "
                "what a head writes is known of places in windows alone"
            )

    def _check_gates(self, blocks: str, order: list[int], found: list[FoundBlock]) -> None:
        """Refuse a gate on heads' outputs that does more than multiply each number."""
        modules = self.record.modules
        if any(one.cross is not None and one.cross.gated for one in found):
            raise NotFoundError("what heads read of another stack is changed before their projection")
        gated = [(f"{blocks}.{n}", one) for n, one in zip(order, found, strict=True) if one.gated]
        if not gated:
            return
        if len(order) > len(set(order)) or not all(
            asks_for_attention(modules[f"{at}.{one.attention}"]) for at, one in gated
        ):
            raise NotFoundError(
                "heads' outputs are changed before their projection, in a way that cannot be looked at here"
            )
        pairs = [(modules[f"{at}.{one.attention}"], modules[f"{at}.{one.attention_output}"]) for at, one in gated]
        error = gate_error(self.model, self.feed, pairs)
        if not error < 10 * ROUNDING[self.dtype]:
            raise NotFoundError(
                f"between the heads of {gated[0][0]} and their output projection lies more than a factor on each number "
                f"(relative error {error:.2g} of the derivatives)"
            )

    def _mlp_alone(self, path: str, one: FoundBlock) -> FoundBlock:
        """A block whose one part mixes no tokens is an MLP alone, such as a mixture of experts."""
        if not one.mixer or one.attention or one.mlp or one.attention_post_norm:
            return one
        module = self.record.modules[f"{path}.{one.mixer}"]
        if mixes_tokens(self.model, self.feed, module, ROUNDING[self.dtype]):
            return one
        return replace(
            one, mlp=one.mixer, mlp_norm=one.attention_norm, mlp_factor=one.mixer_factor, mixer="", attention_norm="", mixer_factor=1.0
        )  # fmt: skip

    def _check_mlps(self, blocks: str, order: list[int], found: list[FoundBlock]) -> None:
        """Refuse an MLP, known as one module alone, that reads other positions than the one that it writes to."""
        modules = self.record.modules
        whole = [
            modules[f"{blocks}.{n}.{path}"]
            for n, one in zip(order, found, strict=True) if one.mlp and not one.has_neurons
            for path in (one.mlp, one.mlp_beside) if path
        ]  # fmt: skip
        if whole and mixing_error(self.model, self.feed, whole) > ROUNDING[self.dtype]:
            raise NotFoundError(
                "what is added after attention at one position depends on other positions, so it is no MLP"
            )

    def stages(self) -> list[list[tuple[str, AttentionCall]]]:
        """Calls of a model of images in their order, those with as many positions and heads together, if some run within windows.

        Empty where none does, and all have as many positions and heads.
        """
        calls = [(name, call) for name, several in self.record.attention.items() for call in several]
        if self.table is not None or any(call.query.shape[2] != call.key.shape[2] for _, call in calls):
            return []
        if len({call.query.shape[:3] for _, call in calls}) < 2 and all(len(call.query) == 1 for _, call in calls):
            return []
        sizes: dict[tuple[int, int], list[tuple[str, AttentionCall]]] = {}
        for name, call in calls:
            parts, heads, places, _ = call.query.shape
            sizes.setdefault((parts * places, heads), []).append((name, call))
        return list(sizes.values())

    def _windows(self, name: str, call: AttentionCall) -> tuple[int, ...]:
        """The position at each place of the windows of an attention."""
        read, block = self.record.input(name), block_of(name)
        inside = [block, *(path for path in self.record.calls if path.startswith(f"{block}."))]
        states = [x for path in inside for x in (self.record.input(path), self.record.output(path)) if x is not None]
        windows, _, places, _ = call.query.shape
        whole = [x for x in states if x.shape[0] == 1 and x.numel() == windows * places * x.shape[-1]]
        found = None if read is None else order_of(read.reshape(windows, places, -1), whole)
        if found is None:
            raise NotFoundError(
                f"the windows of {name} hold something else than the positions of its block, each once: an image whose sides are no "
                "multiples of a window is filled up with padding, which takes part in attention"
            )
        return found

    def patterns_row(self, reason: str, stage: int | None = None) -> Family:
        """A row of which attention alone is known; ``reason`` says why no more is.

        Of several stages of windows it is that of one, counted from 0; None takes the one with the most layers.

        Raises
        ------
        NotFoundError
            If no module attends, or if their patterns differ in shape.
        """
        stages = self.stages()
        if stages:
            stage = stages.index(max(stages, key=len)) if stage is None else stage
            return self._row_of_calls(stages[stage], reason, [at for earlier in stages[:stage] for at, _ in earlier])
        calls = [(name, call) for name, several in self.record.attention.items() for call in several]
        if not calls:
            raise NotFoundError(_NOTHING_ATTENDS)
        if len(calls) > len(self.record.attention):
            calls = self._by_time()
        return self._row_of_calls(calls, reason)

    def _row_of_calls(
        self, calls: list[tuple[str, AttentionCall]], reason: str, earlier: list[str] | None = None
    ) -> Family:
        """A row of attention alone; of windows of one stage where ``earlier`` attentions, of stages before it, are given."""
        found = []
        for _, call in calls:
            one = FoundBlock()
            describe_call(one, call, self.record)
            found.append(one)
        first = found[0]
        for name, call in calls:
            (queries, keys), own = (call.query.shape[2], call.key.shape[2]), len(calls) == len(self.record.attention)
            if own and queries != keys and {one.key.shape[2] for _, one in calls} == {keys}:
                raise NotFoundError(
                    f"{name} reads {keys} keys for {queries} queries in one softmax: its own states and others' side by side, so a "
                    "pattern is not one over the positions of a stack"
                )
        shapes = list(dict.fromkeys(tuple(call.pattern.shape[1:]) for _, call in calls if call.pattern is not None))
        if len(shapes) > 1:
            raise NotFoundError(f"patterns of different layers differ in shape [head, query, key]: {shapes}")
        uneven = len({one.sizes for one in found}) > 1
        heads, kv_heads, d_head, d_value = first.sizes
        config = self.model.config.get_text_config()
        table = self.table
        read = self.record.input(calls[0][0])
        width = first.sizes[0] * first.sizes[3] if read is None else read.shape[-1]
        width = width if table is None else table.weight.shape[1]
        stack = Stack(
            blocks="", attention_norm="", mlp_norm="", mlp_output="", mlp_activation="",
            embedding=""
            if table is None
            else self._from_base(next(name for name, module in self.record.modules.items() if module is table)),
            attention=Attention(
                module="", output="", scales=tuple(one.scale for one in found), softcap=first.softcap or "",
                # Queries and keys of several sizes are kept nowhere, so patterns are proved while they are there.
                bias=uneven or any(one.bias for one in found), sinks=any(one.sinks for one in found),
            ),
            uneven=uneven, wiring="unknown", role="decoder" if self._is_causal() else "encoder",
            attentions=tuple(self._from_base(name) for name, _ in calls),
            windows=() if earlier is None else tuple(self._windows(name, call) for name, call in calls),
            passed=tuple(dict.fromkeys(self._from_base(block_of(name)) for name in earlier or ())),
            sizes=Sizes(heads, kv_heads, d_head, d_value, width),
            reason=reason,
        )  # fmt: skip
        model_type = self._type(config)
        return Family(
            name=model_type,
            model_types=(model_type,),
            stacks=(stack,),
            norm=None,
            head=(),
            context=_CONTEXT,
            found=True,
        )

    def _by_time(self) -> list[tuple[str, AttentionCall]]:
        """Calls of modules that attend several times in a pass, in their order; one for each run of such a module."""
        found = []
        for name, several in self.record.attention.items():
            if len(several) != self.record.runs(name):
                raise NotFoundError(f"{name} attends more than once each time that it runs")
            begun = (call.begun for call in self.record.calls[name])
            found += [(time, name, call) for time, call in zip(begun, several, strict=True)]
        return [(name, call) for _, name, call in sorted(found, key=lambda one: one[0])]

    def _type(self, config: Any) -> str:
        config = config if self.table is not None else self.model.config
        return str(getattr(config, "model_type", "") or type(self.model).__name__)

    # Blocks.

    def _blocks(self) -> tuple[str, list[Attends]]:
        """The list of blocks, and the attention modules of each."""
        attending = list(self.record.attention)
        if not attending:
            return self._chain()
        tried = []
        for name, module in self.record.modules.items():
            if not isinstance(module, (nn.ModuleList, nn.Sequential)) or not len(module):
                continue
            paths = [f"{name}.{i}" for i in range(len(module))]
            inside = [[at for at in attending if at.startswith(f"{path}.")] for path in paths]
            if not any(inside):
                continue
            if not all(self.record.runs(path) for path in paths):
                tried.append(f"{name} holds modules that do not run")
                continue
            others = [[at for at in ats if self._reads_others(at)] for ats in inside]
            own = [[at for at in ats if not self._reads_others(at)] for ats in inside]
            if any(len(ats) > 1 for ats in (*own, *others)):
                counts = ", ".join(str(len(ats)) for ats in inside)
                tried.append(f"the blocks of {name} attend {counts} times each")
                continue
            if any(
                len(self.record.attention[at]) != self.record.runs(path)
                for ats, path in zip(inside, paths, strict=True)
                for at in ats
            ):
                tried.append(f"an attention of {name} runs more than once")
                continue
            outside = [at for at in attending if not at.startswith(f"{name}.") and self._moves(at)]
            if outside:
                tried.append(f"{outside[0]} attends outside of the blocks of {name}")
                continue
            return name, [Attends(*(ats[0] if ats else None for ats in both)) for both in zip(own, others, strict=True)]
        raise NotFoundError("; ".join(tried) or "no list of blocks holds the modules that attend")

    def _moves(self, at: str) -> bool:
        """Whether an attention has more than one query, and is not a head that pools all positions into one."""
        return self.record.attention[at][0].query.shape[2] > 1

    def _reads_others(self, at: str) -> bool:
        """Whether an attention's keys are of other positions than its queries: those of another stack, of another length."""
        call = self.record.attention[at][0]
        return call.query.shape[2] != call.key.shape[2]

    def _chain(self) -> tuple[str, list[Attends]]:
        """The list of blocks of a model that does not attend: modules whose output is the next one's input."""
        for name, module in self.record.modules.items():
            if not isinstance(module, (nn.ModuleList, nn.Sequential)) or not len(module):
                continue
            paths = [f"{name}.{i}" for i in range(len(module))]
            states = [(self.record.input(path), self.record.output(path)) for path in paths]
            if all(self.record.runs(path) == 1 for path in paths) and all(
                x is not None and y is not None and x.shape == y.shape for x, y in states
            ) and all(
                y is not None and x is not None and same(y, x) for (_, y), (x, _) in itertools.pairwise(states)
            ):  # fmt: skip
                return name, [Attends(None)] * len(paths)
        raise NotFoundError(_NOTHING_ATTENDS)

    def _order(self, blocks: str, count: int) -> list[int]:
        """Number of the block that each layer runs, in the order in which they ran."""
        begun = [(call.begun, n) for n in range(count) for call in self.record.calls[f"{blocks}.{n}"]]
        return [n for _, n in sorted(begun)]

    def _is_causal(self) -> bool:
        patterns = [
            call.pattern for at, calls in self.record.attention.items() if not self._reads_others(at) for call in calls
        ]
        return all(pattern is not None and not bool(pattern.triu(1).any()) for pattern in patterns)

    # Ends.

    def _embedding(self, state: Tensor) -> tuple[str, float | None, str]:
        """Path of the token embedding; the factor with which it enters the first state, None if more happens; positions."""
        table = self.table
        if table is None:
            return "", None, ""
        path = self._from_base(next(name for name, module in self.record.modules.items() if module is table))
        tokens = matrix_of(table)[self.given[DECODER_IDS if DECODER_IDS in self.given else "input_ids"][0]]
        rounding = ROUNDING[state.dtype]
        state = state.reshape(-1, state.shape[-1]).double()
        if tokens.shape[-1] != state.shape[-1]:
            return path, None, ""
        tokens = tokens.double()
        for name in ["", *self._tables(table)]:
            places = torch.zeros_like(state)
            if name:
                output = self.record.output(name)
                assert output is not None
                places = output.reshape(-1, output.shape[-1]).double()
                if places.shape != state.shape:
                    continue
            rest = state - places
            factor = float((rest * tokens).sum() / tokens.square().sum())
            if float((factor * tokens - rest).norm() / state.norm()) < rounding:
                return path, 1.0 if abs(factor - 1) < rounding else factor, self._from_base(name) if name else ""
        return path, None, ""

    def _tables(self, tokens: nn.Module) -> list[str]:
        found = [name for name, module in self.record.modules.items() if isinstance(module, nn.Embedding)]
        return [
            name for name in found if self.record.modules[name] is not tokens and self.record.output(name) is not None
        ]

    def _final_norm(self, state: Tensor, blocks: str) -> str:
        # Its last call counts: some models run the same norm before their blocks as well.
        last = (calls[-1] for calls in self.record.calls.values())
        for call in sorted(last, key=lambda one: one.begun):
            is_inside = call.name.startswith(f"{blocks}.")
            if is_inside or call.input is None or not same(call.input, state):
                continue
            if found_kind(self.record.modules[call.name], state.shape[-1]) is not None:
                return self._from_base(call.name)
        return ""

    def _logit_bias(self) -> str:
        """Name of a buffer of the model itself that is as long as the vocabulary, as those that BART's kin add to the logits."""
        logits = self.record.logits
        count = 0 if logits is None else logits.shape[-1]
        return next(
            (name for name, one in self.model.named_buffers(recurse=False) if count and one.numel() == count), ""
        )

    def _head(self, final_norm: str, last: Tensor, added: str) -> tuple[tuple[str, ...], str, float, str | float]:
        """Modules of the head, its kind, the factor on its output, and the soft-cap after it; no modules where none is read."""
        output = output_embeddings(self.model)
        logits = self.record.logits
        if output is None or logits is None:
            return (), "linear", 1.0, ""
        path = next((name for name, module in self.record.modules.items() if module is output), "")
        reads = last if not final_norm else self.record.calls[self._full(final_norm)][-1].output
        weight, bias = matrix_of(output), bias_of(output)
        if not path or reads is None or reads.shape[-1] != weight.shape[-1] or weight.ndim != 2:
            return (), "linear", 1.0, ""
        made = reads.reshape(-1, reads.shape[-1]).double() @ weight.double().T
        made = made if bias is None else made + bias.double()
        logits = logits.reshape(-1, logits.shape[-1]).double()
        if made.shape != logits.shape:
            return (), "linear", 1.0, ""
        if added:
            logits = logits - getattr(self.model, added).detach().double().reshape(-1)
        rounding = ROUNDING[last.dtype]
        factor = float((made * logits).sum() / made.square().sum())
        if float((factor * made - logits).norm() / logits.norm()) < rounding:
            return (path,), "linear", 1.0 if abs(factor - 1) < rounding else factor, ""
        for name in _SOFTCAPS:
            cap = getattr(self.model.config.get_text_config(), name, None)
            if cap and float((cap * torch.tanh(made / cap) - logits).norm() / logits.norm()) < rounding:
                return (path,), "linear", 1.0, float(cap)
        return (), "linear", 1.0, ""

    # Paths.

    def _from_base(self, name: str) -> str:
        """A path from the base model on."""
        base = base_of(self.model)
        if base is self.model:
            return name
        at = next(path for path, module in self.record.modules.items() if module is base)
        if not name.startswith(f"{at}."):
            raise NotFoundError(f"{name} is no part of the base model {at}")
        return name[len(at) + 1 :]

    def _full(self, path: str) -> str:
        base = base_of(self.model)
        if base is self.model:
            return path
        at = next(name for name, module in self.record.modules.items() if module is base)
        return f"{at}.{path}"


def _attention(found: list[FoundBlock]) -> Attention:
    """One attention of all blocks."""
    attending = [one for one in found if one.attention]
    # A model that does not attend has one head by name, which gives nothing.
    first = attending[0] if attending else FoundBlock(sizes=(1, 1, 1, 1))
    projected = all(one.query for one in attending) or all(one.fused for one in attending)
    # Keys that are held more than once are the output of no projection.
    projected = projected and len({one.sizes for one in attending}) < 2
    projections: dict[str, Any] = {
        name: _merged([getattr(one, name) for one in found]) for name in (_PROJECTIONS if projected else ())
    }
    return Attention(
        module=_merged([one.attention for one in found]),
        output=_merged([one.attention_output for one in found]),
        **projections,
        fused_layout=cast("Any", first.fused_layout),
        scales=tuple(one.scale for one in found),
        softcap=first.softcap or "",
        shift=_merged([one.attention_shift for one in found]),
        factor=_agreed("factors of attention", [one.attention_factor for one in attending or [first]]),
        bias=any(one.bias for one in found),
        sinks=any(one.sinks for one in found),
        gated=any(one.gated for one in found),
    )


def _with_query_factors(attention: Attention, found: list[FoundBlock]) -> Attention:
    """The same with queries as they are projected: what they are multiplied by before attention is part of the factor of scores."""
    if not attention.query or attention.bias or attention.sinks:
        return attention
    return replace(attention, scales=tuple(one.scale * one.query_factor for one in found))


def _parts(found: list[FoundBlock]) -> tuple[str, ...]:
    """What each layer holds; nothing where all hold the same."""
    parts = tuple("+".join(name for name in ("attention", "mixer", "mlp") if getattr(one, name)) for one in found)
    return parts if len(set(parts)) > 1 or any(one.mixer for one in found) else ()


def _mlp_paths(found: list[FoundBlock]) -> dict[str, Any]:
    """Paths of the MLP: down to its neurons if every block has them, else as one module."""
    names = ("mlp_input", "mlp_gate", "mlp_gate_up", "mlp_activation", "mlp_output")
    found = [one for one in found if one.mlp]
    if not found:
        return dict.fromkeys(("mlp_output", "mlp_activation"), "")
    if not all(one.has_neurons for one in found) or len({one.mlp_activation for one in found}) > 1:
        return {"mlp": _merged([one.mlp for one in found]), **dict.fromkeys(("mlp_output", "mlp_activation"), "")}
    return {name: _merged([getattr(one, name) for one in found]) for name in names}


def _merged(paths: list[str]) -> str:
    """One path for all blocks, with alternatives where they differ."""
    different = list(dict.fromkeys(paths))
    named = "|".join(filter(None, different))
    return f"{named}?" if named and "" in different else named


def _wiring(wirings: list[str]) -> str:
    """The wiring of all blocks; those without second norms may stand among those with them."""
    return "sandwich" if set(wirings) == {"sequential", "sandwich"} else str(_agreed("wirings", wirings))


def _agreed(what: str, values: list[Any]) -> Any:
    different = list(dict.fromkeys(values))
    numbers = all(isinstance(value, float) for value in values)
    if len(different) > 1 and not (numbers and max(values) - min(values) < 1e-3):
        raise NotFoundError(f"the {what} differ from block to block: {different}")
    return values[0]


def _sizes(sizes: list[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """Sizes of heads; where layers differ in size or in the number of keys, the largest."""
    kv_heads, d_head, d_value = (max(one[n] for one in sizes) for n in (1, 2, 3))
    if any(kv_heads % kv for _, kv, _, _ in sizes):
        raise NotFoundError(f"the sizes of heads differ from block to block: {list(dict.fromkeys(sizes))}")
    heads = _agreed("numbers of heads", [one[0] for one in sizes])
    return heads, kv_heads, d_head, d_value


def _functions() -> dict[str, Any]:
    """Elementwise functions by the names that configs give them."""
    from transformers.activations import ACT2FN

    names = (
        "gelu",
        "gelu_new",
        "relu",
        "silu",
        "relu2",
        "gelu_pytorch_tanh",
        "quick_gelu",
        "tanh",
        "sigmoid",
        "gelu_fast",
        "mish",
    )
    return {name: ACT2FN[name] for name in names}
