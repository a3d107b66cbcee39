"""What random words choose, whatever they are: exact counts, eligible places, batch alike."""

from collections.abc import Sequence
from typing import Any

import torch
import z3
from torch import Tensor

import viewproof as vp
from viewproof.masks.random import draws, scored
from viewproof.symbolic.capture import Signature, TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, implies, one_if, same
from viewproof.theorems.tensors.case import INT, Claims, Inputs, Observed, Subject, not_negative, same_tensors
from viewproof.theorems.tensors.random_words import BITS, KTHVALUE, Order, order
from viewproof.theorems.tensors.theorem import CAPTURED, theorem

SIZES = "all batch sizes and extents from 0"
ANY_WORDS = f"{SIZES}; whatever words the generator gives"
BY_KTHVALUE = f"{CAPTURED}; torch.kthvalue by its definition; induction on the places, step by Z3"


def choose(words: Tensor, count: int) -> Tensor:
    """What every rule with a count does with its words."""
    return draws.among_first(draws.ranked(words), count)


def _last_key(inputs: Inputs, keys: Any, facts: Facts, n: Term) -> Order:
    """The count-th smallest key of row ``n``."""
    return order(facts, lambda i: keys.at((n, i)), inputs["words"].shape[1], inputs["count"])


def _count(facts: Facts, truths: Any, places: Term, n: Term) -> Any:
    """How many places of row ``n`` are true."""
    return facts.sum(places, lambda i: one_if(truths.at((n, i))), z3.IntVal(0))


def _enough_places(inputs: Inputs) -> list[Term]:
    places = inputs["words"].shape[1]
    return [*not_negative(inputs), places < 2**31 - 1, inputs["count"] <= places]


WORDS = Subject(
    "words",
    {"words": TensorInput(2, torch.int64), "count": INT},
    lambda program, words, count: [draws.ranked(words), program(words, count)],
    _enough_places,
    meanings=KTHVALUE,
)


def polarity(words: Tensor, count: int) -> Tensor:
    """True = visible."""
    return ~choose(words, count)


def below_for_at_most(words: Tensor, count: int) -> Tensor:
    """The count-th key itself is left out."""
    return choose(words, count - 1) if count > 0 else choose(words, 0)


