"""The base classes of all training modules: optimizer, schedule, and steps on embeddings."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from viewproof.errors import InvalidArgument
from viewproof.models.vit import Block
from viewproof.training.batch import read_batch
from viewproof.training.ema import move_target
from viewproof.training.optimizers import build_optimizer, check_optimizer


class Pretraining(pl.LightningModule):
    """Base of all training modules: the optimizer of the model's parameters, its schedule, and their average.

    ``optimizer`` is ``"adamw"`` or ``"muon"`` (see `viewproof.training.optimizers`). The rate warms up linearly over
    ``warmup_steps``, then follows a cosine to 0 at ``total_steps`` (constant if that is None); biases, norms, tokens
    and positions are not decayed. With ``ema`` the module keeps ``average``, the exponential moving average of the
    model: after step k, from 0, it moves with momentum ``min(ema, (k + 1) / (k + 10))``, so that the first weights do
    not stay in it. It is part of checkpoints, and what a run evaluates.
    """

    embeds: bool = True
    """Whether training steps set ``embeddings``, which `viewproof.training.collapse.CollapseMonitor` reads."""
    embeddings: Tensor | None = None
    """Those of the last training step, ``[N, D]``, detached."""
    augment: Callable[[Tensor, Tensor, int], Tensor] | None = None
    """What makes a training step's source of a batch, its sample ids and the epoch, before anything else is drawn."""

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_steps: int = 0,
        total_steps: int | None = None,
        optimizer: str = "adamw",
        ema: float | None = None,
    ) -> None:
        super().__init__()
        check_optimizer(optimizer, model)
        self.model, self.loss = model, loss
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.optimizer, self.ema = optimizer, ema
        self.average = None if ema is None else copy.deepcopy(model).requires_grad_(False).eval()

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """The optimizer's step, and then that of the average."""
        step = self.global_step
        super().optimizer_step(*arguments, **options)
        if self.ema is not None and self.average is not None:
            move_target(self.average, self.model, min(self.ema, (step + 1) / (step + 10)))

    def configure_model(self) -> None:
        """Under a `ModelParallelStrategy` shard all parameters over the ranks, block by block."""
        mesh = self.device_mesh
        if mesh is None or isinstance(self.model, FSDPModule):
            return
        # A decoder calls parts of its last block, which hooks on the block would not see: it is sharded with the rest.
        blocks = [m for name, m in self.model.named_modules() if isinstance(m, Block) and "decoder" not in name]
        for module in [*blocks, self.model]:
            fully_shard(module, mesh=mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """The optimizer, with the schedule stepped once an optimizer step."""
        optimizer = self.new_optimizer()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def new_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters, before any step."""
        return build_optimizer(self.optimizer, self.model, self.learning_rate, self.weight_decay)

    def augmented(self, batch: Any) -> Any:
        """The batch that a training step starts from; the same one unless `augment` is set."""
        if self.augment is None:
            return batch
        x, ids = read_batch(batch, need_ids=True)
        return self.augment(x, ids, self.current_epoch), ids

    def drawn_embeddings(self, x: Tensor, sample_ids: Tensor, draw: int) -> Tensor:
        """The embeddings ``[N, D]`` of a batch under the ``draw``-th draw of masks or views, for LiDAR."""
        raise InvalidArgument(f"lidar needs a method that draws masks or views; {type(self).__name__} has no draws")

    def rate(self, step: int) -> float:
        """The learning rate's factor at a step: linear warm-up, then half a cosine."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.total_steps is None:
            return 1.0
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


class JointPretraining(Pretraining):
    """Base of modules that train ``objective(batch, step, epoch)``; validation is step 0 of epoch 0.

    A batch is ``(x: [N, ...], sample_ids: [N])`` or a mapping with these keys.
    """

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        """The loss of a batch at an optimizer step; sets ``embeddings``."""
        raise NotImplementedError(f"{type(self).__name__} must define objective(x, sample_ids, step, epoch)")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss that is differentiated."""
        x, ids = read_batch(self.augmented(batch), need_ids=True)
        loss = self.objective(x, ids, self.global_step, self.current_epoch)
        if self._trainer is not None:
            self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The same loss on held-out data, drawn as in epoch 0."""
        x, ids = read_batch(batch, need_ids=True)
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


def checked_labels(name: str, labels: Any, classes: int) -> Tensor:
    """Labels ``[N]`` as int64; one outside 0 .. classes - 1 raises `InvalidArgument`.

    >>> checked_labels("labels", [0, 2], classes=2)
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: labels from 0 to 2 must lie from 0 to 1
    """
    checked = torch.as_tensor(np.asarray(labels), dtype=torch.int64)
    least, most = (int(checked.min()), int(checked.max())) if len(checked) else (0, 0)
    if not 0 <= least <= most < classes:
        raise InvalidArgument(f"{name} from {least} to {most} must lie from 0 to {classes - 1}")
    return checked
