"""What a run folder says about how the run went: a bug, a collapse, too short, or as expected."""

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from viewproof.certify import Pipeline, Report, Verdict, certify, certify_objective, certify_target_branch
from viewproof.certify.target import TargetBranch
from viewproof.errors import InvalidArgument
from viewproof.masks import ScoredPatches
from viewproof.methods.lejepa import LeJEPA
from viewproof.methods.mae import MaskedPretraining
from viewproof.methods.two_view import TwoView
from viewproof.metrics import read_metrics
from viewproof.objectives import predictive_view_objective
from viewproof.runs.folder import EVALUATION, METRICS, WEIGHTS, Run, load_weights, prepare, read_config, read_json
from viewproof.runs.guarded import check_digest
from viewproof.runs.reference import UNTUNED, Comparison, compare, find_reference
from viewproof.training.checkpoints import WholeFiles
from viewproof.training.collapse import LEAST_RANK, LEAST_SPREAD
from viewproof.training.ema import move_target
from viewproof.training.taught import TaughtPretraining
from viewproof.training.trainer import CHECKPOINT

Answer = Literal["bug", "collapse", "too short", "as expected", "undecided"]
LEAST_MOVE = 1e-5
"""Relative change of the weights below which nothing was trained."""
FALLING = 0.1
"""Share of the whole fall of the loss that is still falling if it falls in the second half of the run."""
BLOW_UP = 3.0
"""How many times its first values a loss must reach to have blown up; losses on moving targets rise a little."""
FIRST_STEP = 10
"""Step before which embeddings may still be those of the first weights."""
FEW_ROWS, FEW_STEPS = 6, 60
"""Rows of metrics.csv, and steps, below which a curve says nothing."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was read off a run folder.

    ``curves`` holds (step, value) pairs by the columns of metrics.csv. ``moved`` is the largest change of a weight
    tensor from its first values, relative to their norm, and None where these or those are not known; ``encoder_moved``
    says whether the encoder that is evaluated gives other features than at first. ``accuracy`` and ``hidden_error``, on
    ``held_out`` samples, are those of evaluation.json. ``reference`` is what the run is beside untuned ones of its
    method and size.
    """

    curves: Mapping[str, Sequence[tuple[int, float]]]
    planned_steps: int
    finished: bool
    contracts: Report | None = None
    moved: float | None = None
    encoder_moved: bool = True
    held_out: float = math.inf
    accuracy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    hidden_error: Mapping[str, float] = field(default_factory=dict)
    reference: Comparison | None = None


@dataclass(frozen=True)
class Diagnosis:
    """The answer that the evidence supports, what supports it, and what it cannot tell."""

    answer: Answer
    because: tuple[str, ...]
    cannot_tell: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"evidence supports: {self.answer}", *(f"  - {line}" for line in self.because)]
        return "\n".join([*lines, "cannot tell:", *(f"  - {line}" for line in self.cannot_tell)])


def diagnose(evidence: Evidence) -> Diagnosis:
    """The diagnosis of a run: bug, collapse, too short or as expected, in this order.

    >>> falling = [(10 * k, 1 + 1 / k**3) for k in range(1, 40)]
    >>> diagnose(Evidence(curves={"loss": falling}, planned_steps=390, finished=True)).answer
    'as expected'
    >>> diagnose(Evidence(curves={"loss": [(10, math.nan)]}, planned_steps=190, finished=True)).answer
    'bug'
    """
    own, reference = _diagnose(evidence), evidence.reference
    if reference is None or not reference.lines:
        return own
    lines = (
        *own.because,
        UNTUNED,
        *reference.lines,
        *(f"differs from the untuned: {one}" for one in reference.differences),
    )
    if reference.behind and own.answer == "as expected":
        question = "why the run is behind an untuned one; the settings that differ come first"
        return Diagnosis("undecided", lines, (question, *own.cannot_tell))
    return Diagnosis(own.answer, lines, own.cannot_tell)


