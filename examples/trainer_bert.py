"""BERT by the Hugging Face Trainer: keyed masks, the rule certified, the first step watched.

``--bug``: the labels of tokens that were not masked are not -100, so that the loss also asks for what is visible.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from typing import Any

import torch
from bert import TEXT, make_model, make_tokenizer
from transformers import Trainer, TrainerCallback, TrainingArguments

import viewproof as vp


class NextEpoch(TrainerCallback):
    """Tells the collator which epoch begins, so that each epoch has masks of its own."""

    def __init__(self, collate: vp.data.MLMCollator) -> None:
        self.collate = collate

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """The number of whole epochs so far."""
        self.collate.set_epoch(int(state.epoch or 0))


def main() -> None:
    """Certify, train and watch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--bug", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    text = TEXT.read_text(encoding="utf-8")
    tokenizer = make_tokenizer(text)
    lines = [line for line in text.splitlines() if len(line.split()) > 8]
    rows = tokenizer(lines, truncation=True, max_length=32)["input_ids"]
    examples = [{"input_ids": row, "sample_id": number} for number, row in enumerate(rows)]
    # 15 % of the tokens: 12 % masked, 1.5 % replaced by others, 1.5 % kept.
    rule = vp.TokenMask(
        masked=24,
        replaced=3,
        kept=3,
        per=200,
        mask_id=tokenizer.mask_token_id,
        vocabulary=len(tokenizer),
        special=tuple(tokenizer.all_special_ids),
    )
    collate = vp.data.MLMCollator(rule=rule, pad_id=tokenizer.pad_token_id)

    def hidden(ids: torch.Tensor, epoch: int, seed: int) -> torch.Tensor:
        """The masks of lines of 32 tokens."""
        tokens = torch.arange(100, 132).expand(len(ids), -1)
        return replace(rule, seed=seed).sample(tokens, sample_ids=ids, epoch=epoch).mask.hidden

    print(vp.certify_reproducible(hidden, workers=0))

    def every_token(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The planted bug."""
        batch = collate(features)
        original = [torch.tensor(feature["input_ids"]) for feature in features]
        labels = torch.nn.utils.rnn.pad_sequence(original, batch_first=True, padding_value=-100)
        return {**batch, "labels": labels}

    # BERT keeps a tenth of the tokens that it asks for in the clear, on purpose.
    watcher = vp.watch.TrainerCallback(kept="mlm")
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            remove_unused_columns=False,  # keeps the column of numbers
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        Trainer(
            model=make_model(len(tokenizer)),
            args=settings,
            train_dataset=examples,
            data_collator=every_token if arguments.bug else collate,
            callbacks=[NextEpoch(collate), watcher],
        ).train()
    sys.exit(bool(watcher.report.failures()))


if __name__ == "__main__":
    main()
