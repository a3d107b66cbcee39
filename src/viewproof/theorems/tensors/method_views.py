"""What the networks of methods with a teacher compare: which views, which layers, which patches."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from viewproof.losses.dino import compared_rows
from viewproof.models.patches import block_targets, mean_of_last_layers, predict_blocks
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, mod, same
from viewproof.symbolic.values import agree
from viewproof.theorems.tensors import spec
from viewproof.theorems.tensors.case import Claims, Inputs, Observed, Subject, TensorCase
from viewproof.theorems.tensors.method_losses import BY_SUMS
from viewproof.theorems.tensors.real_functions import REAL_FUNCTIONS, normalized
from viewproof.theorems.tensors.theorem import theorem

SIZES = "all sizes from 0; every float32 bit pattern; 64-bit indices do not overflow"


def _outputs(large: int, views: int) -> TensorCase:
    """The rows that DINO compares, of so many global views and views in all."""

    def observe(program: Any, *logits: Tensor) -> Sequence[Tensor]:
        student, teacher = torch.stack(logits[:views]), torch.stack(logits[views : views + large])
        patches = torch.stack(logits[-2 * large : -large]), torch.stack(logits[-large:])
        images, patches = program(student, teacher, *patches)
        return [*images, *patches]

    def claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
        logits = list(inputs.values())
        students, teachers, patches = logits[:views], logits[views : views + large], logits[views + large :]
        rows, prototypes = students[0].shape
        pairs = [(s, t) for t in range(large) for s in range(views) if s != t]
        for side, name in ((0, "student"), (1, "teacher")):
            yield (
                f"{name}: a row a sample for each pair",
                spec.same_shape(observed[side].shape, (len(pairs) * rows, prototypes)),
            )
        for n, k in facts.each((rows, prototypes)):
            for p, (s, t) in enumerate(pairs):
                place = facts.join(p, rows, n), k
                views_at = students[s], teachers[t]
                for side, view, name in zip(observed[:2], views_at, (f"student {s}", f"teacher {t}"), strict=True):
                    yield f"pair {p}: {name}", agree(side.at(place), view.at((n, k)), view.dtype)
        _, places, _ = patches[0].shape
        for n, m, k in facts.each((rows, places, prototypes)):
            for v in range(large):
                place = facts.join(facts.join(v, rows, n), places, m), k
                for side, view in ((observed[2], patches[v]), (observed[3], patches[large + v])):
                    yield (
                        f"hidden patches of view {v}: each with itself",
                        agree(side.at(place), view.at((n, m, k)), view.dtype),
                    )

    def one_shape(inputs: Inputs) -> list[Term]:
        logits = list(inputs.values())
        (rows, prototypes), places = logits[0].shape, logits[-1].shape[1]
        shapes = [(rows, prototypes)] * (views + large) + [(rows, places, prototypes)] * 2 * large
        return [
            same(a, b) for x, shape in zip(logits, shapes, strict=True) for a, b in zip(x.shape, shape, strict=True)
        ]

    names = [f"student_{v}" for v in range(views)] + [f"teacher_{v}" for v in range(large)]
    patches = [f"{side}_patches_{v}" for side in ("student", "teacher") for v in range(large)]
    signature = {**dict.fromkeys(names, TensorInput(2)), **dict.fromkeys(patches, TensorInput(3))}
    return TensorCase(Subject(f"{large} global views of {views}", signature, observe, one_shape), claims)


Rows = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def crop_with_itself(student: Tensor, teacher: Tensor, *patches: Tensor) -> Rows:
    """A global view is compared with the teacher's output of the same crop."""
    return compared_rows(student.roll(1, 0), teacher, *patches)


def other_samples(student: Tensor, teacher: Tensor, *patches: Tensor) -> Rows:
    """The teacher's rows are those of the sample before."""
    return compared_rows(student, teacher.roll(1, 1), *patches)


def patches_of_the_other_view(student: Tensor, teacher: Tensor, *patches: Tensor) -> Rows:
    """Hidden patches are compared with those of another view."""
    return compared_rows(student, teacher, patches[0], patches[1].flip(0))


@theorem(
    compared_rows,
    layer="methods",
    mutants=[crop_with_itself, other_samples, patches_of_the_other_view],
    given=("all views have as many samples and prototypes",),
    scope=f"2 global views and 4 local ones, and 1 of each; {SIZES}",
)
def dino_never_compares_a_crop_with_itself() -> list[TensorCase]:
    """DINO's rows are those of every pair of a student's view and a teacher's view other than itself, sample by sample,
    each once; and each hidden patch of a global view with the teacher's output at that very patch.
    """
    return [_outputs(*sizes) for sizes in ((2, 6), (1, 2))]


