"""The report of a watched training step, which draws itself as a picture and as a page.

Matplotlib is imported when something is drawn: the core does without it.
"""

from dataclasses import dataclass
from pathlib import Path

from viewproof.watch.facts import StepFacts


@dataclass(frozen=True)
class WatchReport(StepFacts):
    """The findings about one training step and the facts that they follow from, to be read, drawn and saved."""

    def picture(self, path: str | Path) -> Path:
        """Draw the x-ray into a PNG file and return its path; see `viewproof.watch.picture`."""
        from viewproof.watch.picture import draw

        return draw(self, path)

    def html_head(self) -> str:
        """The x-ray as an image of the page."""
        from viewproof.watch.page import image

        return image(self)

    def html_tail(self) -> str:
        """The modules, the losses and the ledger as tables."""
        from viewproof.watch.page import tables

        return tables(self)
