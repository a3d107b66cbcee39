"""``report.html``: written after training, and again by the command."""

import re

import numpy as np

from viewproof.cli import main

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