def _gathered(tokens: Tensor, places: Tensor) -> Tensor:
    """The tokens of each row at its places, one by one."""
    return torch.stack([row[index] for row, index in zip(tokens, places, strict=True)])


def _entry(tokens: Any, n: Term, place: Term, d: Term) -> Any:
    return tokens.at((n, place, d))


def _plain_norm(tokens: Tensor) -> Tensor:
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def _layers(depth: int, last: int) -> TensorCase:
    """Targets from the last layers of a teacher of so many, whose outputs are any."""

    def observe(program: Any, words: Tensor, *layers: Tensor) -> Sequence[Tensor]:
        return [program(list(layers), last, words % layers[0].shape[1])]

    def replay(program: Any, words: Tensor, *layers: Tensor) -> Sequence[Tensor]:
        normal = [_plain_norm(layer) for layer in layers[-last:]]
        expected = _gathered(torch.stack(normal).mean(0), words % layers[0].shape[1])
        return [*observe(program, words, *layers), expected]

    def claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
        words, *layers = inputs.values()
        patches, dims = layers[0].shape[1:]
        yield "a target for each place", spec.same_shape(observed[0].shape, (*words.shape, dims))
        for n, m, d in facts.each((*words.shape, dims)):
            if facts.replayed:
                mean = observed[1].at((n, m, d))
            else:
                place = mod(words.at((n, m)), patches, positive=True)
                mean = sum(normalized(facts, dims, partial(_entry, out, n, place), d) for out in layers[-last:]) / last
            yield "the mean of the last layers' normalised tokens", facts.equal(observed[0].at((n, m, d)), mean)

    def one_shape(inputs: Inputs) -> list[Term]:
        words, first, *layers = (x.shape for x in inputs.values())
        equal = [same(a, b) for layer in layers for a, b in zip(layer, first, strict=True)]
        return [same(words[0], first[0]), *(extent > 0 for extent in first), *equal]

    signature = {"words": TensorInput(2, torch.int64), **{f"layer_{k}": TensorInput(3) for k in range(depth)}}
    example = [torch.tensor([[1]]), *(torch.arange(6.0).double().reshape(1, 2, 3) ** (k + 1) for k in range(depth))]
    name = f"the last {last} of {depth} layers"
    return TensorCase(
        Subject(name, signature, observe, one_shape, "real", None, replay, REAL_FUNCTIONS, [example]), claims
    )


def first_layers(outputs: Sequence[Tensor], layers: int, places: Tensor) -> Tensor:
    """The mean is that of the first layers."""
    return mean_of_last_layers(outputs[::-1], layers, places)


def not_normalised(outputs: Sequence[Tensor], layers: int, places: Tensor) -> Tensor:
    """Tokens are averaged as they are."""
    return torch.stack(list(outputs[-layers:])).mean(0)[torch.arange(places.shape[0])[:, None], places]


def next_patch(outputs: Sequence[Tensor], layers: int, places: Tensor) -> Tensor:
    """The targets are those of the next patches."""
    return mean_of_last_layers(outputs, layers, (places + 1) % outputs[0].shape[1])


@theorem(
    mean_of_last_layers,
    layer="methods",
    mutants=[first_layers, not_normalised, next_patch],
    given=("places are indices of patches", "a sample, a patch and a coordinate at least"),
    scope="real numbers, the square root a function of which nothing is known; whatever the teacher computes; all "
    "batch sizes, patches, places and dimensions; the last 1 and 2 of 2 layers, and 2 of 3",
    method=BY_SUMS,
)
def data2vec_target_is_the_mean_of_the_last_layers() -> list[TensorCase]:
    """data2vec's target at a place is the mean over the teacher's last layers of its layer-normalised token there: no
    token of another place is read.
    """
    return [_layers(*sizes) for sizes in ((2, 1), (2, 2), (3, 2))]


class JEPABlocks:
    """Prediction and targets of I-JEPA's blocks."""

    predict = staticmethod(predict_blocks)
    targets = staticmethod(block_targets)


def _blocks(
    program: Any, context_tokens: Tensor, predicted: Tensor, teacher: Tensor, *indices: Tensor
) -> Sequence[Tensor]:
    """Predictions and targets, and what the predictor is given; what it returns is an argument."""
    context, blocks = (words % teacher.shape[1] for words in indices)
    rows: list[Tensor] = []

    def predictor(*arguments: Tensor) -> Tensor:
        rows.extend(arguments)
        return predicted

    prediction = program.predict(predictor, context_tokens, context, blocks)
    return [prediction, program.targets(teacher, blocks), *rows]


def _blocks_replay(program: Any, context_tokens: Tensor, predicted: Tensor, teacher: Tensor, *indices: Tensor) -> Any:
    expected = _gathered(_plain_norm(teacher), (indices[1] % teacher.shape[1]).flatten(1))
    observed = _blocks(program, context_tokens, predicted, teacher, *indices)
    return [*observed, expected.reshape(*indices[1].shape, -1)]


