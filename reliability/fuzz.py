"""Calls every public function with hostile arguments: a right result or `InvalidArgument`.

    python reliability/fuzz.py --calls 10000 --seed 0

Arguments are made from the signature: valid ones by type and shape annotation. In about one call of two, one of them is
replaced by something hostile of the kind that it is declared as: a tensor of another rank, dtype, layout or device, an
array, None, a huge or negative or fractional number. What a user's own callable may raise is not tried. Where a plain
loop over integers says what is right (tests/naive.py), the result is compared with it.
"""

import argparse
import inspect
import random
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import viewproof as vp
from viewproof.data import batches, from_indexed, load_dataset
from viewproof.training.augment import Augment, RandomViews, parse_transforms
from viewproof.training.transforms import Affine, Blur, ColourJitter, Flip, Grey, RandomResizedCrop, Solarise, Transform

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import naive

SIZES = {"batch": (1, 2, 3), "channels": (1, 3), "height": (4, 6, 8), "width": (4, 6), "features": (1, 6, 12)}
RULES = [
    vp.VectorMask(3, 1), vp.PatchMask(2, 2, 3, 1), vp.BlockMask((None, 2, 2), 2, 0), vp.RandomPatchMask(2, 2, count=2),
    vp.SharedRandomPatchMask(2, 2, count=2), vp.Rotating(vp.PatchMask(2, 2, 3, 1)), ~vp.PatchMask(2, 2, 3, 1),
]  # fmt: skip
HOSTILE_INTS = [-1, 0, 2**31, 2**40, 2**63, 2**70, -(2**63), 0.5, 2.0, float("nan"), "3", None, True, 1j, np.int64(2),
                np.float32(2), [1], torch.tensor(2)]  # fmt: skip
HOSTILE_FLOATS = [-1.0, 0, 0.0, float("nan"), float("inf"), 1e308, 2**70, "1", None, 1j, True, [1.0], torch.ones(2)]
NUMBERS = [0, 1, -2, 3, Fraction(1, 3), 0.5, torch.tensor(1.5, dtype=torch.float64)]
CALLABLES = {
    "patch_loss": lambda y, p: (y - p) ** 2, "rep_loss": lambda y, p: (y - p) ** 2, "distance": lambda y, p: abs(y - p),
    "per_index_loss": lambda i: i, "edge_loss": lambda i, j: i - j, "target": lambda i: i, "pred": lambda i: i + 1,
    "target_encoder": lambda i, y: y, "predict": lambda c, i: i, "loss": vp.masked_mse,
}  # fmt: skip
# What takes programs of the user's own, or only holds what it is given, is tested where it stands.
SKIPPED = {
    "Contract", "Finding", "Pipeline", "Report", "Severity", "TargetBranch", "Verdict", "Witness", "Rule", "RandomRule",
    "InvalidArgument", "ContractViolation", "train_fixed", "predict", "watch",
}  # fmt: skip


def rule_mask(
    rule: vp.Rule, data_shape: Sequence[int], sample_ids: Int[Tensor, " batch"], epoch: int, step: int
) -> vp.Mask:
    """A rule's mask of one step."""
    return rule.at(step).mask(data_shape, sample_ids=sample_ids, epoch=epoch)


def rule_sample(
    rule: vp.Rule, x: Float[Tensor, "batch channels height width"], recon_dim: int, sample_ids: Int[Tensor, " batch"]
) -> vp.Sample:
    """A rule's sample of a batch."""
    return rule.sample(x, recon_dim, sample_ids=sample_ids)


def mask_methods(
    mask: vp.Mask, n: int, length: int, coordinate: int, x: Float[Tensor, "batch channels height width"]
) -> Any:
    """What a mask can be asked."""
    return mask.row(n).prefix(length).selected(coordinate), mask.fits(x) and mask.apply(x)


def transformed(
    transform: Transform, x: Float[Tensor, "batch channels height width"], u: Float[Tensor, "batch 8"]
) -> Tensor:
    """A batch transformed by given numbers."""
    return transform(x, u)


