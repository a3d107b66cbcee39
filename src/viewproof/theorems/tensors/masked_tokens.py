"""Masked tokens: which logits the cross-entropy reads, and what BERT's corruption does to which token."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import z3
from torch import Tensor
from torch.nn import functional as F

from viewproof.losses import tokens as losses
from viewproof.masks import Mask, Sample
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.tensor import Index, SymTensor
from viewproof.symbolic.terms import Term, ite, mod, one_if, same
from viewproof.symbolic.values import constant, sort
from viewproof.theorems.tensors import spec
from viewproof.theorems.tensors.case import Claims, Inputs, Observed, Subject
from viewproof.theorems.tensors.method_losses import BY_SUMS, REAL
from viewproof.theorems.tensors.real_functions import REAL_FUNCTIONS, log_softmax, total
from viewproof.theorems.tensors.theorem import Enumeration, theorem

INTS = TensorInput(1, torch.int64)


class TokenLoss:
    """The loss of masked tokens, and the two parts that it is made of."""

    masked: Callable[..., Tensor] = staticmethod(losses.masked_cross_entropy)
    listed: Callable[..., Tensor] = staticmethod(losses.listed_cross_entropy)
    places: Callable[..., Tensor] = staticmethod(losses.selected_places)


def mutant(name: str, places: Callable[..., Tensor] | None = None, listed: Callable[..., Tensor] | None = None) -> Any:
    """The loss with another list of places or another mean, which the whole is made of as the right one is."""
    own_places: Callable[..., Tensor] = places or losses.selected_places
    own_listed: Callable[..., Tensor] = listed or losses.listed_cross_entropy

    def masked(prediction: Tensor, sample: Sample) -> Tensor:
        return own_listed(prediction.flatten(0, 1), sample.y.flatten(), own_places(sample.mask.hidden))

    doc = (places or listed or losses.masked_cross_entropy).__doc__
    parts = {"places": own_places, "listed": own_listed, "masked": masked}
    fields = {key: staticmethod(value) for key, value in parts.items()}
    return type(name, (TokenLoss,), {**fields, "__doc__": doc})


def _complement(selected: Tensor) -> Tensor:
    """The tokens that are not selected are listed."""
    return losses.selected_places(~selected)


def _all_tokens(
    logits: Tensor, ids: Tensor, places: Tensor, distance: Callable[..., Tensor] = F.cross_entropy
) -> Tensor:
    """The mean is over all tokens, selected or not."""
    return distance(logits, ids)


def _divided_by_all(
    logits: Tensor, ids: Tensor, places: Tensor, distance: Callable[..., Tensor] = F.cross_entropy
) -> Tensor:
    """The sum over the selected tokens is divided by the number of all."""
    return losses.listed_cross_entropy(logits, ids, places, distance) * places.shape[0] / logits.shape[0]


def _next_label(
    logits: Tensor, ids: Tensor, places: Tensor, distance: Callable[..., Tensor] = F.cross_entropy
) -> Tensor:
    """The label is that of the next token, as of a causal model."""
    return losses.listed_cross_entropy(logits, ids.roll(-1), places, distance)


def _all_masks() -> Iterator[dict[str, Any]]:
    for rows, tokens in ((1, 1), (1, 4), (2, 3), (3, 2)):
        for bits in itertools.product((False, True), repeat=rows * tokens):
            if any(bits):
                yield {"rows": rows, "tokens": tokens, "selected": list(bits)}


def _lists_what_is_selected(program: Any, at: Mapping[str, Any]) -> bool:
    """Whether the list is that of the selected places, and the loss that of the list, bit for bit."""
    rows, tokens, bits = at["rows"], at["tokens"], at["selected"]
    selected = torch.tensor(bits).reshape(rows, tokens)
    ids = (torch.arange(rows * tokens) % 3).reshape(rows, tokens)
    logits = torch.arange(rows * tokens * 3.0).reshape(rows, tokens, 3).cos()
    expected = [place for place, bit in enumerate(bits) if bit]
    sample = Sample(ids, ids, Mask(selected, per_sample=True, rule="any mask"))
    whole = program.masked(logits, sample)
    parts = program.listed(logits.flatten(0, 1), ids.flatten(), torch.tensor(expected))
    return program.places(selected).tolist() == expected and torch.equal(whole, parts)


LISTED = Enumeration("the listed tokens are not the selected ones", _all_masks, _lists_what_is_selected)
LINK = "; that the list is that of the selected places, ascending, and the loss that of the list: exhausted over all "
LINK += "masks of 1 x 1, 1 x 4, 2 x 3 and 3 x 2 tokens"


def _in_range(logits: Tensor, ids: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Any labels that are classes, any list of tokens: what `masked_cross_entropy` checks, and `LISTED` shows."""
    return ids % logits.shape[1], places % logits.shape[0]


def _value(program: Any, logits: Tensor, ids: Tensor, places: Tensor) -> Sequence[Tensor]:
    return [program.listed(logits, *_in_range(logits, ids, places))]


def _value_replay(program: Any, logits: Tensor, ids: Tensor, places: Tensor) -> Sequence[Tensor]:
    """The loss beside the sum over the list, token by token."""
    ids, listed = _in_range(logits, ids, places)
    terms = [logits[p].double().logsumexp(0) - logits[p].double()[ids[p]] for p in listed.tolist()]
    return [*_value(program, logits, ids, places), torch.stack(terms).sum()]


