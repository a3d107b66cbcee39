"""Every private name of torch that this library uses, and what is done without it.

Nothing else in the package touches ``torch._*`` or an attribute that begins with an underscore of a torch object.
"""

import torch
from torch import Tensor

CHECKED = ("2.13.0", "2.14.1")
"""The versions of torch that the tests were run on."""


def under_transform() -> bool:
    """Whether a transform such as `torch.func.vmap` is running; True where torch does not say.

    True is the safe answer: what is made under a transform must not be kept for later calls.

    >>> torch.func.vmap(lambda x: x + under_transform())(torch.zeros(2)), under_transform()
    (tensor([1., 1.]), False)
    """
    try:
        return torch._C._functorch.peek_interpreter_stack() is not None
    except AttributeError:
        return True


def assert_in_graph(condition: Tensor, message: str) -> None:
    """Make a compiled graph raise ``RuntimeError(message)`` where ``condition`` is False.

    Without ``torch._assert_async`` compilation stops with an AttributeError: no check is left out silently.
    """
    torch._assert_async(condition, message)
