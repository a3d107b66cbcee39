"""I-JEPA and the two-view methods on Lightning: one EMA move an optimizer step, bitwise resume, bad input."""

import copy
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from taught import branch_of
from torch import Tensor, nn

import viewproof as vp
from viewproof.certify.target import certify_target_branch
from viewproof.data import Dataset, Split, batches, make_dataset
from viewproof.losses import BarlowTwinsLoss, InfoNCELoss, JEPALoss, SIGRegLoss, VICRegLoss
from viewproof.methods.ijepa import IJEPA, JEPANetwork
from viewproof.methods.mae import MaskedPretraining
from viewproof.methods.two_view import ProjectedEncoder, TwoView
from viewproof.models.patches import PatchEncoder, PatchPredictor, Projector
from viewproof.training.augment import RandomViews
from viewproof.training.base import JointPretraining
from viewproof.training.callbacks import ClipGradient
from viewproof.training.collapse import CollapseMonitor
from viewproof.training.ema import MomentumSchedule
from viewproof.verdict import Verdict

SHAPE = (2, 8, 12)
RULE = vp.MultiBlockMask(2, 2, context=8, target_area=(3, 5), context_area=(20, 24), targets=3)
LOSSES = {"vicreg": VICRegLoss(), "barlow": BarlowTwinsLoss(), "sigreg": SIGRegLoss(slices=8), "simclr": InfoNCELoss()}
METHODS = ["ijepa", *LOSSES]


def dataset(n: int = 24) -> Dataset:
    values = torch.randn(n + 6, *SHAPE, generator=torch.Generator().manual_seed(3)).numpy()
    return make_dataset("images", Split(values[:n]), Split(values[n:]))


def network() -> JEPANetwork:
    torch.manual_seed(5)
    encoder = PatchEncoder(SHAPE, (2, 2), dim=16, depth=1, heads=2)
    return JEPANetwork(encoder, PatchPredictor(encoder.grid, dim=16, width=8, depth=1, heads=2))


def module(method: str, **options: Any) -> JointPretraining:
    if method == "ijepa":
        return IJEPA(network(), RULE, momentum=MomentumSchedule(0.9, steps=12), **options)
    torch.manual_seed(5)
    model = ProjectedEncoder(PatchEncoder(SHAPE, (2, 2), dim=16, depth=1, heads=2), Projector(16, 12))
    return TwoView(model, LOSSES[method], **options)


def fit(
    folder: Path,
    method: str,
    epochs: int,
    checkpoint: Path | None = None,
    callbacks: Sequence[pl.Callback] = (),
    trained: pl.LightningModule | None = None,
    batch: int = 8,
    **trainer: Any,
) -> tuple[Any, pl.Trainer]:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    data = dataset()
    trained = trained or module(method, warmup_steps=2, total_steps=12)
    run = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, deterministic=True, callbacks=[
            ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False), *callbacks
        ], **trainer,
    )  # fmt: skip
    loaders = batches(data, "train", batch, seed=1), batches(data, "test", 6)
    run.fit(trained, *loaders, ckpt_path=checkpoint, weights_only=True)
    return trained, run


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_bit_for_bit_the_straight_run(method: str, tmp_path: Path) -> None:
    straight, whole = fit(tmp_path / "straight", method, 4)
    fit(tmp_path / "half", method, 2)
    resumed, run = fit(tmp_path / "half", method, 4, checkpoint=tmp_path / "half" / "last.ckpt")
    ours, theirs = resumed.state_dict(), straight.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert run.global_step == whole.global_step == 12
    left, right = run.optimizers[0].state_dict()["state"], whole.optimizers[0].state_dict()["state"]
    assert all(torch.equal(left[k][name], right[k][name]) for k in right for name in ("exp_avg", "exp_avg_sq"))
    assert torch.equal(resumed.embeddings, straight.embeddings)


