"""Text: masked language models with padding, causal language models, and their masks of attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.steps.step import LEAK, Block, Built, training_step

PAD, MASK, WORDS = 0, 1, 20


def collate(n: int = 4, length: int = 12) -> tuple[Tensor, Tensor]:
    """Token ids with padding at the end, and the attention mask (1 is a token)."""
    lengths = torch.tensor([12, 9, 7, 10])[:n, None]
    attention_mask = (torch.arange(length) < lengths).long()
    return torch.randint(2, WORDS, (n, length)) * attention_mask, attention_mask


class Bert(nn.Module):
    """A two-layer encoder of tokens with a tied language-model head."""

    def __init__(self, dim: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, dim, padding_idx=PAD), nn.Embedding(12, dim)
        self.layers = nn.ModuleList([Block(dim, dropout=dropout), Block(dim, dropout=dropout)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, WORDS)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Scores of all words at every position."""
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = layer(x, allowed)
        return self.head(self.norm(x))


def mlm(bug: bool, fault: str) -> Built:
    """BERT's step: 15 % of tokens chosen in the step, 80 % of them masked, 10 % replaced, 10 % left."""
    model, fault = Bert(), fault if bug else ""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)

    def mask_tokens(inputs: Tensor, special: Tensor) -> tuple[Tensor, Tensor]:
        labels = inputs.clone()
        probability = torch.full(labels.shape, 0.3)
        if fault != "padding chosen":
            probability.masked_fill_(special, 0.0)
        chosen = torch.bernoulli(probability).bool()
        chosen[:, 2] = True
        if fault == "nothing chosen":
            chosen[...] = False
        if fault != "labels never assigned":
            labels[~chosen] = -100
        inputs = inputs.clone()
        masked = torch.bernoulli(torch.full(labels.shape, 0.8)).bool() & chosen
        inputs[masked] = MASK
        replaced = torch.bernoulli(torch.full(labels.shape, 0.5)).bool() & chosen & ~masked
        inputs[replaced] = torch.randint(2, WORDS, labels.shape)[replaced]
        return inputs, labels

    def step(batch: dict[str, Tensor]) -> float:
        attention_mask = batch["attention_mask"]
        inputs, labels = mask_tokens(batch["input_ids"], attention_mask == 0)
        allowed: Tensor | None = attention_mask[:, None, None].bool()
        if fault == "attention mask inverted":
            allowed = attention_mask[:, None, None] == 0
            allowed = allowed | (attention_mask.min(1).values == 1)[:, None, None, None]
        if fault == "attention mask not passed":
            allowed = None
        logits = model(inputs, allowed)
        loss = F.cross_entropy(logits.view(-1, WORDS), labels.view(-1))
        loss.backward()
        optimizer.step()
        model.zero_grad()
        return loss.item()

    ids, attention_mask = collate()
    return step, {"input_ids": ids, "attention_mask": attention_mask}


@training_step("MLM: labels never assigned", "confirmed", "huggingface/course/issues/291", contracts=LEAK)
def labels_never_assigned(bug: bool) -> Built:
    """Labels keep every token: visible ones are asked for, and answered by copying."""
    return mlm(bug, "labels never assigned")


@training_step("MLM: padding is masked and scored", "reported", "huggingface/transformers/issues/11155", contracts="C4")
def padding_chosen(bug: bool) -> Built:
    """Padding can be chosen: the model is asked for what is no word."""
    return mlm(bug, "padding chosen")


@training_step("MLM: attention mask inverted", "synthetic", contracts="C10")
def attention_inverted(bug: bool) -> Built:
    """Tokens attend to padding alone: no prediction reads the text."""
    return mlm(bug, "attention mask inverted")


@training_step("MLM: padding is attended", "confirmed", "sktime/sktime/issues/10685", contracts="C8 C10")
def attention_not_passed(bug: bool) -> Built:
    """The padding mask goes to an argument that nothing reads: what a text gives depends on its padding."""
    return mlm(bug, "attention mask not passed")


@training_step(
    "MLM: a batch in which nothing is chosen", "confirmed", "huggingface/transformers/issues/16711", contracts="C4 C9"
)
def nothing_chosen(bug: bool) -> Built:
    """The mean of no losses is NaN, and the optimizer's step makes every weight NaN."""
    return mlm(bug, "nothing chosen")


