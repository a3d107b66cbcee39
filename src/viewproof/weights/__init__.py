"""Weights of vision transformers from and to the formats of other libraries, with a check that the function is the same."""
