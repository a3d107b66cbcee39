"""Certifies a whole pipeline, part by part, with one trace of its view."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from viewproof.certify.accumulation import certify_accumulation
from viewproof.certify.causal import certify_causal
from viewproof.certify.check import Check, failure, subject_name
from viewproof.certify.coverage import certify_coverage
from viewproof.certify.dependence import certify_dependence
from viewproof.certify.draws import certify_reproducible
from viewproof.certify.encoder import CLAIM, certify_encoder
from viewproof.certify.evaluation import certify_evaluation
from viewproof.certify.flow.state import puts_back
from viewproof.certify.geometry import certify_geometry
from viewproof.certify.inputs import require_batch
from viewproof.certify.loss import certify_loss
from viewproof.certify.monitor import certify_monitor
from viewproof.certify.optimizer import certify_optimizer
from viewproof.certify.pairs import certify_pairs
from viewproof.certify.report import Contract, Finding, Report
from viewproof.certify.sentinels import certify_sentinels
from viewproof.certify.target import TargetBranch, certify_target_branch
from viewproof.certify.view import certify_declared, certify_view
from viewproof.certify.view.case import DeclaredView, read_output
from viewproof.certify.windows import certify_windows
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Rule, Sample

CERTIFIERS: dict[str, tuple[Callable[..., Report], Contract, str]] = {
    "view": (certify_view, Contract.C1, "the view keeps its contracts"),
    "encoder": (certify_encoder, Contract.C10, CLAIM),
    "loss": (certify_loss, Contract.C4, "the loss sums over exactly the hidden set"),
    "target_branch": (certify_target_branch, Contract.C6, "the target branch is as declared"),
    "patchify": (certify_geometry, Contract.C5, "tokens, masks and positions agree"),
    "monitor": (certify_monitor, Contract.C7, "the monitor sees collapse"),
    "draw": (certify_reproducible, Contract.C8, "the draw is a function of seed, epoch and sample"),
    "pairs": (certify_pairs, Contract.C3, "the rows of a pair are views of one sample"),
    "windows": (certify_windows, Contract.C1, "context and target share no step but the declared ones"),
    "causal": (certify_causal, Contract.C10, "no output depends on the input that it predicts, nor on later ones"),
    "step": (certify_accumulation, Contract.C4, "micro-batches move the parameters as the whole batch does"),
    "optimizer": (certify_optimizer, Contract.C6, "every trainable parameter is in one group"),
    "evaluation": (certify_evaluation, Contract.C8, "an evaluation changes nothing"),
    "sentinels": (certify_sentinels, Contract.C1, "what is written where x is hidden is no real content"),
    "coverage": (certify_coverage, Contract.C8, "every coordinate is hidden sometimes and visible sometimes"),
    "dependence": (certify_dependence, Contract.C2, "outputs change with what they must change with"),
}
"""The certifier of each part of a pipeline, and the claim that is UNKNOWN where the certifier cannot be called."""
ABOUT = {"sentinels": "view", "coverage": "draw", "dependence": "encoder"}
"""Certifiers that say more about another part, and are called where ``options`` name them."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The parts of a self-supervised pipeline; those that are None are left out.

    Each is the first argument of its certifier: ``view(x)`` of `certify_view`; ``encoder(x)`` or ``encoder(x, view)``
    of `certify_encoder`; ``loss(prediction, sample)`` of `certify_loss`; ``target_branch`` of `certify_target_branch`;
    ``patchify(x)`` of `certify_geometry`; ``monitor(embeddings)`` of `certify_monitor`; ``draw(ids, epoch, seed)``, or
    a rule, of `certify_reproducible`; ``pairs(x)`` of `certify_pairs`; ``windows(x)`` of `certify_windows`;
    ``causal(x)`` of `certify_causal`; ``step(micro_batches)`` of `certify_accumulation`; ``evaluation(batch)`` of
    `certify_evaluation`; ``optimizer`` of `certify_optimizer`, whose model is the encoder unless ``options`` name it.

    ``rule`` is what the view must hide. ``options`` hold further arguments of a certifier by the name of its part:
    ``{"loss": {"reduction": "sum"}, "view": {"target": normalised}}``. Three names ask more of another part:
    "sentinels" of the view, "coverage" of the draw, "dependence" of the encoder behind the view.

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
    pairs: Callable[[Tensor], Any] | None = None
    windows: Callable[..., Any] | None = None
    causal: Callable[[Tensor], Any] | None = None
    step: Callable[[list[Any]], Any] | None = None
    optimizer: Optimizer | Sequence[Optimizer] | None = None
    evaluation: Callable[[Any], Any] | None = None
    rule: Rule | Mask | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = [part for part in CERTIFIERS if part not in ABOUT]
        parts = [part for part in own if getattr(self, part) is not None]
        if not parts:
            raise InvalidArgument(f"a Pipeline without a part says nothing; pass one of {', '.join(own)}")
        for part in parts:
            given = part == "optimizer" or isinstance(getattr(self, part), Rule | TargetBranch)
            if not given and not callable(getattr(self, part)):
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
            if ABOUT.get(part, part) not in parts:
                raise InvalidArgument(f"options[{part!r}] belongs to no part of this pipeline, which has {parts}")
            first, *others = inspect.signature(CERTIFIERS[part][0]).parameters
            known = {first, *others} - {part if part in others else first, "example", "sample", "rule", "name"}
            if wrong := sorted(set(options) - known):
                raise InvalidArgument(
                    f"options[{part!r}] has {wrong[0]!r}, which {CERTIFIERS[part][0].__name__} does not take; it takes "
                    f"{', '.join(sorted(known))}"
                )