def augmented(
    transform: Transform, x: Float[Tensor, "batch channels height width"], sample_ids: Int[Tensor, " batch"], epoch: int
) -> Any:
    """Drawn transforms of a batch, and two views of it."""
    return Augment((transform, Flip()))(x, sample_ids, epoch), RandomViews(0.5)(x, sample_ids, epoch)


def first_batch(**options: Any) -> Any:
    """The first batch that a loader gives; its workers end with it."""
    return next(iter(batches(from_indexed(ARRAYS, labels=[0, 1] * 5), **options)), None)


TRANSFORMS = [kind() for kind in (Affine, Blur, ColourJitter, Flip, Grey, RandomResizedCrop, Solarise)]
PATHS = ["", ".", "none", None, 3, "/dev/null", "\0", b"x", "a" * 5000, "none/" * 999, Path("none"), Path(__file__)]
ARRAYS = [np.full((1, 4, 4), k, np.uint8) for k in range(10)]
# Arguments that no annotation describes: the valid values of each parameter, then the hostile ones.
POOLS: dict[str, tuple[Any, dict[str, tuple[list[Any], list[Any]]]]] = {
    "data.from_indexed": (
        from_indexed,
        {
            "dataset": ([ARRAYS, [(a, 0) for a in ARRAYS], np.stack(ARRAYS)],
                        [None, 3, [], "abc", [None] * 5, [{"image": a} for a in ARRAYS], [b"junk"] * 5, [{1: 2}] * 3,
                         ["none.png"] * 5,
                         [*ARRAYS, np.zeros((2, 2))], [np.full((1, 4, 4), np.nan)] * 9, [np.ones((2, 2)) * 1j] * 9,
                         [np.array(["a", "b"])] * 9, [object()] * 5, [()] * 5, {1: 2}, torch.empty(5, 0)]),
            "labels": ([None, [0, 1] * 5, list("ab") * 5],
                       [3, [1], [None] * 10, [float("nan")] * 10, [[1, 2]] * 10, "a", [2**70] * 10, [0.5] * 10,
                        object()]),
            "class_names": ([None], [["a"], 3, [3], "ab"]),
            "kind": ([None, "array"], ["video", 3, "image", "audio", []]),
            "test_fraction": ([0.1, 0.5], [0, 1, -1, float("nan"), "x", None, float("inf"), 1e-300]),
            "size": ([None], [(0, 0), (2**40, 2**40), "4", 3, (4,), (4.5, 4), (4, 4), (None, 2)]),
            "max_pixels": ([2**26], [0, -1, None, "x", 2**70, float("nan")]),
            "statistics": ([None, ((0.0,), (1.0,))],
                           [((0.0,), (0.0,)), ((float("nan"),), (1.0,)), 3, ((0, 0), (1, 1)), "ab", (None, None)]),
            "key": ([None], ["k", 7, -1, object(), 2**70]),
            "name": (["x"], [None, 3, "a" * 5000]),
        },
    ),
    "data.batches": (
        first_batch,
        {
            "part": (["train", "test"], ["", None, 3, "validation"]),
            "batch_size": ([1], HOSTILE_INTS),
            "seed": ([0, 7], HOSTILE_INTS),
            "rank": ([0], HOSTILE_INTS),
            "world": ([1], HOSTILE_INTS),
            "accumulate": ([1], HOSTILE_INTS),
            "min_area": ([None, 0.5], HOSTILE_FLOATS),
            "flip": ([0.0], HOSTILE_FLOATS),
            "num_workers": ([0], [-1, 0.5, None, "1", True, 2**40]),
        },
    ),
    "training.parse_transforms": (
        parse_transforms,
        {"text": (["none", "Flip()", "RandomResizedCrop(0.2), Flip()"],
                  ["", "Flip", "Flip(", "Flip(2)", "Flip('a')", "(" * 3000, "Flop()", "os.system('')", "Flip(x=1)",
                   "\0", "Flip() " * 999, "Flip(*[1])", "Flip(1e999)", "Flip(-1)", "Flip(" + "-" * 900 + "1)",
                   "9" * 5000, None, 3, b"Flip()", ["Flip()"], "Flip(10**999)", "Flip(" + "9" * 400 + ")"])},
    ),
    "load_encoder": (
        vp.load_encoder,
        {"run": ([], PATHS), "image_size": ([None], [(None, 2), 3, "ab", (0, 0)])},
    ),
    "data.load_dataset": (
        load_dataset,
        {
            "name_or_path": (["digits"], [*PATHS, "digits:x", "hf:", "wds:", "cifar-10:none", "fashion-mnist:\0"]),
            "test_fraction": ([0.1, 0.5], [0, 1, -1, float("nan"), "x", None]),
            "size": ([None], [(0, 0), (2**40, 2**40), "4", 3, (4,), (None, 2)]),
            "mean": ([None], ["ab", 3, [float("nan")], []]),
            "max_pixels": ([2**26], [0, -1, None, "x", 2**70]),
            "image_column": ([None], ["x", 3]),
        },
    ),
}  # fmt: skip


