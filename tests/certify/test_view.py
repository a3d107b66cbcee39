"""`certify_view`: correct views are proved, every claim has a mutant it rejects, and doubt is never PROVED."""

import inspect
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import viewproof as vp
from viewproof.certify.report import Contract, Finding, Report
from viewproof.certify.view import certify_view
from viewproof.errors import InvalidArgument
from viewproof.verdict import Verdict

PROVED, REFUTED, UNKNOWN, VACUOUS = Verdict.PROVED, Verdict.REFUTED, Verdict.UNKNOWN, Verdict.VACUOUS
IMAGES = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
RULE = vp.PatchMask(4, 4, period=3, offset=1)
MASK = RULE.mask((3, 8, 12))
HIDDEN = MASK.hidden
VISIBLE_IDS, HIDDEN_IDS = (torch.tensor(f(MASK, 4, 4)) for f in (vp.visible_patch_idxs, vp.hidden_patch_idxs))


def finding(report: Report, contract: Contract, part: str = "") -> Finding:
    return next(f for f in report.findings if f.contract is contract and part in f.claim)


def masked(x: Tensor) -> Tensor:
    return torch.where(HIDDEN, 0.0, x)


def patches(x: Tensor) -> Tensor:
    return vp.patchify(x, 4, 4)


PATCH_MASK = torch.zeros(6, dtype=torch.bool).index_fill(0, HIDDEN_IDS, True)

RULES = [
    (RULE, (2, 3, 8, 12)),
    (vp.PatchMask(3, 5, period=4, offset=2), (2, 3, 8, 12)),
    (~RULE, (2, 3, 8, 12)),
    (vp.VectorMask(3, 1), (4, 7)),
    (vp.BlockMask((2, None, 3), period=2, offset=0), (2, 5, 2, 7)),
    (vp.Rotating(RULE).at(2), (1, 1, 8, 12)),
    (vp.SharedRandomPatchMask(4, 4, count=3, seed=1), (2, 3, 8, 12)),
]


