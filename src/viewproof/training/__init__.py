"""Loops that train: plain ones here, Lightning's Trainer in `viewproof.training.module`."""

from viewproof.training.fixed import predict, train_fixed

__all__ = ["predict", "train_fixed"]
