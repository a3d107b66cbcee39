"""The table of ATen operators: how dependence moves, and labels where that says more."""

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

from viewproof.certify.flow import label_rules as labels
from viewproof.certify.flow import moves, rules
from viewproof.certify.flow.call import Call, Row, Rule, base_name
from viewproof.certify.flow.rules import fresh, metadata, uninitialised
from viewproof.torch_internals import OpOverload, decomposes, schema

_ROWS: dict[str, Row] = {}


def _row(operators: str, dependence: Rule, labels: Rule | None = None) -> None:
    _ROWS.update(dict.fromkeys(operators.split(), Row(dependence, labels)))


# Memory, shapes and settings: one meaning for both columns.
_row("zeros_like ones_like full_like rand_like randn_like randint_like new_zeros new_ones new_full", fresh)
_row("_nested_tensor_from_mask_left_aligned", fresh)
_row("is_pinned is_same_size size stride sym_size sym_stride sym_numel sym_storage_offset", fresh)
_row("empty empty_like new_empty empty_strided new_empty_strided empty_permuted", uninitialised)
_row("resize resize_as set detach squeeze requires_grad _unsafe_view _reshape_alias unsafe_split", metadata)
_row("unsafe_split_with_sizes", metadata)

# Elements are moved, dropped, repeated or selected.
_row("clone _to_copy copy alias_copy lift_fresh_copy", rules.copied, labels.moved)
_row("fill", rules.overwritten, labels.moved)
_row("zero uniform random exponential cauchy log_normal geometric normal bernoulli", rules.overwritten)
_row("where masked_fill", rules.selected, labels.chosen)
_row(
    """cat stack repeat gather index_select index _unsafe_index take scatter index_copy index_fill slice_scatter flip
    select_scatter diagonal_scatter as_strided_scatter constant_pad_nd roll rot90 tril triu pixel_shuffle block_diag
    pixel_unshuffle channel_shuffle diag_embed masked_select masked_scatter embedding expand_copy permute_copy
    select_copy slice_copy squeeze_copy unsqueeze_copy t_copy transpose_copy unfold_copy diagonal_copy unbind_copy
    split_with_sizes_copy split_copy narrow_copy view_copy""",
    moves.moved,
    labels.moved,
)
_row("index_put _index_put_impl _unsafe_index_put", moves.indexed_put, labels.moved)
_row(
    """im2col reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d""",
    moves.interpolated,
    labels.moved,
)
_row("_pack_padded_sequence", moves.packed)
_row("scatter_add scatter_reduce index_add trace", moves.summed)

# Each element from the same ones of the operands. Most are known by torch's tag: see `row_of`.
_row("mul bitwise_and logical_and __and__", rules.product, labels.joined)
_row("bitwise_or logical_or __or__", rules.disjunction, labels.joined)
_row("add sub", rules.added, labels.joined)
_row("div", rules.quotient, labels.joined)
_row("hardswish prelu _prelu_kernel native_dropout complex polar log_sigmoid_forward", rules.pointwise)
_row("_conj_physical special_log_ndtr isreal hardsigmoid real imag", rules.pointwise)
_row("bucketize searchsorted isin", rules.looked_up)

# Axes are joined.
_row("mm bmm _int_mm mv dot vdot addmm _addmm_activation baddbmm addmv", rules.matmul)
_row("_cdist_forward _euclidean_dist", rules.distances)
_row("convolution _convolution convolution_overrideable", rules.convolution)
_row("_softmax _safe_softmax", rules.softmax)
_row("_log_softmax sort argsort topk msort _fft_r2c _fft_c2c _fft_c2r linalg_cross", rules.slices)
_row("renorm", rules.norm_of_each)
_row("sum mean nansum prod amax amin aminmax max min argmax argmin any all var std var_mean std_mean", rules.reduction)
_row("logsumexp linalg_vector_norm norm count_nonzero median nanmedian mode kthvalue", rules.reduction)
_row("mse_loss smooth_l1_loss huber_loss soft_margin_loss", rules.elementwise_loss)
_row("binary_cross_entropy binary_cross_entropy_with_logits", rules.elementwise_loss)
_row("cumsum cumprod logcumsumexp cummax cummin", rules.running)
_row("mse_loss_backward smooth_l1_loss_backward huber_loss_backward", rules.pointwise)
_row("_log_softmax_backward_data _softmax_backward_data", rules.softmax_gradient)
_row("nll_loss_forward nll_loss2d_forward", rules.class_score)
_row("nll_loss_backward nll_loss2d_backward", rules.class_score_gradient)
_row("glu", rules.halves)
_row("mkldnn_rnn_layer", rules.recurrent)
_row("native_layer_norm _fused_rms_norm", rules.layer_norm)
_row("native_group_norm", rules.group_norm)
_row("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training", rules.batch_norm)
_row("_batch_norm_with_update _batch_norm_no_update cudnn_batch_norm miopen_batch_norm", rules.batch_norm)
_row(
    """upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d col2im
    grid_sampler_2d grid_sampler_3d""",
    moves.interpolated,
)


def deciding(call: Call) -> Iterable[Tensor]:
    """The arguments whose values set the shape of the result."""
    if call.name == "_nested_tensor_from_mask_left_aligned":
        # Whether padding is at the end follows from the mask alone.
        return [call.args["mask"]]
    if torch.Tag.dynamic_output_shape not in call.func.tags:
        return ()
    if call.name == "index":
        return [i for i in call.args["indices"] if i is not None and i.dtype in (torch.bool, torch.uint8)]
    key = {"masked_select": "mask", "repeat_interleave": "repeats"}.get(call.name)
    return [call.args[key]] if key else call.read


@lru_cache(maxsize=4096)
def row_of(func: OpOverload) -> Row:
    """What is known of the operator."""
    parts, name = schema(func), base_name(func)
    if not parts.name.startswith("aten::"):
        return Row()
    if name in _ROWS:
        return _ROWS[name]
    if torch.Tag.inplace_view in func.tags:
        return Row(metadata)
    if torch.Tag.pointwise in func.tags and torch.Tag.nondeterministic_seeded not in func.tags:
        return Row(rules.pointwise, labels.joined)
    views = [r.alias_info for r in parts.returns]
    if views and all(v is not None and not v.is_write for v in views) and not decomposes(func):
        return Row(metadata)
    return Row()
