"""A whole pipeline, certified part by part."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.certify.encoder import CLAIM, certify_encoder
from viewproof.certify.geometry import certify_geometry
from viewproof.certify.loss import certify_loss
from viewproof.certify.monitor import certify_monitor
from viewproof.certify.report import Contract, Finding, Report, attempt
from viewproof.certify.reproducible import certify_reproducible
from viewproof.certify.search import drawn, read
from viewproof.certify.target_branch import TargetBranch, certify_target_branch
from viewproof.certify.view import certify_view
from viewproof.certify.view_case import Case, Declared
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Rule, Sample

CERTIFIERS: dict[str, Callable[..., Report]] = {
    "view": certify_view,
    "encoder": certify_encoder,
    "loss": certify_loss,
    "target_branch": certify_target_branch,
    "patchify": certify_geometry,
    "monitor": certify_monitor,
    "draw": certify_reproducible,
}


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The parts of a self-supervised pipeline; those that are None are left out.

    Each is the first argument of its certifier: ``view(x)`` of `certify_view`; ``encoder(x)`` or ``encoder(x, view)``
    of `certify_encoder`; ``loss(prediction, sample)`` of `certify_loss`; ``target_branch`` of `certify_target_branch`;
    ``patchify(x)`` of `certify_geometry`; ``monitor(embeddings)`` of `certify_monitor`; ``draw(ids, epoch, seed)``, or
    a rule, of `certify_reproducible`. ``rule`` is what the view must hide. ``options`` hold further arguments of a
    certifier by the name of its part: ``{"loss": {"reduction": "sum"}, "view": {"target": normalised}}``.

    >>> Pipeline(loss=lambda prediction, sample: prediction.sum())
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: loss is given without view and rule, so that nothing says what is hidden; pass ...
    """

    view: Callable[[Tensor], Any] | None = None
    encoder: Callable[..., Any] | None = None
    loss: Callable[..., Tensor] | None = None
    target_branch: TargetBranch | None = None
    patchify: Callable[[Tensor], Tensor] | None = None
    monitor: Callable[[Tensor], Any] | None = None
    draw: Callable[..., Any] | Rule | None = None
    rule: Rule | Mask | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = [part for part in CERTIFIERS if getattr(self, part) is not None]
        if not parts:
            raise InvalidArgument(f"a Pipeline without a part says nothing; pass one of {', '.join(CERTIFIERS)}")
        for part in parts:
            if not callable(getattr(self, part)) and not isinstance(getattr(self, part), Rule | TargetBranch):
                raise InvalidArgument(f"{part}={getattr(self, part)!r} must be a function; wrap it in a lambda")
            if part in ("encoder", "loss") and self.view is None and self.rule is None:
                raise InvalidArgument(
                    f"{part} is given without view and rule, so that nothing says what is hidden; pass one of them"
                )
        if isinstance(self.rule, Rule) and self.rule.per_sample:
            raise InvalidArgument(
                f"rule={self.rule!r} draws a mask for every sample; pass it as draw, and as rule a Mask that it made"
            )
        for part, options in self.options.items():
            if part not in parts:
                raise InvalidArgument(f"options[{part!r}] belongs to no part of this pipeline, which has {parts}")
            _, *others = inspect.signature(CERTIFIERS[part]).parameters
            known = set(others) - {"example", "sample", "rule", "name"}
            if wrong := sorted(set(options) - known):
                raise InvalidArgument(
                    f"options[{part!r}] has {wrong[0]!r}, which {CERTIFIERS[part].__name__} does not take; it takes "
                    f"{', '.join(sorted(known))}"
                )


