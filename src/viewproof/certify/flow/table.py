"""The table from ATen operators to rules of dependence; an operator that is not in it mixes everything."""

from collections.abc import Iterable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.flow.call import Call, Rule, base_name
from viewproof.certify.flow.moves import indexed_put, interpolated, moved, packed, summed
from viewproof.certify.flow.rules import (
    added,
    batch_norm,
    convolution,
    copied,
    disjunction,
    distances,
    filled,
    first_only,
    fresh,
    group_norm,
    halves,
    layer_norm,
    matmul,
    metadata,
    pointwise,
    product,
    recurrent,
    reduction,
    running,
    selected,
    slices,
    softmax,
    uninitialised,
)


def _each(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_RULES: dict[str, Rule] = {
    **_each(fresh, "zeros_like ones_like full_like rand_like randn_like randint_like new_zeros new_ones new_full zero"),
    **_each(fresh, "uniform random exponential cauchy log_normal geometric"),
    **_each(uninitialised, "empty empty_like new_empty empty_strided new_empty_strided empty_permuted"),
    **_each(
        metadata,
        "resize resize_as set detach squeeze requires_grad _unsafe_view _reshape_alias unsafe_split "
        "unsafe_split_with_sizes",
    ),
    **_each(copied, "clone _to_copy copy alias_copy lift_fresh_copy view_copy"),
    **_each(filled, "fill"),
    **_each(product, "mul bitwise_and logical_and __and__"),
    **_each(disjunction, "bitwise_or logical_or __or__"),
    **_each(selected, "where masked_fill"),
    **_each(added, "add sub"),
    **_each(
        pointwise,
        "hardswish prelu _prelu_kernel native_dropout complex polar log_sigmoid_forward bernoulli normal "
        "_conj_physical special_log_ndtr isreal hardsigmoid real imag view_as_real_copy",
    ),
    **_each(partial(matmul, a="self", b="mat2"), "mm bmm _int_mm"),
    **_each(partial(matmul, a="self", b="vec"), "mv"),
    **_each(partial(matmul, a="self", b="tensor"), "dot"),
    **_each(partial(matmul, a="self", b="other"), "vdot"),
    **_each(partial(matmul, a="mat1", b="mat2", bias="self"), "addmm _addmm_activation"),
    **_each(partial(matmul, a="batch1", b="batch2", bias="self"), "baddbmm"),
    **_each(partial(matmul, a="mat", b="vec", bias="self"), "addmv"),
    **_each(distances, "_cdist_forward _euclidean_dist"),
    **_each(convolution, "convolution _convolution convolution_overrideable"),
    **_each(softmax, "_softmax _safe_softmax"),
    **_each(slices, "_log_softmax sort argsort topk msort _fft_r2c _fft_c2c _fft_c2r linalg_cross renorm"),
    **_each(
        reduction,
        "sum mean nansum prod amax amin aminmax max min argmax argmin any all var std var_mean std_mean logsumexp "
        "linalg_vector_norm norm count_nonzero median nanmedian mode kthvalue",
    ),
    **_each(running, "cumsum cumprod logcumsumexp cummax cummin"),
    **_each(halves, "glu"),
    **_each(partial(first_only, table="boundaries"), "bucketize"),
    **_each(partial(first_only, table="sorted_sequence"), "searchsorted"),
    **_each(partial(first_only, table="test_elements"), "isin"),
    **_each(recurrent, "mkldnn_rnn_layer"),
    **_each(layer_norm, "native_layer_norm _fused_rms_norm"),
    **_each(group_norm, "native_group_norm"),
    **_each(
        batch_norm,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update "
        "_batch_norm_no_update cudnn_batch_norm miopen_batch_norm",
    ),
    **_each(
        moved,
        "cat stack repeat gather index_select index _unsafe_index take scatter index_copy index_fill slice_scatter "
        "select_scatter diagonal_scatter as_strided_scatter constant_pad_nd flip roll rot90 tril triu pixel_shuffle "
        "pixel_unshuffle channel_shuffle diag_embed masked_select masked_scatter embedding expand_copy permute_copy "
        "select_copy slice_copy squeeze_copy unsqueeze_copy t_copy transpose_copy unfold_copy diagonal_copy "
        "split_with_sizes_copy split_copy unbind_copy narrow_copy block_diag",
    ),
    **_each(packed, "_pack_padded_sequence"),
    **_each(summed, "scatter_add scatter_reduce index_add trace"),
    **_each(indexed_put, "index_put _index_put_impl _unsafe_index_put"),
    **_each(
        interpolated,
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d "
        "_adaptive_avg_pool3d max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d "
        "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d "
        "im2col col2im grid_sampler_2d grid_sampler_3d",
    ),
}
# Sampled by rejection: how many random numbers are drawn follows from the values.
_REJECTING = ("binomial", "poisson", "_standard_gamma", "multinomial")


def attention(func: Any) -> bool:
    """Whether the operator is one of torch's fused attentions, whose meaning is the plain computation."""
    name = str(func)
    kinds = ("flash", "efficient", "cudnn", "fused")
    return name.startswith(tuple(f"aten._scaled_dot_product_{kind}" for kind in kinds)) and "backward" not in name


def deciding(call: Call) -> Iterable[Tensor]:
    """The arguments whose values set the shape of the result."""
    if torch.Tag.dynamic_output_shape not in call.func.tags:
        return ()
    if call.name == "index":
        return [i for i in call.args["indices"] if i is not None and i.dtype in (torch.bool, torch.uint8)]
    key = {"masked_select": "mask", "repeat_interleave": "repeats"}.get(call.name)
    return [call.args[key]] if key else call.read


@lru_cache(maxsize=4096)
def rule_for(func: Any) -> Rule | None:
    """The operator's rule, None if it has none."""
    if not func._schema.name.startswith("aten::"):
        return None
    name = base_name(func)
    in_place = func._schema.is_mutable and not any(a.name == "out" for a in func._schema.arguments)
    if name == "normal" and in_place:
        return fresh
    if name == "fill" and not any(a.name == "value" and "Tensor" in str(a.type) for a in func._schema.arguments):
        return fresh
    if name == "bernoulli" and any(a.name == "p" for a in func._schema.arguments):
        return filled
    if name in _RULES:
        return _RULES[name]
    if torch.Tag.inplace_view in func.tags:
        return metadata
    if torch.Tag.pointwise in func.tags and name not in _REJECTING:
        return pointwise
    views = [r.alias_info for r in func._schema.returns]
    if views and all(v is not None and not v.is_write for v in views) and not func._can_decompose():
        return metadata
    return None
