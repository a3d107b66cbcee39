"""A user's view as a function of its input, one draw of its randomness at a time, and inputs that tell runs apart."""

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks import Mask

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Output:
    """What a view returned: ``mask`` is Boolean over y's coordinates, batch axis and all.

    ``view`` is Boolean over x's coordinates, if the view returned one; ``kept`` marks target coordinates that the loss
    asks for although x is declared to show them.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    view: Tensor | None = None
    kept: Tensor | None = None


def read(returned: Any) -> Output:
    """A `Sample`, an object or mapping with x, y and mask (and perhaps view and kept), or a tuple in that order."""
    names = ("x", "y", "mask", "view", "kept")
    if isinstance(returned, Mapping):
        parts = {name: returned.get(name) for name in names}
    elif isinstance(returned, tuple | list) and not hasattr(returned, "mask"):
        parts = dict.fromkeys(names) | dict(zip(names, returned, strict=False))
    else:
        parts = {name: getattr(returned, name, None) for name in names}
    x, y, mask = (parts[name] for name in names[:3])
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or mask is None:
        found = ", ".join(f"{name}: {type(parts[name]).__name__}" for name in names[:3])
        raise InvalidArgument(f"the view returned {found}; return a Sample or (x, y, mask), tensors and their mask")
    over = {name: spread_mask(name, parts[name], x if name == "view" else y) for name in names[2:]}
    assert over["mask"] is not None
    return Output(x, y, over["mask"], over["view"], over["kept"])


def spread_mask(name: str, mask: Any, tensor: Tensor) -> Tensor | None:
    """The mask over every coordinate of a batch: over its axes, those of one sample, or the first of either."""
    if mask is None:
        return None
    hidden = mask.hidden if isinstance(mask, Mask) else mask
    if not isinstance(hidden, Tensor) or hidden.dtype != torch.bool:
        kind = hidden.dtype if isinstance(hidden, Tensor) else type(hidden).__name__
        raise InvalidArgument(f"{name} of type {kind} must be a Mask or a bool tensor, True = hidden")
    shape, own = tuple(tensor.shape), tuple(hidden.shape)
    if isinstance(mask, Mask):
        batched = mask.per_sample
    else:
        batched = own == shape or (own != shape[1:] and len(own) > 1 and own == shape[: len(own)])
    axes = shape if batched else shape[1:]
    if own != axes[: len(own)] or (not own and axes):
        raise InvalidArgument(
            f"{name} of shape {own} does not lie over a batch of shape {shape}; mask all its axes, those of one "
            "sample, or the first of either"
        )
    return hidden.reshape(own + (1,) * (len(axes) - len(own))).expand(shape)


@contextmanager
def drawn(seed: int) -> Iterator[None]:
    """The global generators of torch, NumPy and Python start at the seed; afterwards they are as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def draws(call: Callable[[], object]) -> bool:
    """Whether a call uses one of the three global generators."""
    python_state, others = random.getstate(), (torch.get_rng_state(), str(np.random.get_state()))
    call()
    if not torch.equal(others[0], torch.get_rng_state()) or others[1] != str(np.random.get_state()):
        return True
    return random.getstate() != python_state and _draws_python_numbers(call)


def _draws_python_numbers(call: Callable[[], object]) -> bool:
    """Whether anything but a type checker does: beartype draws which item of a container it looks at."""
    generator, found, before = getattr(random.random, "__self__", None), [], sys.getprofile()

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and getattr(function, "__self__", None) is generator:
            found.append(not frame.f_code.co_filename.startswith("<@beartype"))

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(before)
    return any(found)


class View:
    """The view at one draw: called on a copy of its input, under `drawn`."""

    def __init__(self, view: Callable[[Tensor], Any], seed: int = 0) -> None:
        self.view, self.seed = view, seed

    def __call__(self, x: Tensor) -> Output:
        """What it returns for ``x``, which is left as it is."""
        return self.on(x.detach().clone())

    def on(self, x: Tensor) -> Output:
        """What it returns for this very tensor."""
        with drawn(self.seed), torch.no_grad():
            return read(self.view(x))

    def tried(self, x: Tensor) -> Output | None:
        """What it returns, or None if it has no answer for such values."""
        try:
            return self(x)
        except Exception:
            return None


