"""The four answers of a prover or a certifier."""

from enum import StrEnum


class Verdict(StrEnum):
    """PROVED, REFUTED (with a witness), UNKNOWN (with the reason) or VACUOUS; only PROVED is green."""

    PROVED = "PROVED"
    REFUTED = "REFUTED"
    UNKNOWN = "UNKNOWN"
    VACUOUS = "VACUOUS"