@pytest.mark.parametrize(("rule", "shape"), RULES, ids=str)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int64, torch.uint8, torch.bool]
)
def test_samples_of_every_rule_are_proved(rule: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randint(0, 9, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    report = certify_view(rule.sample, x, rule)
    assert report.verdict() is PROVED, report


CORRECT: list[tuple[str, Callable[[Tensor], Any], Callable[[Tensor], Tensor] | None]] = [
    ("image sample, prefix", lambda x: vp.image_patch_mae_sample(x, 4, 4, 3, 1, recon_dim=100), None),
    ("block sample", lambda x: vp.block_mae_sample(x, (None, 4, 4), 3, 1), None),
    ("flat images", lambda x: vp.vector_mae_sample(x.flatten(1), 3, 1), None),
    ("ready buffer", lambda x: (MASK.apply(x, out=torch.empty_like(x)), x, MASK), None),
    ("in place on a copy", lambda x: (x.clone().masked_fill_(HIDDEN, 0.0), x, MASK), None),
    ("a learnt token", lambda x: (torch.where(HIDDEN, torch.full((3, 1, 1), 0.3), x), x, HIDDEN), None),
    ("per sample", lambda x: {"x": masked(x), "y": x, "mask": HIDDEN.expand(2, -1, -1, -1)}, None),
    ("visible tokens", lambda x: (patches(x)[:, VISIBLE_IDS], patches(x), PATCH_MASK), patches),
    (
        "hidden tokens as target",
        lambda x: (patches(x)[:, VISIBLE_IDS], patches(x)[:, HIDDEN_IDS], torch.ones(2, dtype=torch.bool)),
        lambda x: patches(x)[:, HIDDEN_IDS],
    ),
]


@pytest.mark.parametrize(("view", "target"), [c[1:] for c in CORRECT], ids=[c[0] for c in CORRECT])
def test_correct_views_are_proved(view: Callable[[Tensor], Any], target: Any) -> None:
    report = certify_view(view, IMAGES, target=target)
    assert report.verdict() is PROVED, report
    assert {f.contract for f in report.findings} == {Contract[c] for c in ("C1", "C2", "C3", "C4", "C8")}


def writes(x: Tensor) -> Any:
    x[:, 0, 0, 0] = 1.0
    return masked(x), x, MASK


ONE = torch.ones_like(HIDDEN)
ONE[0, 0, 4] = False

MUTANTS: list[tuple[str, str, str, Callable[[Tensor], Any]]] = [
    ("C1", "reach", "shows it all", lambda x: (x, x, MASK)),
    ("C1", "reach", "a product", lambda x: (x * ~HIDDEN, x, MASK)),
    ("C1", "reach", "one pixel too few", lambda x: (torch.where(HIDDEN.roll(1, -1), 0.0, x), x, MASK)),
    ("C1", "reach", "statistics", lambda x: (masked(x - x.mean((1, 2, 3), keepdim=True)), x, MASK)),
    ("C1", "reach", "a faint trace", lambda x: (masked(x) + 1e-6 * x, x, MASK)),
    ("C2", "appears", "a cast", lambda x: (masked(x.half().float()), x, MASK)),
    ("C2", "appears", "NaN repaired", lambda x: (masked(x).nan_to_num(), x, MASK)),
    ("C2", "appears", "zero added", lambda x: (masked(x + 0.0), x, MASK)),
    ("C2", "appears", "rows of the batch exchanged", lambda x: (masked(x).flip(0), x, MASK)),
    ("C2", "appears", "too much hidden", lambda x: (masked(x).index_fill(3, torch.tensor([0]), 0.0), x, MASK)),
    ("C2", "appears", "a token dropped", lambda x: (patches(x)[:, VISIBLE_IDS[1:]], patches(x), PATCH_MASK)),
    ("C2", "appears", "tokens of a neighbour", lambda x: (patches(x).flip(0)[:, VISIBLE_IDS], patches(x), PATCH_MASK)),
    ("C2", "appears", "tokens scaled", lambda x: (2 * patches(x)[:, VISIBLE_IDS], patches(x), PATCH_MASK)),
    ("C2", "written", "writes", writes),
    ("C3", "source", "the masked copy", lambda x: (masked(x), masked(x), MASK)),
    ("C3", "source", "transposed", lambda x: (masked(x), x.transpose(2, 3).reshape(x.shape), MASK)),
    ("C3", "source", "channels last", lambda x: (masked(x), x.movedim(1, 3).flatten(1), HIDDEN.reshape(-1))),
    ("C3", "source", "constant", lambda x: (masked(x), torch.zeros_like(x), MASK)),
    ("C3", "source", "rounded", lambda x: (masked(x), x.bfloat16().float(), MASK)),
    ("C3", "source", "another dtype", lambda x: (masked(x), x.double(), MASK)),
    ("C4", "selects", "polarity", lambda x: (masked(x), x, ~MASK)),
    ("C4", "selects", "one hidden pixel not scored", lambda x: (masked(x), x, HIDDEN & ONE)),
    ("C4", "selects", "everything scored", lambda x: (masked(x), x, torch.ones_like(HIDDEN))),
    ("C4", "selects", "off by one token", lambda x: (patches(x)[:, VISIBLE_IDS], patches(x), PATCH_MASK.roll(1))),
]


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def replays(view: Callable[[Tensor], Any], found: Finding, target: Callable[[Tensor], Tensor]) -> bool:
    """Whether the witness's runs, made anew, show what the claim denies."""
    assert found.witness is not None
    x, where = found.witness.inputs["x"], found.witness.coordinates
    given = x.clone()
    seen, y, mask = view(given)
    if "changed" in found.witness.inputs:
        other = view(found.witness.inputs["changed"].clone())[0]
        same = torch.equal(bits(seen), bits(other))
        if found.contract is Contract.C4:
            mask = mask.hidden if isinstance(mask, vp.Mask) else mask
            return same is not bool(mask[where["y"][-mask.dim() :] if y.dim() == 4 else where["y"][1]])
        return same if "source" in where and "x" not in where else not same
    if "written" in found.claim:
        return not torch.equal(bits(given), bits(x))
    if found.contract is Contract.C3:
        return y.dtype != x.dtype or not torch.equal(bits(y), bits(target(x)))
    return seen.shape != x.shape or bool(bits(seen)[where["x"]] != bits(x)[where["x"]])


@pytest.mark.parametrize(
    ("contract", "part", "view"), [(m[0], m[1], m[3]) for m in MUTANTS], ids=[m[2] for m in MUTANTS]
)
def test_mutants_are_refuted(contract: str, part: str, view: Callable[[Tensor], Any]) -> None:
    target = patches if view(IMAGES.clone())[1].dim() == 3 else None
    report = certify_view(view, IMAGES, None if target else RULE, target=target)
    found = finding(report, Contract[contract], part)
    assert found.verdict is REFUTED, report
    assert replays(view, found, target or (lambda x: x.reshape(view(x.clone())[1].shape)))


def test_a_leak_is_reduced_to_one_hidden_coordinate() -> None:
    witness = finding(certify_view(lambda x: (x, x, MASK), IMAGES), Contract.C1).witness
    assert witness is not None
    x, changed = witness.inputs["x"], witness.inputs["changed"]
    assert int((x != changed).sum()) == 1 and bool(HIDDEN[witness.coordinates["hidden"][1:]])
    assert x[witness.coordinates["hidden"]] != changed[witness.coordinates["hidden"]]
    assert witness.what == "x at (0, 0, 0, 4) changes with the hidden source coordinate (0, 0, 0, 4)"


def test_the_mask_must_be_the_rules() -> None:
    other = vp.PatchMask(4, 4, period=3, offset=2)
    found = finding(certify_view(other.sample, IMAGES, RULE), Contract.C5)
    assert found.verdict is REFUTED and found.witness is not None
    assert found.witness.what == "the mask at (0, 4) is False, which the rule denies"
    assert certify_view(RULE.sample, IMAGES, vp.Mask(HIDDEN)).verdict() is PROVED


def test_masks_that_hide_nothing_or_everything_are_vacuous() -> None:
    nothing, everything = vp.Mask.empty((3, 8, 12)), vp.Mask.all((3, 8, 12))
    report = certify_view(lambda x: (x, x, nothing), IMAGES)
    assert [finding(report, Contract[c]).verdict for c in ("C1", "C2", "C4")] == [VACUOUS, PROVED, VACUOUS]
    report = certify_view(lambda x: (torch.zeros_like(x), x, everything), IMAGES)
    assert [finding(report, Contract[c]).verdict for c in ("C1", "C2", "C4")] == [PROVED, VACUOUS, VACUOUS]


def test_kept_tokens_are_scored_and_shown_where_that_is_declared() -> None:
    kept = torch.zeros_like(HIDDEN)
    kept[0, 0] = True

    def view(x: Tensor) -> dict[str, Any]:
        return {"x": masked(x), "y": x, "mask": HIDDEN | kept, "kept": kept & ~HIDDEN}

    assert certify_view(view, IMAGES).verdict() is PROVED
    undeclared = certify_view(lambda x: view(x) | {"kept": None}, IMAGES)
    assert finding(undeclared, Contract.C4).verdict is REFUTED


def test_a_normalising_view_declares_what_it_shows() -> None:
    def normalise(x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25

    def view(x: Tensor) -> Any:
        return masked(normalise(x)), normalise(x), MASK

    assert finding(certify_view(view, IMAGES), Contract.C2).verdict is REFUTED
    report = certify_view(view, IMAGES, source=normalise, target=normalise)
    assert finding(report, Contract.C1).verdict is PROVED
    assert {finding(report, Contract[c]).verdict for c in ("C2", "C3")} == {UNKNOWN}
    wrong = certify_view(view, IMAGES, source=lambda x: x - 0.5, target=normalise)
    assert finding(wrong, Contract.C2).verdict is REFUTED


def random_torch(x: Tensor) -> Any:
    hidden = torch.rand(x.shape[1:]) < 0.5
    return torch.where(hidden, 0.0, x), x, hidden


def random_numpy(x: Tensor) -> Any:
    hidden = torch.from_numpy(np.random.random(tuple(x.shape[1:])) < 0.5)
    return torch.where(hidden, 0.0, x), x, hidden


def random_python(x: Tensor) -> Any:
    hidden = RULE.mask((3, 8, 12)).hidden.roll(random.choice([0, 4, 8]), -1)
    return torch.where(hidden, 0.0, x), x, hidden


class Counting:
    calls = 0

    def __call__(self, x: Tensor) -> Any:
        self.calls += 1
        return vp.Rotating(RULE).at(self.calls).sample(x)


class Kept:
    """A generator of its own, of which a draw seldom shows."""

    generator = torch.Generator().manual_seed(0)

    def __call__(self, x: Tensor) -> Any:
        seldom = bool(torch.rand((), generator=self.generator) < 1e-4)
        return (x if seldom else masked(x)), x, MASK


def name(view: Any) -> str:
    """The same in every process: an object's own text holds its address."""
    return getattr(view, "__name__", type(view).__name__)


@pytest.mark.parametrize("view", [random_torch, random_numpy, random_python, Counting(), Kept()], ids=name)
def test_randomness_is_found_and_nothing_else_is_proved(view: Callable[[Tensor], Any]) -> None:
    report = certify_view(view, IMAGES)
    assert finding(report, Contract.C8).verdict is REFUTED
    assert {f.verdict for f in report.findings if f.contract is not Contract.C8} == {UNKNOWN}


def test_a_random_view_that_leaks_is_refuted_at_a_seed_that_replays() -> None:
    def view(x: Tensor) -> Any:
        hidden = torch.rand(x.shape[1:]) < 0.5
        return torch.where(torch.rand(x.shape[1:]) < 0.5, 0.0, x), x, hidden

    witness = finding(certify_view(view, IMAGES), Contract.C1).witness
    assert witness is not None
    seen = []
    for name in ("x", "changed"):
        torch.manual_seed(witness.inputs["seed"])
        seen.append(view(witness.inputs[name])[0])
    assert not torch.equal(*seen)


def test_a_seeded_generator_inside_the_view_is_no_randomness() -> None:
    def view(x: Tensor) -> Any:
        hidden = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(5)) < 0.5
        return torch.where(hidden, 0.0, x), x, hidden

    assert certify_view(view, IMAGES).verdict() is PROVED


def test_the_global_random_state_is_as_before() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.get_rng_state(), str(np.random.get_state())
    for view in (RULE.sample, random_torch, random_numpy):
        certify_view(view, IMAGES)
    assert torch.equal(torch.get_rng_state(), expected[0]) and str(np.random.get_state()) == expected[1]


def branch(x: Tensor) -> Any:
    return masked(x) if x.mean() < 1e3 else x, x, MASK


def saliency(x: Tensor) -> Any:
    hidden = x > 0.5
    return torch.where(hidden, 0.0, x), x, hidden


def through_numpy(x: Tensor) -> Any:
    return torch.from_numpy(np.where(HIDDEN.numpy(), np.float32(0), x.numpy())), x, MASK


def in_threads(x: Tensor) -> Any:
    with ThreadPoolExecutor(2) as pool:
        return torch.stack(list(pool.map(lambda row: torch.where(HIDDEN, 0.0, row), x))), x, MASK


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (branch, "looks at values"),
        (saliency, "depends on the values"),
        (through_numpy, "numpy takes"),
        (in_threads, "no operator shows"),
    ],
)
def test_views_that_look_at_values_are_not_proved(view: Callable[[Tensor], Any], reason: str) -> None:
    report = certify_view(view, IMAGES)
    others = [f for f in report.findings if f.contract is not Contract.C8]
    assert all(f.verdict in (UNKNOWN, REFUTED) for f in others), report
    assert any(reason in f.detail for f in others)


