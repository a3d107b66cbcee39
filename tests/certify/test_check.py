"""The runner of claims: order, format strings, several cases, and calls of the user's code that raise."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from viewproof.certify.check import Check, Claims, failure
from viewproof.certify.report import Contract, Finding
from viewproof.certify.surroundings import environment
from viewproof.torch_internals import replaced
from viewproof.verdict import Verdict

claims = Claims[int](scope="up to {case}", witness_scope="{case} alone")


@claims(Contract.C1, "the number is at least {case}")
def proves(case: int, check: Check) -> Finding:
    return check.proved("looked")


@claims(Contract.C2, "the number is not 2", method="compared")
def refutes_two(case: int, check: Check) -> Finding:
    if case == 2:
        return check.refuted("it is 2", {"number": case}, {"digit": (0,)})
    return check.undecided("only one number was tried")


@claims(Contract.C3, "of no concern")
def says_nothing(case: int, check: Check) -> None:
    return None


@claims(Contract.C4, "the number has a reciprocal", scope="these numbers")
def divides(case: int, check: Check) -> Finding:
    return check.vacuous("always 1") if 1 // case else check.refuted("too large", {"number": case})


def test_claims_are_checked_in_order_each_with_its_own_words() -> None:
    first, second, last = claims.run("number", 2)
    assert (first.contract, first.claim, first.scope, first.method) == (
        Contract.C1, "the number is at least 2", "up to 2", "run",
    )  # fmt: skip
    assert (second.verdict, second.scope, second.method) == (Verdict.REFUTED, "2 alone", "compared")
    assert second.witness is not None and second.witness.coordinates == {"digit": (0,)}
    assert (last.verdict, last.scope) == (Verdict.REFUTED, "these numbers")
    assert all(f.seconds >= 0 for f in (first, second, last))


def test_of_several_cases_the_first_that_refutes_speaks() -> None:
    _, second, _ = claims.run("number", 1, 2, 3)
    assert second.verdict is Verdict.REFUTED and second.witness is not None and second.witness.inputs == {"number": 2}
    _, second, _ = claims.run("number", 3, 4)
    assert (second.verdict, second.scope) == (Verdict.UNKNOWN, "up to 4")


def test_what_raises_is_unknown_and_the_others_are_checked() -> None:
    first, _, last = claims.run("the number", 0)
    assert first.verdict is Verdict.PROVED
    assert (last.verdict, last.scope) == (Verdict.UNKNOWN, "nothing")
    assert last.detail == "the number raised ZeroDivisionError: integer division or modulo by zero"


@pytest.mark.parametrize("message", ["", " ", "\n", " \n\t"])
def test_an_error_without_a_message_is_named(message: str) -> None:
    assert failure("f", ValueError(message)) == "f raised ValueError"


def test_each_claim_is_checked_within_its_surroundings() -> None:
    entered = []

    @contextmanager
    def around() -> Iterator[None]:
        entered.append(len(entered))
        yield

    claims.run("number", 1, around=around)
    assert entered == [0, 1, 2, 3]
    assert len((claims + claims).run("number", 1)) == 6


class Clock:
    hour = 12


def test_surroundings_are_put_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(RuntimeError), replaced(Clock, "hour", 1), environment({"RANK": "3", "LOCAL_RANK": "3"}):
        assert Clock.hour == 1 and os.environ["RANK"] == os.environ["LOCAL_RANK"] == "3"
        raise RuntimeError
    assert Clock.hour == 12 and os.environ["RANK"] == "0" and "LOCAL_RANK" not in os.environ
