"""What the training modules share: optimizer and schedule; for joint embeddings, batches with ids and named methods."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from viewproof.errors import InvalidArgument
from viewproof.models.vit import Block


class Pretraining(pl.LightningModule):
    """What every module is optimized by: AdamW on the model's parameters.

    The rate warms up linearly over ``warmup_steps``, then follows a cosine to 0 at ``total_steps`` (constant if that is
    None); biases and one-dimensional parameters are not decayed.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_steps: int = 0,
        total_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup_steps, self.total_steps = warmup_steps, total_steps

    def configure_model(self) -> None:
        """Under a `ModelParallelStrategy` share every parameter out over the ranks; blocks are gathered one by one."""
        mesh = self.device_mesh
        if mesh is None or isinstance(self.model, FSDPModule):
            return
        # A decoder enters its last block in parts, which hooks on the block would not see: it goes with the rest.
        blocks = [m for name, m in self.model.named_modules() if isinstance(m, Block) and "decoder" not in name]
        for part in [*blocks, self.model]:
            fully_shard(part, mesh=mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """AdamW on two groups, with the schedule stepped once an optimizer step."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.95), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """The learning rate's factor at a step: linear warm-up, then half a cosine."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.total_steps is None:
            return 1.0
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's state with every shared-out parameter gathered; all ranks must ask.

    >>> whole_weights(nn.Linear(2, 1))["weight"].shape
    torch.Size([1, 2])
    """
    state = model.state_dict()
    return {name: (v.full_tensor() if isinstance(v, DTensor) else v).contiguous() for name, v in state.items()}


class JointPretraining(Pretraining):
    """Base of modules that train ``objective(batch, step, epoch)``; validation is step 0 of epoch 0.

    A batch is ``(x: [N, ...], sample_ids: [N])`` or a mapping with these keys. ``embeddings`` holds the last training
    step's, ``[N, D]``, detached: `viewproof.training.collapse.CollapseMonitor` reads them.
    """

    embeddings: Tensor | None = None

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        """The loss of a batch at an optimizer step; sets ``embeddings``."""
        raise NotImplementedError(f"{type(self).__name__} must define objective(x, sample_ids, step, epoch)")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss that is differentiated."""
        loss = self.objective(*unpack(batch), self.global_step, self.current_epoch)
        if self._trainer is not None:
            self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The same loss on held-out data, drawn as in epoch 0."""
        x, ids = unpack(batch)
        loss = self.objective(x, ids, 0, 0)
        if self._trainer is not None:
            self.log("val_loss", loss, prog_bar=True, batch_size=len(x), sync_dist=True)
        return loss

    @property
    def method(self) -> str:
        """What a checkpoint must have been written by to be continued here."""
        return f"{type(self).__name__} with {self.loss!r}"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down the method."""
        checkpoint["method"] = self.method

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another method's checkpoint, before anything of it is loaded."""
        written = checkpoint.get("method", "another method")
        if written != self.method:
            raise InvalidArgument(
                f"the checkpoint was written by {written}, not by {self.method}; resume it with its own configuration"
            )


def unpack(batch: Any) -> tuple[Tensor, Tensor]:
    """Data and sample ids of a batch; anything else is an `InvalidArgument`.

    >>> unpack({"x": torch.zeros(2, 3), "sample_ids": torch.arange(2)})[1]
    tensor([0, 1])
    """
    parts = [batch.get("x"), batch.get("sample_ids")] if isinstance(batch, Mapping) else batch
    if isinstance(parts, Sequence) and len(parts) >= 2:
        x, ids = parts[:2]
        if isinstance(x, Tensor) and isinstance(ids, Tensor):
            return x, ids
    raise InvalidArgument(
        f"batch of type {type(batch).__name__} must be (x, sample_ids) or {{'x': x, 'sample_ids': ids}}: what is drawn "
        "is drawn by the sample's id"
    )