def test_a_view_that_raises_or_returns_something_else_is_unknown() -> None:
    report = certify_view(lambda x: x.reshape(7, 7), IMAGES)
    assert report.verdict() is UNKNOWN and "raised RuntimeError" in report.findings[0].detail
    report = certify_view(lambda x: (x, x), IMAGES)
    assert "x: Tensor, y: Tensor, mask: NoneType" in report.findings[0].detail
    report = certify_view(lambda x: (x, x, torch.ones(5)), IMAGES)
    assert "mask of type torch.float32 must be a Mask or a bool tensor" in report.findings[0].detail
    report = certify_view(lambda x: (x, x, torch.ones(5, dtype=torch.bool)), IMAGES)
    assert "mask of shape (5,) does not lie over a batch of shape (2, 3, 8, 12)" in report.findings[0].detail


def test_an_undeclared_order_of_the_target_is_unknown() -> None:
    report = certify_view(lambda x: (patches(x)[:, VISIBLE_IDS], patches(x), PATCH_MASK), IMAGES)
    assert finding(report, Contract.C3).verdict is UNKNOWN
    assert finding(report, Contract.C1).verdict is PROVED
    assert "declare target=" in finding(report, Contract.C3).detail


def test_a_fill_from_visible_content_is_no_leak_and_one_from_all_content_is() -> None:
    def view(x: Tensor) -> Any:
        return torch.where(HIDDEN, x[:, ~HIDDEN].mean(1).reshape(-1, 1, 1, 1), x), x, MASK

    assert certify_view(view, IMAGES).verdict() is PROVED
    leaky = certify_view(lambda x: (torch.where(HIDDEN, x.mean(), x), x, MASK), IMAGES)
    assert finding(leaky, Contract.C1).verdict is REFUTED