@theorem(
    choose,
    on=WORDS,
    mutants=[polarity, below_for_at_most],
    given=("0 <= count <= places < 2**31 - 1",),
    scope=ANY_WORDS,
    method=BY_KTHVALUE,
)
def exactly_count_places_are_first(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Of each sample's places, exactly count are chosen by their words, equal words or not."""
    (keys, hidden), (rows, places), count = observed, inputs["words"].shape, inputs["count"]
    for n, i in facts.each((rows, places)) if not facts.replayed else ():
        last = _last_key(inputs, keys, facts, n)
        with facts.given(conj(count >= 1, last.place >= 0)):
            what = "of the first i places, those at most the count-th key are those below it, and its own"
            yield what, last.is_only_own(keys.at((n, i)), i)
    for (n,) in facts.each([rows]):
        # By induction on i, up to the whole row, which holds the place.
        last_alone = True
        if not facts.replayed:
            last = _last_key(inputs, keys, facts, n)
            last_alone = implies(count >= 1, last.at_most == last.below + 1)
        with facts.given(last_alone):
            yield "exactly count places of a row are hidden", same(_count(facts, hidden, places, n), count)


KEY_OF_NO_ELIGIBLE_PLACE = 2**63 - 1


def choose_among(words: Tensor, eligible: Tensor, count: int) -> Tensor:
    """What a rule with a count does with its words where only some places are eligible."""
    return draws.among_first(draws.ranked(words, eligible), count)


def _keys_and_choice_among(program: Any, words: Tensor, eligible: Tensor, count: int) -> Sequence[Tensor]:
    words = words % 2**32
    return [draws.ranked(words, eligible), program(words, eligible, count)]


def _same_shapes(inputs: Inputs) -> list[Term]:
    pairs = zip(inputs["words"].shape, inputs["eligible"].shape, strict=True)
    return [*_enough_places(inputs), *(same(a, b) for a, b in pairs)]


ELIGIBLE = Subject(
    "words and eligible places",
    {"words": TensorInput(2, torch.int64), "eligible": TensorInput(2, torch.bool), "count": INT},
    _keys_and_choice_among,
    _same_shapes,
    meanings=KTHVALUE,
)


def eligibility_ignored(words: Tensor, eligible: Tensor, count: int) -> Tensor:
    """All places are ranked alike."""
    return choose(words, count)


def eligible_places_last(words: Tensor, eligible: Tensor, count: int) -> Tensor:
    """The eligible places come last."""
    return choose_among(words, ~eligible, count)


def choice_is_eligible(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """The claims that only eligible places are chosen, where a row has count of them or more."""
    (keys, hidden), (rows, places), count = observed, inputs["words"].shape, inputs["count"]
    eligible = inputs["eligible"]
    for n, i in facts.each((rows, places)):
        eligible_count, fewer = _count(facts, eligible, places, n), True
        if not facts.replayed:
            last = _last_key(inputs, keys, facts, n)
            beyond = last.value >= KEY_OF_NO_ELIGIBLE_PLACE
            with facts.given(conj(count >= 1, beyond)):
                what = "were the count-th key that of no eligible place, all eligible keys would be below it"
                yield what, one_if(eligible.at((n, i))) <= one_if(keys.at((n, i)) < last.value)
            # By induction on i the eligible places would be at most those below the count-th key: fewer than count.
            fewer = implies(count >= 1, implies(beyond, eligible_count <= last.below))
        with facts.given(conj(eligible_count >= count, fewer)):
            only = implies(hidden.at((n, i)), eligible.at((n, i)))
            yield "a hidden place is eligible, where a row has at least count eligible places", only


@theorem(
    choose_among,
    on=ELIGIBLE,
    mutants=[eligibility_ignored, eligible_places_last],
    given=("words from 0 to 2**32 - 1, 0 <= count <= places < 2**31 - 1",),
    scope=ANY_WORDS,
    method=BY_KTHVALUE,
)
def only_eligible_places_are_first(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Where a sample has count eligible places or more, only eligible ones are chosen: no padding, no special token, no
    patch of a target for the context.
    """
    return choice_is_eligible(inputs, observed, facts)


def scored_among_all(words: Tensor, hidden: Tensor, count: int) -> Tensor:
    """Visible patches may be scored too."""
    return choose(words, count)


def scored_among_the_visible(words: Tensor, hidden: Tensor, count: int) -> Tensor:
    """Visible patches are scored."""
    return scored.choose_hidden(words, ~hidden, count)


def one_scored_patch_less(words: Tensor, hidden: Tensor, count: int) -> Tensor:
    """The count-th patch is left out."""
    return scored.choose_hidden(words, hidden, count - 1) if count > 0 else choose(words, 0)


@theorem(
    scored.choose_hidden,
    on=ELIGIBLE,
    mutants=[scored_among_all, scored_among_the_visible, one_scored_patch_less],
    given=("words from 0 to 2**32 - 1, 0 <= count <= patches < 2**31 - 1, count of a row's patches are hidden",),
    scope=ANY_WORDS,
    method=BY_KTHVALUE,
)
def scored_patches_are_hidden_patches(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Of a sample with count hidden patches or more, exactly count are scored, and each of them is hidden."""
    (keys, chosen), (rows, places), count = observed, inputs["words"].shape, inputs["count"]
    yield from choice_is_eligible(inputs, observed, facts)
    for n, i in facts.each((rows, places)) if not facts.replayed else ():
        last = _last_key(inputs, keys, facts, n)
        with facts.given(conj(count >= 1, last.place >= 0, last.value < KEY_OF_NO_ELIGIBLE_PLACE)):
            what = "where the count-th key is that of a hidden patch, no other patch has it"
            yield what, last.is_only_own(keys.at((n, i)), i)
    for (n,) in facts.each([rows]):
        hidden_count, by_induction = _count(facts, inputs["eligible"], places, n), True
        if not facts.replayed:
            # By the inductions of the claims above: the count-th key is that of a hidden patch, and its alone.
            last = _last_key(inputs, keys, facts, n)
            last_is_hidden = last.value < KEY_OF_NO_ELIGIBLE_PLACE
            by_induction = conj(
                implies(count >= 1, implies(~last_is_hidden, hidden_count <= last.below)),
                implies(conj(count >= 1, last_is_hidden), last.at_most == last.below + 1),
            )
        with facts.given(conj(hidden_count >= count, by_induction)):
            yield "exactly count patches of a row are scored", same(_count(facts, chosen, places, n), count)


def hidden_places(ids: Tensor, places: int, count: int) -> Tensor:
    """The mask that the rule makes, generator and all."""
    return vp.RandomBlockMask((1,), count, seed=0).mask((places,), sample_ids=ids).hidden


def _one_id(inputs: Inputs) -> list[Term]:
    n, places, count = inputs["n"], inputs["places"], inputs["count"]
    return [n >= 0, n < inputs["ids"].shape[0], count >= 1, count <= places, places > 4, places < 2**30]


_IDS: Signature = {"ids": TensorInput(1, torch.int64), "n": INT, "places": INT, "count": INT}
# The example refutes what needs no solver: that would find words that the generator does not give.
SAMPLE_IDS = Subject(
    "sample ids",
    _IDS,
    lambda program, ids, n, places, count: [program(ids, places, count)[n], program(ids[n : n + 1], places, count)[0]],
    _one_id,
    meanings=BITS,
    examples=[(torch.tensor([5, 9, 2]), 1, 6, 3)],
)


def place_in_the_batch(ids: Tensor, places: int, count: int) -> Tensor:
    """Masks are drawn by the place in the batch, not by the id."""
    return hidden_places(torch.arange(ids.shape[0], device=ids.device), places, count)


def batch_size(ids: Tensor, places: int, count: int) -> Tensor:
    """The size of the batch is added to the ids."""
    return hidden_places(ids + ids.shape[0], places, count)


@theorem(
    hidden_places,
    on=SAMPLE_IDS,
    mutants=[place_in_the_batch, batch_size],
    given=("0 <= n < batch, 1 <= count <= places, 4 < places < 2**30",),
    scope=f"RandomBlockMask((1,), count) of seed 0 in epoch 0, on vectors; {SIZES}; every id",
    method=f"{CAPTURED}; integer bit operators and torch.kthvalue as functions of what they are given",
)
def mask_of_one_sample_alone_eq_its_row_in_the_batch(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """The mask of a sample in a batch is the mask that its id has alone."""
    return same_tensors("the mask alone and in the batch", observed[0], observed[1], facts)
