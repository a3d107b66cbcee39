"""What a trained encoder knows and how well it predicts what was hidden, beside plain baselines."""

from viewproof.evaluation.probes import ProbeScores, encode_all, probe
from viewproof.evaluation.reconstruction import hidden_errors, nearest_visible_fill

__all__ = ["ProbeScores", "encode_all", "hidden_errors", "nearest_visible_fill", "probe"]