def test_which_coordinates_a_blurred_x_shows_is_unknown() -> None:
    report = certify_view(lambda x: (F.avg_pool2d(masked(x), 3, 1, 1), x, MASK), IMAGES)
    assert finding(report, Contract.C4).verdict is UNKNOWN


@pytest.mark.parametrize(
    "x", [IMAGES[:1].expand(3, -1, -1, -1), IMAGES.to(memory_format=torch.channels_last), 0 * IMAGES]
)
def test_layout_and_content_of_the_example_do_not_matter(x: Tensor) -> None:
    assert certify_view(RULE.sample, x, RULE).verdict() is PROVED
    assert finding(certify_view(lambda x: (x, x, MASK), x), Contract.C1).verdict is REFUTED


def test_shared_memory_is_told() -> None:
    def view(x: Tensor) -> Any:
        both = torch.stack([masked(x), x])
        return both[0], both[1], MASK

    assert "x and y share memory" in finding(certify_view(view, IMAGES), Contract.C2, "written").detail


@dataclass
class Batch:
    x: Tensor
    y: Tensor
    mask: vp.Mask


def test_objects_with_the_names_will_do() -> None:
    assert certify_view(lambda x: Batch(masked(x), x, MASK), IMAGES, name="mine").subject == "mine"
    assert certify_view(lambda x: Batch(masked(x), x, MASK), IMAGES).verdict() is PROVED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((RULE.sample, torch.zeros(())), "example of shape () must be a batch [N, *data] that is not empty"),
        ((RULE.sample, torch.zeros(0, 3)), "example of shape (0, 3) must be a batch [N, *data] that is not empty"),
        ((RULE.sample, IMAGES, HIDDEN), "must be a fixed rule or a Mask; of a random rule pass a mask that it made"),
        ((3, IMAGES), "view=3 must be a function of a batch; wrap it in a lambda"),
    ],
)
def test_bad_input_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        inspect.unwrap(certify_view)(*arguments)


