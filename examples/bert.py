"""BERT by the Hugging Face Trainer on a text file, masked by the library's collator.

``--bug``: the labels of the tokens that were not masked are not -100, so that the loss also asks for what is visible.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

TEXT = Path(__file__).parents[1] / "README.md"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """A word-piece tokenizer of 500 pieces, trained on the text itself."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator([text], trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def make_model(vocabulary: int) -> BertForMaskedLM:
    """A BERT of two small layers."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    return BertForMaskedLM(config)


class EveryToken(DataCollatorForLanguageModeling):
    """The planted bug: the loss is over every token."""

    def torch_mask_tokens(self, inputs, special_tokens_mask=None, **options):
        """The masked tokens, and as labels all of the original ones."""
        original = inputs.clone()
        masked, _ = super().torch_mask_tokens(inputs, special_tokens_mask, **options)
        return masked, original


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--bug", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    text = TEXT.read_text(encoding="utf-8")
    tokenizer = make_tokenizer(text)
    lines = [line for line in text.splitlines() if len(line.split()) > 8]
    examples = [{"input_ids": tokenizer(line, truncation=True, max_length=32)["input_ids"]} for line in lines]
    collator = (EveryToken if arguments.bug else DataCollatorForLanguageModeling)(tokenizer, mlm_probability=0.15)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        model = make_model(len(tokenizer))
        Trainer(model=model, args=settings, train_dataset=examples, data_collator=collator).train()


if __name__ == "__main__":
    main()
