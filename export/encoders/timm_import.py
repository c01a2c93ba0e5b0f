"""Imports timm, even where torchvision is missing or does not match the build of torch.

timm imports torchvision for the transforms of its data loaders and for one class that it compares modules with; its networks
use neither. torchvision's wheel on PyPI works only with torch's build for CUDA. Where torchvision cannot be imported, a
placeholder replaces it while timm is imported, and is removed afterwards. Using the placeholder raises an error.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any, NoReturn

from edge_siamese.errors import SettingsError

REPLACED = "torchvision"


@cache
def import_timm() -> Any:
    """The module `timm`.

    Raises:
        SettingsError: timm is not installed.
    """
    try:
        if _works():
            return importlib.import_module("timm")
        with _placeholder():
            return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise SettingsError(
            "encoders of timm need the package timm: run `make setup`, or `pip install --no-deps timm`"
        ) from error


def _works() -> bool:
    """Whether torchvision can be imported; a failed attempt leaves no partially imported modules."""
    before = set(sys.modules)
    try:
        importlib.import_module(REPLACED)
    except Exception:  # with another build of torch, it raises errors of PyTorch's dispatcher
        _forget(set(sys.modules) - before)
        return False
    return True


@contextmanager
def _placeholder() -> Iterator[None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget(set(sys.modules))


def _forget(names: set[str]) -> None:
    for name in names:
        if name.partition(".")[0] == REPLACED:
            del sys.modules[name]


class _Finder(MetaPathFinder, Loader):
    """Finds torchvision and any module in it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == REPLACED else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: the attributes of a placeholder are created on first access."""


class _Module(types.ModuleType):
    """A module in which every name is a class that cannot be used."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        placeholder = _Placeholder(name, (), {"__init__": _refuse, "__module__": self.__name__})
        setattr(self, name, placeholder)
        return placeholder


class _Placeholder(type):
    """The type of placeholder classes; members of an enumeration are their names."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


def _refuse(placeholder: object, *_: object, **__: object) -> NoReturn:
    kind = type(placeholder)
    raise ImportError(f"{kind.__module__}.{kind.__name__} needs {REPLACED}, which does not work here")