def test_an_unknown_extent_of_the_proof_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="sizes='some' must be 'example' or 'all'"):
        inspect.unwrap(certify_view)(RULE.sample, IMAGES, sizes="some")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Export cannot look through the shape checks of the test run."""
    pytest.importorskip("z3")
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


SIZED = ("reach", "appears", "source", "selects")


def scopes(report: Report) -> set[tuple[str, str]]:
    return {(f.scope, f.verdict) for f in report.findings if any(part in f.claim for part in SIZED)}


@pytest.mark.usefixtures("unchecked")
def test_every_size_is_proved_where_the_capture_has_one_meaning() -> None:
    def by_hand(x: Tensor) -> Any:
        hidden = torch.arange(x.shape[1]) % 3 == 1
        return x.masked_fill(hidden, 0.0), x, hidden

    table, every_third = IMAGES[0, 0], vp.VectorMask(3, 1)
    for view, x, rule in (
        (RULE.sample, IMAGES, RULE),
        (every_third.sample, table, every_third),
        (by_hand, table, None),
        (by_hand, table, every_third),
    ):
        report = certify_view(view, x, rule, sizes="all")
        assert scopes(report) == {("all values, all sizes from 1", "PROVED")}, report


def short(x: Tensor) -> Any:
    """Right for tables of up to 20 columns."""
    column = torch.arange(x.shape[1])
    hidden = (column % 3 == 1) & (column < 20)
    return x.masked_fill(hidden, 0.0), x, hidden


def small_only(x: Tensor) -> Any:
    return (masked(x) if x.shape[0] < 1000 else x), x, MASK


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("view", "rule", "part", "why"),
    [
        (short, vp.VectorMask(3, 1), "mask is the rule's", "another size may break it"),
        (lambda x: (RULE.sample(x).x if x.shape[2] < 50 else x, x, RULE.mask(x.shape[1:])), None, "reach", "another"),
        (lambda x: (RULE.sample(x).x, x[:, :3], RULE.mask(x.shape[1:])), None, "source", ""),
        (small_only, None, "reach", ""),
    ],
)
def test_what_holds_at_the_example_only_keeps_that_scope(view: Any, rule: Any, part: str, why: str) -> None:
    x = IMAGES[0, 0] if view is short else IMAGES
    report = certify_view(view, x, rule, sizes="all")
    found = next(f for f in report.findings if part in f.claim)
    assert found.verdict is PROVED and found.scope == f"all values at {'x'.join(map(str, x.shape))}", report
    assert found.detail.startswith(f"not extended to all sizes: {why}")


def test_without_z3_the_scope_is_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "viewproof.symbolic.capture", None)
    report = certify_view(RULE.sample, IMAGES, sizes="all")
    assert report.verdict() is PROVED and scopes(report) == {("all values at 2x3x8x12", "PROVED")}
    assert "pip install 'viewproof[prove]'" in finding(report, Contract.C1).detail


class Keeps:
    """Fills with the mean of the first batch it is called with."""

    fill: Tensor | None = None

    def __call__(self, x: Tensor) -> Any:
        self.fill = x.mean() if self.fill is None else self.fill
        return torch.where(HIDDEN, self.fill, x), x, MASK


def test_a_tensor_kept_from_the_first_call_leaves_everything_open() -> None:
    report = certify_view(Keeps(), IMAGES)
    assert {f.verdict for f in report.findings} == {UNKNOWN}
    assert all("it keeps tensors" in f.detail for f in report.findings)


@pytest.mark.parametrize(
    "peek",
    [
        lambda x: torch.tensor([x[0, 0, 0, 0]]).max(),
        lambda x: torch.as_tensor([[x.max()]]).max(),
        lambda x: torch.Tensor([x[0, 0, 0, 0]]).max(),
        lambda x: x.new_tensor([x.max()]).max(),
        lambda x: torch.arange(9)[None][:, [x.max().clamp(0, 5e3).long() // 1000]].max() * 1000.0,
        lambda x: torch.normal(x, 0.01, generator=torch.Generator().manual_seed(0)).max(),
    ],
)
def test_a_branch_on_values_that_no_operator_hands_over_is_not_proved(peek: Callable[[Tensor], Tensor]) -> None:
    report = certify_view(lambda x: (x if peek(x) > 1e3 else masked(x), x, MASK), IMAGES)
    assert finding(report, Contract.C1).verdict is not PROVED, report


def blank_dropped(x: Tensor) -> Any:
    tokens = patches(x)
    return tokens[:, (tokens.abs().mean((0, 2)) > 0.3) & ~PATCH_MASK], tokens, PATCH_MASK


def test_visible_tokens_that_are_dropped_by_content_are_refuted() -> None:
    images = IMAGES.clone()
    images[..., :4, :4] *= 0.1
    report = certify_view(blank_dropped, images, target=patches)
    for contract in (Contract.C2, Contract.C4):
        found = finding(report, contract)
        assert found.verdict is REFUTED and found.witness is not None, report
        x, changed = found.witness.inputs["x"], found.witness.inputs["changed"]
        where = found.witness.coordinates["source"]
        assert not HIDDEN[where[1:]] and x[where] != changed[where] and int((x != changed).sum()) == 1
        assert torch.equal(blank_dropped(x)[0], blank_dropped(changed)[0])


def test_a_witness_says_that_what_is_hidden_follows_from_hidden_content() -> None:
    witness = finding(certify_view(saliency, IMAGES), Contract.C1).witness
    assert witness is not None and witness.what.endswith(": what is hidden follows from it")
    leaky = finding(certify_view(lambda x: (x, x, MASK), IMAGES), Contract.C1).witness
    assert leaky is not None and "follows" not in leaky.what
