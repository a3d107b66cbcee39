from collections.abc import Callable

import pytest
import torch
from bits import same_bits
from plain import Mask, Sample, image_patch_mae_sample, masked_l1, masked_mse, masked_smooth_l1, vector_mae_sample
from torch import Tensor, nn
from torch.export import Dim

pytestmark = pytest.mark.usefixtures("fresh_compiler")

LOSSES = [masked_mse, masked_l1, masked_smooth_l1]
Loss = Callable[..., Tensor]


@pytest.mark.parametrize(
    ("loss", "reduction"), [*((loss, "mean") for loss in LOSSES), (masked_mse, "sum"), (masked_mse, "rows")]
)
def test_view_and_loss_are_one_graph_with_the_value_and_gradient_of_eager(loss: Loss, reduction: str) -> None:
    def step(x: Tensor, prediction: Tensor) -> Tensor:
        return loss(prediction, image_patch_mae_sample(x, 2, 3, 3, 1, 40), reduction=reduction)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    for n in (2, 5):
        x, prediction = torch.randn(n, 2, 4, 6, generator=generator), torch.randn(n, 40, generator=generator)
        results = []
        for function in (compiled, step):
            p = prediction.clone().requires_grad_()
            value = function(x, p)
            value.sum().backward()
            results.append((value.detach(), p.grad))
        assert all(same_bits(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_poison_off_the_mask_under_compile(loss: Loss) -> None:
    def step(x: Tensor, prediction: Tensor) -> Tensor:
        return loss(prediction, vector_mae_sample(x, 2, 0))

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    x, p = torch.randn(3, 6), torch.randn(3, 6, requires_grad=True)
    compiled(x, p).backward()
    clean, p.grad = p.grad, None
    with torch.no_grad():
        p[:, 1::2] = float("nan")
    compiled(x, p).backward()
    assert same_bits(p.grad, clean)


@pytest.mark.parametrize(
    ("backend", "empty"),
    [("aot_eager", "mask"), ("aot_eager", "batch"), ("aot_eager", "per-sample mask"), ("inductor", "per-sample mask")],
)
def test_the_mean_over_nothing_raises_under_compile_too(backend: str, empty: str) -> None:
    def step(x: Tensor, prediction: Tensor, hidden: Tensor) -> Tensor:
        if empty == "per-sample mask":
            sample = Sample(x, x, Mask(hidden, per_sample=True))
        else:
            sample = vector_mae_sample(x, 0 if empty == "mask" else 2, 0)
        return masked_mse(prediction, sample)

    n = 0 if empty == "batch" else 3
    compiled = torch.compile(step, backend=backend, fullgraph=True)
    with pytest.raises(RuntimeError, match="the mean loss of an empty mask has no value"):
        compiled(torch.ones(n, 6), torch.ones(n, 6), torch.zeros(n, 6, dtype=torch.bool))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("over", ["hidden", "all"])
def test_export_with_symbolic_sizes_and_parameters(loss: Loss, over: str) -> None:
    class Step(nn.Module):
        def forward(self, x: Tensor, prediction: Tensor, period: int, offset: int) -> Tensor:
            return loss(prediction, vector_mae_sample(x, period, offset), over=over)

    shapes = {0: Dim.AUTO, 1: Dim.AUTO}
    program = torch.export.export(
        Step(), (torch.ones(3, 11), torch.ones(3, 11), 4, 1), dynamic_shapes=(shapes, shapes, Dim.AUTO, Dim.AUTO)
    )
    for n, data_dim, period, offset in ((3, 11, 4, 1), (5, 17, 3, 7), (2, 8, 8, 2)):
        x, prediction = torch.randn(n, data_dim), torch.randn(n, data_dim)
        exported = program.module()(x, prediction, period, offset)
        assert same_bits(exported, Step()(x, prediction, period, offset))


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_sample_made_outside_enters_a_compiled_loss(per_sample: bool) -> None:
    hidden = torch.tensor([[True, False, True], [True, False, True]])
    mask = Mask(hidden, per_sample=True) if per_sample else Mask(hidden[0])
    y, prediction = torch.randn(2, 3), torch.randn(2, 3)
    compiled = torch.compile(lambda p, sample: masked_mse(p, sample), backend="aot_eager", fullgraph=True)
    sample = Sample(y, y, mask)
    assert same_bits(compiled(prediction, sample), masked_mse(prediction, sample))
