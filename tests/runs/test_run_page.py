"""``report.html``: written after training, and again by the command."""

import re

import numpy as np
import torch

import viewproof as vp
from viewproof.cli import main
from viewproof.models import TokenSettings
from viewproof.runs.page import last_attention

SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--decoder-dim", "8", "--decoder-depth", "1"]
SMALL += ["--decoder-heads", "2", "--batch-size", "16", "--threads", "1", "--steps", "2"]


def test_a_run_is_one_page_without_network(tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", x=np.random.default_rng(0).random((48, 1, 8, 8), np.float32), y=np.arange(48) % 2)
    run = tmp_path / "run"
    assert main(["pretrain", str(tmp_path / "mine.npz"), *SMALL, "--out", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64") == 6 and "PROVED" in page and "trained encoder" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page) and str(tmp_path) not in page
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0 and (run / "report.html").read_text() == page
    (run / "evaluation.json").unlink()
    assert main(["report", str(run)]) == 2 and "evaluate it first" in capsys.readouterr().err


def test_attention_is_that_of_the_class_token_or_of_all_on_average():
    x = torch.rand(2, 1, 8, 12)
    settings = TokenSettings(class_token=True, registers=1)
    marked = vp.PatchEncoder((1, 8, 12), (4, 4), dim=16, depth=1, heads=2, settings=settings)
    drawn = last_attention(marked, x)
    assert drawn.shape == (2, 2, 3) and bool((drawn > 0).all() and (drawn.sum((1, 2)) < 1).all())
    plain = vp.PatchEncoder((1, 8, 12), (4, 4), dim=16, depth=1, heads=2)
    block = plain.blocks[0]
    query, key, _ = block.attention.query_key_value(block.norm1(plain.embedded(x, None) + plain.positions)).chunk(3, 2)
    # Values that are one at the fifth patch alone are mixed to its weight.
    value = torch.zeros(2, 2, 6, 8).index_fill_(2, torch.tensor([4]), 1.0)
    heads = [part.unflatten(2, (2, 8)).transpose(1, 2) for part in (query, key)]
    weight = torch.nn.functional.scaled_dot_product_attention(*heads, value)[..., 0].mean((1, 2))
    drawn = last_attention(plain, x)
    assert torch.allclose(drawn[:, 1, 1], weight) and torch.allclose(drawn.sum((1, 2)), torch.ones(2))
