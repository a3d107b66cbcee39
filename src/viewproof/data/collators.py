"""Collators for transformers: BERT's tokens, T5's spans and wav2vec 2.0's frames, drawn by sample id.

Each takes the features of a batch as `transformers.Trainer` hands them to a ``data_collator``, a list of dicts, and
returns the batch as a dict of tensors. What is hidden is a function of (seed, epoch, sample id): not of the order of
samples, their batch, the worker, the rank or a global generator. transformers itself is not imported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks import SpanMask, TokenMask
from viewproof.masks.finite import check_count
from viewproof.masks.random.draws import Draws, below

IGNORED = -100
"""The label that transformers' losses leave out."""

Features = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class KeyedCollator:
    """What the collators share: where the sample ids stand, and the epoch.

    Every feature must have its sample's number under ``ids``; with `transformers.Trainer` pass
    ``remove_unused_columns=False``, which otherwise drops it. Call `set_epoch` before each epoch: worker processes see
    it too, since the number lies in shared memory.
    """

    ids: str = "sample_id"
    _epoch: Tensor = field(
        default_factory=lambda: torch.zeros((), dtype=torch.int64).share_memory_(),  # type: ignore[no-untyped-call]
        init=False,
        repr=False,
        compare=False,
    )

    def set_epoch(self, epoch: int) -> None:
        """Draw the masks of this epoch from the next batch on."""
        self._epoch.fill_(check_count("epoch", epoch))

    @property
    def epoch(self) -> int:
        """The epoch whose masks are drawn."""
        return int(self._epoch)

    def sample_ids(self, features: Features) -> Tensor:
        """The numbers of the samples, int64 ``[N]``."""
        for n, feature in enumerate(features):
            if self.ids not in feature:
                raise InvalidArgument(
                    f"features[{n}] must have {self.ids!r}, the sample's number; add the column, and with "
                    "transformers.Trainer pass remove_unused_columns=False"
                )
        return torch.tensor([int(feature[self.ids]) for feature in features], dtype=torch.int64)


