"""Training."""

__all__: list[str] = []