def certify(pipeline: Pipeline | Callable[[Tensor], Any], example: Tensor, *, name: str | None = None) -> Report:
    """What the certifiers find of each part that is there, on one batch ``example: [N, *data]``.

    A bare function is a view. The encoder is certified behind the view: can the source's hidden content reach its
    output? Without a view it is given the example itself, of which ``rule`` says what is hidden. The loss is certified
    on the view's own sample, or the rule's; ``patchify`` compares its ``patch_mask`` with what is hidden. The target
    branch is given the example unless ``options`` name its batch. A call that fails is a finding, UNKNOWN, that says
    which one, and the other parts are certified all the same. ``maps`` of the report holds what is hidden.

    Raises `InvalidArgument` if the example is no batch.

    >>> import viewproof as vp
    >>> rule, images = vp.PatchMask(4, 4, period=3, offset=1), torch.randn(2, 3, 8, 12)
    >>> square = {"loss": {"distance": lambda error: error * error}}
    >>> pipeline = vp.Pipeline(view=rule.sample, loss=vp.masked_mse, rule=rule, options=square)
    >>> vp.certify(pipeline, images).verdict().value
    'PROVED'
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline(view=pipeline)
    if not isinstance(example, Tensor) or example.dim() == 0 or example.numel() == 0:
        shape = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise InvalidArgument(f"example of shape {shape} must be a batch [N, *data] that is not empty")
    made: list[_Made] = []

    def make() -> tuple[Finding, ...]:
        made.append(_make(pipeline, example))
        return ()

    failed: tuple[Finding, ...] = ()
    if pipeline.view is not None or pipeline.rule is not None:
        called = "the view" if pipeline.view is not None else "the rule"
        failed = attempt(called, Contract.C1, "", make)
    findings: tuple[Finding, ...] = ()
    for part, (contract, claim, check) in _CHECKS.items():
        if getattr(pipeline, part) is None:
            continue
        if failed and part in ("encoder", "loss"):
            findings += (replace(failed[0], contract=contract, claim=claim),)
        else:
            findings += attempt(part, contract, claim, lambda: check(pipeline, example, made).findings)  # noqa: B023
    maps = {"hidden": made[0].hidden} if made and made[0].hidden is not None else {}
    subject = name or str(getattr(pipeline.view, "__qualname__", "pipeline"))
    return Report(subject, findings, maps)


@dataclass(frozen=True, eq=False)
class _Made:
    """What the view makes of the example, and the source coordinates that it hides, if they are known."""

    sample: Sample
    hidden: Tensor | None


def _make(pipeline: Pipeline, example: Tensor) -> _Made:
    if pipeline.view is None:
        rule = pipeline.rule
        if isinstance(rule, Rule):
            sample = rule.sample(example)
        else:
            assert rule is not None
            sample = Sample(rule.apply(example), example, rule, rule)
        assert sample.view is not None
        return _Made(sample, sample.view.hidden.expand(example.shape))
    told = {key: pipeline.options.get("view", {}).get(key) for key in ("target", "source")}
    hidden = Case(Declared(pipeline.view, example.detach(), pipeline.rule, **told), seed=0, random=False).hidden
    with drawn(0), torch.no_grad():
        return _Made(_sample(pipeline.view(example.detach().clone()), hidden), hidden)


def _sample(returned: Any, hidden: Tensor | None) -> Sample:
    """What a view returned, as a `Sample`."""
    if isinstance(returned, Sample):
        return returned
    output = read(returned)
    view = output.view if output.view is not None or hidden is None or hidden.shape != output.x.shape else hidden
    return Sample(output.x, output.y, Mask(output.mask, True), None if view is None else Mask(view, True))


class _BehindView(nn.Module):
    """The encoder as a function of the source: a module, so that the encoder's own flags are seen and put back."""

    def __init__(self, encoder: Callable[..., Any], view: Callable[[Tensor], Any], hidden: Tensor) -> None:
        super().__init__()
        self.encoder, self.view, self.hidden = encoder, view, hidden
        self.owner = getattr(encoder, "__self__", None)

    def forward(self, x: Tensor) -> Any:
        """The encoder's output for a source."""
        sample = _sample(self.view(x), self.hidden)
        return (
            self.encoder(sample.x, sample.view)
            if getattr(self.encoder, "takes_view", False)
            else self.encoder(sample.x)
        )


def _options(pipeline: Pipeline, part: str) -> dict[str, Any]:
    return dict(pipeline.options.get(part, {}))


def _view(pipeline: Pipeline, example: Tensor, made: list[_Made]) -> Report:
    assert pipeline.view is not None
    return certify_view(pipeline.view, example, pipeline.rule, **_options(pipeline, "view"))


def _encoder(pipeline: Pipeline, example: Tensor, made: list[_Made]) -> Report:
    assert pipeline.encoder is not None
    hidden, name = made[0].hidden, "the encoder"
    options = {"hidden": hidden, "name": name, **_options(pipeline, "encoder")}
    if pipeline.view is None:
        return certify_encoder(pipeline.encoder, made[0].sample, **_options(pipeline, "encoder"), name=name)
    if options["hidden"] is None:
        raise InvalidArgument(
            "which source coordinates are hidden is not known; pass rule=, or return a view mask over x"
        )
    return certify_encoder(_BehindView(pipeline.encoder, pipeline.view, options["hidden"]), example, **options)


def _loss(pipeline: Pipeline, example: Tensor, made: list[_Made]) -> Report:
    assert pipeline.loss is not None
    return certify_loss(pipeline.loss, made[0].sample, **_options(pipeline, "loss"))


def _target_branch(pipeline: Pipeline, example: Tensor, made: list[_Made]) -> Report:
    assert pipeline.target_branch is not None
    return certify_target_branch(pipeline.target_branch, **{"batch": example, **_options(pipeline, "target_branch")})


def _patchify(pipeline: Pipeline, example: Tensor, made: list[_Made]) -> Report:
    assert pipeline.patchify is not None
    options = _options(pipeline, "patchify")
    if "patch_mask" in options and made:
        options.setdefault("mask", made[0].hidden)
    return certify_geometry(pipeline.patchify, example, **options)


def _monitor(pipeline: Pipeline, example: Tensor, made: list[_Made]) -> Report:
    assert pipeline.monitor is not None
    return certify_monitor(pipeline.monitor, **_options(pipeline, "monitor"))


def _draw(pipeline: Pipeline, example: Tensor, made: list[_Made]) -> Report:
    assert pipeline.draw is not None
    return certify_reproducible(pipeline.draw, **{"data_shape": tuple(example.shape[1:]), **_options(pipeline, "draw")})


_CHECKS: dict[str, tuple[Contract, str, Callable[[Pipeline, Tensor, list[_Made]], Report]]] = {
    "view": (Contract.C1, "the view keeps its contracts", _view),
    "encoder": (Contract.C10, CLAIM, _encoder),
    "loss": (Contract.C4, "the loss sums over exactly the hidden set", _loss),
    "target_branch": (Contract.C6, "the target branch is as declared", _target_branch),
    "patchify": (Contract.C5, "tokens, masks and positions agree", _patchify),
    "monitor": (Contract.C7, "the monitor sees collapse", _monitor),
    "draw": (Contract.C8, "the draw is a function of seed, epoch and sample", _draw),
}
