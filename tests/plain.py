"""The core, models and data as users import them, a second copy beside the one whose shapes the test run checks.

The checks would speak before our own errors do, and a compiler cannot trace them. ``from plain import PatchMask``
is the user's class; `installed` makes ``import viewproof`` mean this copy for a while.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

LAYERS = ("errors", "masks", "views", "objectives", "losses", "models", "data", "training.augment")


def _take_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.split(".")[0] == "viewproof"]
    return {name: sys.modules.pop(name) for name in names}


def _load() -> dict[str, ModuleType]:
    checked, finders = _take_out(), sys.meta_path[:]
    sys.meta_path[:] = [finder for finder in finders if not type(finder).__module__.startswith("jaxtyping")]
    try:
        for layer in LAYERS:
            import_module(f"viewproof.{layer}")
        return _take_out()
    finally:
        sys.meta_path[:] = finders
        sys.modules.update(checked)


MODULES = _load()
for _layer in LAYERS:
    _module = MODULES[f"viewproof.{_layer}"]
    globals().update({name: getattr(_module, name) for name in getattr(_module, "__all__", ())})
split_patches = MODULES["viewproof.masks.patches"].split_patches


@contextmanager
def installed() -> Iterator[None]:
    """The compiler looks up a function's globals by the name of its module, so the names must be this copy's."""
    checked = _take_out()
    sys.modules.update(MODULES)
    try:
        yield
    finally:
        _take_out()
        sys.modules.update(checked)
