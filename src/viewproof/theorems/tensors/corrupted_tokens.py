"""BERT's corruption as `TokenMask` makes it: which tokens are selected, and what becomes of each."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import z3
from torch import Tensor

from viewproof.masks import Mask, Sample, TokenMask
from viewproof.masks.random import draws, tokens
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.table import axis_of
from viewproof.symbolic.tensor import Index, SymTensor
from viewproof.symbolic.terms import Term, conj, floordiv, iff, implies, ite, mod, neg, one_if, same
from viewproof.theorems.tensors import spec
from viewproof.theorems.tensors.case import INT, Claims, Inputs, Observed, Subject, TensorCase
from viewproof.theorems.tensors.random_choices import BY_KTHVALUE, KEY_OF_NO_ELIGIBLE_PLACE, SIZES
from viewproof.theorems.tensors.random_words import SHIFT, Order, order
from viewproof.theorems.tensors.theorem import Enumeration, theorem

WORDS, COUNTS = TensorInput(2, torch.int64), TensorInput(1, torch.int64)
ENDS = ("masked", "replaced", "selected")
"""The numbers of tokens of a row that are masked; masked or replaced; selected."""


class Corruption:
    """`TokenMask.sample`, and the three parts that it is made of."""

    allowed: Callable[..., Tensor] = staticmethod(tokens.allowed_tokens)
    roles: Callable[..., Tensor] = staticmethod(tokens.roles_by_words)
    corrupt: Callable[..., Tensor] = staticmethod(tokens.corrupt)
    sample: Callable[..., Sample] = staticmethod(TokenMask.sample)


def _composed(program: Any, rule: TokenMask, x: Tensor, sample_ids: Tensor, epoch: int) -> Sample:
    """The sample that the program's parts make of the rule's words and counts."""
    words = draws.Draws(rule.seed, epoch, sample_ids)
    allowed = program.allowed(x, torch.tensor(rule.special, dtype=x.dtype))
    sums = itertools.accumulate((rule.masked, rule.replaced, rule.kept))
    ends = [torch.tensor([c if rule.per is None else c * int(n) // rule.per for n in allowed.sum(1)]) for c in sums]
    roles = program.roles(words.words(x.shape[1]), allowed, ends)
    other = draws.below(words.words(x.shape[1], stream=1), rule.vocabulary)
    mask = Mask(roles > 0, per_sample=True, rule=rule)
    return Sample(program.corrupt(x, roles, other, rule.mask_id), x, mask)


def mutant(function: Callable[..., Any], part: str) -> type[Any]:
    """The corruption with this function for one part; a sample is made of its parts, as the right one is."""
    name = function.__name__.strip("_").title().replace("_", "")
    kind: type[Any] = type(name, (Corruption,), {part: staticmethod(function), "__doc__": function.__doc__})
    if part != "sample":

        def sample(rule: TokenMask, x: Tensor, *, sample_ids: Tensor, epoch: int) -> Sample:
            return _composed(kind, rule, x, sample_ids, epoch)

        kind.sample = staticmethod(sample)
    return kind


def _specials_are_selected(x: Tensor, special: Tensor) -> Tensor:
    """Special tokens may be selected."""
    return torch.ones_like(x, dtype=torch.bool)


def _only_specials_are_selected(x: Tensor, special: Tensor) -> Tensor:
    """Only special tokens may be selected."""
    return torch.isin(x, special)


def _allowed_claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    x, special = inputs["x"], inputs["special"]
    yield "one truth a token", spec.same_shape(observed[0].shape, x.shape)
    for place in facts.each(x.shape):

        def is_it(s: Term, place: Index = place) -> Any:
            return one_if(same(special.at((s,)), x.at(place)))

        equal = facts.sum(special.shape[0], is_it, z3.IntVal(0))
        yield "a token may be selected iff it is no special id", iff(observed[0].at(place), same(equal, 0))


def _isin(facts: Facts, x: SymTensor, chosen: SymTensor) -> SymTensor:
    def at(index: Index) -> Any:
        equal = facts.sum(chosen.shape[0], lambda s: one_if(same(chosen.at((s,)), x.at(index))), z3.IntVal(0))
        return neg(same(equal, 0))

    return SymTensor(x.shape, torch.bool, at)


def _sort(facts: Facts, x: SymTensor, axis: int = -1) -> list[Any]:
    """Entry k of a sorted row is its (k + 1)-th smallest; the indices have no meaning here."""
    assert x.rank == 2 and axis_of(axis, 2) == 1

    def value(at: Index) -> Any:
        return order(facts, lambda i: x.at((at[0], i)), x.shape[1], at[1] + 1).value

    return [SymTensor(x.shape, x.dtype, value), None]


SORTED: dict[str, Callable[..., Any]] = {
    **SHIFT,
    "aten.isin.Tensor_Tensor": _isin,
    "aten.sort.default": _sort,
    "operator.getitem": lambda facts, parts, place: parts[place],
}
ALLOWED = TensorCase(
    Subject(
        "token ids and special ids",
        {"x": WORDS, "special": COUNTS},
        lambda program, x, special: [program.allowed(x, special)],
        lambda inputs: [],
        meanings=SORTED,
    ),
    _allowed_claims,
)


def _observe(program: Any, x: Tensor, allowed: Tensor, words: Tensor, others: Tensor, *rest: Any) -> Sequence[Tensor]:
    """The keys that rank the tokens, the roles, and the corrupted ids: the program of `TokenMask.sample`."""
    *counts, mask_id, vocabulary = rest
    words = words % 2**32
    # Any counts that ascend, the last at most the length.
    ends: list[Tensor] = []
    most: Any = x.shape[1]
    for count in reversed(counts):
        ends.insert(0, count % (most + 1))
        most = ends[0]
    roles = program.roles(words, allowed, ends)
    other = draws.below(others % 2**32, vocabulary)
    return [draws.ranked(words, allowed), roles, program.corrupt(x, roles, other, mask_id), *ends]


def _fits(inputs: Inputs) -> list[Term]:
    (rows, length), vocabulary = inputs["x"].shape, inputs["vocabulary"]
    pairs = [
        pair for name in ("allowed", "words", "others") for pair in zip(inputs[name].shape, (rows, length), strict=True)
    ]
    pairs += [(inputs[name].shape[0], rows) for name in ENDS]
    limits = [length > 0, length < 2**31 - 1, vocabulary > 0, vocabulary <= 2**31, inputs["mask_id"] >= 0]
    return [*limits, *(same(a, b) for a, b in pairs)]


def _corruption_claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    (keys, roles, out, *ends), x, allowed = observed, inputs["x"], inputs["allowed"]
    (rows, length), vocabulary = inputs["words"].shape, inputs["vocabulary"]
    yield "one role a token", spec.same_shape(roles.shape, x.shape)
    yield "one id a token", spec.same_shape(out.shape, x.shape)

    def end(name: str, n: Term) -> Any:
        return ends[ENDS.index(name)].at((n,))

    def last(name: str, n: Term) -> Order:
        count = end(name, n)
        return order(facts, lambda i: keys.at((n, i)), length, ite(count - 1 >= 0, count - 1, 0) + 1)

    def eligible_of(n: Term) -> Any:
        return facts.sum(length, lambda j: one_if(allowed.at((n, j))), z3.IntVal(0))

    def with_role(least: int, n: Term) -> Any:
        return facts.sum(length, lambda j: one_if(roles.at((n, j)) >= least), z3.IntVal(0))

    for (n,) in facts.each([rows]):
        yield "the counts ascend", conj(*_counts(n, end, length))
    for n, i in facts.each((rows, length)):
        role, given = roles.at((n, i)), x.at((n, i))
        drawn = floordiv(mod(inputs["others"].at((n, i)), 2**32, positive=True) * vocabulary, 2**32, positive=True)
        yield "a role from 0 to 3", conj(role >= 0, role <= 3)
        for which, holds, value in (
            ("a token that is not selected, or kept, is unchanged", role <= 1, given),
            ("a replaced token is the drawn one", same(role, 2), drawn),
            ("a masked token is the mask id", same(role, 3), inputs["mask_id"]),
        ):
            with facts.given(holds):
                yield which, same(out.at((n, i)), value)
        yield "the drawn token is of the vocabulary", conj(drawn >= 0, drawn < vocabulary)
        if facts.replayed:
            continue
        key, mine = keys.at((n, i)), last("selected", n)
        with facts.given(conj(end("selected", n) >= 1, mine.value >= KEY_OF_NO_ELIGIBLE_PLACE)):
            what = "were the last key that of no allowed token, all allowed keys would be below it"
            yield what, one_if(allowed.at((n, i))) <= one_if(key < mine.value)
        for name in ENDS:
            own = last(name, n)
            with facts.given(conj(end(name, n) >= 1, own.place >= 0, own.value < KEY_OF_NO_ELIGIBLE_PLACE)):
                yield f"no other token has the last key: {name}", own.is_only_own(key, i)
        for first, second in itertools.pairwise(ENDS):
            lower, upper = last(first, n), last(second, n)
            with facts.given(conj(end(first, n) >= 1, upper.value < lower.value)):
                what = f"were the last key of {second} below that of {first}, so would be all keys up to it"
                yield what, one_if(key <= upper.value) <= one_if(key < lower.value)
    for n, i in facts.each((rows, length)):
        if facts.replayed:
            enough = eligible_of(n) >= end("selected", n)
            with facts.given(enough):
                yield "a selected token is allowed", implies(roles.at((n, i)) >= 1, allowed.at((n, i)))
            continue
        mine, eligible = last("selected", n), eligible_of(n)
        ascending = _ascending(n, end, last)
        with facts.given(
            *_counts(n, end, length), eligible >= end("selected", n), *_by_induction(facts, n, end, last, eligible)
        ):
            for holds in ascending:
                yield "the last keys ascend", holds
            yield (
                "the last key is that of an allowed token",
                implies(end("selected", n) >= 1, mine.value < KEY_OF_NO_ELIGIBLE_PLACE),
            )
            yield "a selected token is allowed", implies(roles.at((n, i)) >= 1, allowed.at((n, i)))
    for (n,) in facts.each([rows]):
        eligible = eligible_of(n)
        for least, name in ((3, "masked"), (2, "replaced"), (1, "selected")):
            what, own = f"exactly so many tokens of a row are {name}", last(name, n)
            so_many = same(with_role(least, n), end(name, n))
            if facts.replayed:
                with facts.given(eligible >= end("selected", n)):
                    yield what, so_many
                continue
            # By the claims above: the last keys ascend, and each is of one allowed token alone.
            alone = implies(end(name, n) >= 1, same(own.at_most, own.below + 1))
            with facts.given(*_counts(n, end, length), *_ascending(n, end, last), alone, end(name, n) >= 1):
                yield what, so_many
            with facts.given(*_counts(n, end, length), *_ascending(n, end, last), same(end(name, n), 0)):
                yield f"{what}, if none is to be", so_many


def _counts(n: Term, end: Callable[..., Any], length: Term) -> list[Term]:
    """What is claimed of the counts of a row first, and given from there on."""
    masked, replaced, selected = (end(name, n) for name in ENDS)
    return [masked >= 0, masked <= replaced, replaced <= selected, selected <= length]


def _ascending(n: Term, end: Callable[..., Any], last: Callable[..., Order]) -> list[Term]:
    """A token among the first so many is among the first more."""
    return [
        implies(end(first, n) >= 1, last(first, n).value <= last(second, n).value)
        for first, second in itertools.pairwise(ENDS)
    ]


def _by_induction(
    facts: Facts, n: Term, end: Callable[..., Any], last: Callable[..., Order], eligible: Any
) -> list[Term]:
    """What the inductions over the tokens of a row give, whose steps are claims."""
    mine = last("selected", n)
    beyond = mine.value >= KEY_OF_NO_ELIGIBLE_PLACE
    holds = [implies(conj(end("selected", n) >= 1, beyond), eligible <= mine.below)]
    for first, second in itertools.pairwise(ENDS):
        lower, upper = last(first, n), last(second, n)
        premise = conj(end(first, n) >= 1, upper.value < lower.value)
        holds.append(implies(premise, upper.at_most <= lower.below))
    return holds


_IDS = torch.tensor([[10, 11, 12, 13, 14], [20, 21, 22, 23, 24]])
_EXAMPLE = (
    *(_IDS, torch.tensor([[True] * 5, [False] + [True] * 4]), _IDS * 987654321, _IDS * 123456789),
    *(torch.tensor([1, 2]), torch.tensor([2, 3]), torch.tensor([4, 4]), 7, 50),
)
CORRUPTED = TensorCase(
    Subject(
        "token ids, words and counts",
        {
            "x": WORDS,
            "allowed": TensorInput(2, torch.bool),
            "words": WORDS,
            "others": WORDS,
            **dict.fromkeys(ENDS, COUNTS),
            "mask_id": INT,
            "vocabulary": INT,
        },
        _observe,
        _fits,
        meanings=SORTED,
        examples=[_EXAMPLE],
    ),
    _corruption_claims,
)


def _kept_are_replaced(x: Tensor, roles: Tensor, other: Tensor, mask_id: int) -> Tensor:
    """No selected token stays as it is."""
    return tokens.corrupt(x, torch.where(roles == 1, 2, roles), other, mask_id)


def _replaced_are_masked(x: Tensor, roles: Tensor, other: Tensor, mask_id: int) -> Tensor:
    """The tokens to be replaced are masked too."""
    return tokens.corrupt(x, torch.where(roles == 2, 3, roles), other, mask_id)


def _one_masked_token_more(words: Tensor, allowed: Tensor, ends: Sequence[Tensor]) -> Tensor:
    """One of the tokens to be replaced is masked."""
    more = torch.minimum(ends[0] + 1, ends[1])
    return tokens.roles_by_words(words, allowed, [more, *ends[1:]])


def _padding_is_selected(words: Tensor, allowed: Tensor, ends: Sequence[Tensor]) -> Tensor:
    """Tokens that are not allowed are ranked like the others."""
    return tokens.roles_by_words(words, torch.ones_like(allowed), ends)


def _labels_everywhere(rule: TokenMask, x: Tensor, **batch: Any) -> Sample:
    """Every token has a label."""
    sample = TokenMask.sample(rule, x, **batch)
    return Sample(sample.x, sample.y, Mask(torch.ones_like(x, dtype=torch.bool), per_sample=True, rule=rule))


def _labels_of_the_visible(rule: TokenMask, x: Tensor, **batch: Any) -> Sample:
    """The tokens that are not selected have labels."""
    sample = TokenMask.sample(rule, x, **batch)
    return Sample(sample.x, sample.y, ~sample.mask)


def _labels_corrupted(rule: TokenMask, x: Tensor, **batch: Any) -> Sample:
    """The labels are the corrupted ids."""
    sample = TokenMask.sample(rule, x, **batch)
    return Sample(sample.x, sample.x, sample.mask)


def _small_rules() -> Iterator[dict[str, Any]]:
    counts = itertools.product((0, 1, 2), (0, 1), (0, 1), (None, 8), ((), (5,)), (1, 3))
    for masked, replaced, kept, per, special, epoch in counts:
        fields = {"masked": masked, "replaced": replaced, "kept": kept, "per": per, "special": special}
        yield {**fields, "epoch": epoch, "length": 8}


def _is_made_of_the_parts(program: Any, at: Mapping[str, Any]) -> bool:
    """Whether a sample holds the corrupted ids, the ids, and the places with a role; of two rows of ids."""
    names = ("masked", "replaced", "kept", "per", "special")
    rule = TokenMask(**{name: at[name] for name in names}, mask_id=9, vocabulary=7, seed=3)
    x, ids = torch.arange(2 * at["length"]).reshape(2, -1) % 7, torch.tensor([4, 11])
    sample = program.sample(rule, x, sample_ids=ids, epoch=at["epoch"])
    parts = _composed(program, rule, x, ids, at["epoch"])
    pairs = (sample.x, parts.x), (sample.y, parts.y), (sample.mask.hidden, parts.mask.hidden)
    return all(torch.equal(*pair) for pair in pairs)


@theorem(
    Corruption,
    layer="masks",
    mutants=[
        mutant(_specials_are_selected, "allowed"),
        mutant(_only_specials_are_selected, "allowed"),
        mutant(_padding_is_selected, "roles"),
        mutant(_one_masked_token_more, "roles"),
        mutant(_kept_are_replaced, "corrupt"),
        mutant(_replaced_are_masked, "corrupt"),
        mutant(_labels_everywhere, "sample"),
        mutant(_labels_of_the_visible, "sample"),
        mutant(_labels_corrupted, "sample"),
    ],
    given=("0 <= masked <= masked + replaced <= selected <= the allowed tokens of the row, for each row",),
    scope=f"{SIZES}, a row of 1 to 2**31 - 2 tokens; whatever words the generator gives; all ids, special ids and "
    "counts, vocabularies up to 2**31; that TokenMask.sample is made of these parts, with the ids as labels and the "
    "selected places as mask: exhausted over masked 0 to 2, replaced and kept 0 and 1, with and without per= and a "
    "special id, two epochs, two rows of eight ids",
    method=BY_KTHVALUE.replace("torch.kthvalue", "torch.sort"),
    enumerated=Enumeration("a sample is not made of its parts", _small_rules, _is_made_of_the_parts),
)
def tokens_are_masked_replaced_or_kept_by_the_draw() -> list[TensorCase]:
    """TokenMask selects exactly so many allowed tokens of each row as its counts say and never a special one; of these
    exactly `masked` become the mask id, `replaced` the drawn token of the vocabulary, and the others stay as they are,
    as do all that are not selected; only selected places have labels, which are the ids before.
    """
    return [ALLOWED, CORRUPTED]