def public_functions() -> dict[str, Any]:
    """What can be called: exports of the package, methods of rules and masks, data, transforms."""
    names = [name for name in vp.__all__ if name not in SKIPPED and not name.startswith(("certify", "__"))]
    functions = {name: getattr(vp, name) for name in names if callable(getattr(vp, name))}
    functions |= {kind.__name__: kind for kind in Transform.__subclasses__()}
    functions |= {f.__name__: f for f in (rule_mask, rule_sample, mask_methods, transformed, augmented)}
    return functions | {name: function for name, (function, _) in POOLS.items()}


def shape_of(text: str, sizes: dict[str, int], rng: random.Random) -> tuple[int, ...]:
    """Extents for a shape such as ``batch channels height width``; a name has one extent in a call."""
    shape: list[int] = []
    for name in text.split():
        if name.startswith("*"):
            shape += [rng.choice((1, 4, 6)) for _ in range(rng.randint(1, 3))]
        else:
            shape.append(sizes.setdefault(name, int(name) if name.isdigit() else rng.choice(SIZES.get(name, (4, 9)))))
    return tuple(shape)


def hostile_tensor(x: Any, rng: random.Random) -> Any:
    """Something that is declared a tensor and is not one that the function can use."""
    x = x if isinstance(x, Tensor) else torch.rand(2, 1, 4, 4)
    return rng.choice(
        [
            lambda: None,
            lambda: x.numpy() if x.layout is torch.strided and x.dtype is not torch.bfloat16 else None,
            lambda: x.tolist(),
            lambda: x[0] if x.dim() else x,
            lambda: x[None],
            lambda: x[:0] if x.dim() else x,
            lambda: torch.tensor(1.0),
            lambda: x.to(torch.complex64),
            lambda: x.to(torch.uint8),
            lambda: x.to(torch.int64),
            lambda: x.to(torch.bool),
            lambda: x.double(),
            lambda: x.half(),
            lambda: x.float().to(torch.float8_e4m3fn),
            lambda: x.to("meta"),
            lambda: x.float().to_sparse(),
            lambda: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
            lambda: torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(1, 3)]),
            lambda: torch.full_like(x.float(), torch.nan),
            lambda: x.float().requires_grad_(),
        ]
    )()


