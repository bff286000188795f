"""Types and array shapes of the package, checked at each call in the tests.

jaxtyping checks a function that names a shape: it ties the axes of its arguments to one another. It binds every call's arguments
for that, which takes several times as long as most functions do. Where no shape is named, beartype alone checks the same types.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

_jaxtyped = jaxtyping.jaxtyped


class WrongTypeError(jaxtyping.TypeCheckError):
    """What jaxtyping raises, with its first words."""

    def __init__(self, said: str) -> None:
        super().__init__(f"Type-check error: {said}")


_plain = beartype(conf=BeartypeConf(violation_type=WrongTypeError))


def check(modules: Iterable[str]) -> None:
    """Check these modules, and those inside them, from their import on."""
    jaxtyping.install_import_hook(list(modules), "beartype.beartype")
    jaxtyping.jaxtyped = checked  # the name that the hook writes over every function and class


def checked(fn: Any = None, *, typechecker: Any) -> Any:
    """A function or class of the package that checks what it is called with."""
    if fn is None:
        return functools.partial(checked, typechecker=typechecker)
    if inspect.isclass(fn):
        if dataclasses.is_dataclass(fn) and "__init__" in vars(fn):
            fn.__init__ = checked(fn.__init__, typechecker=typechecker)
        return fn
    if not inspect.isfunction(fn) or _names_a_shape(fn):
        return _jaxtyped(fn, typechecker=typechecker)
    # A function inside another one is made at each call of that one, and checking it would be prepared each time.
    return fn if "<locals>" in fn.__qualname__ else _with_types(fn)


def _with_types(fn: Callable[..., Any]) -> Callable[..., Any]:
    plain = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    functools.update_wrapper(plain, fn)
    plain.__kwdefaults__ = fn.__kwdefaults__
    plain.__annotations__ = {name: _resolved(hint, fn.__globals__) for name, hint in fn.__annotations__.items()}
    del plain.__wrapped__
    typed = _plain(plain)

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return (fn if jaxtyping.config.jaxtyping_disable else typed)(*args, **kwargs)

    return wrapped


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """What a hint stands for; anything at all, as with jaxtyping, where its names are not there when the module is made."""
    try:
        return eval(hint, names) if isinstance(hint, str) else hint
    except Exception:
        return Any


def _names_a_shape(fn: Any) -> bool:
    """Whether an annotation has an array's shape in it, by its own words or by a name for it."""
    for hint in fn.__annotations__.values():
        if not isinstance(hint, str):
            if _is_shape(hint):
                return True
        elif any(_is_shape(fn.__globals__.get(word)) for word in re.findall(r"\w+", hint)):
            return True
    return False


def _is_shape(value: object) -> bool:
    if inspect.isclass(value) and not get_args(value):
        return issubclass(value, jaxtyping.AbstractArray | jaxtyping.AbstractDtype)
    return any(_is_shape(part) for part in get_args(value))
