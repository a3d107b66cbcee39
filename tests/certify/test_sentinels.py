"""Mask ids and fill values that are content, reserved or out of range are REFUTED."""

import pytest
import torch
from torch import Tensor

from viewproof import InvalidArgument, certify_sentinels

IDS = torch.randint(5, 20, (3, 10), generator=torch.Generator().manual_seed(0))
IDS[1, 8:] = 0


def bert(low: int = 5, mask: int = 4, high: int = 20, first: int = 5) -> object:
    def view(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, kind = (torch.rand(ids.shape) < 0.4) & (ids >= first), torch.rand(ids.shape)
        words = torch.randint(low, high, ids.shape)
        written = torch.where(kind < 0.8, mask, torch.where(kind < 0.9, words, ids))
        return torch.where(hidden, written, ids), ids, hidden

    return view


@pytest.mark.parametrize(
    ("view", "expected"),
    [(bert(), []), (bert(low=0), ["reserved"]), (bert(mask=20), ["range"]), (bert(mask=7), ["content"]),
     (bert(mask=0), ["reserved"]), (bert(high=22), ["range"]),
     (bert(first=0), ["reserved"])],
)  # fmt: skip
def test_bert(view: object, expected: list[str]) -> None:
    report = certify_sentinels(
        view,
        IDS,
        content=range(5, 20),
        reserved={"padding": 0, "class": 1},
        size=20,
        replaced=True,  # type: ignore[arg-type]
    )
    assert [word for f in report.refuted for word in ("content", "reserved", "range") if word in f.claim] == expected
    assert report.verdict().value == ("REFUTED" if expected else "PROVED")


def test_fill_values_of_images() -> None:
    images, hidden = torch.rand(2, 3, 4, 4), (torch.arange(4) % 2 == 0).expand(3, 4, 4)
    for fill, expected in ((0.0, "REFUTED"), (-1.0, "PROVED")):
        view = lambda x, fill=fill: (torch.where(hidden, fill, x), x, hidden)  # noqa: E731
        assert certify_sentinels(view, images, content=(0.0, 1.0)).verdict().value == expected


def test_numbers_with_a_fraction_are_no_ids() -> None:
    hidden = torch.arange(4) % 2 == 0
    report = certify_sentinels(
        lambda x: (torch.where(hidden, 2.5, x), x, hidden), torch.rand(2, 4), content=(0.0, 1.0), size=9
    )
    assert [f.verdict.value for f in report.findings] == ["PROVED", "UNKNOWN"]


def test_an_example_that_is_no_content() -> None:
    with pytest.raises(InvalidArgument, match="must be in content"):
        certify_sentinels(bert(), IDS, content=range(6, 20))  # type: ignore[arg-type]