def padded(rows: Sequence[Tensor], value: int | float, multiple: int = 1) -> Tensor:
    """The rows as one tensor ``[N, T]``, filled up with ``value``; T is a multiple of ``multiple``.

    >>> padded([torch.tensor([1, 2, 3]), torch.tensor([4])], 0)
    tensor([[1, 2, 3],
            [4, 0, 0]])
    """
    longest = -(-max(map(len, rows)) // multiple) * multiple
    out = rows[0].new_full((len(rows), longest), value)
    for n, row in enumerate(rows):
        out[n, : len(row)] = row
    return out


@dataclass(frozen=True, kw_only=True)
class MLMCollator(KeyedCollator):
    """Masked language modelling: ``input_ids``, ``attention_mask`` and ``labels``, all int64 ``[N, T]``.

    As `transformers.DataCollatorForLanguageModeling`, with the exact counts of a `TokenMask`: ``labels`` are the ids
    where the rule selects and -100 elsewhere. Rows are padded with ``pad_id`` to the longest, or to a multiple of
    ``multiple``; padding and the rule's special ids are never selected.

    Theorems: ``tokens_off_the_mask_are_unchanged``, ``exactly_count_places_are_first``,
    ``only_eligible_places_are_first``.

    >>> rule = TokenMask(masked=24, replaced=3, kept=3, per=200, mask_id=103, vocabulary=30522, special=(0, 101, 102))
    >>> collate = MLMCollator(rule=rule, pad_id=0)
    >>> batch = collate([{"input_ids": [101, *range(1000, 1020), 102], "sample_id": 7}])
    >>> int((batch["labels"] != -100).sum()), int((batch["input_ids"] == 103).sum())
    (3, 2)

    Raises `InvalidArgument` for a feature without a sample id, and for what the rule refuses.
    """

    rule: TokenMask
    pad_id: int
    multiple: int = 1

    def __call__(self, features: Features) -> dict[str, Tensor]:
        """The batch."""
        rows = [torch.as_tensor(feature["input_ids"], dtype=torch.int64) for feature in features]
        lengths = torch.tensor([len(row) for row in rows])
        ids = padded(rows, self.pad_id, self.multiple)
        sample = self.rule.sample(ids, sample_ids=self.sample_ids(features), epoch=self.epoch, lengths=lengths)
        inside = torch.arange(ids.shape[1]) < lengths[:, None]
        labels = torch.where(sample.mask.hidden, ids, IGNORED)
        return {"input_ids": sample.x, "attention_mask": inside.long(), "labels": labels}


@dataclass(frozen=True, kw_only=True)
class SpanCollator(KeyedCollator):
    """T5's span corruption: ``input_ids``, ``attention_mask`` and ``labels``, all int64 ``[N, T]``.

    Raffel et al. 2020. Of the inputs every hidden span is one sentinel: ``sentinels[0]`` for the first, and so on. The
    labels are each sentinel and the tokens of its span, then ``end_id``; they are padded with -100. What the features
    hold is corrupted whole, so leave the end token away: ``end_id`` is appended to the inputs too. T5's 15 % in spans
    of 3 on average is ``SpanMask(spans=1, width=3, equal=False, per=20)``.

    Theorems, of the gaps that hold a span: ``exactly_count_places_are_first``, ``only_eligible_places_are_first``.

    >>> collate = SpanCollator(rule=SpanMask(spans=2, width=2), sentinels=(99, 98), end_id=1, pad_id=0)
    >>> batch = collate([{"input_ids": [10, 11, 12, 13, 14, 15, 16, 17], "sample_id": 0}])
    >>> batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    ([99, 12, 13, 14, 98, 17, 1], [99, 10, 11, 98, 15, 16, 1])

    Raises `InvalidArgument` for a feature without a sample id, more spans than sentinels, or a sentinel in the text.
    """

    rule: SpanMask
    sentinels: Sequence[int]
    end_id: int
    pad_id: int

    def __call__(self, features: Features) -> dict[str, Tensor]:
        """The batch."""
        rows = [[int(token) for token in feature["input_ids"]] for feature in features]
        lengths = torch.tensor([len(row) for row in rows])
        hidden = self.rule.mask(
            (int(lengths.max()),), sample_ids=self.sample_ids(features), epoch=self.epoch, lengths=lengths
        ).hidden.tolist()
        inputs, labels = [], []
        for n, row in enumerate(rows):
            if both := set(row) & set(self.sentinels):
                raise InvalidArgument(f"features[{n}] has the sentinel {min(both)} in its text; pass other sentinels")
            given, asked, spans = list[int](), list[int](), 0
            for place, token in enumerate(row):
                if hidden[n][place]:
                    if place == 0 or not hidden[n][place - 1]:
                        if spans == len(self.sentinels):
                            raise InvalidArgument(
                                f"sentinels={len(self.sentinels)} ids must be at least the spans of a sample, and "
                                f"features[{n}] has more; pass more, or shorter texts"
                            )
                        given.append(self.sentinels[spans])
                        asked.append(self.sentinels[spans])
                        spans += 1
                    asked.append(token)
                else:
                    given.append(token)
            inputs.append(torch.tensor([*given, self.end_id]))
            labels.append(torch.tensor([*asked, self.end_id]))
        ends = torch.tensor([len(row) for row in inputs])
        ids = padded(inputs, self.pad_id)
        attention = (torch.arange(ids.shape[1]) < ends[:, None]).long()
        return {"input_ids": ids, "attention_mask": attention, "labels": padded(labels, IGNORED)}


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Collator(KeyedCollator):
    """wav2vec 2.0's masks over frames of waveforms, for `transformers.Wav2Vec2ForPreTraining`.

    Returns ``input_values`` float32 ``[N, samples]``, zeros after each waveform's end, ``attention_mask`` int64 of that
    shape, ``mask_time_indices`` bool ``[N, frames]`` and ``sampled_negative_indices`` int64 ``[N, frames, negatives]``:
    for each hidden frame others of the same waveform that are hidden, each equally likely, as indices into the frames
    of the whole batch. ``convolutions`` are (kernel, stride) of the feature encoder, wav2vec 2.0's by default: a frame
    every 320 samples. The spans of a `SpanMask` do not overlap; a waveform needs two hidden frames.

    Theorems, of the gaps that hold a span: ``exactly_count_places_are_first``, ``only_eligible_places_are_first``.

    >>> collate = Wav2Vec2Collator(rule=SpanMask(spans=1, width=10, per=20), negatives=5)
    >>> batch = collate([{"input_values": torch.zeros(16000), "sample_id": 0}])
    >>> batch["mask_time_indices"].shape, int(batch["mask_time_indices"].sum())
    (torch.Size([1, 49]), 20)

    Raises `InvalidArgument` for a feature without a sample id or too short for two hidden frames.
    """

    rule: SpanMask
    negatives: int = 100
    convolutions: Sequence[tuple[int, int]] = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))

    def frames(self, samples: int) -> int:
        """How many frames the feature encoder makes of so many samples."""
        for kernel, stride in self.convolutions:
            samples = max((samples - kernel) // stride + 1, 0)
        return samples

    def __call__(self, features: Features) -> dict[str, Tensor]:
        """The batch."""
        rows = [torch.as_tensor(feature["input_values"], dtype=torch.float32) for feature in features]
        values = padded(rows, 0.0)
        lengths = torch.tensor([self.frames(len(row)) for row in rows])
        frames, ids = self.frames(values.shape[1]), self.sample_ids(features)
        hidden = self.rule.mask((frames,), sample_ids=ids, epoch=self.epoch, lengths=lengths).hidden
        if bool((hidden.sum(1) < 2).any()):
            n = int((hidden.sum(1) < 2).nonzero()[0])
            raise InvalidArgument(
                f"features[{n}] of {len(rows[n])} samples has {int(hidden[n].sum())} hidden frames and must have 2 for "
                "negatives; pass longer waveforms or more spans"
            )
        words = Draws(self.rule.seed, self.epoch, ids).words(frames * self.negatives, stream=2)
        negatives = torch.zeros(len(rows), frames, self.negatives, dtype=torch.int64)
        for n, row in enumerate(hidden):
            places = row.nonzero()[:, 0]
            others = below(words[n, : len(places) * self.negatives].reshape(-1, self.negatives), len(places) - 1)
            # One of the other hidden frames: numbers from the frame's own on are one higher.
            others += others >= torch.arange(len(places))[:, None]
            negatives[n, places] = places[others]
            negatives[n] += n * frames
        ends = torch.tensor([len(row) for row in rows])
        return {
            "input_values": values,
            "attention_mask": (torch.arange(values.shape[1]) < ends[:, None]).long(),
            "mask_time_indices": hidden,
            "sampled_negative_indices": negatives,
        }
