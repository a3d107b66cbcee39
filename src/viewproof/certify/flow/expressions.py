"""Whether two tensors that a program computes are one expression over the reals, at the shapes that run.

Every number is replaced by its value in a prime field at a random point: predictions and targets by random elements,
constants by themselves, ``exp``, ``abs``, comparisons and whatever else is no rational function by a random function of
its argument's value; the norm of an input's vector is a number whose square is the sum of its squares. Two rational
expressions that differ agree at a random point with a probability of at most their degree over 2**31 (Schwartz 1980,
Zippel 1979); three points are tried. What agrees is equal for all real values.

A branch on values is followed as it was taken, and noted: see `guards`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from viewproof.certify.flow.call import BoundCall, tensors_in
from viewproof.certify.flow.field import UNKNOWN, Entries, NoMeaning, P, constant, hashed, inverse
from viewproof.certify.flow.functions import MEANINGS
from viewproof.certify.flow.meanings import RATIONAL
from viewproof.certify.flow.rules import fresh, metadata, uninitialised
from viewproof.certify.flow.storage import Storages
from viewproof.certify.flow.table import row_of
from viewproof.certify.flow.tracker import leaving, place_of_caller, same_shapes
from viewproof.torch_internals import BelowModes, DisableTorchFunction, OpOverload, TorchDispatchMode, decomposes

POINTS = 3
_MOST_BRANCHES = 16


class Expressions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While on, keeps beside every tensor computed from `start`ed ones the values of its expressions at one point.

    ``failure`` says why nothing is known from some operator on, ``unknown`` why some entries are not; ``branches`` are
    the places that looked at a Boolean that depends; with ``flip`` the Boolean of that number, and each of the same
    expression, is answered the other way.
    """

    def __init__(self, point: int, flip: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.point, self.flip = point, flip
        self.storages, self.failure, self.unknown = Storages(value=UNKNOWN), "", ""
        # Constants that were computed: their exact values, not those that floating-point numbers round to.
        self.exact = Storages(value=UNKNOWN)
        self.branches: list[str] = []
        self.conditions: list[int] = []
        self.notes: dict[str, None] = {}
        self.logarithms: dict[int, int] = {}
        self.norms: set[int] = set()
        self.roots: dict[int, int] = {}
        self._contexts = ExitStack()

    def __enter__(self) -> Any:
        self._contexts.enter_context(_Looks(self))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._contexts.close()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    @contextmanager
    def _again(self) -> Iterator[None]:
        with DisableTorchFunction():
            super().__enter__()  # type: ignore[no-untyped-call]
            try:
                yield
            finally:
                super().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def start(self, tensor: Tensor, name: str) -> None:
        """A random element of the field for each of the tensor's elements.

        A vector along the last axis is a random number times a random unit vector, so that its norm is that number: a
        random point of ``norm ** 2 == v @ v``, which no polynomial but the multiples of that equation is 0 on. It is
        irreducible from two elements on, so that the sign of the norm does not matter.
        """
        with BelowModes():
            index = torch.arange(tensor.numel()).reshape(tensor.shape)
            entries = self.atom(f"input {name}", index)
            if tensor.dim() and tensor.shape[-1] > 1 and tensor.numel():
                # The stereographic projection of all but the last element.
                flat, norm = entries[..., :-1], self.atom(f"norm {name}", index[..., :1])
                square = (flat * flat % P).sum(-1, keepdim=True) % P
                scale = norm * inverse((square + 1) % P) % P
                entries = torch.cat([2 * flat % P * scale % P, (square - 1) % P * scale % P], -1)
                self.roots.update(zip((norm * norm % P).reshape(-1).tolist(), norm.reshape(-1).tolist(), strict=True))
            self.write(tensor, entries)

    def of(self, tensor: Tensor) -> Entries:
        """The values of the tensor's expressions; those of a constant are its own."""
        with BelowModes():
            if self.failure:
                raise NoMeaning(self.failure)
            entries = self.entries(tensor)
        if bool((entries == UNKNOWN).any()):
            raise NoMeaning(self.unknown or "it is computed from numbers that are not finite")
        return entries

    def entries(self, value: Any) -> Entries:
        """The same, -1 where nothing is known."""
        for known in (self.storages, self.exact) if isinstance(value, Tensor) else ():
            if known.derived(value):
                return known.read(value, "value")
        if isinstance(value, float):
            return constant(torch.tensor(value, dtype=torch.float64))
        return constant(value if isinstance(value, Tensor) else torch.as_tensor(value))

    def numbers(self, call: BoundCall, *names: str) -> list[Entries]:
        """The arguments' entries for arithmetic, which needs to know them."""
        found = [self.entries(call.args[name]) for name in names]
        if any(bool((e == UNKNOWN).any()) for e in found):
            raise NoMeaning(f"{call.name} computes with numbers that are not finite")
        return found

    def write(self, tensor: Tensor, entries: Any) -> None:
        """Set the tensor's entries, broadcast to its shape."""
        if not self.storages.derived(tensor) and tensor.untyped_storage().nbytes():
            whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
            if whole.numel() != tensor.numel():
                self.storages.write(whole, value=constant(whole))
        if reason := self.storages.write(tensor, value=torch.as_tensor(entries)):
            self.lose(reason)

    def lose(self, reason: str) -> None:
        """From here on nothing is known."""
        self.failure = self.failure or reason + place_of_caller()

    def atom(self, name: str, *arguments: Any) -> Entries:
        """A random function of the arguments' values, another for each name and point."""
        return hashed(f"{self.point} {name}", *arguments)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and set the entries of what it returns and writes."""
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):
            self.lose(f"{func} is no operator of a known kind")
            return func(*args, **kwargs)
        with BelowModes():
            call = BoundCall(func, args, kwargs)
            concerned = any(map(self.storages.derived, call.passed))
        rule, row = MEANINGS.get(call.name), row_of(func)
        if not concerned or self.failure:
            return self._of_constants(call, rule, func, args, kwargs)
        if rule is None and row.dependence in (metadata, fresh, uninitialised) and call.name not in ("set", "resize"):
            return func(*args, **kwargs)
        if rule is None and decomposes(func):
            with self._again():
                return func.decompose(*args, **kwargs)
        with BelowModes():
            outcome: Any = None
            dtype = call.args.get("dtype")
            try:
                if dtype and not dtype.is_floating_point and any(t.is_floating_point() for t in call.read):
                    raise NoMeaning(f"numbers are rounded to {dtype}")
                outcome = rule(self, call) if rule is not None else None
                reason = "" if rule is not None else f"{call.name} has no meaning as an expression"
            except NoMeaning as error:
                reason = str(error)
            except (RuntimeError, ValueError, TypeError, LookupError) as error:
                reason = f"{call.name} does not fit its meaning ({type(error).__name__})"
        out = func(*args, **kwargs)
        with BelowModes():
            results = list(tensors_in((out,)))
            if reason and results and self._in_results_alone(call, results):
                # What is computed of it is unknown, and nothing else.
                self.unknown, outcome = self.unknown or reason + place_of_caller(), constant(torch.tensor(math.nan))
            elif reason:
                self.lose(reason)
                return out
            values = list(outcome) if isinstance(outcome, tuple) else [outcome] * len(results)
            for tensor, entries in zip(results, values, strict=False):
                if entries is not None:
                    self.write(tensor, entries)
            if any(all(t is not r for r in results) for t in call.written):
                self.lose(f"{call.name} writes to an argument that it does not return")
        return out

    def _in_results_alone(self, call: BoundCall, results: list[Tensor]) -> bool:
        """Whether values show in what the operator's results hold, and neither in shapes nor elsewhere."""
        ordinary = call.func.namespace == "aten" and call.name not in ("set", "resize", "resize_as")
        decides = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(call.func.tags)
        everywhere = any(all(t is not r for r in results) for t in call.written)
        return ordinary and not decides and not everywhere and same_shapes(call, results)

    def _of_constants(self, call: BoundCall, rule: Any, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on constants; what fractions it computes is kept exact where its rule says how."""
        floats, entries = any(t.is_floating_point() for t in call.read), None
        with BelowModes():
            for tensor in call.written:
                self.exact.forget(tensor)
            if call.name in RATIONAL and floats and not call.written and not self.failure:
                try:
                    entries = rule(self, call)
                except Exception:
                    entries = None
        out = func(*args, **kwargs)
        if isinstance(entries, Tensor) and isinstance(out, Tensor) and out.is_floating_point():
            with BelowModes():
                self.exact.write(out, value=entries)
        return out


class _Looks(TorchFunctionMode):
    """Sees the calls that hand values to Python; answers the flipped ones the other way."""

    def __init__(self, expressions: Expressions) -> None:
        super().__init__()
        self.expressions = expressions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, own = kwargs or {}, self.expressions
        name = getattr(func, "__name__", "")
        with BelowModes():
            looked = [t for t in leaving(func, args, kwargs) if own.storages.derived(t)]
        if not looked or own.failure:
            return func(*args, **kwargs)
        if name != "__bool__":
            own.lose(f"{name} takes values out of torch")
            return func(*args, **kwargs)
        with BelowModes():
            condition = int(own.entries(looked[0]).reshape(-1)[0])
            answer = bool(looked[0])
        if condition == UNKNOWN:
            own.lose(own.unknown or "a number that is not finite decides which way it goes")
            return answer
        own.branches.append(place_of_caller().removeprefix(" at "))
        own.conditions.append(condition)
        flipped = own.flip is not None and len(own.conditions) > own.flip and condition == own.conditions[own.flip]
        return answer != flipped


def differs(
    program: Callable[[Tensor, Any], tuple[Tensor, Tensor]], prediction: Tensor, y: Tensor, allowed: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """Why the two results of ``program(prediction, y)`` are not proved to be one expression, ``""`` if they are.

    And what was assumed of the values on the way. ``allowed`` are places at which a branch on values may be taken.
    """
    notes: dict[str, None] = {}
    for point in range(POINTS):
        leaf, target = prediction.detach().clone(), y.detach().clone()
        try:
            with torch.no_grad(), Expressions(point) as expressions:
                expressions.start(leaf, "prediction")
                if target.is_floating_point():
                    expressions.start(target, "target")
                one, other = program(leaf, target)
            elsewhere = [place for place in expressions.branches if place not in allowed]
            if elsewhere:
                return f"values decide which way it goes at {elsewhere[0]}", []
            a, b = expressions.of(one), expressions.of(other)
        except NoMeaning as error:
            return str(error), []
        notes.update(expressions.notes)
        if a.shape != b.shape or not torch.equal(a, b):
            return "the two are not the same expression", []
    return "", list(notes)


def guards(program: Callable[[Tensor, Any], Any], prediction: Tensor, y: Tensor) -> list[str]:
    """The places where values decide nothing but whether the program raises: asserts, mostly."""
    found = [_outcomes(program, prediction, y, whole) for whole in {y.is_floating_point(), True}]
    return [place for place in {**found[0], **found[-1]} if all(f.get(place, True) for f in found)]


def _outcomes(program: Callable[[Tensor, Any], Any], prediction: Tensor, y: Tensor, of_target: bool) -> dict[str, bool]:
    """Whether the program raises wherever a branch on values, at each place, is taken the other way."""
    outcomes, raises, flip = dict[int, bool](), dict[str, bool](), 0
    while flip < _MOST_BRANCHES:
        expressions, raised = Expressions(0, flip), False
        leaf, target = prediction.detach().clone(), y.detach().clone()
        try:
            with torch.no_grad(), expressions:
                expressions.start(leaf, "prediction")
                if of_target:
                    expressions.start(target, "target")
                program(leaf, target)
        except Exception:
            raised = True
        if len(expressions.branches) <= flip:
            return raises
        # The same question asked twice was answered the other way both times, from the first on.
        outcome = outcomes.setdefault(expressions.conditions[flip], raised)
        place = expressions.branches[flip]
        raises[place] = raises.get(place, True) and outcome
        flip += 1
    return {}
