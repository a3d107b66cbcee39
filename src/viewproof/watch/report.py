"""The report of a watched training step, which draws itself as a picture and as a page.

Matplotlib is imported when something is drawn: the core does without it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewproof.certify.report import Report
from viewproof.errors import InvalidArgument
from viewproof.watch.facts import StepFacts


@dataclass(frozen=True)
class WatchReport(StepFacts):
    """The findings about one training step and the facts that they follow from, to be read, drawn and saved."""

    def picture(self, path: str | Path) -> Path:
        """Draw the x-ray into a PNG file and return its path; see `viewproof.watch.picture`."""
        from viewproof.watch.picture import draw

        return draw(self, path)

    def draws(
        self, batches: int = 512, loader: Any = None, *, kept: str = "", seed: int = 0, **declared: Any
    ) -> Report:
        """What the masks of many batches cover: repeats only loader and collator, with exact binomial bounds (C8).

        ``loader`` is by default the one that gave the watched batch, for reports of a recording in this process.
        ``kept="mlm"`` declares BERT's shares of masked, replaced and kept tokens; ``declared`` are the options of
        `certify_coverage`, such as ``count``, ``share``, ``never`` and ``uniform``. One sample of each batch counts.

        >>> import torch, viewproof as vp
        >>> collate = lambda rows: (torch.stack(rows), torch.rand(len(rows), 6) < 0.5)
        >>> loader = torch.utils.data.DataLoader(torch.randn(64, 6), batch_size=2, collate_fn=collate)
        >>> report = vp.watch(lambda batch: None, next(iter(loader)))
        >>> print(report.draws(200, loader).verdict())
        PROVED

        Raises `InvalidArgument` without a loader.
        """
        from viewproof.watch.loader_draws import loader_draws

        loader = getattr(self, "_loader", None) if loader is None else loader
        if loader is None:
            raise InvalidArgument("loader=None must be the loader of the training run; pass it to draws")
        subject = f"masks of {self.subject}"
        return loader_draws(loader, batches, subject=subject, kept=kept, seed=seed, declared=declared)

    def __getstate__(self) -> dict[str, Any]:
        """Without the loader, which belongs to the process."""
        return {name: value for name, value in self.__dict__.items() if name != "_loader"}

    def html_head(self) -> str:
        """The x-ray as an image of the page."""
        from viewproof.watch.page import image

        return image(self)

    def html_tail(self) -> str:
        """The modules, the losses and the ledger as tables."""
        from viewproof.watch.page import tables

        return tables(self)