def unlike(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors of one shape and dtype differ in at least one bit."""
    if a.dtype == torch.bool:
        return a != b
    if a.is_complex():
        return unlike(*(torch.view_as_real(t.resolve_conj()) for t in (a, b))).any(-1)
    word = _WORDS[a.element_size()]
    return a.detach().contiguous().view(word) != b.detach().contiguous().view(word)


def difference(a: Tensor, b: Tensor) -> tuple[int, ...] | None:
    """The first coordinate where two tensors differ in a bit; () if their shapes or dtypes do; None if nothing does."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return ()
    other = unlike(a, b)
    return place(int(other.reshape(-1).int().argmax()), a.shape) if bool(other.any()) else None


def place(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The coordinate of a flat index."""
    return tuple(int(i) for i in np.unravel_index(index, shape)) if shape else ()


def others(x: Tensor) -> Iterator[Tensor]:
    """Tensors like ``x``: its own values in another order, then new ones, tame ones first."""
    generator = torch.Generator().manual_seed(0)
    if x.is_complex():
        yield from (torch.view_as_complex(part.contiguous()) for part in others(torch.view_as_real(x)))
        return
    flat = x.reshape(-1)
    order = torch.randperm(x.numel(), generator=generator).to(x.device)
    yield flat[order].reshape(x.shape)
    if x.dtype == torch.bool:
        yield ~x
    elif x.is_floating_point():
        noise = torch.randn(x.shape, generator=generator).to(x)
        yield noise
        yield -x
        for number in (1e4, float("nan"), float("inf"), -0.0, -1.0):
            yield torch.where(noise > 0, torch.full_like(x, number), x)
        payloads = {2: 0x7D01, 4: 0x7FA00001, 8: 0x7FF4000000000001}
        if x.dtype in (torch.float16, torch.float32, torch.float64):
            word = _WORDS[x.element_size()]
            # NaN with a payload that arithmetic does not keep.
            yield torch.full_like(x, payloads[x.element_size()], dtype=word).view(x.dtype)
    else:
        low, high = int(x.min()), int(x.max())
        yield torch.randint(low, high + 1, x.shape, generator=generator).to(x)


def poisons(x: Tensor, hidden: Tensor) -> Iterator[Tensor]:
    """``x`` with other content where hidden."""
    for other in others(x):
        yield torch.where(hidden, other, x)
    if x.is_floating_point():
        for number in (float("nan"), float("-inf"), -1.0, 1.0):
            yield torch.where(hidden, torch.full_like(x, number), x)
    elif x.dtype != torch.bool and not x.is_complex():
        for number in (int(x.min()), int(x.max())):
            yield torch.where(hidden, torch.full_like(x, number), x)


def leak(view: View, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Two inputs that differ in as few hidden coordinates as a bisection finds, with another ``x`` each; and the reach.

    The reach is where x differs if all hidden coordinates do.
    """
    seen = view(x).x
    for other in poisons(x, hidden):
        output = view.tried(other)
        if output is not None and difference(seen, output.x) is not None:
            whole = output.x
            reach = unlike(seen, whole) if seen.shape == whole.shape and seen.dtype == whole.dtype else hidden & False
            return x, _fewest(view, x, other, seen), reach
    return None


def _fewest(view: View, x: Tensor, other: Tensor, seen: Tensor) -> Tensor:
    """``other`` with more and more of ``x`` in it, as long as what the view shows differs."""
    changed = unlike(x, other).reshape(-1).nonzero().reshape(-1)
    flat, new = x.reshape(-1), other.reshape(-1)

    def with_only(part: Tensor) -> Tensor:
        return flat.index_copy(0, part, new[part]).reshape(x.shape)

    while len(changed) > 1:
        half = (len(changed) + 1) // 2
        for part in (changed[:half], changed[half:]):
            output = view.tried(with_only(part))
            if output is not None and difference(seen, output.x) is not None:
                changed = part
                break
        else:
            break
    return with_only(changed)
