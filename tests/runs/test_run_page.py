"""``report.html``: written after training, and again by the command."""

import re
from io import BytesIO

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

import viewproof as vp
from viewproof.cli import main
from viewproof.models import TokenSettings
from viewproof.plots import image_grid, loss_figure, mask_figure, patch_error_figure, reconstruction_figure, write_png
from viewproof.runs.page import last_attention

SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--decoder-dim", "8", "--decoder-depth", "1"]
SMALL += ["--decoder-heads", "2", "--batch-size", "16", "--threads", "1", "--steps", "2"]


def test_a_run_is_one_page_without_network(tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", x=np.random.default_rng(0).random((48, 1, 8, 8), np.float32), y=np.arange(48) % 2)
    run = tmp_path / "run"
    assert main(["pretrain", str(tmp_path / "mine.npz"), *SMALL, "--out", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64") == 6 and "PROVED" in page and "trained encoder" in page
    assert "<tr><td>dim</td><td>16</td></tr>" in page and "<tr><td>decoder_depth</td>" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page) and str(tmp_path) not in page
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0 and (run / "report.html").read_text() == page
    (run / "evaluation.json").unlink()
    assert main(["report", str(run)]) == 2 and "evaluate it first" in capsys.readouterr().err


def test_a_picture_is_cut_to_what_is_drawn(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,loss,val_loss\n0,0,1.0,1.5\n0,1,0.5,\n")
    x = torch.rand(2, 1, 4, 4)
    for figure in (
        loss_figure(tmp_path / "metrics.csv", "title", "loss"),
        mask_figure(vp.PatchMask(2, 2, 3, 0).mask((2, 4, 6)), "title"),
        patch_error_figure({"model": [[0.5, None]], "nearest": [[0.1, 0.2]]}, "two\nlines"),
        reconstruction_figure(x, x > 0.5, x, "title"),
    ):
        ours, tight = BytesIO(), BytesIO()
        write_png(figure, ours, dpi=110)
        figure.savefig(tight, dpi=110, bbox_inches="tight")
        ours.seek(0), tight.seek(0)
        assert np.array_equal(imread(ours), imread(tight))


def test_settings_that_a_network_does_not_have_are_not_listed(tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).random((48, 1, 8, 8), np.float32))
    run = tmp_path / "run"
    assert main(["pretrain", str(tmp_path / "mine.npy"), *SMALL, "--model", "resnet", "--out", str(run)]) == 0
    listed = set(re.findall(r"<tr><td>(\w+)</td>", (run / "report.html").read_text()))
    assert {"model", "patch_size", "batch_size"} <= listed
    assert not {"dim", "depth", "heads", "positions", "registers", "decoder", "decoder_dim"} & listed


def test_images_stand_in_their_row_and_column_each_as_wide_and_high_as_it_is():
    figure = Figure(figsize=(4, 4), dpi=100)
    place = image_grid(figure, 2, 3, (4, 12), room=0.2)
    place(1, 2, np.zeros((4, 12)), "last")
    place(0, 0, np.zeros((4, 12)))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    last, first = (image.get_window_extent() for image in axes.images)
    assert last.x0 > first.x1 and last.y1 < first.y0
    assert abs(first.width / first.height - 3) < 0.01 and abs(last.width - first.width) < 0.01
    title = axes.texts[0].get_window_extent()
    assert axes.texts[0].get_text() == "last" and last.x0 < title.x0 and last.y1 < title.y0 and title.x1 < last.x1


def test_a_reconstruction_stands_beside_its_image():
    x, hidden = torch.rand(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    hidden[:, :, 0] = True
    (axes,) = reconstruction_figure(x, hidden, torch.where(hidden, 0.5, x), "title").axes
    assert [text.get_text() for text in axes.texts if text.get_text()] == [
        "original", "what the model saw", "reconstruction", "absolute error"
    ]  # fmt: skip
    place = {(round(image.get_extent()[0]), round(image.get_extent()[3])): image.get_array() for image in axes.images}
    assert sorted(place) == [(column, row) for column in range(4) for row in range(2)]
    for row in range(2):
        assert np.array_equal(place[0, row][1:], place[2, row][1:]) and np.ptp(place[2, row][0]) == 0
        assert np.array_equal(place[0, row][1:], place[1, row][1:]) and not place[3, row][1:].any()


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
