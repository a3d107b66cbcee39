import ast
import io
import json
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import viewproof

SOURCE = Path(viewproof.__file__).parent

NAMES = {
    "errors": ["ContractViolation", "InvalidArgument"],
    "masks": [
        "BlockMask",
        "Complement",
        "Mask",
        "MaskOfSample",
        "MultiBlockMask",
        "MultiRangeMask",
        "PaddedMask",
        "PatchMask",
        "RandomBlockMask",
        "RandomBlockwiseMask",
        "RandomPatchMask",
        "RandomRule",
        "Rotating",
        "Rule",
        "Sample",
        "ScoredPatches",
        "SharedRandomPatchMask",
        "SpanMask",
        "SpectrogramMask",
        "TokenMask",
        "TubeMask",
        "VectorMask",
        "hidden_patch_idxs",
        "image_patch_hidden",
        "image_patch_mask",
        "image_pixel",
        "ratio_to_count",
        "split_patches_by_sample",
        "vector_mae_hidden_mask",
        "vector_mae_mask",
        "vector_mae_selected_idxs",
        "visible_patch_idxs",
    ],
    "views": [
        "PatchNormalization",
        "block_mae_sample",
        "flatten_batch_prefix",
        "image_patch_mae_sample",
        "patchify",
        "tensor_prefix_mae_sample",
        "unpatchify",
        "vector_mae_sample",
    ],
    "objectives": [
        "BarlowGuard",
        "PredictiveViewContract",
        "SSLViewGraph",
        "VICRegGuard",
        "block_mae_row_predictive_contract",
        "coordinate_spread",
        "diagonal_redundancy_penalty",
        "encoded_target_predictive_view_contract",
        "graph_alignment_energy",
        "graph_ssl_objective",
        "image_mae_reconstruction_idxs",
        "image_patch_mae_row_predictive_contract",
        "image_patch_token_row_predictive_contract",
        "jepa_as_predictive_view_contract",
        "jepa_loss",
        "mae_as_predictive_view_contract",
        "mae_loss",
        "masked_l1",
        "masked_loss",
        "masked_mse",
        "masked_smooth_l1",
        "matrix_row_as_patch_batch",
        "matrix_row_as_prediction",
        "off_diagonal_redundancy_penalty",
        "predictive_loss",
        "predictive_view_objective",
        "real_variance_floor_guard",
        "real_variance_floor_penalty",
        "redundancy_reduction_objective",
        "rounding_bound",
        "row_predictive_contract",
        "sq_dist",
        "variance_floor_penalty",
        "variance_term",
        "vector_mae_row_predictive_contract",
        "vicreg_objective",
        "view_graph_energy",
        "with_geometry_guard",
    ],
    "losses": [
        "BarlowTwinsLoss",
        "DINOLoss",
        "InfoNCELoss",
        "JEPALoss",
        "LeJEPALoss",
        "SIGRegLoss",
        "VICRegLoss",
        "masked_cross_entropy",
        "masked_token_contract",
    ],
    "models": [
        "Backbone",
        "ConvAutoencoder",
        "MaskedAutoencoder",
        "MaskedImageModel",
        "PatchEncoder",
        "PatchPredictor",
        "Projector",
        "ResNet",
        "TokenSettings",
        "VectorAutoencoder",
        "ViTReconstructor",
    ],
    "certify": [
        "Contract",
        "Finding",
        "Pipeline",
        "Report",
        "Severity",
        "TargetBranch",
        "Verdict",
        "Witness",
        "certify",
        "certify_accumulation",
        "certify_causal",
        "certify_coverage",
        "certify_dependence",
        "certify_encoder",
        "certify_evaluation",
        "certify_geometry",
        "certify_loss",
        "certify_monitor",
        "certify_objective",
        "certify_optimizer",
        "certify_pairs",
        "certify_ranks",
        "certify_reproducible",
        "certify_sentinels",
        "certify_target_branch",
        "certify_view",
        "certify_windows",
        "check_batch",
        "html_page",
    ],
    "watch": ["WatchReport", "watch"],
    "training": ["predict", "train_fixed"],
}
HEAVY = ["pytorch_lightning", "lightning", "z3", "sklearn", "matplotlib", "skimage", "PIL", "tensorboard", "cyclopts"]


@pytest.mark.parametrize("layer", NAMES)
def test_public_names_are_pinned(layer: str) -> None:
    module = import_module(f"viewproof.{layer}")
    assert module.__all__ == NAMES[layer]
    for name in NAMES[layer]:
        assert getattr(viewproof, name) is getattr(module, name)
    assert set(NAMES[layer]) <= set(dir(viewproof))