def _blocks_fit(inputs: Inputs) -> list[Term]:
    context_tokens, predicted, teacher, context, blocks = (x.shape for x in inputs.values())
    samples, count, places = blocks
    pairs = [(context_tokens, (*context, teacher[2])), (predicted, (samples * count, places, teacher[2]))]
    equal = [same(a, b) for shape, expected in pairs for a, b in zip(shape, expected, strict=True)]
    extents = [extent > 0 for extent in (*teacher, *blocks)]
    return [*equal, same(context[0], samples), same(teacher[0], samples), *extents]


_WORDS = {"context": TensorInput(2, torch.int64), "blocks": TensorInput(3, torch.int64)}
BLOCKS = Subject(
    "context and target blocks",
    {**dict.fromkeys(("context_tokens", "predicted", "teacher"), TensorInput(3)), **_WORDS},
    _blocks,
    _blocks_fit,
    arithmetic="real",
    replay=_blocks_replay,
    meanings=REAL_FUNCTIONS,
    examples=[
        (
            *(torch.arange(12.0).double().reshape(2, 2, 3), torch.arange(24.0).double().reshape(4, 2, 3)),
            *(torch.arange(24.0).double().reshape(2, 4, 3) ** 2, torch.tensor([[0, 1], [2, 3]])),
            torch.tensor([[[2, 3], [1, 3]], [[0, 1], [1, 0]]]),
        )
    ],
)


class ContextOfAnotherSample(JEPABlocks):
    """The contexts are repeated batch by batch, the blocks sample by sample."""

    @staticmethod
    def predict(predictor: Any, tokens: Tensor, context: Tensor, blocks: Tensor) -> Tensor:
        """Row k of the contexts is that of sample k % N."""
        count = blocks.shape[1]
        prediction = predictor(tokens.repeat(count, 1, 1), context.repeat(count, 1), blocks.flatten(0, 1))
        return torch.Tensor.reshape(prediction, (*blocks.shape, -1))


class TargetsAsTheyAre(JEPABlocks):
    """The target tokens are not normalised."""

    @staticmethod
    def targets(tokens: Tensor, blocks: Tensor) -> Tensor:
        """The tokens of the blocks."""
        return tokens[torch.arange(blocks.shape[0])[:, None, None], blocks]


class BlocksInAnotherOrder(JEPABlocks):
    """The targets of a sample's blocks are exchanged."""

    @staticmethod
    def targets(tokens: Tensor, blocks: Tensor) -> Tensor:
        """The targets of the blocks, last first."""
        return block_targets(tokens, blocks.flip(1))


@theorem(
    JEPABlocks,
    layer="methods",
    on=BLOCKS,
    mutants=[ContextOfAnotherSample, TargetsAsTheyAre, BlocksInAnotherOrder],
    given=("places are indices of patches", "a sample, a patch, a block, a place and a coordinate at least"),
    scope="real numbers, the square root a function of which nothing is known; whatever encoders and predictor "
    "compute; all batch sizes, patches, contexts, blocks, places and dimensions",
    method=BY_SUMS,
)
def ijepa_block_is_predicted_from_its_own_context(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """For each block I-JEPA's predictor gets the context of that block's sample and the block's places, and its tokens
    are compared with the target encoder's layer-normalised ones at those places: no other target token is read.
    """
    context_tokens, predicted, teacher, context, blocks = inputs.values()
    prediction, target, tokens, indices, queries, *expected = observed
    samples, count, places = blocks.shape
    patches, dims = teacher.shape[1:]

    def place(words: Any, *at: Term) -> Term:
        return mod(words.at(at), patches, positive=True)

    yield "a prediction for each token of each block", spec.same_shape(prediction.shape, (*blocks.shape, dims))
    yield "and a target", spec.same_shape(target.shape, prediction.shape)
    for n, b, v, d in facts.each((samples, count, context.shape[1], dims)):
        row = facts.join(n, count, b)
        yield "the places of the sample's context", same(indices.at((row, v)), place(context, n, v))
        same_token = facts.equal(tokens.at((row, v, d)), context_tokens.at((n, v, d)))
        yield "the tokens of the sample's context", same_token
    for n, b, m, d in facts.each((samples, count, places, dims)):
        row, at = facts.join(n, count, b), place(blocks, n, b, m)
        yield "the places of the block", same(queries.at((row, m)), at)
        yield "the block's prediction", facts.equal(prediction.at((n, b, m, d)), predicted.at((row, m, d)))
        if facts.replayed:
            normal = expected[0].at((n, b, m, d))
        else:
            normal = normalized(facts, dims, partial(_entry, teacher, n, at), d)
        yield "the normalised target token of that place", facts.equal(target.at((n, b, m, d)), normal)
