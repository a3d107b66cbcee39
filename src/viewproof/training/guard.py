"""The contracts of the running batches, checked while Lightning trains."""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from viewproof.certify.guard import check_batch
from viewproof.errors import InvalidArgument
from viewproof.masks import Sample
from viewproof.masks.finite import check_count
from viewproof.training.batch import read_batch


class ContractGuard(pl.Callback):
    """Checks the batch of the first step and of every ``every``-th one, before it is differentiated.

    The batch, sample and prediction are those of the step itself, with the batch as it was before the step; see
    `viewproof.certify.guard.check_batch` for what is checked. A broken contract is a `ContractViolation`, which
    stops training; ``checked`` counts the batches that passed. For `viewproof.methods.mae.MaskedPretraining`.
    """

    def __init__(self, every: int = 100) -> None:
        if check_count("every", every, "check nothing") == 0:
            raise InvalidArgument("every=0 checks nothing; leave the callback out, or pass 100")
        self.every, self.checked = every, 0
        self._first = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The next batch is the run's first, or the first after a resume."""
        if not hasattr(pl_module, "observer"):
            raise InvalidArgument(
                f"ContractGuard watches MaskedPretraining, not {type(pl_module).__name__}; call check_batch in its step"
            )
        self._first = True

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Watch this step if its turn has come."""
        if not self._first and trainer.global_step % self.every:
            pl_module.observer = None
            return
        self._first = False
        source = read_batch(batch)[0].clone()

        def check(sample: Sample, prediction: Tensor) -> None:
            check_batch(source, sample, prediction, pl_module.loss, target=pl_module.target)
            self.checked += 1

        pl_module.observer = check

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any, exception: object = None) -> None:
        """Leave the module as it was found."""
        if hasattr(pl_module, "observer"):
            pl_module.observer = None

    on_exception = on_train_end
