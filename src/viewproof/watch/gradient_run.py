"""The run that finds by gradients which groups of the sources are seen, and which are scored."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.torch_internals import DisableTorchFunction, replaced
from viewproof.watch.planes import Plan, PlannedRun
from viewproof.watch.run import tensors_of_call
from viewproof.watch.sources import with_tensors

_PARTS = ("unbind", "split", "split_with_sizes", "chunk", "tensor_split")


def _each_a_view(func: Callable[..., Any]) -> Callable[..., Any]:
    """The same parts of a tensor, but each is a view by itself: what takes gradients may be written in place then."""

    @wraps(func)
    def parts(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return tuple(x.as_strided(t.shape, t.stride(), t.storage_offset()) for t in func(x, *args, **kwargs))

    return parts


class GradientRun(PlannedRun):
    """Which coordinates of floating-point sources have a gradient, with all that stops gradients taken away.

    Not held: the gradient of a random combination of the predictions. Held: that of the losses; of target encoders'
    outputs, which are cut from the source, each position's own. With ``mutated``, what is written in place where the
    program computes no gradients keeps the value that they need.
    """

    def __init__(
        self,
        plan: Plan,
        held: bool,
        stop: Callable[[], Any],
        sources: dict[str, Tensor],
        parameters: list[nn.Parameter],
        mutated: bool = False,
    ) -> None:
        super().__init__(plan, held, stop)
        self.parameters, self.mutated, self._turned_on = parameters, mutated, False
        self.leaves = {
            path: t.detach().clone().requires_grad_() for path, t in sources.items() if t.is_floating_point()
        }
        self.sources, self.found = sources, {p: torch.zeros(t.shape, dtype=torch.bool) for p, t in sources.items()}
        self.looked_at: list[Tensor] = []
        self.values: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.positions: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.position_calls: dict[str, list[int]] = {}
        self.position_sources: dict[str, list[list[str]]] = {}

    def batch(self, batch: Any) -> Any:
        """The batch with leaves that take gradients in the place of its sources."""
        return with_tensors(batch, {id(self.sources[path]): leaf.clone() for path, leaf in self.leaves.items()})

    def turn_on(self) -> None:
        """Have gradients everywhere but at parameters."""
        self._turned_on = True
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        torch.set_grad_enabled(True)
        enter = self._contexts.enter_context
        enter(replaced(torch._C, "_set_grad_enabled", lambda mode: None))
        enter(replaced(torch.inference_mode, "__enter__", lambda mode: None))
        enter(replaced(torch.inference_mode, "__exit__", lambda mode, *error: None))
        if self.mutated:
            enter(torch.autograd.graph.allow_mutation_on_saved_tensors())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; what detaches passes gradients on."""
        args, kwargs = self.replaced_tensors(args, kwargs)
        name = getattr(func, "__name__", "") if self._turned_on else ""
        if name in ("detach", "detach_", "__get__") and args and isinstance(args[0], Tensor) and args[0].requires_grad:
            if name != "__get__" or func == Tensor.data.__get__:  # type: ignore[attr-defined]
                self.functions += 1
                with DisableTorchFunction():
                    return args[0].view_as(args[0])
        elif name == "requires_grad_" or func == Tensor.requires_grad.__set__:  # type: ignore[attr-defined]
            if args[0].grad_fn is not None:
                # It takes gradients already, as the source does here.
                self.functions += name == "requires_grad_"
                return args[0]
        elif name in _PARTS and args[0].requires_grad:
            func = _each_a_view(func)
        elif name in ("numpy", "__array__", "tolist", "__deepcopy__") and isinstance(args[0], Tensor):
            with DisableTorchFunction():
                args = (args[0].detach(), *args[1:])
        return super().__torch_function__(func, types, args, kwargs)

    def prediction(self, out: Any) -> Any:
        """Held: without its gradient."""
        with DisableTorchFunction():
            if self.held:
                return with_tensors(out, {id(t): t.detach() for t in tensors_of_call(out) if t.requires_grad})
            self.looked_at += [t for t in tensors_of_call(out) if t.requires_grad]
            self.values += [t.detach().clone().cpu() for t in tensors_of_call(out)]
        return out

    def target(self, path: str, out: Any) -> Any:
        """A leaf of its own."""
        with DisableTorchFunction():
            new = {}
            for tensor in tensors_of_call(out):
                if tensor.is_floating_point() and tensor.dim() > 1:
                    leaf = tensor.detach().clone().requires_grad_()
                    self.position_calls.setdefault(path, []).append(self.target_call)
                    self.position_sources.setdefault(path, []).append(self._one_behind_another(tensor))
                    self.positions.setdefault(path, []).append((leaf, torch.zeros(leaf.shape, dtype=torch.bool)))
                    new[id(tensor)] = leaf.clone()
            return with_tensors(out, new)

    def _one_behind_another(self, out: Tensor) -> list[str]:
        """The sources of which an output's rows are made, if it was given several, one behind the other; else []."""
        sizes, order = {len(leaf) for leaf in self.leaves.values()}, list[str]()
        size = max(sizes, default=0)
        if len(sizes) != 1 or len(out) % size or len(out) == size or not out.requires_grad:
            return []
        for part in torch.tensor_split(out, len(out) // size):
            for row in (0, size - 1):
                direction = torch.randn(part[row].shape, generator=torch.Generator().manual_seed(0)).to(out)
                self._in_backward = True
                gradients = torch.autograd.grad(
                    part[row], [*self.leaves.values()], direction, retain_graph=True, allow_unused=True
                )
                self._in_backward = False
                pairs = zip(self.leaves, gradients, strict=True)
                read = {
                    path: (g != 0).flatten(1).any(1).nonzero().flatten().tolist() for path, g in pairs if g is not None
                }
                read = {path: rows for path, rows in read.items() if rows}
                if list(read.values()) != [[row]]:
                    return []
                order += read if not row else ()
                if [*read] != order[-1:]:
                    return []
        return order if len({*order}) == len(order) else []

    def on_backward(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """Compute the gradients that are asked here, not those of the program."""
        with DisableTorchFunction():
            self.losses += [t.detach().clone().cpu() for t in losses]
            tensors = losses if self.held else self.looked_at
            generator = torch.Generator().manual_seed(self.backwards)
            total: Any = 0
            for t in tensors:
                if t.requires_grad:
                    weight = torch.rand(t.shape, generator=generator).to(t) + 0.5
                    total = total + (t * weight).sum() if t.is_floating_point() else total
            leaves = [*self.leaves.values(), *(leaf for parts in self.positions.values() for leaf, _ in parts)]
            if isinstance(total, Tensor) and leaves:
                self._in_backward = True
                gradients = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
                self._in_backward = False
                masks = [self.found[p] for p in self.leaves]
                masks += [m for parts in self.positions.values() for _, m in parts]
                for mask, gradient in zip(masks, gradients, strict=True):
                    if gradient is not None:
                        mask |= (gradient != 0).cpu()
        if self.backwards >= self.plan.backwards:
            self.stop()
        return None