class GPT(nn.Module):
    """A causal language model in the style of nanoGPT, with attention written out."""

    def __init__(self, fault: str = "", dim: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.fault, self.heads = fault, heads
        self.wte, self.wpe = nn.Embedding(WORDS, dim), nn.Embedding(16, dim)
        self.c_attn, self.c_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.ln, self.lm_head = nn.LayerNorm(dim), nn.Linear(dim, WORDS, bias=False)
        self.register_buffer("bias", torch.tril(torch.ones(16, 16), diagonal=int(fault == "one ahead")))
        self.bias: Tensor

    def forward(self, idx: Tensor, targets: Tensor, documents: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores and loss; with ``documents`` [N, T] a token reads its own document only."""
        b, t = idx.shape
        x = self.wte(idx) + self.wpe(torch.arange(t))
        if self.fault == "mean of all":
            x = x + x.mean(1, keepdim=True)
        q, k, v = self.c_attn(self.ln(x)).split(x.shape[2], dim=2)
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * k.shape[-1] ** -0.5
        if self.fault != "not causal":
            att = att.masked_fill(self.bias[:t, :t] == 0, float("-inf"))
        if documents is not None and self.fault != "documents attend":
            att = att.masked_fill(documents[:, None, :, None] != documents[:, None, None], float("-inf"))
        y = (F.softmax(att, dim=-1) @ v).transpose(1, 2).reshape(b, t, -1)
        logits = self.lm_head(x + self.c_proj(y))
        if self.fault == "shifted in the model too":
            logits, targets = logits[:, :-1], targets[:, 1:]
        return logits, F.cross_entropy(logits.reshape(-1, WORDS), targets.reshape(-1), ignore_index=-1)


def gpt(bug: bool, fault: str) -> Built:
    """nanoGPT's step on rows of a token stream; ``get_batch`` stands in the step."""
    fault = fault if bug else ""
    model = GPT(fault)
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}])

    def step(data: Tensor) -> float:
        ahead = 0 if fault == "not shifted" else 1
        x, y = data[:, :-1], data[:, ahead : ahead + data.shape[1] - 1]
        _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step, torch.randint(WORDS, (2, 9))


@training_step("causal LM: labels not shifted", "synthetic", contracts=LEAK)
def not_shifted(bug: bool) -> Built:
    """Each position is asked for the token that it reads."""
    return gpt(bug, "not shifted")


@training_step(
    "causal LM: labels shifted twice",
    "confirmed",
    "huggingface/transformers/issues/47394",
    contracts="C4 C5",
    needs="a declaration",
)
def shifted_twice(bug: bool) -> Built:
    """The loader shifts and the model shifts: the token after the next is asked for, which could be meant."""
    return gpt(bug, "shifted in the model too")


@training_step("causal LM: the mask's diagonal one too far", "synthetic", contracts=LEAK)
def one_ahead(bug: bool) -> Built:
    """``tril(diagonal=1)``: a position reads the very token it must predict."""
    return gpt(bug, "one ahead")


@training_step("causal LM: no causal mask", "reported", "karpathy/nanochat/issues/844", contracts=LEAK)
def not_causal(bug: bool) -> Built:
    """Attention reads the future."""
    return gpt(bug, "not causal")


@training_step("causal LM: the mean of all tokens", "reported", "karpathy/nanochat/issues/844", contracts=LEAK)
def mean_of_all(bug: bool) -> Built:
    """A summary of the whole row is added to every position."""
    return gpt(bug, "mean of all")


@training_step(
    "packed documents attend to each other",
    "reported",
    "alex-hh/profam/issues/495",
    contracts="C10",
    needs="a declaration",
)
def documents_attend(bug: bool) -> Built:
    """Documents share a row, and attention crosses their borders. Some train so on purpose."""
    model = GPT("documents attend" if bug else "")
    optimizer = torch.optim.AdamW(model.parameters())

    def step(batch: dict[str, Tensor]) -> float:
        ids, documents = batch["input_ids"], batch["document_ids"]
        labels = torch.where(documents[:, 1:] == documents[:, :-1], ids[:, 1:], -1)
        _, loss = model(ids[:, :-1], labels, documents[:, :-1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, {"input_ids": torch.randint(WORDS, (2, 10)), "document_ids": torch.tensor([[0] * 4 + [1] * 6] * 2)}


@training_step("a fully masked row of attention", "reported", "AshleyLab/OpenMHC/issues/11", contracts="C9")
def masked_row(bug: bool) -> Built:
    """A sensor without a single reading has no key: softmax gives NaN, which nan_to_num hides later."""
    net = nn.ModuleDict({"q": nn.Linear(5, 8), "k": nn.Linear(5, 8), "v": nn.Linear(5, 8), "out": nn.Linear(8, 5)})
    optimizer = torch.optim.Adam(net.parameters())

    def step(batch: dict[str, Tensor]) -> float:
        x, present = batch["values"], batch["present"]
        hide = (torch.rand(present.shape) < 0.4) & present
        readable = present & ~hide
        if not bug:
            readable = readable | ~readable.any(-1, keepdim=True)
        content = x.masked_fill(~(present & ~hide)[..., None], 0)
        scores = net["q"](content) @ net["k"](content).mT / 8**0.5
        weights = torch.softmax(scores.masked_fill(~readable[:, None], float("-inf")), -1)
        prediction = net["out"](torch.nan_to_num(weights) @ net["v"](content))
        loss = (prediction - x).square().mean(-1)[hide].sum() / hide.sum().clamp(min=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    present = torch.ones(3, 7, dtype=torch.bool)
    present[1] = False
    return step, {"values": torch.randn(3, 7, 5), "present": present}
