"""data2vec: its targets, its loss, its teacher, and what the student may read."""

import sys
from typing import Any

import cloudpickle
import pytest
import torch
from taught import branch_of
from torch import Tensor
from torch.nn import functional as F

import viewproof as vp
from viewproof.certify import certify_encoder
from viewproof.certify.ranks import certify_ranks
from viewproof.certify.target import certify_target_branch
from viewproof.losses import JEPALoss
from viewproof.methods.data2vec import Data2Vec, Data2VecNetwork
from viewproof.models.patches import PatchEncoder
from viewproof.models.vit import TokenSettings
from viewproof.verdict import Verdict

# To the ranks go the losses, not this module, which takes seconds to import.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SHAPE = (1, 8, 12)
RULE = vp.RandomPatchMask(2, 2, 14)
IDS = torch.arange(4)


def module(**settings: Any) -> Data2Vec:
    torch.manual_seed(0)
    encoder = PatchEncoder(SHAPE, (2, 2), dim=8, depth=3, heads=2, settings=TokenSettings(**settings))
    return Data2Vec(Data2VecNetwork(encoder, layers=2), RULE, total_steps=10)


def images() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prefix", [{}, {"class_token": True, "registers": 1}])
def test_targets_are_the_mean_of_the_normalised_last_blocks(prefix: dict[str, Any]) -> None:
    model, x, outputs = module(**prefix).model, images(), []
    teacher, every = model.teacher.encoder, torch.arange(24).expand(4, -1)
    for block in teacher.blocks:
        block.register_forward_hook(lambda _, __, out: outputs.append(out))
    tokens = teacher.tokens(x)
    expected = [F.layer_norm(out[:, teacher.settings.count :], (8,)) for out in outputs[1:3]]
    _, target, features = model(x, every)
    torch.testing.assert_close(target, (expected[0] + expected[1]) / 2)
    torch.testing.assert_close(features, tokens.mean(1))


def test_the_objective_is_that_of_its_contract_at_the_hidden_patches() -> None:
    trained = module().double()
    x, places = images().double(), trained.places(SHAPE, IDS, 3)
    prediction, target, _ = trained.model(x, places)
    contract = JEPALoss(beta=2.0).contract(prediction.detach(), target)
    value = trained.objective(x, IDS, 0, 3).detach()
    torch.testing.assert_close(vp.predictive_view_objective(contract), value)
    assert not torch.isclose(trained.objective(x, IDS, 0, 4).detach(), value)
    assert places.tolist() == [
        vp.hidden_patch_idxs(RULE.mask(SHAPE, sample_ids=IDS, epoch=3).row(n), 2, 2) for n in range(4)
    ]


def test_the_student_cannot_read_a_hidden_patch() -> None:
    model, sample = module().model, RULE.sample(images(), sample_ids=IDS)
    assert sample.view is not None
    places = vp.split_patches_by_sample(sample.view, 2, 2)[1]
    assert certify_encoder(lambda x: model(x, places)[0], sample).verdict() is Verdict.PROVED
    assert certify_encoder(lambda x: model(x, places)[1], sample).verdict() is Verdict.REFUTED


@pytest.mark.parametrize(("share", "verdict"), [(1.0, Verdict.PROVED), (0.5, Verdict.REFUTED)])
def test_the_target_branch_is_certified_and_another_average_is_refuted(share: float, verdict: Verdict) -> None:
    trained = module().eval()
    branch = branch_of(trained, IDS, [trained.model.head, trained.model.mask_token], share)
    assert certify_target_branch(branch, images()).verdict() is verdict


def rows_loss(rows: Tensor) -> Tensor:
    return JEPALoss(beta=2.0)(*rows.chunk(2, 1))


def test_two_unequal_ranks_have_the_value_and_gradient_of_one() -> None:
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    assert certify_ranks(rows_loss, rows, (3, 5)).verdict() is Verdict.PROVED


def test_bad_input() -> None:
    encoder = PatchEncoder(SHAPE, (2, 2), dim=8, depth=2, heads=2)
    with pytest.raises(vp.InvalidArgument, match="target_layers=3 must lie in 1 to 2"):
        Data2VecNetwork(encoder, 3)
    with pytest.raises(vp.InvalidArgument, match="must hide a part of the patches"):
        Data2Vec(Data2VecNetwork(encoder, 1), vp.RandomPatchMask(2, 2, 24))


def test_without_a_number_of_steps_the_teacher_goes_on_moving() -> None:
    network = Data2VecNetwork(PatchEncoder((1, 4, 6), (2, 2), dim=8, depth=2, heads=2), layers=1)
    module = Data2Vec(network, vp.RandomPatchMask(2, 2, 3))
    assert [module.momentum(step) for step in (0, 1, 50)] == [0.996] * 3
    assert Data2Vec(network, vp.RandomPatchMask(2, 2, 3), total_steps=10).momentum(10) == 1
