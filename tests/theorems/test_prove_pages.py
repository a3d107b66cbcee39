"""The generated pages are those of the registry."""

from pathlib import Path

import pytest

pytest.importorskip("z3")

from viewproof.theorems import registered
from viewproof.theorems.pages import theorems_page, trust_page

ROOT = Path(__file__).parents[2]
STALE = "run python -m viewproof.theorems.report"


def test_theorems_page_is_current():
    assert (ROOT / "docs" / "theorems.md").read_text(encoding="utf-8") == theorems_page(registered()), STALE


def test_trust_lists_are_current():
    page = (ROOT / "TRUST.md").read_text(encoding="utf-8")
    assert trust_page(page, registered()) == page, STALE