def test_a_resume_that_lost_its_step_would_be_seen(tmp_path: Path) -> None:
    """The step decides the momentum and SIGReg's directions: another one gives other weights."""
    x, ids = torch.randn(8, *SHAPE), torch.arange(8)
    sigreg = module("sigreg")
    assert not torch.equal(sigreg.objective(x, ids, 3, 0), sigreg.objective(x, ids, 4, 0))
    straight, _ = fit(tmp_path / "straight", "ijepa", 4)
    fit(tmp_path / "half", "ijepa", 2)
    late = module("ijepa", warmup_steps=2, total_steps=12)
    assert isinstance(late, IJEPA)
    late.momentum = lambda step: MomentumSchedule(0.9, steps=12)(max(0, step - 6))
    resumed, _ = fit(tmp_path / "half", "ijepa", 4, tmp_path / "half" / "last.ckpt", trained=late)
    assert not torch.equal(resumed.model.target.embed.weight, straight.model.target.embed.weight)


class Moves(pl.Callback):
    """How the target moved: the share of the way to the online weights, after each micro-batch."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self._before: Tensor | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, IJEPA)
        self._before = pl_module.model.target.embed.weight.clone()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, IJEPA) and self._before is not None
        way = pl_module.model.encoder.embed.weight.detach() - self._before
        moved = pl_module.model.target.embed.weight - self._before
        self.shares.append(float((way * moved).sum() / (way * way).sum()) if way.any() else 0.0)


def test_the_target_moves_once_an_optimizer_step_by_the_schedule(tmp_path: Path) -> None:
    moves = Moves()
    fit(tmp_path, "ijepa", 2, callbacks=[moves])
    schedule = MomentumSchedule(0.9, steps=12)
    assert moves.shares == pytest.approx([1 - schedule(step) for step in range(6)], rel=1e-3)


def test_four_micro_batches_of_two_are_one_batch_of_eight(tmp_path: Path) -> None:
    moves = Moves()
    apart, run = fit(tmp_path / "a", "ijepa", 2, batch=2, callbacks=[moves], accumulate_grad_batches=4)
    whole, _ = fit(tmp_path / "b", "ijepa", 2, batch=8)
    assert run.global_step == 6 and len(moves.shares) == 24
    schedule = MomentumSchedule(0.9, steps=12)
    expected = [1 - schedule(k // 4) if k % 4 == 3 else 0.0 for k in range(24)]
    assert moves.shares == pytest.approx(expected, rel=1e-3, abs=1e-6)
    for ours, theirs in zip(apart.model.parameters(), whole.model.parameters(), strict=True):
        # Adam divides by the root of a gradient's square: where a gradient is mere rounding, so is its sign.
        assert (ours - theirs).abs().max() < 2e-3
        assert (ours - theirs).abs().mean() < 2e-5


def test_the_target_branch_is_certified() -> None:
    trained = module("ijepa")
    assert isinstance(trained, IJEPA)
    branch = branch_of(trained, torch.arange(4), [trained.model.predictor])
    assert certify_target_branch(branch, torch.randn(4, *SHAPE)).verdict() is Verdict.PROVED


def test_the_context_encoder_never_reads_a_hidden_pixel() -> None:
    trained = module("ijepa")
    assert isinstance(trained, IJEPA)
    x, ids = torch.randn(4, *SHAPE), torch.arange(4)
    seen, wanted = trained.places(SHAPE, ids, 1)
    context, targets = RULE.blocks(SHAPE, sample_ids=ids, epoch=1)
    poisoned = torch.where(context.hidden, torch.nan, x)
    assert torch.equal(trained.model.encoder(poisoned, seen), trained.model.encoder(x, seen))
    for n in range(4):
        assert seen[n].tolist() == vp.visible_patch_idxs(context.row(n), 2, 2)
        assert [w.tolist() for w in wanted[n]] == [vp.hidden_patch_idxs(t.row(n), 2, 2) for t in targets]
        assert not set(seen[n].tolist()) & set(wanted[n].flatten().tolist())


def test_targets_are_the_normalised_tokens_of_their_own_places() -> None:
    trained = module("ijepa")
    assert isinstance(trained, IJEPA)
    x, ids = torch.randn(3, *SHAPE), torch.arange(3)
    seen, wanted = trained.places(SHAPE, ids, 0)
    prediction, target, pooled = trained.model(x, seen, wanted)
    tokens = trained.model.target(x)
    for n in range(3):
        for m in range(3):
            for k, place in enumerate(wanted[n, m].tolist()):
                token = tokens[n, place]
                normal = (token - token.mean()) / (token.var(correction=0) + 1e-5).sqrt()
                torch.testing.assert_close(target[n, m, k], normal)
    alone = trained.model.predictor(trained.model.encoder(x, seen), seen, wanted[:, 1])
    torch.testing.assert_close(prediction[:, 1], alone)
    torch.testing.assert_close(pooled, trained.model.encode(x))
    assert torch.equal(trained.objective(x, ids, 0, 0), JEPALoss()(prediction, target))


def test_the_target_stays_in_evaluation_mode_and_takes_no_gradient() -> None:
    model = network()
    model.train()
    assert model.encoder.training and not model.target.training
    assert all(not p.requires_grad for p in model.target.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.encoder.parameters(), model.target.parameters(), strict=True))


def test_an_encoder_sees_the_same_in_a_batch_and_alone_and_every_parameter_trains() -> None:
    for method in METHODS:
        trained = module(method)
        trained.objective(torch.randn(8, *SHAPE), torch.arange(8), 0, 0).backward()  # type: ignore[no-untyped-call]
        still = [
            n for n, p in trained.model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
        ]
        # A key's bias moves all scores of a query alike, and what every embedding shares is nothing to a correlation.
        assert [n for n in still if "query_key_value" not in n and n != "projector.6.bias"] == []
    x = torch.randn(4, *SHAPE)
    torch.testing.assert_close(trained.model.encode(x)[1:2], trained.model.encode(x[1:2]))  # type: ignore[operator]


def test_the_loss_is_that_of_the_pair_and_the_step() -> None:
    x, ids = torch.randn(6, *SHAPE), torch.arange(6)
    for method in LOSSES:
        trained = module(method)
        a, b = RandomViews()(x, ids, 2)
        expected = LOSSES[method](trained.model(a), trained.model(b), 7)
        assert torch.equal(trained.objective(x, ids, 7, 2), expected)
        assert torch.equal(trained.embeddings, trained.model(a).detach())  # type: ignore[arg-type]


def test_a_users_own_pair_function_trains() -> None:
    trained = TwoView(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), VICRegLoss(), lambda x, ids, epoch: (x, x.flip(3))
    )
    assert trained.training_step((torch.randn(6, *SHAPE), torch.arange(6)), 0).requires_grad


class Constant(nn.Module):
    """An encoder that has collapsed."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.point.expand(len(x), 5)


