"""What is concluded from what was read off a step: one function a claim."""

from viewproof.watch.examine import Examined
from viewproof.watch.facts import LossFacts, WatchReport


def report_of(x: Examined, subject: str) -> WatchReport:
    """The report."""
    if x.plain is None:
        return WatchReport(subject, (), ledger={"failure": (x.failure,)})
    losses = tuple(LossFacts(loss.value, loss.place, loss.reads) for loss in x.plain.record.losses)
    ledger = {"reasons": tuple(f"{k}: {v}" for k, v in x.planes.reasons.items()), "proved": tuple(f"{k}: {v}" for k, v in x.planes.proved.items()), "failure": (x.failure, x.unrepeatable)}
    return WatchReport(subject, (), {}, tuple(x.planes.sources), tuple(x.plain.modules), losses, ledger)
