"""The two errors that viewproof raises on purpose."""

__all__ = ["ContractViolation", "InvalidArgument"]


class InvalidArgument(ValueError):
    """An argument that has no meaning: the message names it, its value, the rule and the remedy.

    >>> raise InvalidArgument("period=-1 must be a non-negative integer; pass period=0 to hide nothing")
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: period=-1 must be a non-negative integer; pass period=0 to hide nothing
    """


class ContractViolation(AssertionError):
    """A running pipeline broke a contract; the message names the contract and the coordinates."""
