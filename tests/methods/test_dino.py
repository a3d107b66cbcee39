"""DINO with iBOT's masked patches: its contract, its centres, its teacher, its views, its ranks."""

import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from taught import branch_of, check_resumed
from torch import Tensor

import viewproof as vp
from viewproof.certify import certify_encoder, certify_objective
from viewproof.certify.ranks import certify_ranks
from viewproof.certify.target import certify_target_branch
from viewproof.cli import main
from viewproof.losses import DINOLoss
from viewproof.losses.dino import koleo, mean_of_all
from viewproof.methods.dino import DINO, DINONetwork, PrototypeHead
from viewproof.models.patches import PatchEncoder
from viewproof.models.vit import TokenSettings
from viewproof.training.collapse import measure
from viewproof.training.multi_crop import MultiCrop
from viewproof.verdict import Verdict

# To the ranks go the losses, not this module, which takes seconds to import.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SHAPE = (1, 8, 12)
RULE = vp.RandomPatchMask(2, 2, 7)
IDS = torch.arange(4)


def module(prototypes: int = 5, width: int = 4, **options: Any) -> DINO:
    torch.manual_seed(0)
    settings = TokenSettings(class_token=True, features="class")
    encoder = PatchEncoder(SHAPE, (2, 2), dim=8, depth=1, heads=2, settings=settings)
    network = DINONetwork(encoder, PrototypeHead(8, prototypes, hidden=16, width=width))
    return DINO(network, RULE, MultiCrop((4, 6), 2), total_steps=10, **options)


def images() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def logits(rows: int = 6, count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    drawn = torch.randn(2 * rows + 1, count, generator=torch.Generator().manual_seed(2)).double()
    return drawn[:rows] / 4, drawn[rows:-1] / 16, drawn[-1] / 16


LOSSES = [DINOLoss(), DINOLoss(0.25, 0.125), DINOLoss(sinkhorn=3), DINOLoss(0.2, 0.1, sinkhorn=1)]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_loss_is_the_objective_of_its_contract_and_a_wrong_one_is_not(loss: DINOLoss) -> None:
    student, teacher, centre = logits()

    def exact(*rows: Any) -> Any:
        return vp.predictive_view_objective(loss.contract(*rows))

    assert float(exact(student.tolist(), teacher.tolist(), centre.tolist())) == pytest.approx(
        loss(student, teacher, centre).item(), rel=1e-12
    )
    assert not certify_objective(loss, exact, student, teacher, centre).refuted

    def kept_gradient(student: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
        return loss(student, teacher, -centre) if not loss.sinkhorn else loss(student, teacher.flip(0), centre)

    assert certify_objective(kept_gradient, exact, student, teacher, centre).verdict() is Verdict.REFUTED


def test_whole_logits_have_exact_targets() -> None:
    contract = DINOLoss().contract([[0, 0]], [[3, 3]], [1, 1])
    assert contract.context == [[Fraction(0), Fraction(0)]]
    assert contract.target_encoder(0, contract.target(0)) == [0.5, 0.5]


def test_sinkhorn_balances_rows_and_prototypes() -> None:
    targets = DINOLoss(teacher_temperature=1.0, sinkhorn=50).targets(logits(8, 4)[1], torch.zeros(4))
    torch.testing.assert_close(targets.sum(1), torch.ones(8).double())
    torch.testing.assert_close(targets.sum(0), torch.full((4,), 2.0).double())


def test_koleo_is_its_formula() -> None:
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(3)).double()
    unit = z / z.norm(dim=1, keepdim=True)
    nearest = [min((unit[i] - unit[j]).norm() for j in range(5) if j != i) for i in range(5)]
    torch.testing.assert_close(koleo(z, 1e-30), -torch.stack(nearest).log().mean())
    with pytest.raises(vp.InvalidArgument, match="a batch of 1 has no nearest"):
        koleo(z[:1])


def on_ranks(rows: Tensor) -> Tensor:
    """Both ways of centring, with the centre that the batch itself moves, and KoLeo."""
    student, teacher = rows.chunk(2, 1)
    centre = mean_of_all(teacher)
    return DINOLoss()(student, teacher, centre) + DINOLoss(sinkhorn=3)(student, teacher, centre) + koleo(student)


def own_centre(rows: Tensor) -> Tensor:
    student, teacher = rows.chunk(2, 1)
    return DINOLoss()(student, teacher, teacher.mean(0))


@pytest.mark.parametrize(("loss", "verdict"), [(on_ranks, Verdict.PROVED), (own_centre, Verdict.REFUTED)])
def test_two_unequal_ranks_have_the_value_and_gradient_of_one(loss: Any, verdict: Verdict) -> None:
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    assert certify_ranks(loss, rows, (3, 5)).verdict() is verdict


def test_the_target_branch_is_certified_and_another_average_is_refuted() -> None:
    for share, verdict in ((1.0, Verdict.PROVED), (0.5, Verdict.REFUTED)):
        trained = module().eval()
        branch = branch_of(trained, IDS, [trained.model.mask_token], share)
        assert certify_target_branch(branch, images()).verdict() is verdict


def test_the_student_cannot_read_a_hidden_patch() -> None:
    student, token = module().model.student, module().model.mask_token
    sample = RULE.sample(images(), sample_ids=IDS)
    assert sample.view is not None
    places = vp.split_patches_by_sample(sample.view, 2, 2)[1]
    report = certify_encoder(lambda x: student(x, places, token), sample)
    assert report.verdict() is Verdict.PROVED
    assert certify_encoder(lambda x: student(x, places), sample).verdict() is Verdict.REFUTED


def test_every_view_meets_the_others_and_every_hidden_patch_itself() -> None:
    trained = module().eval()
    x, epoch = images(), 3
    large, small = trained.views(x, IDS, epoch)
    places = trained.places(SHAPE, IDS, epoch)
    out = trained.model(large, small, places)
    terms = []
    for t in range(2):
        whole = trained.model.teacher(large[t], places[t])
        for s, view in enumerate([*large, *small]):
            if s != t:
                masked = (places[s], trained.model.mask_token) if s < 2 else ()
                student = trained.model.student(view, *masked)[1]
                terms.append(DINOLoss()(student, whole[1], torch.zeros(5)))
    patches = [
        DINOLoss()(out.student_patches[v].flatten(0, 1), out.teacher_patches[v].flatten(0, 1), torch.zeros(5))
        for v in range(2)
    ]
    expected = torch.stack(terms).mean() + torch.stack(patches).mean()
    torch.testing.assert_close(trained.objective(x, IDS, 0, epoch), expected)
    assert not torch.equal(*places) and torch.equal(
        places[1], vp.split_patches_by_sample(RULE.mask(SHAPE, sample_ids=IDS, epoch=7), 2, 2)[1]
    )


def test_centres_move_once_a_step_to_the_mean_of_its_micro_batches_and_not_in_validation() -> None:
    trained, x = module(), images()
    halves = [trained.model(*trained.views(x[h], IDS[h]), trained.places(SHAPE, IDS[h], 0)) for h in (IDS[:2], IDS[2:])]
    for h in (IDS[:2], IDS[2:]):
        trained.objective(x[h], h, 0, 0)
        assert not trained.class_centre.any()
    trained.move_centres()
    mean = torch.stack([out.teacher.flatten(0, 1).mean(0) for out in halves]).mean(0)
    torch.testing.assert_close(trained.class_centre, 0.1 * mean)
    before = trained.patch_centre.clone()
    trained.eval().validation_step((x, IDS), 0)
    trained.move_centres()
    assert before.any() and torch.equal(trained.patch_centre, before)


def test_one_prototype_for_all_samples_is_a_collapse_whatever_their_features() -> None:
    for size, collapsed in ((0.0, False), (1e4, True)):
        trained, x = module(64, 16), torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(1))
        last = trained.model.teacher.head.layers[-1]
        assert isinstance(last, torch.nn.Linear)
        last.bias.data.fill_(size)
        trained.objective(x, torch.arange(16), 0, 0)
        assert trained.embeddings is not None and measure(trained.embeddings).collapsed is collapsed
        assert not measure(trained.model.encode(x)).collapsed