def test_a_name_is_public_in_one_layer_only() -> None:
    names = [name for layer in viewproof._LAYERS for name in import_module(f"viewproof.{layer}").__all__]
    assert len(names) == len(set(names))
    assert dir(viewproof) == sorted([*names, *viewproof._FUNCTIONS])


def test_unknown_names_are_attribute_errors() -> None:
    for name in ("mask_mse", "_Mask", "split_patches"):
        with pytest.raises(AttributeError, match=f"module 'viewproof' has no attribute '{name}'"):
            getattr(viewproof, name)


FIRST_IMPORT = """
import json, os, random, sys, time
import numpy, torch

def state():
    return (dict(os.environ), random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist(),
            torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled())

modules, before = set(sys.modules), state()
start = time.process_time()
import viewproof
viewproof.Mask, viewproof.masked_mse
seconds = time.process_time() - start
assert viewproof.masks.Mask is viewproof.Mask
for name in json.loads(sys.argv[1]):
    getattr(viewproof, name)
loaded = {name.split(".")[0] for name in set(sys.modules) - modules}
print(json.dumps({"seconds": seconds, "loaded": sorted(loaded), "state kept": state() == before}))
"""


@pytest.fixture(scope="module")
def first_imports() -> list[dict[str, Any]]:
    command = [sys.executable, "-c", FIRST_IMPORT, json.dumps([name for names in NAMES.values() for name in names])]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    return [json.loads(run.stdout) for run in runs]


def test_importing_takes_under_a_fifth_of_a_second_beyond_torch(first_imports: list[dict[str, Any]]) -> None:
    assert statistics.median(run["seconds"] for run in first_imports) < 0.2


def test_importing_loads_nothing_heavy(first_imports: list[dict[str, Any]]) -> None:
    loaded = set(first_imports[0]["loaded"])
    assert "viewproof" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_importing_changes_no_global_state(first_imports: list[dict[str, Any]]) -> None:
    assert first_imports[0]["state kept"]


# From bottom to top: a file imports its own layer and those above it in this list.
LAYERS = [
    ("errors", "verdict", "files", "metrics", "bits", "progress", "torch_internals"),
    ("shapes",),
    ("masks",),
    ("views", "expressions"),
    ("objectives",),
    ("losses",),
    ("models",),
    ("symbolic",),
    ("theorems",),
    ("certify",),
    ("data", "plots", "testing", "training", "weights"),
    ("watch",),
    ("bugzoo", "methods"),
    ("evaluation",),
    ("runs",),
]
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The command line and what only it uses; a new module is one of these until it is given a layer.
TOP = len(LAYERS)


def imported_modules(tree: ast.AST, package: list[str], modules: Collection[str] = ()) -> set[str]:
    """Every module name that an import anywhere in the code may load, functions and strings included.

    ``from a import b`` may load ``a`` and ``a.b``; where ``a.b`` is known to be one of ``modules``, it alone counts.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= names if names <= set(modules) else {module, *names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            found |= {ast.unparse(argument).strip("'\"") for argument in node.args}
    return found


def upward_imports(code: str, path: str) -> list[str]:
    """The layers above its own that the file at ``path`` (below the package) imports.

    The package itself gathers every layer up to training, so naming a public thing through it is upward too.
    """
    parts = Path(path).with_suffix("").parts
    rank = RANKS.get(parts[0], TOP)
    modules = imported_modules(ast.parse(code), ["viewproof", *parts[:-1]])
    layers = {module.split(".")[1] for module in modules if module.startswith("viewproof.")} - {"__version__"}
    upward = {layer for layer in layers if RANKS.get(layer, TOP) > rank}
    if "viewproof" in modules and not layers and rank < RANKS["training"]:
        upward.add("viewproof")
    return sorted(upward)


FILES = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES)
def test_imports_point_down_only(path: str) -> None:
    assert upward_imports((SOURCE / path).read_text(), path) == []


@pytest.mark.parametrize(
    ("code", "path", "found"),
    [
        ("from viewproof.objectives import masked_mse", "views.py", ["objectives"]),
        ("import viewproof.models.vit", "masks/finite.py", ["models"]),
        ("def f():\n    from viewproof.training import fit", "objectives/losses.py", ["training"]),
        ("from viewproof import plots", "theorems/registry.py", ["plots"]),
        ("from ..views import patchify", "masks/patches.py", ["views"]),
        ("from importlib import import_module\nimport_module('viewproof.data')", "certify/run.py", ["data"]),
        ("if TYPE_CHECKING:\n    from viewproof.masks import Mask", "errors.py", ["masks"]),
        ("from viewproof import masked_mse", "masks/finite.py", ["masked_mse"]),
        ("import viewproof as vp", "models/vit.py", ["viewproof"]),
        ("import viewproof.cli", "training/loop.py", ["cli"]),
        ("from viewproof.masks import Mask\nfrom viewproof import __version__", "views.py", []),
        ("from viewproof.data import load\nimport torch", "training/loop.py", []),
        ("import viewproof as vp", "cli.py", []),
    ],
)
def test_a_planted_import_is_seen(code: str, path: str, found: list[str]) -> None:
    assert upward_imports(code, path) == found


def import_graph(codes: dict[str, str]) -> dict[str, set[str]]:
    """The modules that each module imports anywhere in its code: in functions, for type checkers and by its name too.

    ``codes`` is the text of each file by its path below the package. The package's own file imports nothing here: it
    looks a layer up when a name is asked for.
    """
    names = {path: ".".join(("viewproof", *Path(path).with_suffix("").parts)) for path in codes}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    graph: dict[str, set[str]] = {"viewproof": set()}
    for path, code in codes.items():
        tree, modules = ast.parse(code), set(names.values())
        imported = imported_modules(tree, ["viewproof", *Path(path).parts[:-1]], modules)
        imported |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & modules
        graph[names[path]] = imported & modules - {names[path]}
    return graph


def import_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The circles of a graph, each as its modules by name; one edge of every circle is taken out."""
    circles = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            imported, importer = error.args[1][:2]
            circles.append(sorted(set(error.args[1])))
            graph = {**graph, importer: graph[importer] - {imported}}
        else:
            return circles


