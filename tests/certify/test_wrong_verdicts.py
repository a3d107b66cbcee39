"""Kinds of programs of which a certifier once said the wrong thing, each beside a correct twin."""

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import viewproof as vp
from viewproof.certify import Contract, Verdict

HIDDEN = torch.zeros(2, 6, dtype=torch.bool)
HIDDEN[:, 3:5] = True
X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def of(report: vp.Report, contract: Contract) -> set[Verdict]:
    return {finding.verdict for finding in report.findings if finding.contract is contract}


def test_an_encoder_is_asked_as_it_runs_with_gradients_and_without() -> None:
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    hidden = HIDDEN[..., None].expand(2, 6, 3)

    def attends(leaks: bool) -> Callable[[Tensor], Tensor]:
        return lambda x: F.scaled_dot_product_attention(x, x, x, None if leaks else ~HIDDEN[:, None])[:, [0, 1, 2, 5]]

    leaking, right = attends(True), attends(False)

    def either(x: Tensor) -> Tensor:
        return right(x) * (2 if torch.is_grad_enabled() else 1)

    def future(x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True) if torch.is_grad_enabled() else x.cumsum(1)

    def slope(x: Tensor) -> Tensor:
        z = x[:, [0, 1, 2, 5]].clone().requires_grad_()
        return torch.autograd.grad(z.square().sum(), z)[0]

    for wrong in (
        lambda x: leaking(x) if torch.is_grad_enabled() else right(x),
        lambda x: right(x) if torch.is_grad_enabled() else leaking(x),
    ):
        assert vp.certify_encoder(wrong, x, hidden=hidden).verdict() is Verdict.REFUTED
    for fine in (either, slope):
        assert vp.certify_encoder(fine, x, hidden=hidden).verdict() is Verdict.PROVED
    assert vp.certify_causal(future, x).verdict() is Verdict.REFUTED
    pairs = vp.certify_pairs(lambda x: (x, x.roll(1, 0) if torch.is_grad_enabled() else 2 * x), x)
    assert pairs.verdict() is Verdict.REFUTED
    assert vp.certify_causal(lambda x: x.cumsum(1) * torch.is_grad_enabled(), x).verdict() is Verdict.PROVED


def test_biases_that_start_at_0_leave_a_wide_encoder_with_a_finite_mask_proved() -> None:
    width, hidden = 768, HIDDEN[..., None].expand(2, 6, 768)
    torch.manual_seed(0)
    norm, query, key = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def encode(x: Tensor) -> Tensor:
        q, k = (layer(norm(x)) for layer in (query, key))
        scores = q @ k.mT / width**0.5 + torch.where(HIDDEN[:, None], -8e3, 0.0)
        return (scores.softmax(-1) @ x)[:, [0, 1, 2, 5]]

    assert vp.certify_encoder(encode, torch.randn(2, 6, width), hidden=hidden).verdict() is Verdict.PROVED


@pytest.mark.parametrize("as_buffer", [False, True])
def test_hidden_content_that_an_encoder_keeps_for_its_next_call_is_not_proved(as_buffer: bool) -> None:
    class Keeps(nn.Module):
        def __init__(self, places: list[int]) -> None:
            super().__init__()
            self.places, self.kept = places, torch.zeros(2, 1)
            if as_buffer:
                del self.kept
                self.register_buffer("kept", torch.zeros(2, 1))

        def forward(self, x: Tensor) -> Tensor:
            shown = x[:, [0, 1, 2, 5]] + self.kept
            self.kept = x[:, self.places].mean(1, keepdim=True)
            return shown

    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    of_hidden, of_visible = (vp.certify_encoder(Keeps(p), x, hidden=HIDDEN) for p in ([0, 3], [0, 5]))
    assert of_hidden.verdict() is Verdict.UNKNOWN and "in the next call it does" in of_hidden.findings[0].detail
    assert of_visible.verdict() is Verdict.PROVED


def test_a_trainable_weight_of_zero_hides_nothing() -> None:
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))

    def verdict(gate: Tensor) -> Verdict:
        return vp.certify_encoder(lambda x: (x * (1 + gate * x.mean()))[:, :3], x, hidden=HIDDEN).verdict()

    assert verdict(nn.Parameter(torch.zeros(1))) is Verdict.UNKNOWN
    assert verdict(nn.Parameter(torch.zeros(1), requires_grad=False)) is Verdict.PROVED
    assert verdict(torch.zeros(1)) is Verdict.PROVED


