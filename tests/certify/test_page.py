"""The HTML page and its pictures: whole, escaped, self-contained, and true to the maps."""

import io
import re
from base64 import b64decode
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from torch import Tensor

import viewproof as vp
from viewproof.certify import Contract, Report, Verdict, html_page
from viewproof.certify.check import Check
from viewproof.certify.pictures import PALETTE, Picture, pictures, png, strip

HIDDEN = torch.tensor([[True, False, False], [True, True, False]])
MARK = torch.tensor([[True, True, False], [False, False, False]])
CODES = ["hidden, marked", "visible, marked", "visible", "hidden", "hidden", "visible"]


def report(**maps: Tensor) -> Report:
    findings = (
        Check(Contract.C1, "a < b", "this & that", "<run>", "this & that", "<run>").refuted("<x> & 'y'", {}, {}, maps),
        Check(Contract.C2, "proved", "all", "labels").proved(),
        Check(Contract.C3, "unknown").unknown("because <script>alert(1)</script>"),
        Check(Contract.C4, "vacuous").vacuous("nothing is hidden"),
    )
    return Report('<script>"subject"</script>', findings, {"hidden": HIDDEN})


class Reader(HTMLParser):
    """Every tag with its attributes, and that each opened one is closed in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_everything_is_escaped_and_nothing_is_loaded() -> None:
    text = html_page(report(leak=HIDDEN))
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    tags = {tag for tag, _ in reader.tags}
    assert tags.isdisjoint({"script", "link", "x", "run", "iframe"})
    for _, attributes in reader.tags:
        for key in ("src", "href"):
            assert (attributes.get(key) or "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "url(" not in text and "@import" not in text and "http" not in text
    for said in ("&lt;x&gt; &amp; &#x27;y&#x27;", "a &lt; b", "this &amp; that; &lt;run&gt;", "because &lt;script&gt;"):
        assert said in text


def test_every_verdict_has_its_word_and_its_colour_in_light_and_dark() -> None:
    text = html_page(report())
    for verdict in Verdict:
        assert f'<td class="verdict" style="color: var(--{verdict})">{verdict}</td>' in text
        assert len(re.findall(rf"--{verdict}: #[0-9a-f]{{6}}", text)) == 2
    assert "prefers-color-scheme: dark" in text
    assert "<h1>&lt;script&gt;&quot;subject&quot;&lt;/script&gt;: REFUTED</h1>" in text


def images(text: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(b64decode(data))) for data in re.findall(r"base64,([^\"]+)", text)]


def test_the_page_shows_the_mask_and_the_maps_of_each_witness() -> None:
    text = html_page(report(hidden=HIDDEN, leak=MARK))
    assert "What is hidden" in text and "1. C1 REFUTED: a &lt; b" in text
    assert "leak (hidden content gets through)" in text
    assert len(images(text)) == 2
    assert "<figure>" not in html_page(Report("none", report().findings))


def test_maps_over_the_flattened_source_are_drawn_in_its_shape() -> None:
    hidden = torch.zeros(2, 4, 6, dtype=torch.bool)
    hidden[:, 1] = True
    maps = {"hidden": hidden.flatten(1), "support": ~hidden.flatten(1)}
    finding = Check(Contract.C4, "claim").refuted("w", {}, maps=maps)
    sizes = [image.size for image in images(html_page(Report("s", (finding,), {"hidden": hidden})))]
    assert sizes == [(6 * 37, 4 * 37)] * 2


def test_each_cell_has_the_colour_of_what_it_is() -> None:
    (picture,) = pictures({"hidden": HIDDEN, "leak": MARK})
    assert picture.caption == "leak (hidden content gets through)" and set(picture.legend) == set(CODES)
    size = picture.pixels.shape[1] // 3
    cells = [tuple(picture.pixels[r * size, c * size].tolist()) for r in range(2) for c in range(3)]
    assert cells == [PALETTE[code] for code in CODES]


def test_a_map_alone_is_marked_or_not() -> None:
    (picture,) = pictures({"wrong": MARK})
    assert picture.legend == ("not marked", "marked")
    first, second = pictures({"hidden": torch.ones(5, 7, dtype=torch.bool), "wrong": MARK})
    assert (first.legend, second.legend) == (("not marked", "marked"), ("hidden",))


def test_the_mask_of_a_batch_lies_under_the_map_of_one_sample() -> None:
    (picture,) = pictures({"hidden": HIDDEN.expand(4, 2, 3), "leak": MARK})
    assert picture.legend == ("visible", "hidden", "visible, marked", "hidden, marked")


def test_planes_without_a_mark_and_repeated_ones_are_left_out() -> None:
    marks = torch.zeros(2, 3, 2, 3, dtype=torch.bool)
    marks[1, 2, 0, 0] = marks[0, 1, 0, 0] = marks[1, 0, 1, 1] = True
    assert [p.caption for p in pictures({"wrong": marks})] == [
        "wrong (not as declared), at 0, 1",
        "wrong (not as declared), at 1, 0",
    ]
    many = torch.eye(12, dtype=torch.bool).reshape(12, 3, 4)
    assert len(list(pictures({"wrong": many}))) == 4


def test_numbers_are_drawn_from_blue_to_red() -> None:
    values = torch.tensor([[2.0, -2.0, 0.0, float("nan"), float("inf"), 1.0]])
    (picture,) = pictures({"gradient": values})
    cells = [tuple(picture.pixels[0, c * picture.pixels.shape[1] // 6].tolist()) for c in range(6)]
    red, blue, white, black = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
    assert cells == [red, blue, white, black, red, (255, 128, 128)]
    assert picture.caption == "gradient, from -2 (blue) to 2 (red)"


@pytest.mark.parametrize("tensor", [torch.zeros(()), torch.zeros(0, 3), torch.zeros(0, dtype=torch.bool)])
def test_what_has_no_place_is_not_drawn(tensor: Tensor) -> None:
    assert list(pictures({"hidden": tensor, "leak": tensor})) == []


@pytest.mark.parametrize("shape", [(3000, 1500), (1, 100_000), (700,)])
def test_a_mark_survives_in_a_large_map_that_is_merged(shape: tuple[int, ...]) -> None:
    mark = torch.zeros(shape, dtype=torch.bool)
    mark[(-1,) * len(shape)] = True
    (picture,) = pictures({"leak": mark})
    assert picture.legend == ("not marked", "marked") and max(picture.pixels.shape) <= 512


def test_a_png_is_what_other_readers_read() -> None:
    pixels = torch.randint(0, 256, (5, 7, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    read = Image.open(io.BytesIO(png(pixels)))
    assert read.mode == "RGB" and read.tobytes() == pixels.numpy().tobytes()
    beside = strip([pixels, pixels[:3]])
    assert beside.shape == (5, 26, 3) and bool((beside[3:, 19:] == 255).all()) and torch.equal(beside[:, :7], pixels)


def test_a_whole_pipeline_of_other_dtypes_and_ranks_is_drawn() -> None:
    for x in (torch.arange(12).reshape(2, 6), torch.randn(2, 6).double(), torch.randn(2, 2, 3, 4, 4)):
        rule: vp.Rule = vp.VectorMask(2, 0) if x.dim() == 2 else vp.BlockMask((None, 1, 2, 2), period=2, offset=0)

        def raw(x: Tensor, rule: vp.Rule = rule) -> tuple[Tensor, Tensor, vp.Mask]:
            return x, x, rule.mask(tuple(x.shape[1:]))

        assert "data:image/png" in html_page(vp.certify_view(raw, x))
    assert isinstance(next(pictures({"leak": MARK})), Picture)
