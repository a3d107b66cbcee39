"""Theorems about tensor programs: captured by `torch.export`, decided by Z3 at a symbolic coordinate."""
