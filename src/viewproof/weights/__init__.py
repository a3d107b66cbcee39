"""Weights of vision transformers from and to other libraries, with a check of equal features."""