def test_scores_beyond_what_is_assumed_of_them_are_not_masked_by_a_small_number() -> None:
    mask = torch.zeros(2, 1, 6).masked_fill(HIDDEN[:, None], -1e4)

    def attention(scale: float) -> Callable[[Tensor], Tensor]:
        return lambda x: ((x[..., None] @ x[:, None] * scale + mask).softmax(-1) @ x[..., None])[:, [0, 1, 2, 5]]

    assert vp.certify_encoder(attention(1.0), X, hidden=HIDDEN).verdict() is Verdict.PROVED
    assert vp.certify_encoder(attention(1e4), X, hidden=HIDDEN).verdict() is Verdict.REFUTED


def test_padding_that_is_found_by_zeros_follows_from_hidden_content() -> None:
    x, hidden = torch.randn(2, 6, 3), HIDDEN[..., None].expand(2, 6, 3)

    def mean(x: Tensor, kept: Tensor) -> Tensor:
        return torch.where(hidden, 0.0, x).sum(1) / kept.sum(1, keepdim=True)

    by_zeros = vp.certify_encoder(lambda x: mean(x, (x != 0).any(-1)), x, hidden=hidden)
    assert by_zeros.verdict() is Verdict.REFUTED
    assert vp.certify_encoder(lambda x: mean(x, ~HIDDEN), x, hidden=hidden).verdict() is Verdict.PROVED


