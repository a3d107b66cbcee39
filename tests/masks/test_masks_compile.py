from collections.abc import Callable

import pytest
import torch
from bits import arbitrary_bits, is_masked_copy, same_bits
from plain import (
    BlockMask,
    Complement,
    PatchMask,
    Rotating,
    VectorMask,
    block_mae_sample,
    hidden_patch_idxs,
    image_patch_mae_sample,
    image_patch_mask,
    split_patches,
    tensor_prefix_mae_sample,
    vector_mae_mask,
    vector_mae_sample,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

pytestmark = pytest.mark.usefixtures("fresh_compiler")

Views = tuple[Tensor, ...]


def vector(x: Tensor) -> Views:
    sample = vector_mae_sample(x.flatten(1), 5, 2)
    return sample.x, sample.y, sample.mask.hidden


def prefix(x: Tensor) -> Views:
    sample = tensor_prefix_mae_sample(x, 17, 5, 2)
    return sample.x, sample.y, sample.mask.hidden


def image(x: Tensor) -> Views:
    sample = image_patch_mae_sample(x, 2, 3, 3, 1, 20)
    return sample.x, sample.y, sample.mask.hidden


def block(x: Tensor) -> Views:
    sample = block_mae_sample(x, (None, 2, 3), 3, 1, 20)
    return sample.x, sample.y, sample.mask.hidden


def rotated(x: Tensor) -> Views:
    sample = Complement(Rotating(PatchMask(2, 3, 3, 1)).at(2)).sample(x)
    return sample.x, sample.y, sample.mask.hidden


def same_views(a: Views, b: Views) -> bool:
    return len(a) == len(b) and all(same_bits(u, v) for u, v in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("build", "dynamic"),
    [*((build, False) for build in (vector, prefix, image, block, rotated)), (prefix, True), (image, True)],
)
def test_one_graph_with_the_bits_of_eager(build: Callable[[Tensor], Views], dynamic: bool) -> None:
    compiled = torch.compile(build, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for shape in ((2, 3, 5, 7), (4, 2, 6, 5)):
        x = arbitrary_bits(shape, torch.float32)
        assert same_views(compiled(x), build(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_the_code_generator_keeps_the_bits(dtype: torch.dtype) -> None:
    compiled = torch.compile(image, backend="inductor", fullgraph=True)
    x = arbitrary_bits((2, 3, 5, 7), dtype)
    if dtype == torch.bfloat16:
        # Generated code computes in float32 and returns one NaN for all of them.
        x = torch.where(x.isnan(), 1.0, x)
    view, target, hidden = compiled(x)
    assert is_masked_copy(view, x, PatchMask(2, 3, 3, 1).mask((3, 5, 7)).hidden)
    assert same_views((target, hidden), image(x)[1:])
    if dtype.is_floating_point:
        nan = compiled(torch.full((2, 3, 5, 7), float("nan"), dtype=dtype))[0]
        assert torch.equal(nan.isnan(), ~PatchMask(2, 3, 3, 1).mask((3, 5, 7)).hidden.expand(2, -1, -1, -1))


def test_gradients_under_compile() -> None:
    compiled = torch.compile(image_patch_mask, backend="aot_eager", fullgraph=True)
    x = torch.full((2, 3, 5, 7), float("nan"), requires_grad=True)
    upstream = arbitrary_bits((2, 3, 5, 7), torch.float32)
    compiled(x, 2, 3, 3, 1).backward(upstream)
    assert is_masked_copy(x.grad, upstream, PatchMask(2, 3, 3, 1).mask((3, 5, 7)).hidden)


class VectorView(nn.Module):
    def forward(self, x: Tensor, period: int, offset: int) -> Tensor:
        return vector_mae_mask(x, period, offset)


class ImageView(nn.Module):
    def forward(self, x: Tensor, patch_h: int, patch_w: int, period: int, offset: int) -> Tensor:
        return image_patch_mask(x, patch_h, patch_w, period, offset)


class BlockView(nn.Module):
    def forward(self, x: Tensor, width: int, period: int, offset: int) -> Tensor:
        return BlockMask((width, None, 2), period, offset).mask(tuple(x.shape[1:])).apply(x)


class PrefixView(nn.Module):
    def forward(self, x: Tensor, data_dim: int, period: int, offset: int) -> Views:
        sample = tensor_prefix_mae_sample(x, data_dim, period, offset)
        return sample.x, sample.y


class ImageSample(nn.Module):
    def forward(self, x: Tensor, patch_h: int, patch_w: int, period: int, offset: int) -> Views:
        sample = image_patch_mae_sample(x, patch_h, patch_w, period, offset)
        return sample.x, sample.y, sample.mask.hidden


EXPORTS = [
    (VectorView(), (3, 11), (4, 1), [((5, 17), (3, 2)), ((2, 4), (9, 13)), ((7, 30), (4, 9))]),
    (ImageView(), (3, 4, 9, 11), (2, 3, 5, 1), [((2, 3, 8, 6), (4, 2, 2, 1)), ((5, 2, 7, 13), (3, 9, 4, 6))]),
    (BlockView(), (3, 9, 4, 11), (2, 5, 1), [((2, 8, 3, 6), (4, 2, 1)), ((5, 7, 2, 13), (3, 4, 6))]),
    (PrefixView(), (3, 4, 9), (14, 5, 1), [((2, 3, 8), (23, 2, 1)), ((5, 2, 7), (3, 4, 6))]),
    (ImageSample(), (3, 4, 9, 11), (2, 3, 5, 1), [((2, 3, 8, 6), (4, 2, 2, 1)), ((5, 2, 7, 13), (3, 9, 4, 6))]),
]


@pytest.mark.parametrize(
    ("module", "shape", "parameters", "others"),
    EXPORTS,
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_export_keeps_sizes_and_parameters_symbolic(
    module: nn.Module, shape: tuple[int, ...], parameters: tuple[int, ...], others: list[tuple[tuple[int, ...], ...]]
) -> None:
    dynamic = (dict.fromkeys(range(len(shape)), Dim.AUTO), *[Dim.AUTO] * len(parameters))
    program = torch.export.export(module, (torch.zeros(shape), *parameters), dynamic_shapes=dynamic)
    for other_shape, other_parameters in [(shape, parameters), *others]:
        x = arbitrary_bits(other_shape, torch.float32)
        exported, eager = program.module()(x, *other_parameters), module(x, *other_parameters)
        as_views = exported if isinstance(exported, tuple) else (exported,)
        assert same_views(as_views, eager if isinstance(eager, tuple) else (eager,))


def plain(mask_rule: PatchMask | VectorMask, x: Tensor) -> None:
    """A training step with tensors of no mode at all."""
    leaf = x.clone().requires_grad_()
    sample = mask_rule.sample(leaf)
    sample.x.square().sum().backward()
    assert type(sample.mask.hidden) is Tensor
    assert not torch._is_functional_tensor(sample.mask.hidden)
    assert not torch._C._functorch.is_functorch_wrapped_tensor(sample.mask.hidden)
    assert sample.mask.count == len(sample.mask.selected_idxs) > 0
    assert torch.count_nonzero(leaf.grad.flatten(1)[:, sample.mask.selected_idxs]) == 0


def in_fake_mode(rule: PatchMask, x: Tensor) -> None:
    with FakeTensorMode() as mode:
        rule.sample(mode.from_tensor(x))


def in_export(rule: PatchMask, x: Tensor) -> None:
    class View(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return rule.sample(x).x

    torch.export.export(View(), (x,), strict=False)
    torch.export.export(View(), (x,), strict=True)


def in_compile(rule: PatchMask, x: Tensor) -> None:
    torch.compile(lambda v: rule.sample(v).x, backend="aot_eager", fullgraph=True)(x)


def in_make_fx(rule: PatchMask, x: Tensor) -> None:
    for mode in ("real", "fake", "symbolic"):
        make_fx(lambda v: rule.sample(v).x, tracing_mode=mode)(x)


def in_functionalize(rule: PatchMask, x: Tensor) -> None:
    torch.func.functionalize(lambda v: rule.sample(v).x)(x)


def in_grad(rule: PatchMask, x: Tensor) -> None:
    torch.func.grad(lambda v: rule.sample(v).x.square().sum())(x)


def in_jvp(rule: PatchMask, x: Tensor) -> None:
    torch.func.jvp(lambda v: rule.sample(v).x, (x,), (x,))


def in_vmap(rule: PatchMask, x: Tensor) -> None:
    torch.func.vmap(lambda v: rule.sample(v[None]).x)(x)


def in_inference_mode(rule: PatchMask, x: Tensor) -> None:
    with torch.inference_mode():
        rule.sample(x)


def in_no_grad(rule: PatchMask, x: Tensor) -> None:
    with torch.no_grad():
        rule.sample(x)


MODES = [
    in_fake_mode,
    in_export,
    in_compile,
    in_make_fx,
    in_functionalize,
    in_grad,
    in_jvp,
    in_vmap,
    in_inference_mode,
    in_no_grad,
]


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_first_made_in_a_mode_serves_a_later_training_step(mode: Callable[[PatchMask, Tensor], None]) -> None:
    # A period that no other test uses, so that the mode is the first to make this mask.
    rule = PatchMask(2, 3, period=100 + MODES.index(mode), offset=1)
    x = torch.randn(2, 3, 5, 7)
    mode(rule, x)
    plain(rule, x)


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_made_before_a_mode_serves_inside_it(mode: Callable[[PatchMask, Tensor], None]) -> None:
    rule = PatchMask(2, 3, period=200 + MODES.index(mode), offset=1)
    x = torch.randn(2, 3, 5, 7)
    plain(rule, x)
    mode(rule, x)
    plain(rule, x)


@pytest.mark.parametrize("mode", [torch.func.grad, torch.func.functionalize, torch.func.vmap])
def test_patch_indices_first_found_in_a_mode_serve_later(mode: Callable[..., Callable[[Tensor], Tensor]]) -> None:
    mask = PatchMask(2, 3, period=300, offset=1).mask((3, 4, 6))

    def gathered(x: Tensor) -> Tensor:
        return x[split_patches(mask, 2, 3)[1]].sum()

    mode(gathered)(torch.randn(1, 4) if mode is torch.func.vmap else torch.randn(4))
    for indices in split_patches(mask, 2, 3):
        assert not torch._C._functorch.is_functorch_wrapped_tensor(indices)
        assert not torch._is_functional_tensor(indices)
    assert hidden_patch_idxs(mask, 2, 3) == [1]


def test_nothing_is_kept_where_torch_does_not_say_whether_a_transform_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = PatchMask(2, 3, period=301, offset=1)
    assert rule.mask((3, 4, 6)) is rule.mask((3, 4, 6))
    monkeypatch.delattr(torch._C._functorch, "peek_interpreter_stack")
    assert rule.mask((3, 4, 6)) is not rule.mask((3, 4, 6))
