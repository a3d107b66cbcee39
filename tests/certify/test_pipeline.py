"""Whole pipelines: each part under its contract, failed calls named, bad input refused."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

import viewproof as vp
from viewproof.certify import Contract, Pipeline, Report, TargetBranch, Verdict, certify

RULE = vp.PatchMask(4, 4, period=3, offset=1)
MASK = RULE.mask((3, 8, 12))
IMAGES = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
SQUARE = {"loss": {"distance": lambda error: error * error}}


def shown(x: Tensor) -> tuple[Tensor, Tensor, vp.Mask]:
    """The mask is drawn and not applied."""
    return x, x, MASK


def patches(x: Tensor) -> Tensor:
    return vp.patchify(x, 4, 4)


def verdicts(report: Report) -> dict[str, Verdict]:
    return {c.name: report.verdict(c) for c in dict.fromkeys(f.contract for f in report.findings)}


def small_mae() -> vp.MaskedAutoencoder:
    return vp.MaskedAutoencoder((3, 8, 12), (4, 4), dim=16, depth=1, heads=2, decoder_dim=8, decoder_heads=2)


def by_sample(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    return torch.stack(
        [torch.rand(9, generator=torch.Generator().manual_seed(hash((int(i), epoch, seed)))) < 0.3 for i in ids]
    )


def averaged() -> TargetBranch:
    online, target = nn.Linear(4, 2), nn.Linear(4, 2)

    def update(step: int) -> None:
        with torch.no_grad():
            for t, o in zip(target.parameters(), online.parameters(), strict=True):
                t.lerp_(o, 0.1)

    def loss(x: Tensor) -> Tensor:
        return (online(x) - target(x).detach()).square().mean()

    return TargetBranch(loss, online, target, update=update, momentum=0.9)


def test_a_right_pipeline_is_proved_in_every_part() -> None:
    pipeline = Pipeline(
        view=RULE.sample,
        encoder=small_mae(),
        loss=vp.masked_mse,
        target_branch=averaged(),
        patchify=patches,
        monitor=lambda z: z.std(0).mean(),
        draw=by_sample,
        rule=RULE,
        options={
            **SQUARE,
            "target_branch": {"batch": torch.randn(3, 4)},
            "patchify": {"patch_mask": torch.arange(6) % 3 == 1},
            "monitor": {"dimensional": False},
            "draw": {"workers": 0},
        },
    )
    report = certify(pipeline, IMAGES)
    assert verdicts(report) == {f"C{n}": Verdict.PROVED for n in range(1, 11)}, str(report)
    assert report.subject == "Rule.sample"
    assert torch.equal(report.maps["hidden"], MASK.hidden.expand(IMAGES.shape))


def test_every_broken_part_is_refuted_under_its_contract() -> None:
    def whole(prediction: Tensor, sample: vp.Sample) -> Tensor:
        return (prediction - sample.y).square().mean()

    def swapped(step: int) -> None:
        branch = pipeline.target_branch
        assert branch is not None and branch.target is not None and branch.online is not None
        with torch.no_grad():
            for t, o in zip(branch.target.parameters(), branch.online.parameters(), strict=True):
                t.lerp_(o, 0.9)

    branch = averaged()
    pipeline = Pipeline(
        view=shown,
        encoder=nn.Conv2d(3, 2, 3, padding=1),
        loss=whole,
        target_branch=TargetBranch(branch.loss, branch.online, branch.target, update=swapped, momentum=0.9),
        patchify=patches,
        monitor=lambda z: z.abs().mean(),
        draw=lambda ids, epoch, seed: torch.rand(len(ids), 9) < 0.3,
        rule=RULE,
        options={
            "target_branch": {"batch": torch.randn(3, 4)},
            "patchify": {"patch_mask": torch.arange(6) % 3 == 2},
            "draw": {"workers": 0},
        },
    )
    found = verdicts(certify(pipeline, IMAGES, name="broken"))
    assert {name for name, verdict in found.items() if verdict is Verdict.REFUTED} == {
        "C1", "C4", "C5", "C6", "C7", "C8", "C9", "C10"
    }  # fmt: skip


def test_a_bare_function_is_a_view() -> None:
    assert str(certify(shown, IMAGES)) == str(vp.certify_view(shown, IMAGES))


def test_the_module_is_the_function() -> None:
    assert vp.certify(shown, IMAGES, name="mine").subject == "mine"  # type: ignore[operator]
    assert vp.certify is certify is vp.certify.certify  # type: ignore[comparison-overlap, attr-defined]
    with pytest.raises(AttributeError, match=r"module 'viewproof\.certify' has no attribute 'certify_all'"):
        vp.certify.certify_all  # type: ignore[attr-defined] # noqa: B018


def test_the_encoder_is_judged_by_what_the_view_leaves_it() -> None:
    overlapping = nn.Conv2d(3, 2, 3, padding=1)
    masked, raw = (certify(Pipeline(view=v, encoder=overlapping, rule=RULE), IMAGES) for v in (RULE.sample, shown))
    assert masked.verdict(Contract.C10) is Verdict.PROVED
    assert raw.verdict(Contract.C10) is Verdict.REFUTED
    alone = certify(Pipeline(encoder=overlapping, rule=RULE), IMAGES)
    assert alone.verdict() is Verdict.REFUTED and len(alone.findings) == 1


def test_an_encoder_that_takes_the_view_is_given_it() -> None:
    def as_mapping(x: Tensor) -> dict[str, Any]:
        return {"x": x, "y": x, "mask": MASK.hidden}

    for view in (as_mapping, None):
        report = certify(Pipeline(view=view, encoder=small_mae(), rule=RULE), IMAGES)
        assert report.verdict(Contract.C10) is Verdict.PROVED, str(report)


def test_without_a_view_rules_and_masks_make_the_sample() -> None:
    for rule in (RULE, MASK):
        report = certify(Pipeline(loss=vp.masked_mse, rule=rule, options=SQUARE), IMAGES)
        assert verdicts(report) == {"C4": Verdict.PROVED, "C9": Verdict.PROVED}, str(report)


def test_the_weights_flags_and_random_state_are_left_as_they_were() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4), nn.Dropout(0.5))
    before = {k: t.clone() for k, t in encoder.state_dict().items()}
    state = torch.get_rng_state()

    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = encoder

        def encode(self, x: Tensor) -> Any:
            self.eval()
            return self.inner(x)

    owner = Owner()
    for given in (encoder, owner.encode):
        certify(Pipeline(view=RULE.sample, encoder=given, rule=RULE), IMAGES)
    assert owner.training and encoder.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[k]) for k, t in encoder.state_dict().items())


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("first line\nsecond line")


def generator(x: Tensor, *_: Any) -> Iterator[Tensor]:
    yield x


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (broken, "raised RuntimeError: first line"),
        (generator, "raised InvalidArgument: the view returned x: NoneType, y: NoneType, mask: NoneType"),
        (lambda x: x, "raised InvalidArgument: the view returned x: NoneType"),
        (lambda x: (x, x, "mask"), "raised InvalidArgument: mask of type str must be a Mask or a bool tensor"),
        (lambda x: (x, x[:, :1], torch.ones(5, dtype=torch.bool)), "mask of shape (5,) does not lie over a batch"),
    ],
)
def test_a_view_that_fails_is_named_and_the_other_parts_go_on(view: Any, reason: str) -> None:
    pipeline = Pipeline(view=view, encoder=nn.Identity(), loss=vp.masked_mse, monitor=lambda z: z.std(0).mean())
    report = certify(pipeline, IMAGES)
    by_contract = {f.contract.name: f for f in report.findings}
    for contract in ("C8", "C10", "C4"):
        finding = by_contract[contract]
        assert finding.verdict is Verdict.UNKNOWN and reason in finding.detail, str(finding)
    assert by_contract["C10"].detail.startswith("the view raised ") and "second line" not in str(report)
    assert by_contract["C7"].verdict is not Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("part", "contract", "function", "reason"),
    [
        ("encoder", "C10", broken, "raised RuntimeError: first line"),
        ("encoder", "C10", generator, "the output holds no tensor"),
        ("loss", "C4", broken, "RuntimeError: first line"),
        ("loss", "C4", generator, "generator raised "),
        ("loss", "C4", lambda p, s: None, "<lambda> raised "),
        ("patchify", "C5", broken, "raised RuntimeError: first line"),
        ("patchify", "C5", lambda x: None, "raised"),
        ("monitor", "C7", broken, "raised RuntimeError: first line"),
        ("monitor", "C7", lambda z: "fine", "raised ValueError"),
        ("draw", "C8", broken, "raised RuntimeError: first line"),
        ("draw", "C8", generator, "raised TypeError"),
        ("draw", "C8", lambda ids, epoch, seed: torch.rand(2), "draw returned (2,) for 8 ids"),
    ],
)
def test_a_part_that_fails_is_a_finding_and_the_view_goes_on(
    part: str, contract: str, function: Any, reason: str
) -> None:
    options = {"draw": {"workers": 0}} if part == "draw" else {}
    report = certify(Pipeline(view=RULE.sample, rule=RULE, options=options, **{part: function}), IMAGES)
    findings = [f for f in report.findings if f.contract.name == contract]
    assert any(f.verdict is Verdict.UNKNOWN and reason in f.detail for f in findings), str(report)
    assert report.verdict(Contract[contract]) is Verdict.UNKNOWN
    assert report.verdict(Contract.C1) is Verdict.PROVED


def test_hidden_coordinates_that_are_not_known_are_unknown() -> None:
    def mixed(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x[..., :6], x[..., :6] + x[..., 6:], torch.ones(3, 8, 6, dtype=torch.bool)

    report = certify(Pipeline(view=mixed, encoder=nn.Identity()), IMAGES)
    finding = next(f for f in report.findings if f.contract is Contract.C10)
    assert finding.verdict is Verdict.UNKNOWN and "which source coordinates are hidden is not known" in finding.detail
    assert not report.maps


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the test run's own check of annotations, which would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "a Pipeline without a part says nothing; pass one of view, encoder, loss, target_branch,"),
        ({"rule": RULE}, "a Pipeline without a part says nothing"),
        ({"view": 3}, "view=3 must be a function; wrap it in a lambda"),
        ({"encoder": nn.Identity()}, "encoder is given without view and rule, so that nothing says what is hidden"),
        ({"loss": vp.masked_mse}, "loss is given without view and rule"),
        (
            {"view": shown, "rule": vp.RandomPatchMask(4, 4, count=3)},
            "draws a mask for every sample; pass it as draw, and as rule a Mask that it made",
        ),
        (
            {"view": shown, "options": {"los": {}}},
            "options['los'] belongs to no part of this pipeline, which has ['view']",
        ),
        ({"view": shown, "options": {"loss": {}}}, "options['loss'] belongs to no part"),
        (
            {"view": shown, "options": {"view": {"targets": None}}},
            "options['view'] has 'targets', which certify_view does not take; it takes",
        ),
        ({"view": shown, "options": {"view": {"rule": RULE}}}, "options['view'] has 'rule'"),
        ({"view": shown, "options": {"view": {"name": "x"}}}, "options['view'] has 'name'"),
        ({"view": shown, "options": {"view": {"example": 1}}}, "options['view'] has 'example'"),
        (
            {"target_branch": averaged(), "options": {"target_branch": {"branch": 1}}},
            "has 'branch', which certify_target",
        ),
    ],
)
def test_bad_pipelines_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(vp.InvalidArgument, match=re.escape(message)):
        Pipeline(**fields)


@pytest.mark.parametrize("example", [torch.zeros(()), torch.zeros(0, 3), 3])
def test_an_example_that_is_no_batch_is_refused(example: Any) -> None:
    from viewproof.certify import pipeline

    with pytest.raises(vp.InvalidArgument, match="must be a batch"):
        inspect.unwrap(pipeline.certify)(shown, example)


def test_the_view_is_traced_once_for_all_parts() -> None:
    calls = []

    def view(x: Tensor) -> vp.Sample:
        calls.append(x.shape)
        return RULE.sample(x)

    def count(**parts: Any) -> int:
        calls.clear()
        assert certify(Pipeline(view=view, rule=RULE, **parts), IMAGES).maps["hidden"].any()
        return len(calls)

    assert count() == count(loss=vp.masked_mse, options=SQUARE, patchify=patches)


def test_steps_pairs_windows_and_what_is_asked_of_other_parts() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(288, 4), nn.Linear(4, 4))
    decayed = [{"params": [p for p in encoder.parameters() if p.dim() > 1], "weight_decay": 0.1}]
    optimizer = torch.optim.SGD([*decayed, {"params": [p for p in encoder.parameters() if p.dim() == 1]}], 0.1)

    def step(parts: list[Tensor], weight: bool = True) -> None:
        optimizer.zero_grad()
        count = sum(map(len, parts))
        for x in parts:
            loss = encoder(x).square().sum() / 4
            (loss / count if weight else loss / len(x)).backward()
        optimizer.step()

    def masks(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        keys = [hash((int(i), epoch, seed)) for i in ids]
        return torch.stack([torch.rand(9, generator=torch.Generator().manual_seed(k)).argsort() < 3 for k in keys])

    tokens = torch.randint(0, 5, (2, 6), generator=torch.Generator().manual_seed(0))
    read = nn.Embedding(5, 5)

    def pipeline(*, bug: bool) -> Pipeline:
        return Pipeline(
            view=RULE.sample,
            encoder=encoder,
            draw=masks,
            pairs=lambda x: (x + 1, x.roll(1, 0) if bug else 2 * x),
            windows=lambda x: (x[:, :5], x[:, 4 if bug else 5 :]),
            causal=lambda x: read(x).mean(1, keepdim=True).expand(-1, 6, -1) if bug else read(x).cumsum(1),
            step=lambda parts: step(parts, weight=not bug),
            optimizer=optimizer,
            evaluation=lambda x: encoder.train(bug)(x) if bug else encoder(x),
            options={
                "draw": {"workers": 0},
                "coverage": {"draws": 256, "share": 0.6 if bug else 1 / 3},
                "sentinels": {"content": (0.0 if bug else 1.0, 99.0), "x": 2 + IMAGES.abs()},
                "windows": {"x": torch.randn(2, 9, 3)},
                "causal": {"x": tokens},
                "optimizer": {"no_decay": ["*.weight"] if bug else ["*.bias"]},
                "evaluation": {"batch": IMAGES},
                "step": {"batch": torch.randn(8, 3, 8, 12)},
                "dependence": {"must": {"every pixel counts": (MASK.hidden if bug else ~MASK.hidden, None)}},
            },
        )

    encoder.eval()
    right, wrong = (certify(pipeline(bug=bug), IMAGES) for bug in (False, True))
    new = ["C1", "C3", "C4", "C6", "C8", "C10"]
    assert not right.refuted and right.verdict() is not Verdict.REFUTED, str(right)
    for part in new:
        contract = Contract[part]
        assert right.verdict(contract) is not Verdict.REFUTED
        assert wrong.verdict(contract) is Verdict.REFUTED, f"{part}\n{wrong}"
    [hidden_pixels] = [f for f in wrong.findings if f.claim == "every pixel counts"]
    assert hidden_pixels.verdict is not Verdict.PROVED


def test_an_optimizer_needs_a_model() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    report = certify(Pipeline(optimizer=torch.optim.SGD([parameter], 0.1)), IMAGES)
    assert report.verdict() is Verdict.UNKNOWN and "which model" in report.findings[0].detail
    with pytest.raises(vp.InvalidArgument, match="belongs to no part"):
        Pipeline(view=RULE.sample, options={"coverage": {}})
