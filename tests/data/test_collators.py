"""Collators for transformers: against the rules they draw by, against order and workers, and in its models."""

from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from viewproof.data import MLMCollator, SpanCollator, Wav2Vec2Collator
from viewproof.errors import InvalidArgument
from viewproof.masks import SpanMask, TokenMask

MLM = MLMCollator(
    rule=TokenMask(masked=24, replaced=3, kept=3, per=200, mask_id=4, vocabulary=90, special=(0, 1, 2)), pad_id=0
)
T5 = SpanCollator(rule=SpanMask(spans=1, width=3, equal=False, per=12), sentinels=range(99, 89, -1), end_id=1, pad_id=0)
WAV = Wav2Vec2Collator(
    rule=SpanMask(spans=1, width=3, per=8), negatives=4, convolutions=((10, 5), (3, 2)), ids="number"
)
TEXTS = [
    {"input_ids": [1, *torch.randint(5, 80, (length,), generator=torch.Generator().manual_seed(length)).tolist(), 2]}
    | {"sample_id": number}
    for number, length in enumerate((40, 61, 25, 33))
]
SOUNDS = [
    {"input_values": torch.rand(length, generator=torch.Generator().manual_seed(length)).tolist(), "number": number}
    for number, length in enumerate((400, 640, 300))
]
CASES = [(MLM, TEXTS), (T5, TEXTS), (WAV, SOUNDS)]


@pytest.mark.parametrize(("collate", "features"), CASES)
def test_a_sample_alone_is_as_in_any_batch(collate, features):
    together = collate(features[::-1])
    for n, feature in enumerate(features[::-1]):
        alone = collate([feature])
        for name, row in alone.items():
            other = together[name][n]
            if name == "sampled_negative_indices":
                hidden = alone["mask_time_indices"][0].nonzero()[:, 0]
                frames = together["mask_time_indices"].shape[1]
                assert torch.equal(row[0][hidden], other[hidden] - n * frames)
            else:
                assert torch.equal(row[0], other[: row.shape[1]]), name
                assert name == "input_values" or not (other[row.shape[1] :] > 0).any()


@pytest.mark.parametrize(("collate", "features"), CASES)
def test_epochs_differ_and_workers_hear_of_them(collate, features):
    loader = DataLoader(features, batch_size=2, collate_fn=collate, num_workers=1, persistent_workers=True)
    seen = []
    for epoch in (0, 1, 0):
        collate.set_epoch(epoch)
        seen.append(list(loader))
        for batch, start in zip(seen[-1], range(0, len(features), 2), strict=True):
            here = collate(features[start : start + 2])
            assert all(torch.equal(here[name], batch[name]) for name in here)
    collate.set_epoch(0)
    name = "mask_time_indices" if collate is WAV else "labels"
    assert torch.equal(seen[0][0][name], seen[2][0][name])
    assert not torch.equal(seen[0][0][name], seen[1][0][name])


def test_mlm_labels_are_the_ids_where_the_rule_selects():
    batch = MLM(TEXTS)
    for n, feature in enumerate(TEXTS):
        text = torch.tensor(feature["input_ids"])
        labels, ids = batch["labels"][n, : len(text)], batch["input_ids"][n, : len(text)]
        scored = labels != -100
        assert int(scored.sum()) == 30 * (len(text) - 2) // 200
        assert torch.equal(labels[scored], text[scored]) and torch.equal(ids[~scored], text[~scored])
        assert not scored[0] and not scored[-1]
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert set(MLM.__class__(rule=MLM.rule, pad_id=0, multiple=8)(TEXTS)["labels"].shape) == {4, 64}


def test_t5_inputs_and_labels_together_are_the_text():
    batch = T5(TEXTS)
    for n, feature in enumerate(TEXTS):
        labels = [token for token in batch["labels"][n].tolist() if token != -100]
        inputs = batch["input_ids"][n][batch["attention_mask"][n] == 1].tolist()
        spans, text = {}, []
        for token in labels[:-1]:
            if token in T5.sentinels:
                spans[token] = current = []
            else:
                current.append(token)
        for token in inputs[:-1]:
            text += spans.get(token, [token])
        assert text == feature["input_ids"] and inputs[-1] == labels[-1] == 1
        assert list(spans) == list(T5.sentinels)[: len(spans)] and len(spans) == len(text) // 12


def test_negatives_are_other_hidden_frames_of_the_same_waveform():
    batch = WAV(SOUNDS)
    hidden, negatives = batch["mask_time_indices"], batch["sampled_negative_indices"]
    frames = hidden.shape[1]
    assert frames == 63 and int(hidden[0].sum()) == 3 * (WAV.frames(400) // 8)
    counts = torch.zeros(frames)
    for n, row in enumerate(hidden):
        assert not row[WAV.frames(len(SOUNDS[n]["input_values"])) :].any()
        for place in row.nonzero()[:, 0]:
            of_place = negatives[n, place] - n * frames
            assert (of_place != place).all() and row[of_place].all()
            counts[of_place] += n == 0
    # All of them are drawn, not the first few.
    assert (counts[hidden[0]] > 0).float().mean() > 0.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLM([{"input_ids": [5]}]), "must have 'sample_id', the sample's number; add the column, and with"),
        (lambda: T5([{"input_ids": [95] * 12, "sample_id": 0}]), "has the sentinel 95 in its text; pass other"),
        (lambda: T5([{"input_ids": [5] * 200, "sample_id": 0}]), "sentinels=10 ids must be at least the spans"),
        (lambda: WAV([{"input_values": [0.0] * 60, "number": 0}]), "of 60 samples has 0 hidden frames and must have 2"),
        (lambda: MLM.set_epoch(-1), "epoch=-1"),
    ],
)
def test_bad_features_name_the_remedy(call, message):
    with pytest.raises(InvalidArgument, match=message):
        call()


def bert(transformers):
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    return transformers.BertForMaskedLM(config), MLM, TEXTS


def t5(transformers):
    config = transformers.T5Config(
        vocab_size=100, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config), T5, TEXTS


def wav2vec2(transformers):
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(16, 16),
        conv_stride=(5, 2), conv_kernel=(10, 3), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        codevector_dim=8, proj_codevector_dim=8, num_codevectors_per_group=4, feat_extract_norm="layer",
    )  # fmt: skip
    return transformers.Wav2Vec2ForPreTraining(config), WAV, SOUNDS


@pytest.mark.parametrize("make", [bert, t5, wav2vec2])
def test_models_of_transformers_take_the_batches(make):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, collate, features = make(transformers)
    loss = partial(model, **collate(features))().loss
    loss.backward()
    assert torch.isfinite(loss)
