"""What all ways of training share; the modules for Lightning are in `viewproof.methods`."""

from viewproof.training.fixed import predict, train_fixed

__all__ = ["predict", "train_fixed"]