@puts_back
def certify(pipeline: Pipeline | Callable[[Tensor], Any], example: Tensor, *, name: str | None = None) -> Report:
    """The findings of every part's certifier, on one batch ``example: [N, *data]``.

    A bare function is a view. The encoder is certified behind the view: can the source's hidden content reach its
    output? Without a view it is given the example itself, of which ``rule`` says what is hidden. The loss is certified
    on the view's own sample, or the rule's; ``patchify`` compares its ``patch_mask`` with what is hidden. The other
    parts are given the example unless ``options`` name their ``batch`` or ``x``. A call that fails is a finding,
    UNKNOWN, that says which one, and the other parts are certified all the same. ``maps`` of the report holds what is
    hidden.

    Raises `InvalidArgument` if the example is no batch.

    >>> import torch, viewproof as vp
    >>> rule, images = vp.PatchMask(4, 4, period=3, offset=1), torch.randn(2, 3, 8, 12)
    >>> square = {"loss": {"distance": lambda error: error * error}}
    >>> pipeline = vp.Pipeline(view=rule.sample, loss=vp.masked_mse, rule=rule, options=square)
    >>> vp.certify(pipeline, images).verdict().value
    'PROVED'
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline(view=pipeline)
    require_batch(example)
    run, findings = _Run(pipeline, example), list[Finding]()
    for part, (_, contract, claim) in CERTIFIERS.items():
        if (part not in pipeline.options) if part in ABOUT else getattr(pipeline, part) is None:
            continue
        try:
            findings += run.report(part).findings
        except Exception as error:
            reason = str(error) if isinstance(error, _NoSample) else failure(part, error)
            findings.append(Check(contract, claim).unknown(reason))
    return Report(subject_name(pipeline.view or pipeline, name), tuple(findings), run.maps)


class _NoSample(Exception):
    """The view or the rule raised, so that there is no sample; says which and how."""


@dataclass(frozen=True, eq=False)
class _Run:
    """A pipeline on one batch, with the view's sample, made once."""

    pipeline: Pipeline
    example: Tensor

    @cached_property
    def declared(self) -> DeclaredView:
        """The view and what is declared of it; traced once, whichever part asks."""
        assert self.pipeline.view is not None
        options = self.pipeline.options.get("view", {})
        declared = {name: options.get(name) for name in ("target", "source", "scored", "generator")}
        return DeclaredView(self.pipeline.view, self.example.detach(), self.pipeline.rule, **declared)

    @cached_property
    def sample_and_hidden(self) -> tuple[Sample, Tensor | None]:
        """What view or rule make of the example, and the source coordinates they hide, if known."""
        try:
            if self.pipeline.view is not None:
                case = self.declared.cases[0]
                returned = case.output.returned
                return _as_sample(returned if isinstance(returned, Sample) else case.output, case.hidden), case.hidden
            rule = self.pipeline.rule
            assert rule is not None
            x = self.example
            sample = rule.sample(x) if isinstance(rule, Rule) else Sample(rule.apply(x), x, rule, rule)
            return sample, None if sample.view is None else sample.view.hidden.expand(x.shape)
        except Exception as error:
            raise _NoSample(failure("the rule" if self.pipeline.view is None else "the view", error)) from error

    @property
    def maps(self) -> dict[str, Tensor]:
        """What is hidden, if that is known."""
        if self.pipeline.view is None and self.pipeline.rule is None:
            return {}
        try:
            _, hidden = self.sample_and_hidden
        except _NoSample:
            return {}
        return {} if hidden is None else {"hidden": hidden}

    def report(self, part: str) -> Report:
        """What the part's certifier says of it."""
        subject, certifier = getattr(self.pipeline, ABOUT.get(part, part)), CERTIFIERS[part][0]
        options = dict(self.pipeline.options.get(part, {}))
        match part:
            case "view":
                return certify_declared(self.declared, options.get("sizes", "example"))
            case "encoder":
                sample, hidden = self.sample_and_hidden
                options = {"name": "the encoder", **options}
                if self.pipeline.view is None:
                    return certifier(subject, sample, **options)
                hidden = options.setdefault("hidden", hidden)
                if hidden is None:
                    raise InvalidArgument(
                        "which source coordinates are hidden is not known; pass rule=, or return a view mask over x"
                    )
                return certifier(_BehindView(subject, self.pipeline.view, hidden), self.example, **options)
            case "loss":
                return certifier(subject, self.sample_and_hidden[0], **options)
            case "patchify":
                if "patch_mask" in options and "mask" not in options:
                    # What view or rule hide is compared with the patch mask.
                    options["mask"] = self.maps.get("hidden")
                return certifier(subject, self.example, **options)
            case "draw" | "coverage":
                return certifier(subject, **{"data_shape": tuple(self.example.shape[1:]), **options})
            case "optimizer":
                model = options.pop("model", self.pipeline.encoder)
                if not isinstance(model, nn.Module | Mapping):
                    raise InvalidArgument("which model the optimizer trains is not known; pass it as options")
                return certifier(model, subject, **options)
            case "monitor":
                return certifier(subject, **options)
            case "dependence" if self.pipeline.view is not None:
                _, hidden = self.sample_and_hidden
                nothing = torch.zeros(self.example.shape, dtype=torch.bool)
                subject = _BehindView(subject, self.pipeline.view, nothing if hidden is None else hidden)
                options = {"name": "the encoder", **options}
        batch = "batch" if "batch" in inspect.signature(certifier).parameters else "x"
        return certifier(subject, **{batch: self.example, **options})


def _as_sample(returned: Any, hidden: Tensor | None) -> Sample:
    """What a view returned, as a `Sample`."""
    if isinstance(returned, Sample):
        return returned
    output = read_output(returned)
    view = output.view if output.view is not None or hidden is None or hidden.shape != output.x.shape else hidden
    return Sample(output.x, output.y, Mask(output.mask, True), None if view is None else Mask(view, True))


class _BehindView(nn.Module):
    """The encoder as a function of the source: a module, so that its flags are put back."""

    def __init__(self, encoder: Callable[..., Any], view: Callable[[Tensor], Any], hidden: Tensor) -> None:
        super().__init__()
        self.encoder, self.view, self.hidden = encoder, view, hidden
        self.owner = getattr(encoder, "__self__", None)

    def forward(self, x: Tensor) -> Any:
        """The encoder's output for a source."""
        sample = _as_sample(self.view(x), self.hidden)
        takes_view = getattr(self.encoder, "takes_view", False)
        return self.encoder(sample.x, sample.view) if takes_view else self.encoder(sample.x)
