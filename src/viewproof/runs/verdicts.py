"""What was checked about a run's objective: the certificate of its view, and the theorems about its loss."""

import importlib.util
from functools import cache

import torch

from viewproof.certify import certify_view
from viewproof.masks import Rule, TokenMask

THEOREMS = (
    "block_mask_hidden_scalar_eq_zero", "block_mask_visible_scalar_eq_input", "training_loss_eq_row_objectives",
    "training_loss_gradient_support",
)  # fmt: skip
"""What is proved about masks and the masked loss, for all sizes and values; see docs/theorems.md."""


def certificate(rule: Rule | None, shape: tuple[int, ...]) -> list[dict[str, str]]:
    """The findings about the view of step 0 and two samples of ``shape``; none if nothing is hidden.

    Each has "check", "claim", "verdict" and "scope".
    """
    # BERT's kept tokens stay visible, and are meant to: the claims about what is hidden are not its own.
    if rule is None or isinstance(rule, TokenMask):
        return []
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    report = certify_view(lambda x: rule.at(0).sample(x, sample_ids=torch.arange(len(x))), x, name="the run's view")
    return [
        {"check": f.contract.name, "claim": f.claim, "verdict": str(f.verdict), "scope": f.scope}
        for f in report.findings
    ]


@cache
def theorem_verdicts(names: tuple[str, ...]) -> list[dict[str, str]]:
    """The theorems about masks and the masked loss, proved now; not checked where Z3 is not installed."""
    if importlib.util.find_spec("z3") is None:
        reason = "not checked: pip install 'viewproof[prove]'"
        return [{"check": name, "claim": "", "verdict": "UNKNOWN", "scope": reason} for name in names]
    from viewproof.theorems import registered

    theorems = registered()
    rows = []
    for name in names:
        theorem = theorems[name]
        verdict = str(theorem.prove(theorem.program).verdict)
        rows.append({"check": name, "claim": theorem.statement, "verdict": verdict, "scope": theorem.scope})
    return rows
