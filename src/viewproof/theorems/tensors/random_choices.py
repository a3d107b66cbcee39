"""What random words choose, whatever they are: exact counts, eligible places, samples alone or in a batch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
import z3
from torch import Tensor

import viewproof as vp
from viewproof.masks.random import draws
from viewproof.symbolic.capture import Signature, TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators import TABLE
from viewproof.symbolic.terms import Term, conj, implies, known, same
from viewproof.theorems.registry import Mutant, Outcome, Theorem
from viewproof.theorems.tensors.case import Case, Claim, Inputs, Subject
from viewproof.theorems.tensors.decide import decide
from viewproof.theorems.tensors.masks import CAPTURED, theorem
from viewproof.theorems.tensors.random_words import BITS, KTHVALUE, Order, forget, order
from viewproof.theorems.tensors.samples import same_tensors
from viewproof.theorems.tensors.subjects import INT, not_negative
from viewproof.theorems.tensors.witness import broken, describe
from viewproof.verdict import Verdict


def _prover(cases: Sequence[Case], more: dict[str, Any], examples: Sequence[Sequence[Any]]) -> Callable[[Any], Outcome]:
    """The meanings of operators that no other theorem needs hold while this one is decided.

    What an example breaks needs no solver: it would find words that the generator does not give.
    """

    def prove(program: Any) -> Outcome:
        forget()
        for example in examples:
            seen = broken(cases[0], program, list(example))
            if seen is not None:
                witness = {"case": cases[0].subject.name, **describe(cases[0], list(example))}
                return Outcome(Verdict.REFUTED, seen, witness)
        with patch.dict(TABLE, more):
            return decide(cases, program)

    return prove


def random_theorem(
    name: str, statement: str, program: Any, cases: Sequence[Case], hypotheses: str, scope: str, *mutants: Mutant,
    more: dict[str, Any] | None = None, method: str = "", examples: Sequence[Sequence[Any]] = (),
) -> Theorem:  # fmt: skip
    """A theorem with meanings for operators that no other needs, and with examples to try before any proof."""
    made = theorem(
        name, "masks", statement, program, lambda: cases, *mutants, hypotheses=(hypotheses,), scope=scope,
        method=CAPTURED + method,
    )  # fmt: skip
    return replace(made, prove=_prover(cases, more or {}, examples))


def choose(words: Tensor, count: int) -> Tensor:
    """What every rule with a count does with its words."""
    return draws.first(draws.ranked(words), count)


def choose_among(words: Tensor, eligible: Tensor, count: int) -> Tensor:
    """The same among eligible places."""
    return draws.first(draws.ranked(words, eligible), count)


def _few_places(inputs: Inputs) -> list[Term]:
    places = inputs["words"].shape[1]
    return [*not_negative(inputs), places < 2**31 - 1, inputs["count"] <= places]


def _same_shapes(inputs: Inputs) -> list[Term]:
    pairs = zip(inputs["words"].shape, inputs["eligible"].shape, strict=True)
    return [*_few_places(inputs), *(same(a, b) for a, b in pairs)]


def _exactly(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    (keys, hidden), (rows, places), count = observed, inputs["words"].shape, inputs["count"]

    def total(n: Term) -> Any:
        return facts.sum(places, lambda i: Order.one_if(hidden.at((n, i))), z3.IntVal(0))

    exact = "exactly count places of a row are hidden"
    if known(places):
        return [Claim(exact, (rows,), lambda n: same(total(n), count))]

    def at(n: Term) -> Order:
        return order(facts, lambda i: keys.at((n, i)), places, count)

    def step(n: Term, i: Term) -> Term:
        key, found = keys.at((n, i)), at(n)
        grown = Order.one_if(found.place < i + 1) - Order.one_if(found.place < i)
        return same(Order.one_if(key <= found.value) - Order.one_if(key < found.value), grown)

    return [
        Claim("of the first i places, those at most the count-th key are those below it, and its own", (rows, places),
              step, lambda n, i: conj(count >= 1, at(n).place >= 0)),
        # By induction on i, up to the whole row, which holds the place.
        Claim(exact, (rows,), lambda n: same(total(n), count),
              lambda n: implies(count >= 1, at(n).at_most == at(n).below + 1)),
    ]  # fmt: skip


def _only_eligible(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    (keys, hidden), (rows, places), count = observed, inputs["words"].shape, inputs["count"]
    eligible, last = inputs["eligible"], draws._LAST

    def enough(n: Term) -> Any:
        return facts.sum(places, lambda i: Order.one_if(eligible.at((n, i))), z3.IntVal(0))

    chosen = "a hidden place is eligible, where a row has at least count eligible places"
    if known(places):
        return [
            Claim(chosen, (rows, places), lambda n, i: implies(hidden.at((n, i)), eligible.at((n, i))),
                  lambda n, i: enough(n) >= count)
        ]  # fmt: skip

    def at(n: Term) -> Order:
        return order(facts, lambda i: keys.at((n, i)), places, count)

    def step(n: Term, i: Term) -> Term:
        return Order.one_if(eligible.at((n, i))) <= Order.one_if(keys.at((n, i)) < at(n).value)

    def premise(n: Term, i: Term) -> Term:
        fewer = implies(at(n).value >= last, enough(n) <= at(n).below)
        return conj(enough(n) >= count, implies(count >= 1, fewer))

    return [
        Claim("were the count-th key that of no eligible place, all eligible keys would be below it", (rows, places),
              step, lambda n, i: conj(count >= 1, at(n).value >= last)),
        # By induction on i the eligible places are then at most those below the count-th key: fewer than count.
        Claim(chosen, (rows, places), lambda n, i: implies(hidden.at((n, i)), eligible.at((n, i))), premise),
    ]  # fmt: skip


WORDS: Signature = {"words": TensorInput(2, torch.int64), "count": INT}
EXACTLY = Case(
    Subject("words", WORDS, lambda program, words, count: [draws.ranked(words), program(words, count)], _few_places),
    _exactly,
)
AMONG = Case(
    Subject(
        "words and eligible places",
        {"words": TensorInput(2, torch.int64), "eligible": TensorInput(2, torch.bool), "count": INT},
        lambda program, words, eligible, count: [
            draws.ranked(words % 2**32, eligible), program(words % 2**32, eligible, count)
        ],
        _same_shapes,
    ),
    _only_eligible,
)  # fmt: skip


def _alone(program: Any, ids: Tensor, n: int, places: int, count: int) -> Sequence[Tensor]:
    return [program(ids, places, count)[n], program(ids[n : n + 1], places, count)[0]]


def hidden_places(ids: Tensor, places: int, count: int) -> Tensor:
    """The mask that the rule makes, generator and all."""
    return vp.RandomBlockMask((1,), count, seed=0).mask((places,), sample_ids=ids).hidden


def _one_id(inputs: Inputs) -> list[Term]:
    n, places, count = inputs["n"], inputs["places"], inputs["count"]
    return [n >= 0, n < inputs["ids"].shape[0], count >= 1, count <= places, places > 4, places < 2**30]


_IDS: Signature = {"ids": TensorInput(1, torch.int64), "n": INT, "places": INT, "count": INT}
ALONE = Case(
    Subject("sample ids", _IDS, _alone, _one_id),
    lambda inputs, observed, facts: same_tensors("the mask alone and in the batch", *observed),
)


def _from_batch(ids: Tensor, places: int, count: int) -> Tensor:
    return hidden_places(torch.arange(ids.shape[0], device=ids.device), places, count)


def _with_batch_size(ids: Tensor, places: int, count: int) -> Tensor:
    return hidden_places(ids + ids.shape[0], places, count)


_ANY = "whatever words the generator gives"
SIZES = "all batch sizes and extents from 0"
THEOREMS = (
    random_theorem(
        "exactly_count_places_are_first",
        "Of each sample's places, exactly count are chosen by their words, equal words or not.",
        choose, [EXACTLY], "0 <= count <= places < 2**31 - 1", f"{SIZES}; {_ANY}",
        Mutant("polarity", "True = visible", lambda words, count: ~choose(words, count)),
        Mutant("below for at most", "the count-th key itself is left out",
               lambda words, count: choose(words, count - 1) if count > 0 else choose(words, 0)),
        more=KTHVALUE, method="; torch.kthvalue by its definition; induction on the places, step by Z3",
    ),
    random_theorem(
        "only_eligible_places_are_first",
        "Where a sample has count eligible places or more, only eligible ones are chosen: no padding, no special "
        "token, no patch of a target for the context.",
        choose_among, [AMONG], "words from 0 to 2**32 - 1, 0 <= count <= places < 2**31 - 1", f"{SIZES}; {_ANY}",
        Mutant("eligibility ignored", "all places are ranked alike",
               lambda words, eligible, count: choose(words, count)),
        Mutant("polarity", "the eligible places come last",
               lambda words, eligible, count: choose_among(words, ~eligible, count)),
        more=KTHVALUE, method="; torch.kthvalue by its definition; induction on the places, step by Z3",
    ),
    random_theorem(
        "mask_of_one_sample_alone_eq_its_row_in_the_batch",
        "The mask of a sample in a batch is the mask that its id has alone.",
        hidden_places, [ALONE], "0 <= n < batch, 1 <= count <= places, 4 < places < 2**30",
        f"RandomBlockMask((1,), count) of seed 0 in epoch 0, on vectors; {SIZES}; every id",
        Mutant("place in the batch", "masks are drawn by the place in the batch, not by the id", _from_batch),
        Mutant("batch size", "the size of the batch is added to the ids", _with_batch_size),
        more=BITS, method="; integer bit operators and torch.kthvalue as functions of what they are given",
        examples=[(torch.tensor([5, 9, 2]), 1, 6, 3)],
    ),
)  # fmt: skip