def test_a_run_that_has_collapsed_says_so_and_one_that_has_not_does_not(tmp_path: Path) -> None:
    said: list[str] = []
    monitor = CollapseMonitor(every=1, say=said.append)
    fit(tmp_path / "a", "vicreg", 1, trained=TwoView(Constant(), VICRegLoss()), callbacks=[monitor])
    assert len(said) == 1 and said[0].startswith("step 1: COLLAPSE") and monitor.values["spread"] < 1e-12
    for method in METHODS:
        said.clear()
        _, run = fit(tmp_path / method, method, 1, callbacks=[CollapseMonitor(every=1, say=said.append)])
        assert said == [] and run.callback_metrics["rank"] > 2


@pytest.mark.parametrize("method", METHODS)
def test_autocast_trains(method: str, tmp_path: Path) -> None:
    trained, run = fit(tmp_path, method, 1, precision="bf16-mixed")
    assert run.global_step == 3 and all(p.isfinite().all() for p in trained.parameters())
    assert all(p.dtype == torch.float32 for p in trained.parameters())


class Norms(pl.Callback):
    """The gradient's norm as the optimizer will see it."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat(gradients).norm()))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_to_the_norm_and_shorter_ones_left_alone(precision: str, tmp_path: Path) -> None:
    free, tight, loose = Norms(), Norms(), Norms()
    options = {"precision": precision}
    fit(tmp_path / "a", "vicreg", 1, callbacks=[free], **options)
    fit(tmp_path / "b", "vicreg", 1, callbacks=[ClipGradient(0.01), tight], **options)
    fit(tmp_path / "c", "vicreg", 1, callbacks=[ClipGradient(1e6), loose], **options)
    assert min(free.norms) > 0.02 and tight.norms == pytest.approx([0.01] * 3, rel=1e-3)
    assert loose.norms == free.norms


COMPILED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_joint_modules import SHAPE, module
for method in ("ijepa", "vicreg"):
    trained = module(method)
    x, ids = torch.randn(6, *SHAPE), torch.arange(6)
    plain, names = trained.objective(x, ids, 0, 0), list(trained.state_dict())
    trained.model.compile(backend="aot_eager", fullgraph=True)
    loss = trained.objective(x, ids, 0, 0)
    torch.testing.assert_close(loss, plain)
    loss.backward()
    assert list(trained.state_dict()) == names
"""


