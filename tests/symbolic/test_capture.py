"""Captures that fail say why, and torch is left as it was."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

pytest.importorskip("z3")

from torch.fx.experimental.symbolic_shapes import ShapeEnv

from viewproof.symbolic.capture import CaptureFailed, TensorInput, capture


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError(), "ValueError"),
        (ValueError("  "), "ValueError"),
        (ValueError("\nfirst\nsecond"), "ValueError: first"),
        (KeyError("name"), "KeyError: 'name'"),
    ],
)
def test_a_program_that_stops_leaves_its_reason(error: Exception, message: str) -> None:
    def program(x: Any) -> Sequence[torch.Tensor]:
        raise error

    methods = ShapeEnv.evaluate_sym_node, ShapeEnv.guard_or_defer_runtime_assert
    with pytest.raises(CaptureFailed) as failed:
        capture(program, {"x": TensorInput(1)}, {"x": (2,)})
    assert str(failed.value) == message
    assert methods == (ShapeEnv.evaluate_sym_node, ShapeEnv.guard_or_defer_runtime_assert)


def test_a_torch_without_the_private_method_leaves_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ShapeEnv, "evaluate_sym_node")
    with pytest.raises(CaptureFailed, match=r"AttributeError: .*evaluate_sym_node"):
        capture(lambda x: [x + 1], {"x": TensorInput(1)}, {"x": (2,)})