def valid(name: str, kind: Any, sizes: dict[str, int], rng: random.Random) -> Any:
    """A value for a parameter of this name and annotation."""
    if hasattr(kind, "dim_str"):
        shape = shape_of(kind.dim_str, sizes, rng)
        integers, booleans = "Int" in str(kind), "Bool" in str(kind)
        x = torch.randint(0, 4, shape) if integers else torch.rand(shape)
        return x < 0.5 if booleans else x
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return rng.choice(arguments)
    if name in CALLABLES and "Callable" in str(kind):
        return CALLABLES[name]
    if kind is vp.Mask or kind is vp.Sample or name == "sample":
        x = torch.rand(rng.choice(((2, 1, 4, 4), (3, 1, 4, 6), (1, 3, 8, 8))))
        sample = rng.choice(RULES[1:]).sample(x, sample_ids=torch.arange(len(x)))
        return sample.view if kind is vp.Mask else sample
    if "Rule" in str(kind) or "VectorMask" in str(kind):
        return rng.choice(RULES)
    if kind is Transform:
        return rng.choice(TRANSFORMS)
    if "Module" in str(kind):
        return nn.Linear(2, 2)
    if "SSLViewGraph" in str(kind):
        return vp.SSLViewGraph([(0, 1), (1, 2)])
    if "PredictiveViewContract" in str(kind):
        return vp.jepa_as_predictive_view_contract([0, 1], 0, lambda i: i, lambda c, i: i + 1, lambda t, p: abs(t - p))
    if name == "positive_edges":
        return [(0, 1), (2, 1)]
    if name == "reps" or (name in ("u", "v") and "Sequence" in str(kind)):
        return [[1, 2, 3], [0, 5, 1], [2, 2, 2]] if name == "reps" else [1, Fraction(1, 2), 4]
    if name in ("diag", "off_diag", "vs"):
        numbers = NUMBERS[:5] if sizes.setdefault("exact", rng.randint(0, 1)) else NUMBERS[5:]
        return [rng.choice(numbers) for _ in range(3)]
    if "idxs" in name:
        return [0, 2, 1][: rng.randint(0, 3)]
    if name in ("image_shape",):
        return (1, 8, 8)
    if name in ("patch_size", "grid"):
        return (2, 2)
    if name == "widths":
        return (4, 4)
    if name == "blocks" or "Sequence" in str(kind) or "tuple" in str(kind):
        return tuple(
            rng.choice((None, 1, 2)) if name == "blocks" else rng.choice((1, 2)) for _ in range(rng.randint(1, 3))
        )
    if "float" in str(kind):
        return rng.choice((0.25, 0.5, 1.0, 2.0))
    if kind is bool:
        return rng.random() < 0.5
    if "int" in str(kind):
        return rng.choice((0, 1, 2, 2, 3, 4, 6))
    if "dtype" in str(kind):
        return rng.choice((torch.float32, torch.float64, torch.bfloat16))
    # Fractions and tensors do not meet: a call has numbers of one kind.
    return rng.choice(NUMBERS[:5] if sizes.setdefault("exact", rng.randint(0, 1)) else NUMBERS[5:])


def hostile(value: Any, kind: Any, rng: random.Random) -> Any:
    """A value in place of a valid one; the same where the parameter is `Any` or a callable."""
    if hasattr(kind, "dim_str"):
        return hostile_tensor(value, rng)
    if kind in (vp.Mask, vp.Sample) or "Rule" in str(kind):
        return rng.choice([None, torch.ones(2, 2, dtype=torch.bool), 3, vp.Mask.empty((2, 2)), vp.VectorMask(2, 0)])
    if get_origin(kind) is Literal:
        return rng.choice(["", "HIDDEN", None, 3, ["mean"]])
    if "Callable" in str(kind) or kind is Any or kind is inspect.Parameter.empty or "Any" in str(kind):
        return value
    if "Sequence" in str(kind) or "tuple" in str(kind):
        return rng.choice([(), None, 3, (0,), (-1, 2), (0.5, 2), ("a",), (2**40, 2**40), (None,) * 5, [[1], [2]], "12"])
    return rng.choice(HOSTILE_FLOATS if "float" in str(kind) else HOSTILE_INTS)


