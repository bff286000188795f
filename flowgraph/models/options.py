"""What can be said of a model beside its name: where it is put, in which numbers, from which version of its files."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..errors import ArgumentError

_PLANS = ("auto", "balanced", "balanced_low_0", "sequential")
_OF_FILES = {
    "device_map": "says where the weights of files are put",
    "quantization_config": "says how the weights of files are packed",
    "revision": "names a branch, tag or commit of a repository on the hub",
    "subfolder": "names a folder inside a model's folder or repository",
    "trust_remote_code": "is about code that comes with files",
    "adapter": "is put on a model that is opened from files",
}
"""Options that say something of files, and what."""


@dataclass(frozen=True)
class Options:
    """The options of :func:`flowgraph.load_model` that say how files are opened, as they were given."""

    device_map: Any = None
    quantization_config: Any = None
    revision: str | None = None
    subfolder: str | None = None
    trust_remote_code: bool = False
    adapter: str | Path | None = None

    def check(self, source: Any, device: Any) -> None:
        """Refuse what is no such option, and options that contradict each other or what is opened.

        Raises
        ------
        ArgumentError
            Naming both sides.
        """
        self._check_types()
        if not isinstance(source, (str, Path)):
            self._refuse_all("a model in memory has none: change the model yourself")
        if self.device_map is not None and device != "auto":
            raise ArgumentError(
                f"device={device!r} puts the whole model in one place and device_map={self.device_map!r} its parts in several; "
                "give one of the two"
            )
        if self.adapter is not None and self.quantization_config is not None:
            raise ArgumentError(
                "adapter= is added to the weights, and quantization_config= packs them, so that nothing can be added; leave one out"
            )
        if self.device_map is not None:
            require("accelerate", "offload", "device_map=")

    def _check_types(self) -> None:
        if not isinstance(self.trust_remote_code, bool):
            raise ArgumentError(f"trust_remote_code={self.trust_remote_code!r}; expected True or False")
        for name in ("revision", "subfolder"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                what = (
                    "the name of a branch, tag or commit" if name == "revision" else "a folder inside the model's files"
                )
                example = "'step1000'" if name == "revision" else "'text_encoder'"
                raise ArgumentError(f"{name}={value!r} is not {what}; expected a text such as {example}, or None")
        if self.adapter is not None and not isinstance(self.adapter, (str, Path)):
            raise ArgumentError(
                f"adapter={self.adapter!r}; expected a folder that holds adapter_config.json and adapter_model.safetensors"
            )
        if self.device_map is not None and not _is_map(self.device_map):
            raise ArgumentError(
                f"device_map={self.device_map!r}; expected {', '.join(map(repr, _PLANS))}, a device, or a dictionary from the names of "
                "modules to devices, 'cpu' or 'disk'"
            )

    def _refuse_all(self, why: str) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value is not False:
                raise ArgumentError(f"{field.name}={value!r} {_OF_FILES[field.name]}; {why}, or leave {field.name} out")

    @property
    def places(self) -> list[Any]:
        """Devices that the map names, each once."""
        if isinstance(self.device_map, Mapping):
            return [place for place in dict.fromkeys(self.device_map.values()) if place != "disk"]
        return [] if self.device_map is None or self.device_map in _PLANS else [self.device_map]

    def check_names(self, names: Collection[str]) -> None:
        """Refuse a map that names parts which the model does not have.

        Raises
        ------
        ArgumentError
            Naming them.
        """
        if isinstance(self.device_map, Mapping):
            wrong = [key for key in self.device_map if key and key not in names]
            if wrong:
                raise ArgumentError(
                    f"device_map={self.device_map!r} does not fit this model, which has no part called {', '.join(map(repr, wrong))}; its "
                    f"parts are {', '.join(map(repr, list(names)[:4]))} …"
                )

    def refuse(self, name: str, what: str) -> None:
        """Refuse one option, if it was given, for what is opened.

        Raises
        ------
        ArgumentError
            Naming the option.
        """
        value = getattr(self, name)
        if value is not None:
            raise ArgumentError(f"{name}={value!r} {_OF_FILES[name]}, but {what}; leave {name} out")


def require(package: str, extra: str, what: str) -> None:
    """Refuse what needs a package that is not installed.

    Raises
    ------
    ArgumentError
        Naming the package, and the extra that brings it.
    """
    if importlib.util.find_spec(package) is None:
        raise ArgumentError(
            f"{what} needs {package}, which is not installed: pip install 'transformer-flowgraph[{extra}]'"
        )


def _is_map(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(key, str) and _is_place(place) for key, place in value.items())
    return (isinstance(value, str) and value in _PLANS) or (_is_place(value) and value != "disk")


def _is_place(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (str, int, torch.device)):
        return False
    if value == "disk" or isinstance(value, int):
        return True
    try:
        torch.device(value)
    except RuntimeError:
        return False
    return True