def test_flex_attention_and_padding_in_a_transformer_are_followed() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    hidden, shown = HIDDEN[..., None].expand(2, 6, 8), [0, 1, 2, 5]

    def flex(score: float) -> Callable[[Tensor], Tensor]:
        def masked(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return torch.where(HIDDEN[b, j], score, s)

        return lambda x: flex_attention(x[:, None], x[:, None], x[:, None], score_mod=masked)[:, 0, shown]

    assert vp.certify_encoder(flex(-torch.inf), x, hidden=hidden).verdict() is Verdict.PROVED
    assert vp.certify_encoder(flex(-10.0), x, hidden=hidden).verdict() is Verdict.REFUTED
    torch.manual_seed(0)
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    for padding, verdict in ((HIDDEN, Verdict.PROVED), (~HIDDEN, Verdict.REFUTED)):

        def encoder(x: Tensor, padding: Tensor = padding) -> Tensor:
            return layers(x, src_key_padding_mask=padding)[:, shown]  # type: ignore[no-any-return]

        assert vp.certify_encoder(encoder, x, hidden=hidden).verdict() is verdict


@pytest.mark.parametrize("open_seed", [True, False])
def test_what_one_draw_of_a_view_leaves_open_is_not_proved(open_seed: bool) -> None:
    def view(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.rand(x.shape).argsort(1) < 2
        if open_seed and torch.initial_seed() == 3:
            # A row with a missing value is blanked, hidden or not.
            x = torch.where((x == -999.0).any(1, keepdim=True), 0.0, x)
        return torch.where(hidden, 0.0, x), x, hidden

    report = vp.certify_view(view, X, generator="global")
    assert of(report, Contract.C1) == {Verdict.UNKNOWN if open_seed else Verdict.PROVED}


def test_a_view_may_write_its_outputs_where_the_last_ones_lay() -> None:
    out, mask, calls = torch.empty(2, 6), torch.zeros(2, 6, dtype=torch.bool), [0]

    def right(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return out.copy_(x).masked_fill_(HIDDEN, 0.0), x, HIDDEN

    def moving(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        calls[0] += 1
        return x[:, :3], x, mask.copy_((torch.arange(6) + calls[0]) % 3 == 0)

    assert vp.certify_view(right, X).verdict() is Verdict.PROVED
    assert Verdict.REFUTED in of(vp.certify_view(moving, X), Contract.C8)


def test_a_view_is_run_as_a_training_step_runs_it() -> None:
    def view(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x if torch.is_grad_enabled() else torch.where(HIDDEN, 0.0, x), x, HIDDEN

    assert Verdict.REFUTED in of(vp.certify_view(view, X), Contract.C1)


def test_a_mask_that_may_lie_in_two_ways_is_asked_about() -> None:
    x, mask = torch.randn(4, 4, 4), torch.eye(4, dtype=torch.bool)

    def view(hidden: Any) -> Callable[[Tensor], Any]:
        return lambda x: (x.masked_fill(mask[..., None], 0.0), x, hidden)

    assert vp.certify_view(view(vp.Mask(mask[..., None].expand(4, 4, 4), True)), x).verdict() is Verdict.PROVED
    [finding] = vp.certify_view(view(mask), x).findings
    assert finding.verdict is Verdict.UNKNOWN and "pass a Mask, which says if it is per_sample" in finding.detail


def test_a_lazy_module_that_was_never_called_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(vp.InvalidArgument, match=r"LazyLinear.weight has no shape .* call the module on one batch"):
        vp.certify_encoder(model, X, hidden=HIDDEN)
    assert isinstance(model[1], nn.LazyLinear)
    model(X)
    assert vp.certify_encoder(model, X, hidden=HIDDEN).verdict() is Verdict.REFUTED


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return slope * ctx.factor, None


@pytest.mark.parametrize(("factor", "verdict"), [(1.005, Verdict.REFUTED), (1.0, Verdict.PROVED)])
def test_a_gradient_that_is_half_a_percent_off_is_not_the_objectives(factor: float, verdict: Verdict) -> None:
    def loss(p: Tensor, s: vp.Sample) -> Tensor:
        hidden = s.mask.hidden.expand(s.y.shape)
        if not hidden.any():
            raise ValueError("nothing is hidden")
        return Scaled.apply(p - s.y, factor)[hidden].square().mean()  # type: ignore[no-untyped-call]

    report = vp.certify_loss(loss, vp.Sample(X, X, vp.Mask(HIDDEN[0])), distance=lambda e: e * e)
    assert next(f for f in report.findings if "declared distance" in f.claim).verdict is verdict


def test_what_a_declared_distance_loses_by_cancelling_is_no_fault_of_a_loss() -> None:
    def loss(p: Tensor, s: vp.Sample) -> Tensor:
        hidden = s.mask.hidden.expand(s.y.shape)
        if not hidden.any():
            raise ValueError("nothing is hidden")
        return (1 + (p - s.y)[hidden].square()).log().mean()

    sample = vp.Sample(X, X, vp.Mask(HIDDEN[0]))
    for distance, refuted in ((lambda e: torch.log(1 + e * e), False), (lambda e: torch.log(1 + e * e) * 1.001, True)):
        report = vp.certify_loss(loss, sample, distance=distance)
        assert any("declared distance" in f.claim for f in report.refuted) is refuted


def test_a_compiled_loss_runs_as_it_was_written() -> None:
    def mean(p: Tensor, s: vp.Sample) -> Tensor:
        hidden = s.mask.hidden.expand(s.y.shape)
        return torch.where(hidden, (p - s.y).square(), 0.0).sum() / hidden.sum()

    compiled = torch.compile(mean, backend="eager")
    sample = vp.Sample(X, X, vp.Mask(HIDDEN[0]))
    reports = [vp.certify_loss(loss, sample, distance=lambda e: e * e) for loss in (mean, compiled)]
    assert [f.verdict for f in reports[0].findings] == [f.verdict for f in reports[1].findings]


@pytest.mark.parametrize("distance", [None, "cross_entropy"])
@pytest.mark.parametrize("ignored", [0, -100])
def test_targets_of_the_first_and_last_declared_id_are_scored_too(distance: Any, ignored: int) -> None:
    ids = torch.randint(1, 5, (2, 6), generator=torch.Generator().manual_seed(0))

    def loss(p: Tensor, s: vp.Sample) -> Tensor:
        hidden = s.mask.hidden.expand(s.y.shape)
        if not hidden.any():
            raise ValueError("nothing is hidden")
        return F.cross_entropy(p[hidden], s.y[hidden], ignore_index=ignored)

    sample = vp.Sample(ids, ids, vp.Mask(HIDDEN[0]))
    report = vp.certify_loss(loss, sample, prediction_shape=(2, 6, 5), distance=distance, ids=(0, 4))
    verdict = Verdict.PROVED if ignored else Verdict.REFUTED
    assert report.verdict() is verdict
    assert all(f.verdict is verdict for f in report.findings if "declared distance" in f.claim)


def test_a_power_iteration_is_no_draw() -> None:
    torch.manual_seed(0)
    head = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3))

    def branch(target: nn.Module) -> vp.TargetBranch:
        online = copy.deepcopy(target)
        return vp.TargetBranch(lambda x: F.mse_loss(online(x), target(x).detach()), online, target)

    draws = "the target branch draws nothing"
    for target, verdict in ((head, Verdict.PROVED), (nn.Sequential(head, nn.Dropout(0.5)), Verdict.REFUTED)):
        report = vp.certify_target_branch(branch(target), X)
        assert next(f for f in report.findings if f.claim == draws).verdict is verdict


@pytest.mark.parametrize(("towards", "verdict"), [(1.0, Verdict.REFUTED), (None, Verdict.PROVED)])
def test_decay_towards_one_is_decay(towards: float | None, verdict: Verdict) -> None:
    class Pulling(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"] if towards is not None else ():
                    p.data.lerp_(torch.full_like(p, towards), 0.01)

    model = nn.LayerNorm(3)
    assert vp.certify_optimizer(model, Pulling(model.parameters(), 0.1), no_decay=["*"]).verdict() is verdict


def test_a_monitor_must_tell_the_two_sides_apart_by_more_than_rounding() -> None:
    def spread(z: Tensor) -> Tensor:
        return z.std(0).mean()

    def standardised(z: Tensor) -> Tensor:
        return ((z - z.mean(0)) / (z.std(0) + 1e-12)).std(0).mean()

    def of_lengths(z: Tensor) -> Tensor:
        return z.norm(dim=-1).std()

    for monitor, verdict in ((spread, Verdict.PROVED), (standardised, Verdict.UNKNOWN), (of_lengths, Verdict.REFUTED)):
        assert vp.certify_monitor(monitor, dimensional=False).verdict() is verdict


def test_a_running_batch_must_score_all_that_is_hidden() -> None:
    rule = vp.VectorMask(period=2, offset=1)
    sample = rule.sample(X)
    prediction = torch.where(HIDDEN, sample.y, sample.y + 1)

    def every_second_row(p: Tensor, s: vp.Sample) -> Tensor:
        return vp.masked_mse(p[:1], vp.Sample(s.x[:1], s.y[:1], s.mask))

    def clipped(p: Tensor, s: vp.Sample) -> Tensor:
        return (p - s.y)[s.mask.hidden.expand(s.y.shape)].square().clamp(max=0.5).mean()

    for loss in (vp.masked_mse, clipped):
        vp.check_batch(X, sample, prediction, loss)
    with pytest.raises(vp.ContractViolation, match=r"the hidden prediction at \(1, 1\) has no gradient; 2 of 12"):
        vp.check_batch(X, sample, prediction, every_second_row)


def test_an_evaluation_that_sets_the_environment_or_moves_an_iterator_is_not_proved() -> None:
    loader, held = iter([X, X, X]), [X, X]

    def sets(x: Tensor) -> Tensor:
        os.environ["VIEWPROOF_TEST"] = str(float(x.sum()))
        return x

    assert vp.certify_evaluation(sets, X).verdict() is Verdict.REFUTED
    assert "VIEWPROOF_TEST" not in os.environ
    report = vp.certify_evaluation(lambda x: x + next(loader), X)
    assert report.verdict() is Verdict.UNKNOWN and "list_iterator" in report.findings[0].detail
    assert vp.certify_evaluation(lambda x: x + next(iter(held)), X).verdict() is Verdict.PROVED


def test_a_draw_that_changes_with_the_size_of_its_batch_is_refuted() -> None:
    def draw(more: int) -> Callable[..., Tensor]:
        def row(epoch: int, seed: int, i: int) -> Tensor:
            return torch.rand(16, generator=torch.Generator().manual_seed((seed * 999_983 + epoch) * 999_983 + i)) < 0.4

        return lambda ids, epoch, seed: torch.stack([row(epoch, seed, int(i) + more * (len(ids) >= 16)) for i in ids])

    assert vp.certify_reproducible(draw(5), workers=0).verdict() is Verdict.REFUTED
    assert vp.certify_reproducible(draw(0), workers=0).verdict() is Verdict.PROVED
