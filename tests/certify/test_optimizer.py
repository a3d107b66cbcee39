"""Every parameter once, and decay where it is declared."""

import pytest
import torch
from torch import nn

from viewproof import InvalidArgument, certify_optimizer


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


SPARED = ["*.bias", nn.LayerNorm]


def groups(net: nn.Module, lr: float = 0.1) -> list[dict[str, object]]:
    matrices = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() < 2]
    return [{"params": matrices, "lr": lr}, {"params": others, "weight_decay": 0.0, "lr": lr}]


@pytest.mark.parametrize("lr", [0.1, 0.0])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_right_groups_are_proved(kind: type, lr: float) -> None:
    net = model()
    optimizer = kind(groups(net, lr), lr=lr, weight_decay=0.1)
    before = [p.detach().clone() for p in net.parameters()]
    report = certify_optimizer(net, optimizer, no_decay=SPARED, decay=["0.weight", "2.weight"])
    assert report.verdict().value == "PROVED" and len(report.findings) == 3
    assert all(map(torch.equal, before, net.parameters())) and not optimizer.state
    assert all(g["lr"] == lr for g in optimizer.param_groups)


def test_missing_twice_and_decayed() -> None:
    net = model()
    missing = torch.optim.SGD(list(net.parameters())[:-1], lr=0.1)
    assert "2.bias is in no group" in certify_optimizer(net, missing).refuted[0].witness.what  # type: ignore[union-attr]
    both = [torch.optim.SGD(net.parameters(), lr=0.1), torch.optim.SGD(net[0].parameters(), lr=0.1)]
    assert "is in 2 groups" in certify_optimizer(net, both).refuted[0].witness.what  # type: ignore[union-attr]
    decayed = torch.optim.AdamW(net.parameters(), weight_decay=0.1)
    assert certify_optimizer(net, decayed, no_decay=SPARED).verdict().value == "REFUTED"
    spared = torch.optim.AdamW(net.parameters(), weight_decay=0.0)
    assert certify_optimizer(net, spared, decay=["0.weight"]).verdict().value == "REFUTED"


class Hidden(torch.optim.SGD):
    """Decays whatever its groups say."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.data.mul_(0.99)


def test_decay_behind_a_group_that_says_none() -> None:
    net = model()
    report = certify_optimizer(net, Hidden(net.parameters(), lr=0.1), no_decay=SPARED)
    assert "moves in a step" in report.refuted[0].witness.what  # type: ignore[union-attr]


def test_tied_parameters_count_once() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    assert certify_optimizer(net, torch.optim.SGD(net.parameters(), lr=0.1)).verdict().value == "PROVED"


def test_a_pattern_that_matches_nothing() -> None:
    net = model()
    with pytest.raises(InvalidArgument, match="must match a trainable parameter"):
        certify_optimizer(net, torch.optim.SGD(net.parameters(), lr=0.1), no_decay=["register_token"])
