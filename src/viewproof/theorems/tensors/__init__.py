"""Theorems about tensor programs, captured by `torch.export` and decided by Z3."""
