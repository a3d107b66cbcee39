"""Causal models are PROVED, each kind of leak and of wrong offset is REFUTED."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof import InvalidArgument, certify_causal

IDS = torch.randint(0, 9, (2, 6), generator=torch.Generator().manual_seed(0))
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2]])
PADDING = torch.arange(6) >= torch.tensor([6, 5])[:, None]


class Transformer(nn.Module):
    """One layer of attention; ``may`` says where a position may look."""

    def __init__(self, may: Tensor, blocked: float = float("-inf")) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read, self.project, self.may, self.blocked = nn.Embedding(9, 6), nn.Linear(6, 18), may, blocked

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(self.read(x)).chunk(3, -1)
        weights = (query @ key.transpose(1, 2)).masked_fill(~self.may, self.blocked).softmax(-1)
        return F.pad(weights @ value, (0, 3))


LOWER = torch.ones(6, 6, dtype=torch.bool).tril()


def next_token(output: Tensor, x: Tensor) -> Tensor:
    return F.cross_entropy(output[:, :-1].flatten(0, 1), x[:, 1:].flatten())


def verdicts(*args: object, **kwargs: object) -> list[str]:
    return [f.verdict.value for f in certify_causal(*args, **kwargs).findings]  # type: ignore[arg-type]


def test_a_causal_model_and_its_loss_are_proved() -> None:
    assert verdicts(Transformer(LOWER), IDS, loss=next_token) == ["PROVED", "PROVED"]


@pytest.mark.parametrize(
    "model",
    [
        Transformer(torch.ones(6, 6, dtype=torch.bool).tril(1)),
        Transformer(LOWER, blocked=-3.0),
        lambda x: F.one_hot(x, 9).float().unflatten(1, (-1, 3)).mean(2).repeat_interleave(3, 1),
        lambda x: F.one_hot(x, 9).float() - F.one_hot(x, 9).float().mean(0).mean(0),
    ],
)
def test_a_look_ahead_is_refuted(model: nn.Module) -> None:
    report = certify_causal(model, IDS)
    assert report.verdict().value == "REFUTED"
    witness = report.refuted[0].witness
    assert witness is not None
    one, other, place = witness.inputs["one"], witness.inputs["other"], witness.coordinates["output"]
    assert not torch.equal(model(one)[place], model(other)[place]) and witness.coordinates["hidden"][1] > place[1]


def test_documents_and_padding() -> None:
    apart = Transformer(LOWER & (DOCUMENTS[:, :, None] == DOCUMENTS[:, None]))
    assert verdicts(apart, IDS, segments=DOCUMENTS) == ["PROVED", "PROVED"]
    assert verdicts(Transformer(LOWER), IDS, segments=DOCUMENTS) == ["PROVED", "REFUTED"]
    assert verdicts(Transformer(LOWER), IDS, padding=PADDING) == ["PROVED", "PROVED"]
    assert verdicts(Transformer(torch.ones(6, 6, dtype=torch.bool)), IDS, padding=PADDING)[1] == "REFUTED"


def over_rows(output: Tensor, x: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), x.flatten().roll(-1))


def twice(output: Tensor, x: Tensor) -> Tensor:
    return F.cross_entropy(output[:, :-2].flatten(0, 1), x[:, 2:].flatten())


def with_padding(output: Tensor, x: Tensor) -> Tensor:
    return next_token(output, x)


@pytest.mark.parametrize(("loss", "padding"), [(over_rows, None), (twice, None), (with_padding, PADDING)])
def test_another_offset_is_refuted(loss: object, padding: Tensor | None) -> None:
    assert verdicts(Transformer(LOWER), IDS, loss=loss, padding=padding)[-1] == "REFUTED"


def test_the_declared_offset_counts() -> None:
    assert verdicts(Transformer(LOWER), IDS, loss=twice, offset=2) == ["PROVED", "PROVED"]
    assert verdicts(Transformer(LOWER), IDS, offset=0) == ["REFUTED"]
    read = nn.Embedding(9, 4)
    assert verdicts(lambda x: torch.cat([torch.zeros(2, 1, 4), read(x)[:, :-1]], 1), IDS, offset=0) == ["PROVED"]


def test_a_model_that_reads_nothing_is_vacuous() -> None:
    assert verdicts(lambda x: torch.zeros(2, 6, 3), IDS) == ["VACUOUS"]


def test_wrong_arguments() -> None:
    with pytest.raises(InvalidArgument, match="segments of shape"):
        certify_causal(Transformer(LOWER), IDS, segments=DOCUMENTS[0])
    with pytest.raises(InvalidArgument, match="at least two positions"):
        certify_causal(Transformer(LOWER), IDS[0])
