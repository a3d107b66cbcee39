"""Self-supervised training in which the objective is exactly what you think it is.

Every public name is reachable from here; torch is loaded when the first one is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viewproof.certify import *
    from viewproof.errors import *
    from viewproof.losses import *
    from viewproof.masks import *
    from viewproof.models import *
    from viewproof.objectives import *
    from viewproof.runs.encoder import load_encoder as load_encoder
    from viewproof.training import *
    from viewproof.views import *

__version__ = "0.1.0"

_LAYERS = ("errors", "masks", "views", "objectives", "losses", "models", "certify", "watch", "training")
# What needs more than the core's packages: the module is loaded when the name is asked for, and only then.
_FUNCTIONS = {"load_encoder": "viewproof.runs.encoder"}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(import_module(_FUNCTIONS[name]), name)
    if name == "__all__":
        return __dir__()
    if name in (*_LAYERS, "data"):
        return import_module(f"viewproof.{name}")
    if not name.startswith("_"):
        for layer in _LAYERS:
            module = import_module(f"viewproof.{layer}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'viewproof' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({name for layer in _LAYERS for name in import_module(f"viewproof.{layer}").__all__} | set(_FUNCTIONS))
