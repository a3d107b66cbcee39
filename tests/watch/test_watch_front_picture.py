from pathlib import Path

import pytest
import torch

from viewproof.certify.page import html_page
from viewproof.certify.report import Contract, Finding, Witness
from viewproof.errors import InvalidArgument
from viewproof.verdict import Verdict
from viewproof.watch.facts import LossFacts, ModuleFacts, Role, Source
from viewproof.watch.flow_picture import depths, edges, flow_layout, shown_modules
from viewproof.watch.picture import BOTH, NEITHER, SCORED, SEEN, leak_verdict, paint, sentence, states
from viewproof.watch.report import WatchReport


def finding(verdict):
    witness = Witness("pixel 3 changes") if verdict is Verdict.REFUTED else None
    return Finding(
        contract=Contract.C1, claim="nothing scored is seen", verdict=verdict, scope="s", method="m", witness=witness
    )


def planes(*rows):
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


GROUP = torch.arange(4).view(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1).expand(1, 4, 4)


def image(seen, scored):
    return Source("batch", torch.rand(len(seen), 1, 4, 4), GROUP, (2, 2), seen, scored)


SERIES = Source("wave", torch.rand(2, 40), torch.arange(40) // 10, (4,), planes("xx..", "x..x"), planes("..xx", ".xx."))
TOKENS = Source(
    "ids",
    torch.arange(8).view(2, 4),
    torch.arange(4),
    (4,),
    planes("xxx.", "xxxx"),
    planes("...x", "..x."),
    text=(("a", "$b$", "c\n", "d"),) * 2,
)
VIDEO = Source(
    "clip",
    torch.rand(1, 3, 4, 4, 4),
    GROUP + 4 * (torch.arange(4) // 2).view(1, 4, 1, 1),
    (2, 2, 2),
    planes("xx..xx.."),
    planes("..xx..xx"),
)
MODULES = (
    ModuleFacts("net", "Net", Role.MIXED, 9, ("batch",)),
    ModuleFacts("net.student", "Vit", Role.TRAINED, 5, ("batch",), ((2, 1, 4, 4), (2, 3)), moves="by AdamW"),
    ModuleFacts("net.head", "Linear", Role.TRAINED, 2, ("net.student",)),
    ModuleFacts("net.teacher", "Vit", Role.TEACHER, 5, ("batch",), moves="0.9 of itself + 0.1 of `student`"),
)
LOSS = LossFacts(0.5, "/tmp/train.py:3", ("net.head", "net.teacher"))


def test_every_coordinate_gets_the_state_of_its_group():
    source = image(planes("xx.."), planes("x.x."))
    assert states(source, 0)[0].tolist() == [[BOTH] * 2 + [SEEN] * 2] * 2 + [[SCORED] * 2 + [NEITHER] * 2] * 2


def test_the_four_states_have_four_colours_and_a_leak_is_not_what_is_meant():
    codes = torch.tensor([[NEITHER] * 12, [SEEN] * 12, [SCORED] * 12]).numpy()
    pixels = paint(codes, torch.full((3, 12), 0.5).numpy(), True, 2)
    assert len({tuple(row[0].round(3)) for row in pixels}) == 3
    both = torch.full((24, 24), BOTH).numpy()
    leak, meant = (paint(both, torch.full((24, 24), 0.5).numpy(), flag, 2) for flag in (True, False))
    assert (leak[..., 0] > 2 * leak[..., 2]).all()
    assert len({tuple(p.round(3)) for p in meant.reshape(-1, 3)}) == 2


@pytest.mark.parametrize(
    ("seen", "scored", "refuted", "words"),
    [
        ("x...", ".xxx", False, "The model sees 25% of the patches and must predict the other 75%."),
        ("x...", ".xx.", False, "The model sees 25% of the patches and must predict 50%; 25% are neither."),
        ("xx..", ".xxx", True, "LEAK: of 3 patches that the loss asks for, the model already sees 1."),
        ("xxxx", "xxxx", False, "The model sees all patches and the loss asks for all of them, through another path."),
        ("xxxx", "....", False, "The model sees 100% of the patches; the loss asks for none of them."),
        ("....", "....", False, "The step trains on none of the patches."),
    ],
)
def test_the_sentence_says_what_is_trained_on(seen, scored, refuted, words):
    assert sentence(image(planes(seen), planes(scored)), refuted) == words


def test_what_is_both_is_called_meant_only_if_that_was_found():
    assert leak_verdict(WatchReport("s", (finding(Verdict.REFUTED),))) is Verdict.REFUTED
    assert leak_verdict(WatchReport("s", (finding(Verdict.PROVED),))) is Verdict.PROVED
    assert leak_verdict(WatchReport("s", (finding(Verdict.VACUOUS),))) is Verdict.VACUOUS
    assert leak_verdict(WatchReport("s", ())) is Verdict.UNKNOWN
    waived = WatchReport("s", (finding(Verdict.REFUTED),)).waive({"C1": "kept tokens"})
    assert leak_verdict(waived) is Verdict.PROVED


@pytest.mark.parametrize(
    "sources",
    [
        (image(planes("x...", "xx.."), planes(".xxx", ".xxx")),),
        (SERIES,),
        (TOKENS,),
        (VIDEO,),
        (),
        (image(planes("x..."), planes("x...")), SERIES, TOKENS, VIDEO),
    ],
    ids=["image", "series", "tokens", "video", "none", "four"],
)
@pytest.mark.parametrize("verdict", [Verdict.PROVED, Verdict.REFUTED])
def test_every_kind_of_source_is_drawn(tmp_path, sources, verdict):
    report = WatchReport("step", (finding(verdict),), sources=sources, modules=MODULES, losses=(LOSS,))
    path = report.picture(tmp_path / "xray.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_missing_folder_is_said_before_anything_is_drawn():
    with pytest.raises(InvalidArgument, match=r"picture='nowhere/a\.png' must be in a folder"):
        WatchReport("step", ()).picture(Path("nowhere/a.png"))


def test_the_flow_shows_the_parts_that_differ_and_their_links():
    report = WatchReport("s", (), sources=(image(planes("x..."), planes(".xxx")),), modules=MODULES, losses=(LOSS,))
    shown = shown_modules(MODULES)
    assert list(shown) == ["net.student", "net.head", "net.teacher"]
    links = edges(report, shown)
    assert ("batch", "net.teacher") in links and ("net.head", "loss 0") in links
    assert depths([*shown, "loss 0"], links)["loss 0"] == 3
    layout = flow_layout(report, 10.0)
    assert layout.target == {"net.teacher"}
    assert layout.boxes["net.teacher"].y < layout.boxes["net.student"].y
    assert layout.boxes["loss 0"].lines == ["loss 0.5", "train.py:3"]


def test_modules_that_read_each_other_do_not_hang():
    links = [("a", "b"), ("b", "a"), ("b", "loss 0")]
    assert depths(["a", "b", "loss 0"], links)["loss 0"] >= 1


def test_the_page_holds_the_picture_and_the_tables_and_asks_no_network():
    report = WatchReport("a <step>", (finding(Verdict.REFUTED),), modules=MODULES, losses=(LOSS,))
    page = html_page(report)
    assert "data:image/png;base64," in page and "<h2>Modules</h2>" in page and "net.teacher" in page
    assert "a &lt;step&gt;" in page and "http" not in page.replace("http-equiv", "")
    assert "<h2>Ledger</h2>" not in page
