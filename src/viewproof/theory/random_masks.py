"""Random masks, for whatever words the generator gives: counts, padding, blocks, and samples alone or in a batch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
import z3
from torch import Tensor

import viewproof as vp
from viewproof.masks.random import blocks, blockwise, draws, rule, tokens
from viewproof.symbolic.capture import Signature, TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators import TABLE
from viewproof.symbolic.terms import Term, conj, floordiv, iff, implies, known, neg, same
from viewproof.theory import spec
from viewproof.theory.case import Case, Claim, Inputs, Subject
from viewproof.theory.decide import decide
from viewproof.theory.masks import CAPTURED, theorem
from viewproof.theory.random_words import BITS, KTHVALUE, SHIFT, Order, forget, order
from viewproof.theory.registry import Mutant, Outcome, Theorem, Verdict
from viewproof.theory.samples import same_tensors
from viewproof.theory.subjects import INT, not_negative
from viewproof.theory.witness import broken, describe


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


def _theorem(
    name: str, statement: str, program: Any, cases: Sequence[Case], hypotheses: str, scope: str, *mutants: Mutant,
    more: dict[str, Any] | None = None, method: str = "", examples: Sequence[Sequence[Any]] = (),
) -> Theorem:  # fmt: skip
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


def _padded(rank: int, axis: int) -> Case:
    def matching(inputs: Inputs) -> list[Term]:
        return [same(inputs["hidden"].shape[0], inputs["lengths"].shape[0])]

    def observe(program: Any, hidden: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        return [program(hidden, lengths, hidden.shape[1:], axis)]

    def claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
        hidden, lengths = inputs["hidden"], inputs["lengths"]

        def holds(*place: Term) -> Term:
            return iff(observed[0].at(place), conj(hidden.at(place), place[axis + 1] < lengths.at(place[:1])))

        shape = Claim("the shape is kept", (), lambda: spec.same_shape(observed[0].shape, hidden.shape))
        return [shape, Claim("hidden iff it was and lies before the sample's length", hidden.shape, holds)]

    signature = {"hidden": TensorInput(rank + 1, torch.bool), "lengths": TensorInput(1, torch.int64)}
    return Case(Subject(f"rank {rank}, padded axis {axis}", signature, observe, matching), claims)


PADDED = [_padded(rank, axis) for rank in range(1, 4) for axis in range(rank)]


def _grid(inputs: Inputs) -> list[Term]:
    _, channels, rows, cols = inputs["cells"].shape
    positive = [inputs[name] > 0 for name in ("patch_h", "patch_w")]
    pairs = ((rows, "height", "patch_h"), (cols, "width", "patch_w"))
    return [
        *not_negative(inputs),
        *positive,
        channels == 1,
        *(g == spec.ceil_div(inputs[a], inputs[b]) for g, a, b in pairs),
    ]


def _of_block(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    cells, extents = inputs["cells"], (inputs["cells"].shape[0], inputs["height"], inputs["width"])

    def holds(n: Term, row: Term, col: Term) -> Term:
        place = (floordiv(x, inputs[size], positive=True) for x, size in ((row, "patch_h"), (col, "patch_w")))
        return iff(observed[0].at((n, 0, row, col)), cells.at((n, 0, *place)))

    return [Claim("a coordinate has the status of the block that holds it", extents, holds)]


SPREAD = Case(
    Subject(
        "cells of a grid",
        {"cells": TensorInput(4, torch.bool), **dict.fromkeys(("height", "width", "patch_h", "patch_w"), INT)},
        lambda program, cells, height, width, ph, pw: [program(cells, (1, height, width), (None, ph, pw))],
        _grid,
    ),
    _of_block,
)


def _every_place(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    words, bound, out = inputs["words"], inputs["bound"], observed[0]

    def word(n: Term) -> Term:
        return words.at((n,)) % 2**32

    def least(v: Term) -> Term:
        return floordiv(v * 2**32 + bound - 1, bound, positive=True)

    def reached(n: Term, v: Term) -> Term:
        return conj(same(word(n), least(v)))

    return [
        Claim(
            "the integer is from 0 to bound - 1", words.shape, lambda n: conj(out.at((n,)) >= 0, out.at((n,)) < bound)
        ),
        Claim("each such integer has a word", (bound,), lambda v: conj(least(v) >= 0, least(v) < 2**32)),
        Claim("that gives it", (*words.shape, bound), lambda n, v: same(out.at((n,)), v), reached),
    ]


BELOW = Case(
    Subject(
        "words and a bound",
        {"words": TensorInput(1, torch.int64), "bound": INT},
        lambda program, words, bound: [program(words % 2**32, bound)],
        lambda inputs: [inputs["bound"] > 0, inputs["bound"] < 2**31],
    ),
    _every_place,
)


def _in_rectangle(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    rows, cols = inputs["rows"], inputs["cols"]

    def holds(n: Term, row: Term, col: Term) -> Term:
        top, left = inputs["top"].at((n,)), inputs["left"].at((n,))
        ends = row < top + inputs["height"], col < left + inputs["width"]
        return iff(observed[0].at((n, row, col)), conj(row >= top, col >= left, *ends))

    extents = inputs["top"].shape[0], rows, cols
    shape = Claim("one grid a corner", (), lambda: spec.same_shape(observed[0].shape, extents))
    return [
        shape,
        Claim(
            "a cell lies inside iff it is at most height - 1 below and width - 1 right of the corner", extents, holds
        ),
    ]


RECTANGLE = Case(
    Subject(
        "corners",
        {
            **dict.fromkeys(("top", "left"), TensorInput(1, torch.int64)),
            **dict.fromkeys(("height", "width", "rows", "cols"), INT),
        },
        lambda program, top, left, height, width, rows, cols: [program(top, left, (height, width), (rows, cols))],
        lambda inputs: [*not_negative(inputs), same(inputs["top"].shape[0], inputs["left"].shape[0])],
    ),
    _in_rectangle,
)


def _corrupted(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    x, roles, out = inputs["x"], inputs["roles"], observed[0]
    return [
        Claim("a token of another role than 2 and 3 is unchanged", x.shape, lambda *p: same(out.at(p), x.at(p)),
              lambda *p: conj(neg(same(roles.at(p), 2)), neg(same(roles.at(p), 3)))),
        Claim("a token of role 3 is the mask id", x.shape, lambda *p: same(out.at(p), inputs["mask_id"]),
              lambda *p: same(roles.at(p), 3)),
    ]  # fmt: skip


def _one_shape(inputs: Inputs) -> list[Term]:
    shapes = [inputs[name].shape for name in ("x", "roles", "other")]
    return [*not_negative(inputs), *(same(a, b) for other in shapes[1:] for a, b in zip(shapes[0], other, strict=True))]


CORRUPTED = Case(
    Subject(
        "tokens",
        {**dict.fromkeys(("x", "roles", "other"), TensorInput(2, torch.int64)), "mask_id": INT},
        lambda program, *arguments: [program(*arguments)],
        _one_shape,
    ),
    _corrupted,
)


def _from_batch(ids: Tensor, places: int, count: int) -> Tensor:
    return hidden_places(torch.arange(ids.shape[0], device=ids.device), places, count)


def _with_batch_size(ids: Tensor, places: int, count: int) -> Tensor:
    return hidden_places(ids + ids.shape[0], places, count)


def _at_length(hidden: Tensor, lengths: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    return rule.without_padding(hidden, lengths + 1, shape, axis)


def _shifted(cells: Tensor, shape: Sequence[int], widths: Sequence[int]) -> Tensor:
    for axis in (2, 1):
        index = (torch.arange(shape[axis]) + 1) // widths[axis]
        cells = cells.index_select(axis + 1, index.clamp(max=cells.shape[axis + 1] - 1))
    return cells


_ANY = "whatever words the generator gives"
_SIZES = "all batch sizes and extents from 0"
THEOREMS = (
    _theorem(
        "exactly_count_places_are_first",
        "Of each sample's places, exactly count are chosen by their words, equal words or not.",
        choose, [EXACTLY], "0 <= count <= places < 2**31 - 1", f"{_SIZES}; {_ANY}",
        Mutant("polarity", "True = visible", lambda words, count: ~choose(words, count)),
        Mutant("below for at most", "the count-th key itself is left out",
               lambda words, count: choose(words, count - 1) if count > 0 else choose(words, 0)),
        more=KTHVALUE, method="; torch.kthvalue by its definition; induction on the places, step by Z3",
    ),
    _theorem(
        "only_eligible_places_are_first",
        "Where a sample has count eligible places or more, only eligible ones are chosen: no padding, no special "
        "token, no patch of a target for the context.",
        choose_among, [AMONG], "words from 0 to 2**32 - 1, 0 <= count <= places < 2**31 - 1", f"{_SIZES}; {_ANY}",
        Mutant("eligibility ignored", "all places are ranked alike",
               lambda words, eligible, count: choose(words, count)),
        Mutant("polarity", "the eligible places come last",
               lambda words, eligible, count: choose_among(words, ~eligible, count)),
        more=KTHVALUE, method="; torch.kthvalue by its definition; induction on the places, step by Z3",
    ),
    _theorem(
        "mask_of_one_sample_alone_eq_its_row_in_the_batch",
        "The mask of a sample in a batch is the mask that its id has alone.",
        hidden_places, [ALONE], "0 <= n < batch, 1 <= count <= places, 4 < places < 2**30",
        f"RandomBlockMask((1,), count) of seed 0 in epoch 0, on vectors; {_SIZES}; every id",
        Mutant("place in the batch", "masks are drawn by the place in the batch, not by the id", _from_batch),
        Mutant("batch size", "the size of the batch is added to the ids", _with_batch_size),
        more=BITS, method="; integer bit operators and torch.kthvalue as functions of what they are given",
        examples=[(torch.tensor([5, 9, 2]), 1, 6, 3)],
    ),
    _theorem(
        "padding_is_never_hidden",
        "With lengths, a coordinate is hidden iff the rule hides it and it lies before the sample's length.",
        rule.without_padding, PADDED, "one length a sample",
        f"any mask of any rule, data of ranks 1 to 3, every axis; {_SIZES}",
        Mutant("one too many", "the first place of the padding counts as data", _at_length),
        Mutant("order of lengths", "the lengths of the samples in another order",
               lambda hidden, lengths, shape, axis: rule.without_padding(hidden, lengths.flip(0), shape, axis)),
    ),
    _theorem(
        "every_coordinate_has_the_status_of_its_block",
        "A pixel is hidden iff its patch is, ragged last patches included: in every channel, at every time of a tube.",
        blocks.spread, [SPREAD], "patch sizes are positive, the grid is the image's", f"any choice of cells; {_SIZES}",
        Mutant("shifted", "blocks begin one pixel early", _shifted),
        Mutant("sizes swapped", "patch_w rows and patch_h columns a patch",
               lambda cells, shape, widths: blocks.spread(cells, shape, (None, widths[2], widths[1]))),
    ),
    _theorem(
        "every_place_of_a_block_is_reached",
        "A bounded integer is from 0 to bound - 1, and each of these is drawn by some word: a block reaches the last "
        "row and column.",
        draws.below, [BELOW], "0 < bound < 2**31, words from 0 to 2**32 - 1", "all bounds and words",
        Mutant("last place left out", "one place too few, as randint(0, height - h) has",
               lambda words, bound: words * (bound - 1) >> 32),
        Mutant("one place too many", "the bound itself is drawn", lambda words, bound: words * (bound + 1) >> 32),
        more=SHIFT,
    ),
    _theorem(
        "rectangle_holds_its_cells",
        "A block of that corner and size holds exactly the cells between its corners.",
        blockwise.rectangle, [RECTANGLE], "sizes and extents are non-negative", f"every corner; {_SIZES}",
        Mutant("height for width", "height and width are swapped",
               lambda top, left, size, grid: blockwise.rectangle(top, left, size[::-1], grid)),
    ),
    _theorem(
        "tokens_off_the_mask_are_unchanged",
        "A token that is neither masked nor replaced is the original; a masked one is the mask id.",
        tokens.corrupt, [CORRUPTED], "one shape for all", _SIZES,
        Mutant("kept tokens replaced", "every selected token is replaced or masked",
               lambda x, roles, other, mask_id: tokens.corrupt(x, torch.where(roles == 1, 2, roles), other, mask_id)),
    ),
)  # fmt: skip
