"""Torch modules that are not of transformers, in the form in which models are opened here.

Nothing is asked of such a module but that its forward takes token ids. The table of ids and the head are found in one pass of three
ids; what lies between them is for the search.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError
from .hooks import on_call, on_result

# A model that is loaded twice is one model. Weak values would be gone at once, so the form lives on the module itself.
_FORM = "_flowgraph_form"


@dataclass
class Output:
    """What the model gives: ``logits`` [row, position, token], or None, and its first tensor."""

    first: Tensor
    logits: Tensor | None

    def __getitem__(self, index: int) -> Tensor:
        return (self.first,)[index]

    def values(self) -> tuple[Tensor, ...]:
        """The tensors."""
        return (self.first,)


class Plain(nn.Module):
    """A module of torch as a model.

    Parameters
    ----------
    module
        Its forward takes ids [row, position] as the first argument, and needs no other.

    Raises
    ------
    ArchitectureError
        If its forward fails on three ids, or no table of vectors reads them.
    """

    main_input_name = "input_ids"
    is_plain = True
    """Whether attention of torch's own layers is computed in steps for a pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        import transformers

        self.module = module
        self.config = transformers.PretrainedConfig()
        self.config.model_type = type(module).__name__
        self.config._attn_implementation = "eager"
        self.training = module.training
        self._table, self._head = _ends(module)
        # A table that is used as the head too, by a product alone, is a linear layer here.
        self.head = _tied(self.get_input_embeddings()) if self._head == self._table else None

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of the ids' vectors."""
        table = self.module.get_submodule(self._table)
        assert isinstance(table, nn.Embedding)
        return table

    def get_output_embeddings(self) -> nn.Module | None:
        """The layer that gives a number for each id; the table itself where it is used for that; None without one."""
        return self.head if self.head is not None or self._head is None else self.module.get_submodule(self._head)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_unused: Any) -> Output:
        """Run the module."""
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError(
                "this module takes ids alone, so rows cannot be padded; trace prompts of equal length together"
            )
        first = _first(self.module(input_ids))
        is_head = self._head is not None and first.ndim == 3
        return Output(first, first if is_head else None)


def _tied(table: nn.Embedding) -> nn.Linear:
    head = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False, device="meta")
    head.weight = table.weight
    return head


def form_of(module: nn.Module) -> Plain:
    """The module as a model; the same one each time."""
    form: Plain | None = module.__dict__.get(_FORM)
    if form is None:
        # By its own name in every message.
        kind = type(type(module).__name__, (Plain,), {"__doc__": Plain.__doc__, "__module__": Plain.__module__})
        form = kind(module)
        # Not an attribute of torch's: the module would hold itself.
        module.__dict__[_FORM] = form
    return form


def _first(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        elif isinstance(output, dict) and output:
            output = next(iter(output.values()))
        else:
            raise TypeError(
                f"its forward gives a {type(output).__name__}; expected a tensor, or several with the main one first"
            )
    return output


def _ends(module: nn.Module) -> tuple[str, str | None]:
    """Paths of the table of ids and of the head."""
    kind = type(module).__name__
    needed = [
        one.name for one in inspect.signature(module.forward).parameters.values()
        if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]  # fmt: skip
    if len(needed) > 1:
        raise ArchitectureError(
            f"{kind}.forward needs {', '.join(needed)}; a torch module is opened where it needs token ids alone. Write a module around it "
            "that takes ids and makes the others"
        )
    weight = next(module.parameters(), torch.empty(0))
    # Not in rising order, so that a table of positions reads something else.
    ids = torch.tensor([[2, 1, 2]], device=weight.device)
    tables: list[str] = []
    linear: list[tuple[str, Tensor]] = []
    names = {one: name for name, one in module.named_modules()}

    def reads(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(given, Tensor) and given.numel() == ids.numel() and bool((given.reshape(-1) == ids[0]).all()):
            tables.append(names[part])

    def gives(part: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        linear.append((names[part], output))

    was_training = module.training
    with ExitStack() as hooks, torch.no_grad():
        hooks.callback(module.train, was_training)
        module.eval()
        for part in module.modules():
            if isinstance(part, nn.Embedding):
                hooks.callback(on_call(part, reads).remove)
            elif isinstance(part, nn.Linear):
                hooks.callback(on_result(part, gives).remove)
        try:
            out = _first(module(ids))
        except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ArchitectureError(
                f"{kind} fails on three token ids [1, 3] ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}); a torch "
                "module is opened where its forward takes ids alone, the rows first"
            ) from error
    if not tables:
        raise ArchitectureError(
            f"no nn.Embedding of {kind} reads the ids that it is given; a torch module is opened where its forward takes token ids"
        )
    head = next((name for name, made in linear if made.shape == out.shape and torch.equal(made, out)), None)
    table: Any = module.get_submodule(tables[0])
    if head is None and out.ndim == 3 and out.shape[-1] == table.num_embeddings:
        head = tables[0]
    return tables[0], head if out.ndim == 3 else None