def arguments(function: Any, rng: random.Random) -> tuple[dict[str, Any], bool]:
    """Arguments for a call, and whether one of them is hostile."""
    for pooled, pools in POOLS.values():
        if pooled is function:
            worst = rng.choice(sorted(pools)) if rng.random() < 0.5 else ""
            worst = next((name for name, (valid_values, _) in pools.items() if not valid_values), worst)
            return {k: rng.choice(bad if k == worst else good) for k, (good, bad) in pools.items()}, bool(worst)
    target = function.__init__ if inspect.isclass(function) else function
    hints, sizes, chosen = get_type_hints(target, include_extras=True), {}, {}
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name == "listing":
            continue
        if parameter.default is not parameter.empty and rng.random() < 0.6:
            continue
        chosen[parameter.name] = valid(parameter.name, hints.get(parameter.name), sizes, rng)
    spoil = bool(chosen) and rng.random() < 0.5
    if spoil:
        # The object whose methods are called stays what it is.
        own = {"rule"} if function in (rule_mask, rule_sample) else {"mask"} if function is mask_methods else set()
        name = rng.choice(sorted(chosen.keys() - own - {"transform"}))
        chosen[name] = hostile(chosen[name], hints.get(name), rng)
    return chosen, spoil


def reference(name: str, given: dict[str, Any]) -> Any:
    """What a plain loop says, for functions that have one; None for the others."""
    numbers = [given.get(key) for key in ("data_dim", "period", "offset")]
    if name == "vector_mae_selected_idxs":
        return [j for j, hidden in enumerate(naive.vector_mask(*numbers)) if hidden]
    if name == "vector_mae_hidden_mask":
        return naive.vector_mask(*numbers)
    if name == "image_patch_hidden":
        return naive.image_is_hidden(**given)
    if name == "vector_mae_mask":
        hidden = torch.tensor(naive.vector_mask(given["x"].shape[1], *numbers[1:]))
        return torch.where(hidden, torch.zeros((), dtype=given["x"].dtype), given["x"]).tolist()
    if name == "image_patch_mask":
        x, sizes = given["x"], [given[key] for key in ("patch_h", "patch_w", "period", "offset")]
        hidden = torch.tensor(naive.image_mask(*x.shape[1:], *sizes)).reshape(x.shape[1:])
        return torch.where(hidden, torch.zeros((), dtype=x.dtype), x).tolist()
    return None


def run(calls: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How the calls ended, and the failures in words."""
    rng, functions = random.Random(seed), public_functions()
    torch.manual_seed(seed)
    outcomes = Counter[str]()
    failures: dict[str, str] = {}
    warnings.simplefilter("ignore")
    for call in range(calls):
        name = sorted(functions)[call % len(functions)]
        chosen, spoiled = arguments(functions[name], rng)
        try:
            result = functions[name](**chosen)
        except vp.InvalidArgument:
            outcomes["InvalidArgument"] += 1
            continue
        except Exception as error:
            where = ", ".join(f"{key}={described(value)}" for key, value in chosen.items())
            kind = f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}"
            failures.setdefault(kind, f"{kind}\n    {name}({where})")
            outcomes["wrong exception"] += 1
            continue
        outcomes["returned"] += 1
        if not spoiled and (right := reference(name, chosen)) is not None:
            got = result.hidden.tolist() if isinstance(result, vp.Mask) else result
            got = got.tolist() if isinstance(got, Tensor) else got
            outcomes["compared"] += 1
            if got != right:
                failures.setdefault(f"{name} is wrong", f"{name}({chosen}) is {got}, not {right}")
    return outcomes, list(failures.values())


def described(value: Any) -> str:
    """A value in few words."""
    if isinstance(value, Tensor):
        shape = "nested" if value.is_nested else list(value.shape)
        return f"<{str(value.layout)[6:]} {str(value.dtype)[6:]} {value.device} {shape}>"
    return f"<array {value.dtype} {value.shape}>" if isinstance(value, np.ndarray) else repr(value)[:60]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Call every public function with hostile arguments.")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    # What asks for more memory than this fails here, and does not take the machine down.
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    counts, wrong = run(words.calls, words.seed)
    print("\n".join(wrong))
    print(f"{words.calls} calls, seed {words.seed}: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
    print(f"{len(wrong)} kinds of failure")
    sys.exit(1 if wrong else 0)