def _diagnose(evidence: Evidence) -> Diagnosis:
    loss, cannot_tell = evidence.curves.get("loss", []), _unmeasured(evidence)
    if wrong := _bugs(evidence):
        return Diagnosis("bug", tuple(wrong), cannot_tell)
    if collapse := _collapse(evidence):
        return Diagnosis("collapse", (collapse,), cannot_tell)
    if _is_short(loss):
        few = f"{loss[-1][0] if loss else 0} of {evidence.planned_steps} steps were logged, too few for a curve"
        return Diagnosis("too short", (few,), cannot_tell)
    first, middle, last = (_around(loss, place) for place in (0.0, 0.5, 1.0))
    share = (middle - last) / (first - last) if first > last else 0.0
    falls = share >= FALLING
    trend = f"the loss went from {first:.4g} to {middle:.4g} at half of the steps and {last:.4g} at the end; "
    trend += f"{max(share, 0):.0%} of its fall came in the second half" if first > last else "it did not fall"
    better = _is_better(evidence)
    because = (trend, *_scores(evidence))
    if not evidence.finished and loss[-1][0] < evidence.planned_steps:
        unfinished = f"stopped at step {loss[-1][0]} of {evidence.planned_steps}"
        return Diagnosis("too short", (unfinished, *because), cannot_tell)
    if better or (better is None and not falls and last < first):
        note = ("longer training would still lower the loss",) if falls else ()
        return Diagnosis("as expected", (*because, *note), cannot_tell)
    if falls:
        return Diagnosis("too short", because, cannot_tell)
    flat = "the loss does not fall" if better is None else "the loss is flat, the features no better"
    open_question = f"whether longer training or another objective would help: {flat}"
    return Diagnosis("undecided", because, (open_question, *cannot_tell))


def _bugs(evidence: Evidence) -> list[str]:
    """What is wrong for certain: a broken contract, NaN, a blow-up, weights that never moved."""
    refuted = evidence.contracts.refuted if evidence.contracts else ()
    wrong = [f"{f.contract.name}, {f.claim}: REFUTED" for f in refuted if f.decides()]
    rates = dict(evidence.curves.get("learning_rate", []))
    for name in ("loss", "val_loss", "gradient_norm"):
        curve = evidence.curves.get(name, [])
        step = next((step for step, value in curve if not math.isfinite(value)), None)
        if step is not None:
            at = f" at learning rate {rates[step]:.3g}" if step in rates else ""
            wrong.append(f"{name} is not a finite number from step {step} on{at}: numbers overflowed")
    loss = evidence.curves.get("loss", [])
    if not wrong and not _is_short(loss):
        first, last = _around(loss, 0.0), _around(loss, 1.0)
        if last - first > (BLOW_UP - 1) * abs(first):
            rate = max(rates.values(), default=math.nan)
            wrong.append(f"the loss rose from {first:.4g} to {last:.4g}; the peak learning rate is {rate:.3g}")
    norms = [value for _, value in evidence.curves.get("gradient_norm", [])]
    if norms and max(norms) == 0:
        wrong.append("the gradient is 0 at every logged step: the loss does not depend on the weights")
    elif evidence.moved is not None and evidence.moved < LEAST_MOVE and loss:
        rate = max(rates.values(), default=math.nan)
        wrong.append(
            f"no weight moved by more than {evidence.moved:.1g} of its norm in {loss[-1][0]} steps; the peak learning "
            f"rate is {rate:.3g}"
        )
    elif not evidence.encoder_moved:
        wrong.append("the encoder that is evaluated gives the features of its first weights: it was not trained")
    return wrong


def _collapse(evidence: Evidence) -> str:
    """The last measurements of the embeddings, if most of them show a collapse."""
    ranks, spreads = (dict(evidence.curves.get(name, [])) for name in ("rank", "spread"))
    last = sorted(step for step in ranks.keys() & spreads.keys() if step >= FIRST_STEP)[-3:]
    collapsed = [step for step in last if not (ranks[step] >= LEAST_RANK and spreads[step] >= LEAST_SPREAD)]
    if 2 * len(collapsed) <= len(last):
        return ""
    step = last[-1]
    return f"step {step}: RankMe {ranks[step]:.3g}, spread {spreads[step]:.2g}: all samples have nearly one embedding"