def test_crops_are_a_function_of_the_sample_and_small_ones_are_small() -> None:
    crops, x = MultiCrop((4, 6), 3, seed=5), images()
    large, small = crops(x, IDS, 2)
    alone = crops(x[2:3], IDS[2:3], 2)
    assert [tuple(v.shape[2:]) for v in (*large, *small)] == [(8, 12)] * 2 + [(4, 6)] * 3
    for batch, single in zip([*large, *small], [*alone[0], *alone[1]], strict=True):
        torch.testing.assert_close(batch[2:3], single)
    assert not torch.equal(large[0], replace(crops, seed=6)(x, IDS, 2)[0][0])
    assert not torch.equal(large[0], crops(x, IDS, 3)[0][0])


SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--prototypes", "12", "--epochs", "2", "--batch-size", "479"]


@pytest.mark.parametrize("more", [[], ["--centring", "sinkhorn", "--koleo", "0.1", "--accumulate", "1"]])
def test_a_run_resumes_bit_for_bit_with_its_centres(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["pretrain", "digits", "--method", "dino", *SMALL, "--local-views", "2", *more]
    check_resumed(words, tmp_path, monkeypatch, 1)
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for name in "ab"
    )
    assert one["class_centre"].any() and all(torch.equal(one[name], other[name]) for name in one)
    assert main(["doctor", str(tmp_path / "a")]) == 0


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "digits", "--method", "dino", *SMALL, "--out", str(tmp_path / "x")]
    for more, message in (
        (["--mask", "RandomPatchMask(2, 2, 16)"], "must hide a part of the patches"),
        (["--mask", "PatchMask(2, 2, 2, 0)"], "must draw one mask a sample"),
        (["--features", "both"], "features='both' is wider than a patch"),
        (["--local-views", "-1"], "local_views=-1 must be an integer of at least 0"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
