"""Steps in the styles of published code: heads beside a teacher, Sinkhorn in place, a perceptual loss, `random`."""

import copy
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, TensorDataset

import viewproof as vp
from viewproof.watch.report import WatchReport

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def verdicts(report: WatchReport | None, contract: str) -> list[tuple[str, str]]:
    assert report is not None
    return [(f.verdict, f.claim) for f in report.findings if f.contract.name == contract]


def verdict(report: WatchReport | None, claim: str) -> str:
    assert report is not None
    return next(f.verdict for f in report.findings if f.claim == claim)


LEAK = "no scored group of the source is seen"


class Tokens(nn.Module):
    """Patches of 4 x 4 as tokens, mixed by attention; hidden ones are replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.hidden = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(8))
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.patches(images).flatten(2).mT
        out: Tensor = self.mix(x if mask is None else torch.where(mask[..., None], self.hidden, x))
        return out


def sinkhorn(scores: Tensor) -> Tensor:
    q = torch.exp(scores / 0.5).T
    q /= q.sum()
    for _ in range(2):
        q /= q.sum(1, keepdim=True)
        q /= q.sum(0, keepdim=True)
    return q.T


@pytest.mark.parametrize(("masked", "expected"), [(True, "PROVED"), (False, "REFUTED")])
def test_a_head_that_takes_the_teachers_tokens_out_of_their_places(masked: bool, expected: str) -> None:
    torch.manual_seed(0)
    student, head = Tokens(), nn.Linear(8, 5)
    teacher, teacher_head = (copy.deepcopy(m).requires_grad_(False) for m in (student, head))
    optimizer = torch.optim.SGD([*student.parameters(), *head.parameters()], 0.1)

    def step(images: Tensor) -> None:
        mask = torch.rand(len(images), 16) < 0.4
        with torch.no_grad():
            target = sinkhorn(teacher_head(teacher(images)[mask]))
        scores = head(student(images, mask if masked else None)[mask])
        loss = -(target * scores.log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for one, other in ((teacher, student), (teacher_head, head)):
            for p, q in zip(one.parameters(), other.parameters(), strict=True):
                p.data.lerp_(q.data, 0.1)

    assert verdict(vp.watch(step, IMAGES), LEAK) == expected


def test_a_head_behind_a_pooling_asks_for_no_places() -> None:
    torch.manual_seed(0)
    student, head = Tokens(), nn.Linear(8, 5)
    teacher, teacher_head = (copy.deepcopy(m).requires_grad_(False) for m in (student, head))
    optimizer = torch.optim.SGD([*student.parameters(), *head.parameters()], 0.1)

    def step(images: Tensor) -> None:
        with torch.no_grad():
            target = teacher_head(teacher(images.flip(3)).mean(1)).softmax(-1)
        loss = -(target * head(student(images).mean(1)).log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert verdict(vp.watch(step, IMAGES), LEAK) == "VACUOUS"


def test_a_frozen_network_that_reads_predictions_is_no_target_encoder() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 3, 3, padding=1)
    eye = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step(images: Tensor) -> None:
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., 4:12, 4:12] = 1
        filled = images * (1 - mask) + net(images * (1 - mask)) * mask
        loss = (eye(filled) - eye(images)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert verdict(vp.watch(step, IMAGES), LEAK) == "UNKNOWN"


def test_places_of_a_feature_map_that_are_those_of_no_groups_leave_it_open() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 3, padding=1)
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(5)).requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step(images: Tensor) -> None:
        mask = torch.zeros(16, 16)
        mask[5:10, 5:10] = 1
        with torch.no_grad():
            target = teacher(images)[:, :, 1, 1]
        loss = (net(images * (1 - mask))[:, :, 5:10, 5:10].mean((2, 3)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert verdict(vp.watch(step, IMAGES), LEAK) == "UNKNOWN"


class TwoViews(nn.Module):
    """A wrapper that makes the views; with ``same`` the second is the first."""

    def __init__(self, same: bool) -> None:
        super().__init__()
        self.same = same
        self.net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(), nn.Linear(128, 8))
        self.predict = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        one, two = (images.flip(3) * random.uniform(0.5, 1) for _ in range(2))
        z = self.net(torch.cat([one, one if self.same else two]))
        p, (a, b) = self.predict(z).chunk(2), z.detach().chunk(2)
        return -(normalize(p[0], dim=1) * normalize(b, dim=1) + normalize(p[1], dim=1) * normalize(a, dim=1)).sum()


@pytest.mark.parametrize(("same", "expected"), [(False, "PROVED"), (True, "UNKNOWN")])
def test_views_that_a_wrapper_makes_are_compared_inside_it(same: bool, expected: str) -> None:
    torch.manual_seed(0)
    random.seed(0)
    model = TwoViews(same)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        model(images).backward()
        optimizer.step()

    with vp.watch.recording() as seen:
        for (images,) in DataLoader(TensorDataset(IMAGES), 3):
            step(images)
    for report in (vp.watch(step, IMAGES), seen.report):
        assert verdict(report, "two views of a sample differ") == expected
        # Python seeds `random` anew in each forked process.
        assert verdicts(report, "C8") == [("PROVED", "the step can be run again from where it was")]


@pytest.mark.parametrize("write", [lambda p, v: p.data.copy_(v), lambda p, v: setattr(p, "data", v)])
def test_a_target_encoder_that_an_optimizer_has_too(write: Callable[[Tensor, Tensor], Any]) -> None:
    torch.manual_seed(0)
    online = nn.Sequential(nn.Flatten(), nn.Linear(768, 8))
    target = copy.deepcopy(online)
    optimizer = torch.optim.SGD([*online.parameters(), *target.parameters()], 0.1)

    def step(images: Tensor) -> None:
        loss = (online(images) - target(images.flip(3))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for p, q in zip(target.parameters(), online.parameters(), strict=True):
            write(p, 0.9 * p.data + 0.1 * q.data)

    report = vp.watch(step, IMAGES)
    assert verdict(report, "what is trained takes gradients and is moved by them") == "UNKNOWN"
    assert "written to after its step" in str(report)


def test_a_total_that_begins_with_a_number_and_goes_on_in_place() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step(x: Tensor) -> None:
        hidden = torch.rand(x.shape) < 0.5
        loss = ((net(x.masked_fill(hidden, 0)) - x).square() * hidden).sum()
        loss.clamp_(max=1e9)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert verdict(vp.watch(step, torch.randn(6, 4)), LEAK) == "PROVED"


def test_a_norm_over_positions_leaves_open_which_are_asked_for() -> None:
    torch.manual_seed(0)
    student, head = Tokens(), nn.Linear(8, 8)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.SGD([*student.parameters(), *head.parameters()], 0.1)

    def step(images: Tensor) -> None:
        mask = torch.rand(len(images), 16) < 0.5
        with torch.no_grad():
            target = nn.functional.instance_norm(teacher(images).mT).mT
        loss = (head(student(images, mask)[mask]) - target[mask]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    report = vp.watch(step, IMAGES)
    assert verdict(report, LEAK) == "UNKNOWN"
    assert "mixes all positions" in str(report)


@pytest.mark.parametrize(("roll", "claims"), [(0, []), (1, ["a row's positive is of its own sample"])])
@pytest.mark.parametrize("text", [False, True])
def test_rows_of_images_and_of_texts_have_positives_of_their_own_samples(
    text: bool, roll: int, claims: list[str]
) -> None:
    torch.manual_seed(0)
    image, words = nn.Sequential(nn.Flatten(), nn.Linear(768, 8)), nn.Embedding(30, 8)
    project, scale = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([*image.parameters(), *words.parameters(), project, scale], 0.1)

    def step(batch: dict[str, Tensor]) -> None:
        one = words(batch["query"]).mean(1) if text else image(batch["image"]) @ project
        other = normalize(words(batch["caption"]).mean(1) @ project, dim=1)
        logits = torch.einsum("nc,mc->nm", [scale.exp() * normalize(one, dim=1), other])
        loss = nn.functional.cross_entropy(logits, torch.arange(len(logits)).roll(roll))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    query, caption = torch.randint(30, (2, 6, 4))
    report = vp.watch(step, {"query": query, "caption": caption} | ({} if text else {"image": IMAGES}))
    assert [claim for name, claim in verdicts(report, "C7") if name != "PROVED"] == claims


@pytest.mark.parametrize("pad", [-100, 0])
def test_labels_that_end_in_the_id_of_padding(pad: int) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=40, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ids, labels = torch.randint(2, 40, (4, 9)), torch.randint(2, 40, (4, 5))
    for row, cut in enumerate((9, 6, 7, 5)):
        ids[row, cut:], labels[row, cut - 4 :] = 0, pad
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}

    def step(batch: dict[str, Tensor]) -> None:
        optimizer.zero_grad()
        loss: Tensor = model(**batch).loss
        torch.autograd.backward(loss)
        optimizer.step()

    assert verdicts(vp.watch(step, batch), "C4") == ([] if pad else [("UNKNOWN", "no scored position is padding")])


@pytest.mark.parametrize(("visible", "expected"), [(False, "PROVED"), (True, "UNKNOWN")])
def test_a_place_of_a_feature_map_that_is_asked_for_without_a_gradient(visible: bool, expected: str) -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 4, 4)
    teacher = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step(images: Tensor) -> None:
        hidden = torch.zeros(4, 4)
        hidden[1:3] = 1
        pixels = hidden.repeat_interleave(4, 0).repeat_interleave(4, 1)
        with torch.no_grad():
            target = teacher(images)
        prediction = net(images * (1 - pixels))
        loss = ((prediction - target).square() * hidden).sum()
        if visible:
            loss = loss + ((prediction - target.sign()).square() * (1 - hidden)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert verdict(vp.watch(step, IMAGES), LEAK) == expected


@pytest.mark.parametrize(("masked", "expected"), [(True, "PROVED"), (False, "REFUTED")])
def test_two_sources_that_go_through_the_teacher_one_behind_the_other(masked: bool, expected: str) -> None:
    torch.manual_seed(0)
    student, teacher = Tokens(), Tokens().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)

    def step(crops: list[Tensor]) -> None:
        images = torch.cat(crops)
        mask = torch.rand(len(images), 16) < 0.5
        with torch.no_grad():
            target = teacher(images)
        loss = (student(images, mask if masked else None)[mask] - target[mask]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert verdict(vp.watch(step, [IMAGES, IMAGES.flip(0, 2) + 0.1 * torch.randn(IMAGES.shape)]), LEAK) == expected


def test_two_views_of_one_source_behind_each_other_in_the_teacher_leave_it_open() -> None:
    torch.manual_seed(0)
    student, teacher = Tokens(), Tokens().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)

    def step(images: Tensor) -> None:
        images = torch.cat([images, images.flip(3)])
        mask = torch.rand(len(images), 16) < 0.5
        with torch.no_grad():
            target = teacher(images)
        loss = (student(images, mask)[mask] - target[mask]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert verdict(vp.watch(step, IMAGES), LEAK) == "UNKNOWN"


def test_a_step_that_waits_for_a_thread_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewproof.watch.child._IDLE", 1.0)
    net = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(len, "").result()

        def step(x: Tensor) -> None:
            loss = (net(x) - pool.submit(torch.flip, x, (1,)).result()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        assert "another thread" in str(vp.watch(step, torch.randn(6, 4)))


@pytest.mark.parametrize("begins", ["with images", "with latents"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_frozen_network_that_makes_input_and_target(begins: str, masked: bool) -> None:
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 2, 1)).requires_grad_(False)
    net = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def latent_step(latents: Tensor) -> None:
        tokens = latents.flatten(2).mT
        mask = torch.rand(len(tokens), 16) < 0.5
        loss = (net(tokens.masked_fill(mask[..., None] & masked, 0)) - tokens)[mask].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def step(images: Tensor) -> None:
        latent_step(frozen(images))

    if begins == "with images":
        report = vp.watch(step, IMAGES)
        assert verdict(report, LEAK) == "UNKNOWN"
        assert "watch(step, output)" in str(report)
    else:
        assert verdict(vp.watch(latent_step, frozen(IMAGES)), LEAK) == ("PROVED" if masked else "REFUTED")


def test_what_a_program_sets_over_the_hooks_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    calls = []
    with vp.watch.recording() as seen:
        call = nn.Module.__call__

        def counted(module: nn.Module, *args: Any) -> Any:
            calls.append(module)
            return call(module, *args)

        monkeypatch.setattr(nn.Module, "__call__", counted)
        for (x,) in DataLoader(TensorDataset(torch.randn(9, 4)), 3):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    net(torch.randn(2, 4))
    assert seen.report is not None
    assert len(calls) == 4


def test_a_penalty_on_gradients_that_are_asked_for_by_name_is_no_loss() -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(critic.parameters(), 0.1)

    def step(images: Tensor) -> None:
        images.requires_grad_()
        real, fake = critic(images), critic(torch.randn(images.shape))
        (gradient,) = torch.autograd.grad(outputs=real.sum(), inputs=images, create_graph=True)
        loss = fake.mean() - real.mean() + gradient.square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    report = vp.watch(step, IMAGES.clone())
    assert verdicts(report, "C8") == [("PROVED", "the step can be run again from where it was")]
    assert not verdicts(report, "C4")
    assert len(report.losses) == 1


def test_gradients_of_parameters_inside_a_loss() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step(x: Tensor) -> None:
        hidden = torch.rand(x.shape) < 0.5
        out = net(x.masked_fill(hidden, 0))
        (gradient,) = torch.autograd.grad(out.square().sum(), net.weight, create_graph=True)
        loss = ((out - x).square() * hidden).sum() + gradient.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert "TypeError" not in str(vp.watch(step, torch.randn(6, 4)))


def test_a_transform_of_torch_func_is_not_looked_into() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step(x: Tensor) -> None:
        hidden = torch.rand(x.shape) < 0.5
        out = torch.func.vmap(net)(x.masked_fill(hidden, 0))
        optimizer.zero_grad()
        ((out - x).square() * hidden).sum().backward()
        optimizer.step()

    report = vp.watch(step, torch.randn(6, 4))
    assert verdicts(report, "C8") == [("PROVED", "the step can be run again from where it was")]
    assert verdict(report, LEAK) == "UNKNOWN"
    assert "torch.func" in str(report)


@pytest.mark.parametrize("unread", [False, True])
def test_modules_that_only_closures_hold_are_told_apart(unread: bool) -> None:
    def closed() -> Callable[[Tensor], None]:
        torch.manual_seed(0)
        student, teacher, head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        teacher.load_state_dict(student.state_dict())
        teacher.requires_grad_(False)
        optimizer = torch.optim.AdamW([*student.parameters(), *head.parameters()], lr=1e-2)

        def step(x: Tensor) -> None:
            with torch.no_grad():
                target = teacher(x[:, 1])
            loss = (head(student(x[:, 0])).tanh() - (x[:, 1] if unread else target)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                    t.lerp_(s, 0.1)

        return step

    step = closed()
    with vp.watch.recording() as seen:
        for batch in DataLoader(torch.randn(3, 2, 8), batch_size=1):
            step(batch)
    report = str(seen.report)
    assert ("`Linear` is 0.9 of itself + 0.1 of `Linear 2`" in report) and seen.report is not None
    assert ("the teacher `Linear` runs, and the loss does not read it" in report) is unread
    assert bool(seen.report.failures()) is unread, report