def _is_short(curve: Sequence[tuple[int, float]]) -> bool:
    return len(curve) < FEW_ROWS or curve[-1][0] < FEW_STEPS


def _around(curve: Sequence[tuple[int, float]], place: float) -> float:
    """The median of a tenth of the values, at least 3, around a place from 0 (first) to 1 (last)."""
    width = max(3, len(curve) // 10)
    start = round(place * (len(curve) - width))
    return statistics.median(value for _, value in curve[start : start + width])


def _is_better(evidence: Evidence) -> bool | None:
    """Whether what was learned beats what needs no training; None where nothing measures it.

    One probe must gain a hundredth over the untrained encoder, and the other not lose a twentieth; each more than two
    held-out samples and than twice the standard error of such a difference.
    """
    trained, untrained = (evidence.accuracy.get(name) for name in ("trained encoder", "the same encoder, untrained"))
    if trained and untrained:
        pairs, n = [(trained[kind], untrained[kind]) for kind in ("knn", "linear")], evidence.held_out
        gains = [(a - b, 2 * max(1 / n, math.sqrt((a * (1 - a) + b * (1 - b)) / n))) for a, b in pairs]
        return any(g > max(0.01, e) for g, e in gains) and all(g > -max(0.05, e) for g, e in gains)
    if evidence.hidden_error:
        return evidence.hidden_error["model"] < min(v for name, v in evidence.hidden_error.items() if name != "model")
    return None


def _scores(evidence: Evidence) -> list[str]:
    lines = [
        f"held-out accuracy, {name}: k-NN {100 * s['knn']:.1f} %, linear {100 * s['linear']:.1f} %"
        for name, s in evidence.accuracy.items()
    ]
    if lines and evidence.held_out <= 1000:
        lines.append(f"one of {evidence.held_out} held-out samples is {100 / evidence.held_out:.1f} %")
    if evidence.hidden_error:
        lines.append("held-out error: " + ", ".join(f"{name} {v:.4g}" for name, v in evidence.hidden_error.items()))
    if evidence.moved is not None:
        rate = max((value for _, value in evidence.curves.get("learning_rate", [])), default=math.nan)
        moved = f"the weights moved by up to {evidence.moved:.2g} of their norm"
        lines.append(f"{moved}; the peak learning rate is {rate:.3g}")
    if probe := evidence.curves.get("val_probe_accuracy"):
        lines.append(
            f"online probe: {100 * probe[0][1]:.1f} % at step {probe[0][0]}, {100 * probe[-1][1]:.1f} % at the end"
        )
    return lines


def _unmeasured(evidence: Evidence) -> tuple[str, ...]:
    lines = ["whether the features are good for another task, and whether other settings would be better"]
    if evidence.contracts is None:
        lines.append("whether contracts hold: this method has none that is certified here")
    else:
        unknown = [f for f in evidence.contracts.findings if f.verdict is Verdict.UNKNOWN]
        lines += [f"whether {f.claim}: {f.detail}" for f in unknown]
    if evidence.reference is None:
        lines.append("whether an untuned run does better: no reference curve is of this method, size and data")
    if "rank" not in evidence.curves:
        lines.append("whether embeddings collapsed: metrics.csv has no RankMe, which a model with tokens logs")
    if not evidence.accuracy:
        lines.append("whether the features tell classes apart: the data have no labels, or the run is not evaluated")
    elif "val_probe_accuracy" not in evidence.curves:
        lines.append("when the features became good: train with --online-probe to see it over time")
    if evidence.moved is None:
        lines.append("whether the weights moved: none are saved yet, or the run started from given ones")
    return tuple(lines)


def read_evidence(folder: Path, *, allow_import: bool = False) -> Evidence:
    """The evidence in a run folder, finished or not.

    A folder without config.json raises `InvalidArgument`.
    """
    run = prepare(read_config(folder), folder, allow_import=allow_import)
    module = run.module()
    curves: dict[str, list[tuple[int, float]]] = {}
    check_digest(folder, METRICS)
    for row in read_metrics(folder / METRICS):
        for name, text in row.items():
            if name not in ("step", "epoch") and text:
                curves.setdefault(name, []).append((int(row["step"]), float(text)))
    measured = read_json(folder / EVALUATION)
    config = run.config.as_given()
    reference, moves = find_reference(config), _moves(run)
    return Evidence(
        curves=curves,
        planned_steps=module.total_steps or 0,
        finished=(folder / WEIGHTS).exists(),
        contracts=certify_run(run),
        moved=None if moves is None else moves[0],
        encoder_moved=moves is None or moves[1],
        held_out=len(run.dataset.test),
        accuracy=measured.get("accuracy", {}),
        # Of patches that were normalised, the mean and variance of the hidden ones are no part of what is learned.
        hidden_error={} if run.config.method.normalization(run.config) else measured.get("hidden_error", {}),
        reference=None if reference is None else compare(reference, config, curves),
    )


def _moves(run: Run) -> tuple[float, bool] | None:
    """The largest relative change of a trained weight since the first step, and whether a sample's features changed.

    None where no weights are saved, and where the run started from weights that may be gone by now.
    """
    if run.config.init is not None:
        return None
    trained = copy.deepcopy(run.model)
    if (run.folder / WEIGHTS).exists():
        load_weights(trained, run.folder)
    elif (run.folder / CHECKPOINT).exists():
        state = WholeFiles().load_checkpoint(run.folder / CHECKPOINT, weights_only=True)["state_dict"]
        weights = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        try:
            trained.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise InvalidArgument(f"{run.folder}: config.json does not match {CHECKPOINT} ({reason})") from error
    else:
        return None
    changes = [
        float((last - first).detach().norm() / first.detach().norm())
        for first, last in zip(run.model.parameters(), trained.parameters(), strict=True)
        if first.requires_grad and bool(first.any())
    ]
    x = run.dataset.fetch("train", torch.arange(1))
    encoders = [copy.deepcopy(run.model).eval(), trained.eval()]
    with torch.no_grad():
        first, last = (encoder.encode(x) for encoder in encoders)  # type: ignore[operator]
    return (max(changes), not torch.equal(first, last)) if changes else None


def certify_run(run: Run) -> Report | None:
    """The contracts of what a run trains, on four of its samples: view, encoder and loss, or loss, or target branch."""
    module, ids = run.module(), torch.arange(4)
    x = run.dataset.fetch("train", ids)
    if isinstance(module, MaskedPretraining):
        # The view of a partial prediction is that of the rule it is a part of.
        rule = (module.rule.rule if isinstance(module.rule, ScoredPatches) else module.rule).at(0)
        mask = rule.mask(run.dataset.sample_shape, sample_ids=ids)

        def view(batch: Tensor) -> Any:
            return rule.sample(batch, sample_ids=torch.arange(len(batch)))

        return certify(Pipeline(view=view, encoder=run.model.eval(), loss=module.loss, rule=mask), x)
    if isinstance(module, TaughtPretraining):
        online, target = module.student(), module.teacher()
        if target is None:
            return None
        branch = TargetBranch(
            lambda batch: module.objective(batch, ids, 0, 0),
            online,
            target,
            update=lambda step: move_target(target, online, module.momentum(step)),
            momentum=module.momentum,
            trained=[online],
            frozen=[target],
        )
        return certify_target_branch(branch, x)
    contract = getattr(module.loss, "contract", None)
    if isinstance(module, LeJEPA):
        views = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0))
        return certify_objective(
            lambda *z: module.loss(z), lambda *z: predictive_view_objective(module.loss.contract(z)), *views
        )
    if not isinstance(module, TwoView) or contract is None:
        return None
    z = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    return certify_objective(module.loss, lambda a, b: predictive_view_objective(contract(a, b)), z[0], z[1])


def doctor(folder: Path, say: Callable[[str], None] = print, *, allow_import: bool = False) -> int:
    """Say what the evidence of a run folder supports; 1 for a bug or a collapse, else 0."""
    diagnosis = diagnose(read_evidence(folder, allow_import=allow_import))
    say(f"{folder}\n{diagnosis}")
    return int(diagnosis.answer in ("bug", "collapse"))
