"""Every operator of the table of dependence, run: what changes is never said not to."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_dependence import ALL_PROGRAMS, INDEX, KEEP, LSTM, WEIGHT, claimed, denied, example, missed
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.certify.flow import table
from viewproof.certify.flow.tracker import Tracker

Program = Callable[[Tensor], Any]
A = torch.ops.aten
ROW = torch.tensor([1.0, -2.0, 0.5, 3.0])
ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
TO = torch.zeros(2, 4, 6)
# Of other devices, and questions that are no operators of their own.
NOT_RUN = {
    *("convolution_overrideable", "cudnn_batch_norm", "miopen_batch_norm", "is_pinned", "is_same_size", "size"),
    *("requires_grad", "stride", "sym_numel", "sym_size", "sym_storage_offset", "sym_stride"),
}


def image(x: Tensor) -> Tensor:
    return x.reshape(1, 2, 4, 6)


def volume(x: Tensor) -> Tensor:
    return x.reshape(1, 2, 2, 2, 6)


OPERATORS: dict[str, Program] = {
    "__and__": lambda x: A.__and__(x > 0, KEEP),
    "__or__": lambda x: A.__or__(x > 0, KEEP),
    "bitwise_and": lambda x: (x > 0) & KEEP,
    "bitwise_or": lambda x: (x > 0) | KEEP,
    "bitwise_and int": lambda x: x.nan_to_num(0, 0, 0).int() & 3,
    "bitwise_or int": lambda x: x.nan_to_num(0, 0, 0).int() | 3,
    "logical_and": lambda x: torch.logical_and(x, KEEP),
    "logical_or": lambda x: torch.logical_or(x, KEEP),
    "logical_or num": lambda x: torch.logical_or(KEEP * 1.5, x),
    "_adaptive_avg_pool3d": lambda x: A._adaptive_avg_pool3d(volume(x), [1, 2, 4]),
    "adaptive_max_pool3d": lambda x: A.adaptive_max_pool3d(volume(x), [1, 2, 4]),
    "avg_pool3d": lambda x: F.avg_pool3d(volume(x), (1, 2, 3), 1),
    "max_pool3d": lambda x: A.max_pool3d_with_indices(volume(x), [1, 2, 3], [1, 1, 1]),
    "avg_pool1d": lambda x: A.avg_pool1d(x, [3], [2], [1]),
    "avg_pool div": lambda x: F.avg_pool2d(x, 2, 2, divisor_override=3),
    "_addmm_activation": lambda x: A._addmm_activation(x[0, :, 0], x[0, :, :3], ROWS[:3, :4]),
    "addmv": lambda x: A.addmv(ROW, x[0], x[1, 0]),
    "addmv self": lambda x: A.addmv(x[0, :, 0], ROWS, x[1, 0], beta=2),
    "baddbmm": lambda x: A.baddbmm(x[:, :, :4], x, x.mT),
    "vdot": lambda x: A.vdot(x[0, 0], WEIGHT[:, 0]),
    "_int_mm": lambda x: A._int_mm(
        (x.nan_to_num(0, 0, 0).clamp(-9, 9).to(torch.int8)[0]).repeat(5, 4)[:, :24], torch.ones(24, 8, dtype=torch.int8)
    ),
    "_euclidean_dist": lambda x: A._euclidean_dist(x[0], ROWS),
    "bn legit": lambda x: A._native_batch_norm_legit.no_stats(x, ROW, None, True, 0.1, 1e-5),
    "bn legit stats": lambda x: (
        lambda m, v: (A._native_batch_norm_legit(x, None, None, m, v, True, 0.1, 1e-5)[0], m, v)
    )(torch.zeros(4), torch.ones(4)),
    "bn no train": lambda x: A._native_batch_norm_legit_no_training(
        x, x[0, :, 0], None, x[1, :, 0], torch.ones(4), 0.1, 1e-5
    ),
    "bn update": lambda x: (lambda m, v: (A._batch_norm_with_update(x, None, None, m, v, 0.1, 1e-5)[0], m, v))(
        torch.zeros(4), torch.ones(4)
    ),
    "bn no update": lambda x: A._batch_norm_no_update(x, None, x[0, :, 1], torch.zeros(4), torch.ones(4), 0.1, 1e-5)[0],
    "_conj_physical": lambda x: torch.view_as_real(A._conj_physical(torch.complex(x, x.flip(2)))),
    "complex": lambda x: torch.view_as_real(torch.complex(x, KEEP * 1.0)),
    "polar": lambda x: torch.view_as_real(torch.polar(x, x.flip(1))),
    "imag": lambda x: torch.complex(x, x.flip(1)).imag * 1,
    "real": lambda x: torch.complex(x, x.flip(1)).real * 1,
    "isreal": lambda x: torch.isreal(torch.complex(x, x.flip(1))),
    "view_as_real_copy": lambda x: A.view_as_real_copy(torch.complex(x, x.flip(1))),
    "_convolution": lambda x: A._convolution(
        x, torch.ones(2, 4, 3), None, [1], [1], [1], False, [0], 1, False, False, False, False
    ),
    "fft": lambda x: torch.view_as_real(torch.fft.fft(torch.complex(x, x), dim=1)),
    "irfft": lambda x: torch.fft.irfft(torch.complex(x, x), dim=2),
    "fft2": lambda x: torch.fft.fft2(x).abs(),
    "rms": lambda x: A._fused_rms_norm(x, [6], WEIGHT[:, 0], 1e-5)[0],
    "rms w": lambda x: A._fused_rms_norm(ROWS, [6], x[0, 0], 1e-5)[0],
    "_index_put_impl": lambda x: A._index_put_impl_(TO.clone(), [None, torch.tensor([1])], x[:, :1], True),
    "_unsafe_index": lambda x: A._unsafe_index(x, [None, INDEX]),
    "_unsafe_index_put": lambda x: A._unsafe_index_put(x, [None, INDEX[:1]], x[:, 1:2] * 1),
    "_log_softmax_backward": lambda x: A._log_softmax_backward_data(x, x.flip(1).log_softmax(2), 2, torch.float32),
    "_softmax_backward": lambda x: A._softmax_backward_data(x, ROWS.softmax(1).expand(2, 4, 6), 2, torch.float32),
    "_softmax_backward o": lambda x: A._softmax_backward_data(ROWS.expand(2, 4, 6), x.softmax(2), 2, torch.float32),
    "prelu": lambda x: A._prelu_kernel(x, x.flip(1)),
    "PReLU": lambda x: F.prelu(x, x[0, :, 0]),
    "bicubic_aa": lambda x: F.interpolate(x[None], (2, 3), mode="bicubic", antialias=True),
    "bilinear_aa": lambda x: F.interpolate(x[None], (2, 3), mode="bilinear", antialias=True),
    "nearest-exact": lambda x: F.interpolate(x, 9, mode="nearest-exact"),
    "nearest-exact2": lambda x: F.interpolate(x[None], (3, 9), mode="nearest-exact"),
    "nearest-exact3": lambda x: F.interpolate(volume(x), (3, 3, 9), mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x[None], (5, 7), mode="bilinear"),
    "nearest2": lambda x: F.interpolate(x[None], (5, 7)),
    "nearest3": lambda x: F.interpolate(volume(x), (3, 3, 7)),
    "trilinear": lambda x: F.interpolate(volume(x), (3, 3, 7), mode="trilinear"),
    "alias_copy": lambda x: A.alias_copy(x),
    "lift_fresh_copy": lambda x: A.lift_fresh_copy(x),
    "expand_copy": lambda x: A.expand_copy(x[:, :1], [2, 3, 6]),
    "permute_copy": lambda x: A.permute_copy(x, [2, 0, 1]),
    "select_copy": lambda x: A.select_copy(x, 1, 2),
    "slice_copy": lambda x: A.slice_copy(x, 2, 1, 5, 2),
    "squeeze_copy": lambda x: A.squeeze_copy(x[:, :1]),
    "t_copy": lambda x: A.t_copy(x[0]),
    "transpose_copy": lambda x: A.transpose_copy(x, 1, 2),
    "unfold_copy": lambda x: A.unfold_copy(x, 2, 3, 2),
    "unbind_copy": lambda x: A.unbind_copy(x, 1),
    "split_copy": lambda x: A.split_copy(x, 2, 2),
    "swsc": lambda x: A.split_with_sizes_copy(x, [1, 5], 2),
    "unsqueeze_copy": lambda x: A.unsqueeze_copy(x, 1),
    "diagonal_copy": lambda x: A.diagonal_copy(x, 1, 1, 2),
    "narrow_copy": lambda x: A.narrow_copy(x, 1, 1, 2),
    "as_strided_scatter": lambda x: A.as_strided_scatter(x, x[0, :2, :2] * 1, [2, 2], [3, 1], 5),
    "diagonal_scatter": lambda x: A.diagonal_scatter(x, x[:, :, 0] * 1, 0, 1, 2),
    "select_scatter": lambda x: A.select_scatter(x, x[:, 0] * 1, 1, 2),
    "slice_scatter": lambda x: A.slice_scatter(TO, x[:, :2], 1, 1, 3),
    "all": lambda x: (x > 0).all(1),
    "amin": lambda x: x.amin(1),
    "min": lambda x: x.min(2),
    "argmin": lambda x: x.argmin(1),
    "argsort": lambda x: x.argsort(1),
    "median": lambda x: x.median(1),
    "mode": lambda x: x.round().mode(1),
    "kthvalue": lambda x: x.kthvalue(2, 1),
    "prod": lambda x: x.prod(1),
    "prod all": lambda x: x.prod(),
    "count_nonzero": lambda x: x.count_nonzero(1),
    "count2": lambda x: x.count_nonzero((0, 2)),
    "std_mean": lambda x: torch.std_mean(x, 1),
    "var": lambda x: x.var((0, 2)),
    "var_mean": lambda x: torch.var_mean(x, (1,)),
    "cummin": lambda x: x.cummin(1),
    "msort": lambda x: x.msort(),
    "median all": lambda x: x.median(),
    "any all": lambda x: (x > 0).any(),
    "argmax all": lambda x: x.argmax(),
    "argmax keep": lambda x: x.argmax(1, keepdim=True),
    "max all": lambda x: x.max(),
    "bce": lambda x: F.binary_cross_entropy(x.sigmoid().nan_to_num(0.5), KEEP * 1.0, reduction="none"),
    "bce w": lambda x: F.binary_cross_entropy(KEEP * 1.0, KEEP * 1.0, x.abs(), reduction="none"),
    "bcel": lambda x: A.binary_cross_entropy_with_logits(x, KEEP * 1.0, None, x[0, 0].abs(), 0),
    "huber": lambda x: F.huber_loss(x, KEEP * 1.0, reduction="none"),
    "mse": lambda x: F.mse_loss(KEEP * 1.0, x, reduction="none"),
    "sl1": lambda x: F.smooth_l1_loss(x, x.flip(1), reduction="none"),
    "soft_margin": lambda x: A.soft_margin_loss(x, KEEP * 2.0 - 1, 0),
    "mse sum": lambda x: F.mse_loss(x, TO, reduction="sum"),
    "mse_bw": lambda x: A.mse_loss_backward(x, x.flip(1), TO, 0),
    "sl1_bw": lambda x: A.smooth_l1_loss_backward(x, x.flip(1), TO, 0, 1.0),
    "huber_bw": lambda x: A.huber_loss_backward(x, x.flip(1), TO, 0, 1.0),
    "mse_bw mean": lambda x: A.mse_loss_backward(x[0, 0, 0], x.flip(1), TO, 1),
    "nll2d": lambda x: F.cross_entropy(x[None], torch.zeros(1, 4, 6).long(), reduction="none"),
    "nll2d_bw": lambda x: A.nll_loss2d_backward(
        x[0, :3][None],
        ROWS.reshape(1, 4, 3, 2).repeat(1, 1, 1, 3),
        torch.ones(1, 3, 6).long(),
        None,
        0,
        -100,
        torch.tensor(0.0),
    ),
    "block_diag": lambda x: torch.block_diag(x[0], ROWS, x[1]),
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
    "bucketize b": lambda x: torch.bucketize(ROWS, x[0, 0].sort().values),
    "isin": lambda x: torch.isin(x, x[0, 0, :2]),
    "isin t": lambda x: torch.isin(ROWS, x[0, 0]),
    "channel_shuffle": lambda x: A.channel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "diag_embed": lambda x: x.diag_embed(1),
    "index_fill": lambda x: x.index_fill(1, INDEX, 0.0),
    "index_fill t": lambda x: TO.index_fill(1, INDEX[:1], x[0, 0, 0]),
    "take": lambda x: x.take(torch.tensor([0, 5, 23])),
    "triu": lambda x: x.triu(1),
    "cauchy": lambda x: x.clone().cauchy_(),
    "geometric": lambda x: x.clone().geometric_(0.5),
    "log_normal": lambda x: x.clone().log_normal_(),
    "uniform": lambda x: x.clone().uniform_(),
    "random": lambda x: x.clone().random_(),
    "zero": lambda x: x.clone().zero_(),
    "normal t": lambda x: torch.normal(x, 1.0),
    "normal s": lambda x: torch.normal(0.0, x.abs().nan_to_num(1, 1, 1)),
    "exponential": lambda x: x.clone().exponential_(),
    "empty": lambda x: (A.empty_permuted([2, 3], [1, 0]).fill_(1), x.new_empty_strided((2, 3), (3, 1)).fill_(2)),
    "full_like": lambda x: (torch.full_like(x, 2.0), x.new_full((2,), 3.0), x.new_ones(2), x.new_zeros(3)),
    "rand_like": lambda x: (torch.rand_like(x), torch.randn_like(x), torch.randint_like(x, 5)),
    "full_like x": lambda x: torch.full_like(x, x[0, 0, 0]),
    "new_full x": lambda x: x.new_full((2,), x[0, 0, 0]),
    "grid3d": lambda x: F.grid_sample(volume(x), torch.linspace(-1, 1, 24).reshape(1, 2, 2, 2, 3), align_corners=True),
    "hardsigmoid": lambda x: F.hardsigmoid(x),
    "hardswish": lambda x: F.hardswish(x),
    "logsigmoid": lambda x: A.log_sigmoid_forward(x)[0],
    "log_ndtr": lambda x: torch.special.log_ndtr(x),
    "native_dropout": lambda x: A.native_dropout(x, 0.4, True),
    "reflect2": lambda x: F.pad(x[None], (1, 2, 2, 1), mode="reflect"),
    "reflect3": lambda x: F.pad(volume(x), (1, 2, 1, 1, 1, 0), mode="reflect"),
    "repl2": lambda x: F.pad(x[None], (1, 2, 2, 1), mode="replicate"),
    "repl3": lambda x: F.pad(volume(x), (1, 2, 1, 1, 1, 0), mode="replicate"),
    "circular": lambda x: F.pad(x, (1, 2), mode="circular"),
    "scatter_reduce": lambda x: TO.scatter_reduce(1, INDEX[None, :, None].expand(2, 4, 6), x, "amax"),
    "scatter_reduce excl": lambda x: x.scatter_reduce(
        1, INDEX[None, :, None].expand(2, 4, 6), x.flip(2), "prod", include_self=False
    ),
    "scatter_reduce mean": lambda x: x.scatter_reduce(1, INDEX[None, :, None].expand(2, 4, 6), x.flip(2), "mean"),
    "resize_as": lambda x: x.clone().resize_as_(torch.zeros(2, 4, 6)),
    "unsafe_split": lambda x: [t * 1 for t in A.unsafe_split_with_sizes(x, [1, 5], 2)],
    "reshape_alias": lambda x: A._reshape_alias(x, [8, 6], [6, 1]) * 1,
    "cross dim": lambda x: torch.linalg.cross(x[..., :3], x[..., 3:]),
    "topk dim": lambda x: x.topk(2, 1),
    "trace": lambda x: x[0].trace(),
    "dot": lambda x: x[0, 0] @ x[1, 0],
    "cov": lambda x: torch.cov(x[0]),
    "glu": lambda x: F.glu(x, 2),
    "distance p1": lambda x: torch.cdist(x, ROWS[None], p=1.0),
    "pdist": lambda x: F.pdist(x[0]),
    "renorm": lambda x: x.renorm(2, 2, 0.5),
    "left aligned": lambda x: x * torch._nested_tensor_from_mask_left_aligned(x, torch.arange(4).expand(2, 4) < 3),
    "aminmax": lambda x: x.aminmax(dim=1),
    "nanmedian": lambda x: x.nanmedian(1),
    "norm": lambda x: A.norm(x, 2),
    "zeros_like": lambda x: torch.zeros_like(x) + x[:1],
    "empty_strided": lambda x: A.empty_strided([2, 4, 6], [24, 6, 1]).copy_(x),
    "rot90": lambda x: x.rot90(1, (0, 2)),
    "where scalar": lambda x: torch.where(x > 0, 1.0, x.flip(1)),
    "masked_fill t": lambda x: TO.masked_fill(KEEP, x[0, 0, 0]),
    "masked_fill dep": lambda x: x.flip(1).masked_fill(x > 0, 0.0),
    "repeat_interleave t": lambda x: x.repeat_interleave(torch.tensor([1, 2, 0, 1]), 1),
    "fill t": lambda x: TO.clone().fill_(x[0, 0, 0]),
    "fill func": lambda x: A.fill(TO, x[0, 0, 0]),
    "copy bcast": lambda x: TO.clone().copy_(x[:, :1]),
    "lstm bi": nn.LSTM(6, 3, bidirectional=True),
    "rnn": nn.RNN(6, 3),
    "lstm2": nn.LSTM(6, 3, num_layers=2, batch_first=True),
    "lstm h": lambda x: LSTM(TO, (x[:1, :2, :3].contiguous(), torch.zeros(1, 2, 3))),
    "softmax dim0": lambda x: x.softmax(0),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "norm1": lambda x: torch.linalg.vector_norm(x, 1, (0, 1)),
    "mean all": lambda x: x.mean(),
    "sum list": lambda x: x.sum([]),
    "nansum": lambda x: x.nansum(2),
    "instance": lambda x: F.group_norm(x, 4, x[0, :, 0], x[1, :, 0]),
    "ln weights": lambda x: F.layer_norm(ROWS, (6,), x[0, 0], x[0, 1]),
    "ln2": lambda x: F.layer_norm(x, (4, 6)),
    "embedding weight": lambda x: F.embedding(INDEX, x[0]),
    "emb pad": lambda x: F.embedding(INDEX, x[0], padding_idx=0),
    "gather dep": lambda x: ROWS.expand(2, 4, 6).gather(2, x.abs().nan_to_num(0, 0, 0).long().clamp(0, 5)),
    "conv2d": lambda x: F.conv2d(image(x), torch.ones(4, 1, 2, 2), groups=2),
    "convT": lambda x: F.conv_transpose2d(image(x), torch.ones(2, 3, 2, 2), stride=2, output_padding=1),
    "mm out": lambda x: torch.mm(x[0], WEIGHT, out=torch.zeros(4, 5)),
    "max out": lambda x: torch.max(x, 1, out=(torch.zeros(2, 6), torch.zeros(2, 6).long())),
    "addmm_": lambda x: torch.zeros(4, 4).addmm_(x[0], ROWS.T),
    "mul_": lambda x: TO.clone().add_(1).mul_(x),
    "index_add a": lambda x: TO.index_add(1, INDEX, x, alpha=2),
    "addcdiv": lambda x: TO.addcdiv(x, x.flip(1)),
    "foreach": lambda x: torch._foreach_add([x, TO], 1.0),
    "foreach_": lambda x: (lambda t: (torch._foreach_add_(t, [x, x.flip(1)]), t)[1])([TO.clone(), TO.clone()]),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_no_change_is_missed(name: str) -> None:
    x, where = example(1)
    where[0, 0, 0] = True
    assert [missed(OPERATORS[name], x, where, finite) for finite in (False, True)] == [0, 0]
    assert missed(torch.inference_mode()(OPERATORS[name]), x, where) == 0
    assert denied(OPERATORS[name]) == 0


def test_every_operator_of_the_table_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, outcome = set(), Tracker._outcome

    def noted(self: Tracker, call: Any) -> Any:
        seen.add(call.name)
        return outcome(self, call)

    monkeypatch.setattr(Tracker, "_outcome", noted)
    # Where gradients may be asked for, torch takes some operators apart before they are seen.
    for program in (*ALL_PROGRAMS.values(), *OPERATORS.values(), *map(torch.inference_mode(), OPERATORS.values())):
        claimed(program, *example(0))
    assert not table._ROWS.keys() - seen - NOT_RUN