CODES = {path: (SOURCE / path).read_text() for path in FILES}


def test_no_module_imports_itself_through_others() -> None:
    assert import_circles(import_graph(CODES)) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("masks/finite.py", "from viewproof.masks.periodic import block_hidden"),
        ("masks/finite.py", "def f():\n    from viewproof.masks import periodic"),
        ("masks/finite.py", "if TYPE_CHECKING:\n    from .periodic import BlockMask"),
        ("masks/finite.py", "import_module('viewproof.masks.periodic')"),
        ("masks/finite.py", "PARTS = ['viewproof.masks.periodic']"),
        ("data/values.py", "from viewproof.data.load import load_dataset"),
    ],
)
def test_a_planted_circle_is_seen(path: str, line: str) -> None:
    planted = {**CODES, path: f"{CODES[path]}\n{line}\n"}
    circles = import_circles(import_graph(planted))
    assert circles and all(f"viewproof.{path.removesuffix('.py').replace('/', '.')}" in circle for circle in circles)


def lines_of_code(text: str) -> int:
    """Lines that hold a token of code: no docstring, no comment, nothing blank."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in empty:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


# What the seed defines, in the order in which it reads: finite masks, periodic rules, samples and views, the finite
# algebra, masked losses. Random masks, batch losses and everything above are layers on it.
CORE = [
    "errors.py",
    "shapes.py",
    "masks/finite.py",
    "masks/sample.py",
    "masks/rule.py",
    "masks/periodic.py",
    "masks/patches.py",
    "masks/__init__.py",
    "views.py",
    "objectives/sums.py",
    "objectives/contracts.py",
    "objectives/guards.py",
    "objectives/graph.py",
    "objectives/rows.py",
    "objectives/masked.py",
    "objectives/__init__.py",
]


def test_the_core_can_be_read_in_one_sitting() -> None:
    assert 500 < sum(lines_of_code(CODES[path]) for path in CORE) < 1400
    folders = [path for path in FILES if path.startswith(("masks/", "objectives/"))]
    assert {path for path in folders if not path.startswith("masks/random/")} <= set(CORE)


def test_the_core_reads_from_the_first_file_to_the_last() -> None:
    """A file of the core imports only files before it; `masks` beside them lists the random rules too."""
    graph, read = import_graph(CODES), {"viewproof.torch_internals"}
    for path in CORE:
        name = ".".join(("viewproof", *Path(path).with_suffix("").parts)).removesuffix(".__init__")
        above = {module for module in graph if module.startswith("viewproof.masks.random.")}
        assert graph[name] <= (read | above if path == "masks/__init__.py" else read), path
        read.add(name)


def test_lines_are_counted_as_said() -> None:
    text = '"""Module.\n\nLong.\n"""\n\n# why\nx = (\n    1\n)\n\n\ndef f():\n    """Doc."""\n    return x  # end\n'
    assert lines_of_code(text) == 5