def test_a_compiled_network_has_the_same_loss_and_weights_by_the_same_names() -> None:
    """In a process of its own, where no shape is checked: the compiler cannot trace the checks."""
    subprocess.run([sys.executable, "-c", COMPILED, str(Path(__file__).parent)], check=True)


def test_biases_norms_and_tokens_are_not_decayed_and_the_target_is_in_no_group() -> None:
    trained = module("ijepa", weight_decay=0.3)
    decayed, plain = trained.configure_optimizers()["optimizer"].param_groups
    assert decayed["weight_decay"] == 0.3 and all(p.dim() >= 2 for p in decayed["params"])
    assert plain["weight_decay"] == 0.0 and all(p.dim() < 2 for p in plain["params"])
    names = {id(p): name for name, p in trained.model.named_parameters()}
    grouped = {names[id(p)] for p in [*decayed["params"], *plain["params"]]}
    assert grouped == {name for name in names.values() if not name.startswith("target.")}


def test_the_schedule_is_that_of_masked_pretraining() -> None:
    options = {"warmup_steps": 3, "total_steps": 11}
    other = MaskedPretraining(vp.VectorAutoencoder(4), vp.VectorMask(2, 0), **options)  # type: ignore[arg-type]
    trained = module("vicreg", **options)
    assert [trained.rate(step) for step in range(14)] == [other.rate(step) for step in range(14)]
    assert module("vicreg").rate(10**6) == 1.0


def test_another_methods_checkpoint_is_refused_before_training(tmp_path: Path) -> None:
    fit(tmp_path / "vicreg", "vicreg", 1)
    for method in ("barlow", "ijepa"):
        trained = module(method)
        before = copy.deepcopy(trained.state_dict())
        with pytest.raises(vp.InvalidArgument, match=r"was written by TwoView with VICRegLoss\(.*not by"):
            fit(tmp_path / method, method, 2, tmp_path / "vicreg" / "last.ckpt", trained=trained)
        assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: IJEPA(network(), vp.MultiBlockMask(4, 4, 2, (1, 1), (6, 6))), "must be a MultiBlockMask of the encoder's"),
    (lambda: IJEPA(network(), vp.RandomPatchMask(2, 2, 4)), "must be a MultiBlockMask"),
    (lambda: IJEPA(network(), vp.MultiBlockMask(2, 2, 0, (3, 5), (20, 24))), "context=0"),
    (lambda: IJEPA(network(), vp.MultiBlockMask(2, 2, 23, (3, 5), (20, 24))), "context=23"),
    (lambda: IJEPA(network(), RULE, momentum=MomentumSchedule(1.01)), "momentum start=1.01 must lie in [0, 1]"),
    (lambda: module("ijepa").training_step(torch.zeros(2, *SHAPE), 0), "must be (x, sample_ids)"),
    (lambda: module("vicreg").training_step({"x": torch.zeros(2, *SHAPE)}, 0), "must be (x, sample_ids)"),
    (
        lambda: TwoView(nn.Flatten(), VICRegLoss(), lambda x, i, e: (x, x[:, :, :4])).training_step(
            (torch.zeros(2, *SHAPE), torch.arange(2)), 0
        ),
        "views of shapes (2, 2, 8, 12) and (2, 2, 4, 12)",
    ),
    (
        lambda: TwoView(nn.Flatten(), VICRegLoss(), lambda x, i, e: (x[1:], x[1:])).training_step(
            (torch.zeros(3, *SHAPE), torch.arange(3)), 0
        ),
        "of a batch of 3 must have one shape",
    ),
]


@pytest.mark.parametrize(("build", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(vp.InvalidArgument, match=re.escape(message)):
        build()