def _listed(inputs: Inputs) -> list[Term]:
    (tokens, classes), (labels,), (count,) = (inputs[name].shape for name in ("logits", "ids", "places"))
    return [same(labels, tokens), tokens > 0, classes > 0, count > 0]


VALUE = Subject(
    "logits, labels and a list of tokens",
    {"logits": TensorInput(2), "ids": INTS, "places": INTS},
    _value,
    _listed,
    "real",
    None,
    _value_replay,
    REAL_FUNCTIONS,
    [(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]]).double(), torch.tensor([0, 0, 1]), torch.tensor([0, 2]))],
)


@theorem(
    TokenLoss,
    layer="methods",
    on=VALUE,
    mutants=[
        mutant("ComplementListed", places=_complement),
        mutant("MeanOverAllTokens", listed=_all_tokens),
        mutant("DividedByAllTokens", listed=_divided_by_all),
        mutant("LabelOfTheNextToken", listed=_next_label),
    ],
    given=("a token is selected, labels lie in the vocabulary",),
    scope=f"{REAL}; all numbers of tokens, classes and listed places; one rank{LINK}",
    method=BY_SUMS,
    enumerated=LISTED,
)
def masked_cross_entropy_eq_mean_over_selected_tokens(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """masked_cross_entropy times the number of selected tokens is the sum over these of log(sum exp logits) - the logit
    of the token's own id: True = selected, and no logit and no id of another token is read.
    """
    logits, ids, places = inputs["logits"], inputs["ids"], inputs["places"]
    count, classes = places.shape[0], logits.shape[1]
    if facts.replayed:
        yield "count * loss == the sum over the list", facts.equal(observed[0].at(()) * count, observed[1].at(()))
        return

    def term(j: Term) -> Any:
        place = mod(places.at((j,)), logits.shape[0], positive=True)
        label = mod(ids.at((place,)), classes, positive=True)
        return -log_softmax(facts, classes, lambda k: logits.at((place, k)), label)

    what = "count * loss == the sum over the list"
    yield what, observed[0].at(()) * z3.ToReal(count) == total(facts, count, term)


def _select_backward(facts: Facts, gradient: SymTensor, shape: Sequence[Term], axis: int, chosen: SymTensor) -> Any:
    """+0.0 where no index points to; of what is summed elsewhere nothing is assumed."""
    assert axis == 0
    function = z3.Function("summed", *[z3.IntSort()] * len(shape), sort(facts, gradient.dtype))

    def at(index: Index) -> Any:
        hits = facts.sum(chosen.shape[0], lambda j: one_if(same(chosen.at((j,)), index[0])), z3.IntVal(0))
        return ite(same(hits, 0), constant(facts, 0, gradient.dtype), function(*index))

    return SymTensor(tuple(shape), gradient.dtype, at)


def _gradient(program: Any, logits: Tensor, ids: Tensor, places: Tensor, sent: Tensor) -> Sequence[Tensor]:
    """The gradient by the logits where the distance sends back any gradient of the rows that it is given."""
    leaf = logits.detach().requires_grad_()
    sent_back = program.listed(
        leaf, *_in_range(logits, ids, places), lambda rows, labels: (rows * sent[: rows.shape[0]]).sum()
    )
    return [torch.autograd.grad(sent_back, leaf)[0]]


def _sent_fits(inputs: Inputs) -> list[Term]:
    pairs = zip(inputs["sent"].shape, inputs["logits"].shape, strict=True)
    listed = inputs["places"].shape[0] <= inputs["logits"].shape[0]
    return [*_listed(inputs), listed, *(same(a, b) for a, b in pairs)]


GRADIENT = Subject(
    "logits, a list of tokens and any gradient of their rows",
    {"logits": TensorInput(2), "ids": INTS, "places": INTS, "sent": TensorInput(2)},
    _gradient,
    _sent_fits,
    meanings={"aten.index_select_backward.default": _select_backward},
)


@theorem(
    TokenLoss,
    layer="methods",
    on=GRADIENT,
    mutants=[mutant("ComplementInGradient", places=_complement), mutant("GradientOfAllTokens", listed=_all_tokens)],
    given=("a token is selected, labels lie in the vocabulary",),
    scope="all numbers of tokens and classes, lists of at most all tokens; every float32 bit pattern, NaN and "
    f"infinities included; the cross-entropy as any function of the rows that it is given{LINK}",
    enumerated=LISTED,
)
def masked_cross_entropy_gradient_support(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """The gradient of masked_cross_entropy by the logits of a token that is not selected is exactly +0.0."""
    places, gradient, shape = inputs["places"], observed[0], inputs["logits"].shape
    yield "a gradient for each logit", spec.same_shape(gradient.shape, shape)
    for token, k in facts.each(shape):

        def is_listed(j: Term, token: Term = token) -> Any:
            return one_if(same(mod(places.at((j,)), shape[0], positive=True), token))

        with facts.given(same(facts.sum(places.shape[0], is_listed, z3.IntVal(0)), 0)):
            yield "off the list the gradient is +0.0", spec.is_zero(facts, gradient, (token, k))
