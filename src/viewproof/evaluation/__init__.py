"""What a trained encoder knows and how well it predicts what was hidden, beside plain baselines."""

from viewproof.evaluation.probes import ProbeScores, encode_all, predict_labels, probe
from viewproof.evaluation.reconstruction import HiddenErrors, draws, hidden_errors, nearest_visible_fill

__all__ = [
    "HiddenErrors",
    "ProbeScores",
    "draws",
    "encode_all",
    "hidden_errors",
    "nearest_visible_fill",
    "predict_labels",
    "probe",
]
