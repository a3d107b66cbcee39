"""What ``allow=`` may name. Nothing of torch is imported: the command line asks before a script imports it."""

from collections.abc import Mapping

from viewproof.errors import InvalidArgument

CONTRACTS = {
    "C1": "hidden content does not reach the encoder",
    "C2": "visible content passes unchanged",
    "C3": "the target is the declared, unmasked source",
    "C4": "the loss sums over exactly the hidden set",
    "C6": "target branch: no gradient, EMA right",
    "C7": "collapse is seen",
    "C8": "reproducible by seed, epoch and sample",
    "C9": "numerics",
    "C10": "no leak inside the model",
}
CLAIMS = (
    "the step can be run again from where it was",
    "no scored group of the source is seen",
    "no row reads the token that it is asked for",
    "no scored position is padding",
    "no scored row reads padding",
    "padding that the batch names is left out",
    "what is scored is content of the source",
    "the step does not erase content of its batch",
    "no gradient reaches a target encoder",
    "the target encoder averages its student",
    "the target encoder draws nothing",
    "what is trained takes gradients and is moved by them",
    "loss and gradients are finite",
    "no operator makes a NaN",
    "two views of a sample differ",
    "every term that is computed is part of the loss",
    "no negative is the anchor or its positive",
    "a row's positive is of its own sample",
    "no negative is padding",
    "negatives are taken of the own rank",
    "no prediction depends on uninitialised memory",
    "predictions differ from place to place",
)
"""The contracts and the claims of a watched step; many claims concern some steps only."""


def check_allow(allow: Mapping[str, str]) -> None:
    """Raise `InvalidArgument` for a name that no watched step has, or a reason that is empty."""
    for name, reason in allow.items():
        if name not in (*CONTRACTS, *CONTRACTS.values(), *CLAIMS):
            raise InvalidArgument(
                f"allow={name!r} must be a contract or a claim of a watched step; those are: "
                f"{', '.join(CONTRACTS)}; {'; '.join(CLAIMS)}"
            )
        if not reason.strip():
            raise InvalidArgument(f"allow={name!r} must have a reason; say why it is accepted")
