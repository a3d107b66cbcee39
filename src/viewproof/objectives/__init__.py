"""One objective algebra, finite and exact, and the masked losses that train."""

from viewproof.objectives.barlow import (
    BarlowGuard,
    diagonal_redundancy_penalty,
    off_diagonal_redundancy_penalty,
    redundancy_reduction_objective,
)
from viewproof.objectives.contract import (
    PredictiveViewContract,
    encoded_target_predictive_view_contract,
    masked_loss,
    predictive_loss,
    predictive_view_objective,
    with_geometry_guard,
)
from viewproof.objectives.graph import (
    SSLViewGraph,
    coordinate_spread,
    graph_alignment_energy,
    graph_ssl_objective,
    real_variance_floor_guard,
    real_variance_floor_penalty,
    sq_dist,
    view_graph_energy,
)
from viewproof.objectives.jepa import jepa_as_predictive_view_contract, jepa_loss
from viewproof.objectives.losses import masked_l1, masked_mse, masked_smooth_l1, rounding_bound
from viewproof.objectives.mae import (
    block_mae_row_predictive_contract,
    image_mae_reconstruction_idxs,
    image_patch_mae_row_predictive_contract,
    image_patch_token_row_predictive_contract,
    mae_as_predictive_view_contract,
    mae_loss,
    matrix_row_as_patch_batch,
    matrix_row_as_prediction,
    row_predictive_contract,
    vector_mae_row_predictive_contract,
)
from viewproof.objectives.vicreg import VICRegGuard, variance_floor_penalty, variance_term, vicreg_objective

__all__ = [
    "BarlowGuard",
    "PredictiveViewContract",
    "SSLViewGraph",
    "VICRegGuard",
    "block_mae_row_predictive_contract",
    "coordinate_spread",
    "diagonal_redundancy_penalty",
    "encoded_target_predictive_view_contract",
    "graph_alignment_energy",
    "graph_ssl_objective",
    "image_mae_reconstruction_idxs",
    "image_patch_mae_row_predictive_contract",
    "image_patch_token_row_predictive_contract",
    "jepa_as_predictive_view_contract",
    "jepa_loss",
    "mae_as_predictive_view_contract",
    "mae_loss",
    "masked_l1",
    "masked_loss",
    "masked_mse",
    "masked_smooth_l1",
    "matrix_row_as_patch_batch",
    "matrix_row_as_prediction",
    "off_diagonal_redundancy_penalty",
    "predictive_loss",
    "predictive_view_objective",
    "real_variance_floor_guard",
    "real_variance_floor_penalty",
    "redundancy_reduction_objective",
    "rounding_bound",
    "row_predictive_contract",
    "sq_dist",
    "variance_floor_penalty",
    "variance_term",
    "vector_mae_row_predictive_contract",
    "vicreg_objective",
    "view_graph_energy",
    "with_geometry_guard",
]
