"""A forward pass of a batch whose hooks change or keep tensors.

Hooks sit at these places: heads at z, the input of the attention's output projection; neurons at the input of the MLP's output
projection; outputs of attention and MLP where they join the stream, after a second norm if there is one; states at the block's
input and output. No module of a sequential block hands on resid_mid, so a change of it is made through attention's output. A
pattern exists only after the projection has run: a layer whose edit at z needs the pattern runs its attention once before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import NoPatternError, UnsupportedReadingError
from ..lenses.experts import experts_call
from ..models import LoadedModel
from ..models.anatomy import Anatomy, Block, Projection, counting, fill, no_neurons, no_projections, scaled, upcast
from ..models.eager import AttentionCall, Watch, asks_for_attention, eager_attention, watching
from ..models.forward import Feed, watch_of
from ..models.hooks import on_call, on_result, only_while
from ..models.kinds import base_of
from ..models.softmax_capture import capturing
from .calls import Call, Path, Recorder, Repeats, lengths_in, repeats_of
from .network import ROLES
from .ticks import Tick

Edit = Callable[[Tensor], Tensor]
"""A function of a tensor [row, position, …]. It returns the new tensor, or the same object if it changes nothing."""

CALLED = ("module", "attention", "cross")
"""Parts of a block whose calls are kept: the block itself, its attention, and its attention to another stack."""
EXPERT = "expert."
"""What the site of a single expert begins with; its number follows."""


class Pass:
    """One forward pass, or several of the same edits.

    Parameters
    ----------
    loaded
        The model.
    rows
        Number of prompts in the batch.
    gradients
        Let autograd see the pass.
    tick
        Called before each block.
    """

    def __init__(self, loaded: LoadedModel, rows: int, *, gradients: bool = False, tick: Tick | None = None) -> None:
        self.anatomy: Anatomy = loaded.anatomy
        self.anatomy.require_stream("a changed run")
        self.rows = rows
        self.gradients = gradients
        self.tick = tick
        self.edits: dict[tuple[str, int], list[Edit]] = {}
        self.kept: dict[tuple[str, int], Tensor] = {}
        self.calls: dict[str, Recorder] = {}
        self.probed: set[tuple[str, int]] = set()
        self.watched: dict[int, Watch] = {}
        self._keeps_calls = False
        self._probing = False
        self._entering: dict[int, Tensor] = {}
        self._crossed: dict[int, Tensor] = {}
        self.stacks = {name: Pass(one, rows, gradients=gradients) for name, one in loaded.stacks.items()}

    def edit(self, site: str, layer: int, edit: Edit) -> None:
        """Add an edit; those of one site run in the order in which they were added."""
        self.edits.setdefault((site, layer), []).append(edit)

    def keep(self, sites: Iterable[str], layers: Iterable[int] | None = None, *, graph: bool = False) -> None:
        """Keep the tensors of some sites, as they are after the edits added so far, in ``kept[site, layer]``.

        With ``graph`` they stay part of the graph of autograd, so that gradients with respect to them can be asked for.
        """
        for layer in range(len(self.anatomy.blocks)) if layers is None else layers:
            for site in sites:
                self.edit(site, layer, _Keeper(self.kept, (site, layer), graph))

    def keep_calls(self) -> None:
        """Keep the arguments of blocks and attentions, of the other stacks too."""
        for one in (self, *self.stacks.values()):
            one._keeps_calls = True

    def watch(self, layer: int, watch: Watch) -> None:
        """Show what enters and leaves a layer's attention function, before its z is edited."""
        self.watched[layer] = watch

    def probe(self, layer: int, prefix: str = "") -> None:
        """Put the pattern and the values of a layer into ``kept`` before its z is edited.

        With the ``prefix`` ``"cross_"`` they are those of the attention to another stack.
        """
        anatomy = self.anatomy.reader_of_encoder if prefix else self.anatomy
        anatomy.refuse_gates("a change of single entries of a pattern")
        self.probed.add((prefix, layer))

    def run(self, feed: Feed) -> Float[Tensor, "row position d_model"]:
        """The last states of a pass from tokens on; the edits of ``final`` are applied to them."""
        model = self.anatomy.model
        base = base_of(model)
        # Nothing is read from a cache here, and filling it would take memory.
        options: dict[str, Any] = {"use_cache": False} if self.anatomy.causal else {}
        if self._keeps_calls:
            for name, one in {"": self, **self.stacks}.items():
                kinds = [
                    kind for kind in CALLED if any(_called(block, kind) is not None for block in one.anatomy.blocks)
                ]
                one.calls = {
                    kind: Recorder(self.rows, one._repeats((name, kind), model, feed, options)) for kind in kinds
                }
        last: dict[tuple[str, int], Tensor] = {}
        end = len(self.anatomy.blocks) - 1
        # The last block's output is taken by a hook: a model's own last state may have gone through the final norm.
        with self.hooked(_Keeper(last, ("resid_post", end), self.gradients)):
            base(**feed, **options)
        return self._edited("final", end, last["resid_post", end])

    def resume(
        self,
        states: Float[Tensor, "row position d_model"],
        layer: int,
        calls: Mapping[int, Call],
        prompt: Int[Tensor, "row"],
    ) -> Float[Tensor, "row position d_model"]:
        """The last states of a pass that enters ``layer`` with ``states``; ``prompt`` as in :meth:`Call.run`."""
        with self.hooked():
            for below in range(layer, len(self.anatomy.blocks)):
                states = self.block(below, states, calls[below], prompt)
            return self._edited("final", len(self.anatomy.blocks) - 1, states)

    def block(self, layer: int, states: Tensor, call: Call, prompt: Int[Tensor, "row"]) -> Tensor:
        """One block; only inside :meth:`hooked`."""
        turns = self.anatomy.blocks[layer].turns
        if turns is not None:
            # The run that follows counts one on.
            turns.now = self.anatomy.blocks[layer].turn - 1
        block = self.anatomy.blocks[layer]
        with ExitStack() as stack:
            if block.enters is not None:
                # The states have gone through the norm at the block's beginning.
                stack.callback(on_result(block.enters, lambda _module, args, _output: args[0], first=True).remove)
            output = call.run(block.module, states, prompt)
        result: Tensor = output[0] if isinstance(output, (tuple, list)) else output
        # The norm itself, without its hooks: they belong to the next layer as well, and run with it.
        return result if block.leaves is None else self._edited("resid_post", layer, block.leaves.forward(result))

    def _repeats(
        self, key: tuple[str, str], model: nn.Module, feed: Feed, options: Mapping[str, Any]
    ) -> Repeats | None:
        """Which arguments of the blocks, or of their attentions, have entries for each prompt; None where their length says it.

        ``key`` names this stack and the kind of module, ``model`` is the one that runs.
        """
        _, kind = key
        if not self.anatomy.is_found:
            return None

        def lengths(prompts: int) -> dict[tuple[int, Path], int]:
            found: dict[tuple[int, Path], int] = {}

            def note(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                found.update({(layer, path): length for path, length in lengths_in(args, kwargs).items()})

            first = {name: value[: len(value) // self.rows] for name, value in feed.items()}
            with ExitStack() as stack, torch.no_grad():
                stack.enter_context(eager_attention(model))
                for handle in counting(self.anatomy):
                    stack.callback(handle.remove)
                for layer, block in enumerate(self.anatomy.blocks):
                    module = _called(block, kind)
                    if module is not None:
                        with only_while(block.is_running):
                            stack.callback(_call_hook(module, partial(note, layer)).remove)
                base_of(model)(**{n: torch.cat([x] * prompts) for n, x in first.items()}, **options)
            return found

        return repeats_of(model, (*key, *sorted(feed)), lengths)

    def hooked(self, last: Edit | None = None) -> ExitStack:
        """A context in which the model runs with the edits, in evaluation mode and with eager attention."""
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(self.gradients))
            # Fused attention kernels return no pattern.
            stack.enter_context(eager_attention(self.anatomy.model))
            watches: dict[nn.Module, Watch] = {}
            for one in (self, *self.stacks.values()):
                watches |= one._watches()
            if self.anatomy.is_found or watches:
                asking = {module: own for module, own in watches.items() if asks_for_attention(module)}
                stack.enter_context(watching(asking))
                own_code = {module: own for module, own in watches.items() if module not in asking}
                stack.enter_context(capturing(own_code, self.rows))
            for handle in self._handles(last):
                stack.callback(handle.remove)
            for other in self.stacks.values():
                for handle in other._handles(None):
                    stack.callback(handle.remove)
            return stack.pop_all()

    def _watches(self) -> dict[nn.Module, Watch]:
        """Calls of attention functions that are watched; of a found attention, whose module may not return them, patterns and values."""

        def watch(layer: int, prefix: str, anatomy: Anatomy) -> Watch:
            def keep(call: AttentionCall) -> None:
                if call.pattern is None:
                    raise NoPatternError(f"layer {layer} gives no attention pattern, even under eager attention")
                if not self._probing:
                    self._edited(f"{prefix}pattern", layer, call.pattern)
                    return
                self.kept[f"{prefix}pattern", layer] = call.pattern.detach()
                if prefix or not anatomy.has_projections:
                    # Heads that are smaller here than elsewhere are filled up, as z is.
                    self.kept[f"{prefix}v", layer] = fill(call.value.transpose(1, 2).detach(), anatomy.d_value)

            return keep

        several: dict[nn.Module, list[tuple[Block, Watch]]] = {}
        for prefix, anatomy in (("", self.anatomy), ("cross_", self.anatomy.cross)):
            if anatomy is None:
                continue
            wanted = {layer for of, layer in self.probed if of == prefix}
            wanted |= {layer for site, layer in self.edits if site == f"{prefix}pattern"}
            own = {layer: watch(layer, prefix, anatomy) for layer in wanted} if self.anatomy.is_found else {}
            for layer, one in sorted((own if prefix else own | self.watched).items()):
                block = anatomy.blocks[layer]
                several.setdefault(block.attention, []).append((block, one))
        return {module: watch_of(own) for module, own in several.items()}

    def _handles(self, last: Edit | None) -> Iterator[Any]:
        yield from counting(self.anatomy)
        for layer, block in enumerate(self.anatomy.blocks):
            with only_while(block.is_running):
                handles = list(self._block_handles(layer, block, last))
            yield from handles

    def _block_handles(self, layer: int, block: Block, last: Edit | None) -> Iterator[Any]:
        if self.tick is not None:
            yield _tick_hook(block.module, self.tick)
        if self._keeps_calls:
            for kind in self.calls:
                module = _called(block, kind)
                if module is not None:
                    yield _call_hook(module, partial(self.calls[kind].record, layer))
        yield from self._attention_handles(layer, block)
        yield from self._mlp_handles(layer, block)
        if ("resid_post", layer) in self.edits:
            yield self._on_output(block.leaves or block.module, "resid_post", layer)
        if last is not None and layer == len(self.anatomy.blocks) - 1:
            self.edits[_LAST] = [last]
            yield self._on_output(block.leaves or block.module, *_LAST)

    def _attention_handles(self, layer: int, block: Block) -> Iterator[Any]:
        if block.attention_output is None:
            yield from self._mixer_handles(layer, block)
            return
        # No module hands the state between attention and MLP on, so it is edited through what attention adds, which
        # needs the state that entered.
        states = ("resid_mid",) if block.cross is None else ("resid_cross", "resid_mid")
        is_sum = self.anatomy.wiring not in ("parallel", "post_norm")
        middle = is_sum and any((site, layer) in self.edits for site in states)
        if block.cross is not None:
            yield from self._cross_handles(layer, block.cross, is_sum=is_sum)
        if ("resid_pre", layer) in self.edits or middle:
            yield self._on_entering(layer, block)
        if ("", layer) in self.probed:
            yield on_call(block.attention, self._prober(layer))
        yield from self._projection_handles(layer, block)
        if ("z", layer) in self.edits:
            yield self._on_heads_outputs(block.attention_output, layer)
        if ("pattern", layer) in self.edits and not self.anatomy.is_found:
            yield on_result(block.attention, self._pattern_hook(layer))
        post = block.attention_post_norm
        if ("attn_sum", layer) in self.edits:
            yield self._on_output(block.attention_output.module, "attn_sum", layer)
        if ("attn_out", layer) in self.edits or middle:
            output = block.attention_output
            if post is None:
                yield self._on_joining(output, "attn_out", layer)
            else:
                yield self._on_output(post.module, "attn_out", layer, output.factor)
        if (states[0], layer) in self.edits and self.anatomy.wiring == "post_norm":
            yield self._on_output(block.attention_norm.module, states[0], layer)

    def _cross_handles(self, layer: int, other: Block, *, is_sum: bool) -> Iterator[Any]:
        """The same places of a block's attention to another stack."""
        output, post = other.output_projection, other.attention_post_norm
        if ("cross_", layer) in self.probed:
            yield on_call(other.attention, self._prober(layer))
        for site, role in ROLES.items():
            if (f"cross_{site}", layer) in self.edits:
                module = getattr(other, role)
                if module is None:
                    raise UnsupportedReadingError(no_projections(self.anatomy))
                yield self._on_heads(module, [f"cross_{site}"], layer)
        if ("cross_z", layer) in self.edits:
            yield self._on_input(output.module, "cross_z", layer)
        if ("cross_sum", layer) in self.edits:
            yield self._on_output(output.module, "cross_sum", layer)
        if ("resid_mid", layer) in self.edits and self.anatomy.wiring == "post_norm":
            yield self._on_output(other.attention_norm.module, "resid_mid", layer)
        if ("cross_out", layer) in self.edits or (is_sum and ("resid_mid", layer) in self.edits):
            yield self._on_output(output.module if post is None else post.module, "cross_out", layer, output.factor)

    def _mixer_handles(self, layer: int, block: Block) -> Iterator[Any]:
        """The same places of a block that does not attend; it has no heads."""
        is_normed = self.anatomy.wiring == "post_norm"
        middle = ("resid_mid", layer) in self.edits and not is_normed
        if ("resid_pre", layer) in self.edits or middle:
            yield self._on_entering(layer, block)
        if ("resid_mid", layer) in self.edits and is_normed:
            yield self._on_output(block.attention_norm.module, "resid_mid", layer)
        added = block.mixer if block.attention_post_norm is None else block.attention_post_norm.module
        if (("mixer_out", layer) in self.edits or middle) and added is not None:
            yield self._on_output(added, "mixer_out", layer, block.mixer_factor)
        if ("z", layer) in self.edits:
            yield on_call(block.module, self._empty_heads(layer))

    def _empty_heads(self, layer: int) -> Any:
        """Heads that are not there write nothing; edits of them see zeros and change nothing."""
        width = self.anatomy.n_heads * self.anatomy.d_value

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states = args[0] if args else next(iter(kwargs.values()))
            self._edited("z", layer, states.new_zeros(*states.shape[:-1], width))

        return hook

    def _projection_handles(self, layer: int, block: Block) -> Iterator[Any]:
        sites = [site for site in ROLES if (site, layer) in self.edits or (site == "v" and ("", layer) in self.probed)]
        if not self.anatomy.has_projections:
            if any((site, layer) in self.edits for site in sites):
                raise UnsupportedReadingError(no_projections(self.anatomy))
            return
        if block.fused is not None:
            if sites:
                yield self._on_heads(block.fused, sites, layer)
            return
        for site in sites:
            yield self._on_heads(getattr(block, ROLES[site]), [site], layer)

    def _mlp_handles(self, layer: int, block: Block) -> Iterator[Any]:
        # A gate and an input in one module are hooked once.
        modules = {id(p.module): p.module for p in (block.mlp_input, block.mlp_gate) if p is not None}
        if block.mlp is None:
            return
        if not modules:
            modules = {id(block.mlp): block.mlp}
        for n, module in enumerate(modules.values()):
            if ("mlp_in", layer) in self.edits:
                yield self._on_input(module, "mlp_in", layer)
            if (f"mlp_in{n}", layer) in self.edits:
                yield self._on_input(module, f"mlp_in{n}", layer)
        numbers = [int(site.removeprefix(EXPERT)) for site, at in self.edits if at == layer and site.startswith(EXPERT)]
        if numbers:
            yield from self._on_experts(block, layer, numbers)
        post = block.mlp_post_norm
        if ("neurons", layer) in self.edits:
            if block.mlp_output is None:
                raise UnsupportedReadingError(no_neurons(self.anatomy))
            yield self._on_input(block.mlp_output.module, "neurons", layer)
        if ("mlp_out", layer) in self.edits:
            written = block.mlp if post is None else post.module
            if block.mlp_beside is None:
                yield self._on_output(written, "mlp_out", layer, block.mlp_factor)
            else:
                yield from self._on_two_outputs(layer, block, written)

    def _on_entering(self, layer: int, block: Block) -> Any:
        if block.enters is None:
            return self._on_input(block.module, "resid_pre", layer)
        return self._on_output(block.enters, "resid_pre", layer)

    def _edited(self, site: str, layer: int, x: Tensor) -> Tensor:
        """The tensor after the edits of a site; the same object if nothing changed."""
        # While a layer is probed only queries, keys and values are edited: all else is edited in the run itself that
        # follows.
        if self._probing and site.removeprefix("cross_") not in ROLES:
            return x
        # Some families flatten rows and positions before a projection; edits always see rows.
        y = rows = x if x.ndim != 2 else x.view(self.rows, -1, x.shape[-1])
        for edit in self.edits.get((site, layer), ()):
            y = edit(y)
        if site == "resid_pre":
            self._entering[layer] = y
        if site in ("attn_out", "mixer_out", "cross_out") and self.anatomy.wiring not in ("parallel", "post_norm"):
            y = self._middle(site, layer, y)
        # The same object tells the hook that nothing changed, and the model goes on with its own tensor.
        return x if y is rows else y.view(x.shape)

    def _middle(self, written: str, layer: int, added: Tensor) -> Tensor:
        """The output that attention has to add so that the state after it is the edited one."""
        block = self.anatomy.blocks[layer]
        is_first = block.cross is not None and written != "cross_out"
        edits = self.edits.get(("resid_cross" if is_first else "resid_mid", layer), ())
        if edits and block.mixer is not None and layer in self.anatomy.attending:
            raise UnsupportedReadingError(
                f"the state between attention and MLP of layer {layer} is the sum of attention and a mixer beside it, and cannot be "
                "changed through one of them; change the state that leaves the layer"
            )
        before = (self._crossed if written == "cross_out" else self._entering).get(layer)
        if before is None or not (edits or is_first):
            return added
        state = middle = before + added
        for edit in edits:
            state = edit(state)
        if is_first:
            self._crossed[layer] = state
        return added if state is middle else state - before

    def _on_input(self, module: nn.Module, site: str, layer: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            name = None if args else next(iter(kwargs))
            x = args[0] if name is None else kwargs[name]
            new = self._edited(site, layer, x)
            if new is x:
                return None
            return ((new, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: new})

        return on_call(module, hook)

    def _on_heads_outputs(self, output: Projection, layer: int) -> Any:
        """Edits of what the output projection reads; heads that are smaller here than elsewhere are filled up for the edit."""
        if output.heads is None:
            return self._on_input(output.module, "z", layer)

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            filled = output.filled(args[0])
            new = self._edited("z", layer, filled)
            return None if new is filled else ((output.unfilled(new), *args[1:]), kwargs)

        return on_call(output.module, hook)

    def _on_joining(self, output: Projection, site: str, layer: int) -> Any:
        """Edits of what a projection's output joins the stream as."""
        if output.shift is None:
            return self._on_output(output.module, site, layer, output.factor)

        def hook(_module: nn.Module, _args: tuple[Any, ...], made: Tensor) -> Tensor | None:
            shown = output.joined(made)
            new = self._edited(site, layer, shown)
            return None if new is shown else output.left(new)

        return on_result(output.module, hook)

    def _on_output(self, module: nn.Module, site: str, layer: int, factor: float | Tensor = 1.0) -> Any:
        """Edits of a module's output; of one that the model multiplies by a factor, what comes after it."""

        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            x = output[0] if isinstance(output, (tuple, list)) else output
            shown = scaled(x, factor)
            new = self._edited(site, layer, shown)
            if new is shown:
                return None
            new = scaled(new, 1 / factor)
            return type(output)((new, *output[1:])) if isinstance(output, (tuple, list)) else new

        return on_result(module, hook)

    def _on_experts(self, block: Block, layer: int, numbers: Sequence[int]) -> Iterator[Any]:
        """Edits of what single experts give, with their router weights."""
        assert block.mlp is not None
        mlp = block.mlp
        read: list[Tensor] = []
        running = [False]  # an expert is asked for what it gives by the module itself, whose hooks then run again

        def begin(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            first = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
            read[:] = [first.reshape(-1, first.shape[-1])]

        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            call = None if running[0] or not read else experts_call(module, args, kwargs, output, read[0])
            if call is None:
                return None
            read.clear()
            running[0] = True
            for number in numbers:
                given = call.of(number)
                new = self._edited(f"{EXPERT}{number}", layer, given)
                if new is not given:
                    call = replace(call, output=call.with_change(number, new - given))
            running[0] = False
            return call.output

        def end(_module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
            if read:
                raise UnsupportedReadingError(
                    f"layer {layer}: {type(mlp).__name__} calls its experts in a way that is not known, so none can be changed alone; "
                    "change the MLP"
                )

        yield mlp.register_forward_pre_hook(begin, with_kwargs=True)
        for module in mlp.modules():
            if module is not mlp:
                yield module.register_forward_hook(look, with_kwargs=True)
        yield mlp.register_forward_hook(end)

    def _on_two_outputs(self, layer: int, block: Block, first: nn.Module) -> Iterator[Any]:
        """Edits of what an MLP and the module beside it write together, made through the one that runs last."""
        assert block.mlp_beside is not None
        earlier: list[Tensor] = []

        def whole(output: Any) -> Tensor:
            found: Tensor = output[0] if isinstance(output, (tuple, list)) else output
            return found

        def keep(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            earlier[:] = [whole(output) * block.mlp_factor]

        def edit(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            last = whole(output)
            # One of the two may have folded rows and positions away.
            both = earlier[0] + last.view(earlier[0].shape) * block.mlp_beside_factor
            new = self._edited("mlp_out", layer, both)
            if new is both:
                return None
            changed = ((new - earlier[0]) / block.mlp_beside_factor).view(last.shape)
            return type(output)((changed, *output[1:])) if isinstance(output, (tuple, list)) else changed

        yield on_result(first, keep)
        yield on_result(block.mlp_beside, edit)

    def _on_heads(self, module: nn.Module, sites: Sequence[str], layer: int) -> Any:
        """Edits of queries, keys or values as projected, [row, position, head, d_head]."""

        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            size = self.anatomy.d_value if sites in (["v"], ["cross_v"]) else self.anatomy.d_head
            heads = output.view(self.rows, -1, output.shape[-1] // size, size)
            # One fused projection gives all three, so edits of a site see a slice of it.
            new = heads
            for site in sites:
                part = heads_of(self.anatomy, site)
                before = new[:, :, part]
                after = self._edited(site, layer, before)
                if after is not before:
                    # Cloned at the first change: the projection's own output may be a view that autograd holds.
                    new = new.clone() if new is heads else new
                    new[:, :, part] = after
                if site == "v" and ("", layer) in self.probed:
                    self.kept["v", layer] = after.detach()
            return None if new is heads else new.view(output.shape)

        return on_result(module, hook)

    def _prober(self, layer: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._probing = True
            try:
                # Past the module's own hooks, so that this one does not call itself.
                output = module.forward(*args, **kwargs)
            finally:
                self._probing = False
            if not self.anatomy.is_found:
                self.kept["pattern", layer] = _pattern(module, output, layer)

        return hook

    def _pattern_hook(self, layer: int) -> Any:
        def hook(module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._edited("pattern", layer, _pattern(module, output, layer))

        return hook


def _called(block: Block, kind: str) -> nn.Module | None:
    """A part of a block whose calls are kept; None where it has none."""
    if kind == "cross":
        return None if block.cross is None else block.cross.attention
    found: nn.Module | None = getattr(block, kind)
    return found


_LAST = ("resid_post", -1)


def logits_of_states(loaded: LoadedModel, states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    """[row, d_vocab] logits of last states by the model's own final norm and head, at least in float32."""
    anatomy = loaded.anatomy
    logits = upcast(anatomy.head[-1](read_by_head(loaded, states))) * anatomy.logit_factor
    return logits if anatomy.softcap is None else anatomy.softcap * torch.tanh(logits / anatomy.softcap)


def read_by_head(loaded: LoadedModel, states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row width"]:
    """[row, width] input of the unembedding for last states."""
    anatomy = loaded.anatomy
    if anatomy.final_norm is not None:
        states = anatomy.final_norm.module(states)
    for module in anatomy.head[:-1]:
        states = module(states)
    return states


def heads_of(anatomy: Anatomy, site: str) -> slice:
    """Which heads of a projection's output are queries, keys or values."""
    attention = anatomy.stack.attention
    if not attention.fused or site.startswith("cross_"):
        return slice(None)
    n, g = anatomy.n_heads, anatomy.n_kv_heads
    if attention.fused_layout == "interleaved":
        return slice("qkv".index(site), None, 3)
    return {"q": slice(0, n), "k": slice(n, n + g), "v": slice(n + g, n + 2 * g)}[site]


class _Keeper:
    """An edit that changes nothing and stores the tensor."""

    def __init__(self, kept: dict[tuple[str, int], Tensor], key: tuple[str, int], gradients: bool) -> None:
        self.kept, self.key, self.gradients = kept, key, gradients

    def __call__(self, x: Tensor) -> Tensor:
        # A tensor of its own: models add to outputs of their parts in place. For autograd the rest of the pass is made of it.
        self.kept[self.key] = kept = x.clone() if self.gradients else x.detach().clone()
        return kept if self.gradients else x


def _tick_hook(module: nn.Module, tick: Tick) -> Any:
    def hook(_module: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        tick(1)

    return on_call(module, hook)


def _call_hook(module: nn.Module, use: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        use(args, kwargs)

    return on_call(module, hook)


def _pattern(module: nn.Module, output: Any, layer: int) -> Tensor:
    pattern = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    if not isinstance(pattern, Tensor) or pattern.ndim != 4:
        raise NoPatternError(
            f"{type(module).__name__} of layer {layer} returned no attention pattern; load the model with "
            "attn_implementation='eager', or change no pattern"
        )
    return pattern
