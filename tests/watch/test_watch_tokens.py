"""Steps on tokens, row by row: which token a row is asked for, and whether its prediction reads that token."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trained_step import Built, trained

from viewproof.certify.report import Contract
from viewproof.errors import InvalidArgument
from viewproof.verdict import Verdict
from viewproof.watch import watch
from viewproof.watch.report import WatchReport

WORDS = 30


def parts(body: nn.Module, words: int = WORDS, **more: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"embed": nn.Embedding(WORDS, 16), "body": body, "head": nn.Linear(16, words), **more})


def layer() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)


def convolutions(bug: bool) -> Built:
    """A causal convolution, its padding on both sides if wrong; inputs and targets are two tensors of the batch."""
    model = parts(nn.Conv1d(16, 16, 3))

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        h = model["body"](F.pad(model["embed"](batch[0]).mT, (1, 1) if bug else (2, 0))).relu()
        return F.cross_entropy(model["head"](h.mT).flatten(0, 1), batch[1].flatten())

    data = torch.randint(WORDS, (2, 9))
    return trained(model, loss, (data[:, :-1].clone(), data[:, 1:].clone()))


def recurrent(bug: bool) -> Built:
    """A recurrent language model, which must not read backwards; scores stand in the middle axis."""
    model = parts(nn.LSTM(16, 8 if bug else 16, batch_first=True, bidirectional=bug))

    def loss(ids: Tensor) -> Tensor:
        return F.cross_entropy(model["head"](model["body"](model["embed"](ids[:, :-1]))[0]).transpose(1, 2), ids[:, 1:])

    return trained(model, loss, torch.randint(WORDS, (2, 8)))


def masked(bug: bool) -> Built:
    """One-hot words instead of a lookup; the mask is drawn and, if wrong, not applied."""
    model = nn.ModuleDict({"embed": nn.Linear(WORDS, 16), "body": layer(), "head": nn.Linear(16, WORDS)})

    def loss(batch: dict[str, Tensor]) -> Tensor:
        ids = batch["tokens"]
        hide = torch.rand(ids.shape) < 0.4
        x = F.one_hot(ids if bug else ids.masked_fill(hide, 1), WORDS).float()
        return F.cross_entropy(model["head"](model["body"](model["embed"](x)))[hide], ids[hide])

    return trained(model, loss, {"tokens": torch.randint(2, WORDS, (4, 12))})


def translation(bug: bool) -> Built:
    """An encoder and a decoder, which reads the labels one place later, and all of them without its mask."""
    body = nn.Transformer(16, 2, 1, 1, 32, 0.0, batch_first=True)
    model = parts(body)

    def loss(batch: dict[str, Tensor]) -> Tensor:
        labels = batch["labels"]
        before = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], dim=1)
        future = None if bug else torch.triu(torch.full((7, 7), float("-inf")), 1)
        out = body(model["embed"](batch["input_ids"]), model["embed"](before), tgt_mask=future)
        return F.cross_entropy(model["head"](out).flatten(0, 1), labels.flatten())

    return trained(model, loss, {"input_ids": torch.randint(WORDS, (2, 6)), "labels": torch.randint(2, WORDS, (2, 7))})


def report_of(built: Built, **declared: Any) -> WatchReport:
    return watch(*built, **declared)


@pytest.mark.parametrize("build", [convolutions, recurrent, masked, translation])
def test_a_row_that_reads_its_token_is_refuted_and_the_correct_twin_proved(build: Callable[[bool], Built]) -> None:
    torch.manual_seed(0)
    report = report_of(build(False))
    assert report.verdict(Contract.C1) is Verdict.PROVED, str(report)
    torch.manual_seed(0)
    [finding] = report_of(build(True)).refuted
    assert finding.contract is Contract.C1 and finding.witness is not None
    one, other = finding.witness.inputs["one"], finding.witness.inputs["other"]
    path = next(p for p in other if not torch.equal(one[p], other[p]))
    assert int((one[path] != other[path]).sum()) == 1


def twin(kind: str) -> Built:
    """Steps that no rule may call wrong: what a row reads of its own token may be meant."""
    if kind == "variational":
        model = parts(nn.GRU(16, 16, batch_first=True), encoder=nn.GRU(16, 16, batch_first=True))

        def loss(ids: Tensor) -> Tensor:
            z = model["encoder"](model["embed"](ids))[1]
            out, _ = model["body"](model["embed"](ids[:, :-1]), z + torch.randn_like(z))
            return F.cross_entropy(model["head"](out).flatten(0, 1), ids[:, 1:].flatten())

        return trained(model, loss, torch.randint(WORDS, (2, 8)))
    if kind.startswith("one lookup"):
        # A text autoencoder, whose encoder and decoder share one lookup of the tokens.
        pooled = kind.endswith("pooled")
        model = parts(nn.GRU(16, 16, batch_first=True), encoder=layer() if pooled else nn.GRU(16, 16, batch_first=True))

        def rebuilt(ids: Tensor) -> Tensor:
            x = model["embed"](ids)
            z = model["encoder"](x).mean(1)[None] if pooled else model["encoder"](x)[1]
            out, _ = model["body"](x[:, :-1], z.contiguous())
            return F.cross_entropy(model["head"](out).flatten(0, 1), ids[:, 1:].flatten())

        return trained(model, rebuilt, torch.randint(WORDS, (2, 8)))
    if kind == "diffusion":
        noisy = parts(layer())

        def noised(ids: Tensor) -> Tensor:
            read = torch.where(torch.rand(ids.shape) < 0.3, torch.randint(WORDS, ids.shape), ids)
            return F.cross_entropy(noisy["head"](noisy["body"](noisy["embed"](read))).flatten(0, 1), ids.flatten())

        return trained(noisy, noised, torch.randint(WORDS, (4, 10)))
    words = 5 if kind == "tags" else WORDS
    model = parts(layer(), words)

    def tagged(batch: dict[str, Tensor]) -> Tensor:
        out = model["head"](model["body"](model["embed"](batch["input_ids"])))
        return F.cross_entropy(out.flatten(0, 1), batch["labels"].flatten())

    ids = torch.randint(WORDS, (4, 10))
    labels = torch.randint(words, ids.shape) if kind == "tags" else ids
    if kind == "correction":
        ids = torch.where(torch.rand(ids.shape) < 0.2, torch.randint(WORDS, ids.shape), ids)
    return trained(model, tagged, {"input_ids": ids, "labels": labels})


@pytest.mark.parametrize(
    "kind", ["variational", "one lookup", "one lookup, pooled", "tags", "correction", "diffusion", "autoencoder"]
)
def test_what_may_be_meant_is_not_refuted(kind: str) -> None:
    torch.manual_seed(0)
    report = report_of(twin(kind))
    assert not report.refuted, str(report)
    assert report.verdict(Contract.C1) is Verdict.UNKNOWN, str(report)
    assert kind != "autoencoder" or 'allow={"C1": "an autoencoder"} says so' in str(report)


def collated(kept: int, of: int, padding: bool = False, scored: bool = False) -> Built:
    """Labels and inputs from a collator that leaves ``kept`` of the asked-for tokens as they are."""
    model = parts(layer())
    ids = torch.randint(2, WORDS, (4, 12))
    attention = torch.ones_like(ids)
    if padding:
        attention[1, 9:] = 0
        ids[1, 9:] = 0
    chosen = torch.zeros(ids.shape, dtype=torch.bool)
    chosen[:, : of // 4] = True
    hidden = chosen.clone()
    hidden.view(-1)[chosen.view(-1).nonzero()[:kept]] = False
    batch = {"input_ids": ids.masked_fill(hidden, 1), "attention_mask": attention, "labels": ids}
    batch["labels"] = ids.masked_fill(~chosen & (attention == 1), -100) if scored else ids.masked_fill(~chosen, -100)

    def loss(inputs: dict[str, Tensor]) -> Tensor:
        out = model["head"](model["body"](model["embed"](inputs["input_ids"])))
        return F.cross_entropy(out.flatten(0, 1), inputs["labels"].flatten())

    return trained(model, loss, batch)


def test_kept_tokens_are_settled_by_a_declaration() -> None:
    assert report_of(collated(0, 20)).verdict(Contract.C1) is Verdict.PROVED
    [finding] = [f for f in report_of(collated(2, 20)).findings if f.contract is Contract.C1]
    assert finding.verdict is Verdict.UNKNOWN and 'kept="mlm"' in finding.detail and "2 of the 20" in finding.detail
    assert report_of(collated(2, 20), kept="mlm").verdict(Contract.C1) is Verdict.PROVED
    assert report_of(collated(12, 20), kept="mlm").verdict(Contract.C1) is Verdict.REFUTED
    with pytest.raises(InvalidArgument, match="kept='bert' must be among"):
        report_of(collated(2, 20), kept="bert")


def test_padding_that_is_read_is_refuted() -> None:
    [finding] = report_of(collated(0, 20, padding=True)).refuted
    assert finding.contract is Contract.C10 and "reads padding" in str(finding.witness and finding.witness.what)


def test_padding_that_is_scored_is_refuted() -> None:
    for scored, verdict in ((False, Verdict.PROVED), (True, Verdict.REFUTED)):
        report = report_of(collated(0, 20, padding=True, scored=scored))
        assert [f.verdict for f in report.findings if "no scored position is padding" in f.claim] == [verdict]
