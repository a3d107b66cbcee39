"""``report.html``: a run as one page that needs no other file and no network."""

import re
from base64 import b64encode
from dataclasses import asdict
from html import escape
from io import BytesIO
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from viewproof import plots
from viewproof.certify import certify_view
from viewproof.certify.page import STYLE
from viewproof.evaluation.probes import encode_many, probe_indices, raw_values
from viewproof.evaluation.torch_probes import standardizer
from viewproof.files import whole_file
from viewproof.masks.random.rule import one_for_all
from viewproof.models import Backbone
from viewproof.models.backbone import is_library
from viewproof.models.vit import Attention, PatchTransformer
from viewproof.runs.folder import EVALUATION, Run, read_json
from viewproof.runs.guarded import check_digest, recorded
from viewproof.shapes import Float

PAGE = "report.html"
PICTURES = {
    "loss.png": "The loss on the training part and on held-out samples.",
    "reconstruction.png": "Held-out images, what the model saw, its reconstruction, and the error.",
    "patch-errors.png": "The squared error on hidden values by patch, beside plain baselines.",
}
SIZES = {
    "backbone", "dim", "depth", "heads", "class_token", "registers", "positions", "norm_eps",
    "decoder", "decoder_dim", "decoder_depth", "decoder_heads",
}  # fmt: skip
"""Settings of transformer blocks, which networks of other kinds do not have."""

NORM_PIX = (
    "With norm_pix the model predicts neither mean nor deviation of a patch; the visible patches' stand in for them, "
    "so a baseline may have less error than a good model."
)


def write_page(run: Run) -> None:
    """Write the page of a finished run: scores, curves, pictures, its mask, what is certified, its settings."""
    title, parts = escape(f"{run.folder.name}: {run.config.method.name} on {run.dataset.name}"), []
    result = read_json(run.folder / EVALUATION)
    accuracy = result.get("accuracy") or {}
    rows = [(name, f"{100 * s['knn']:.1f} %", f"{100 * s['linear']:.1f} %") for name, s in accuracy.items()]
    parts.append(_table("Accuracy on held-out samples", ("features", "k-NN", "linear probe"), rows))
    errors = [(name, f"{error:.4f}") for name, error in (result.get("hidden_error") or {}).items()]
    parts.append(_table("Mean squared error on hidden values", ("prediction", "error"), errors))
    if errors and run.config.method.normalization(run.config) is not None:
        parts.append(f"<p>{escape(NORM_PIX)}</p>\n")
    for name, caption in PICTURES.items():
        if (run.folder / name).exists():
            check_digest(run.folder, name)
            parts.append(_picture((run.folder / name).read_bytes(), caption))
    encoder = next((m for m in run.model.modules() if isinstance(m, PatchTransformer | Backbone)), None)
    if encoder is not None and len(run.dataset.sample_shape) == 3:
        device = next(encoder.parameters()).device
        chosen = torch.linspace(0, len(run.dataset.test) - 1, min(6, len(run.dataset.test))).long()
        x = run.dataset.fetch("test", chosen).to(device)
        words = "Held-out images, and below each the first three principal components of its patch features as colours"
        words += ", and the attention of its last block." if isinstance(encoder, PatchTransformer) else "."
        parts.append(_picture(_png(feature_figure(encoder, x, run.dataset.restore(x).cpu())), words))
    if len(run.dataset.sample_shape) == 3:
        words = "Held-out images, and the nearest of up to 1,000 training images, by features and by raw values."
        parts.append(_picture(_png(neighbours_figure(run)), words))
    if run.rule is not None:
        rule = one_for_all(run.rule)
        mask = rule.mask(run.dataset.sample_shape)
        if mask.hidden.dim() in (1, 2, 3):
            parts.append(_picture(_png(plots.mask_figure(mask, repr(run.rule))), "The mask of one sample."))
        x = run.dataset.fetch("test", torch.arange(min(4, len(run.dataset.test))))
        findings = certify_view(rule.sample, x, rule, name="the view of this run").findings
        heads = ("contract", "claim", "verdict", "scope")
        parts.append(
            _table("Its view, certified", heads, [(f.contract.name, f.claim, f.verdict, f.scope) for f in findings])
        )
    # The page may be passed on: of a path it shows the last part.
    given = run.config.as_given()
    model = given.model or ""
    absent = SIZES if is_library(model) or model in ("resnet", "conv", "vector") else set()
    settings = {
        name: re.sub(r"(^|:)/.*/", r"\1", str(value))
        for name, value in asdict(given).items()
        if value is not None and (name not in absent or (model, name) == ("vector", "dim"))
    }
    parts.append(_table("Settings", ("name", "value"), list(settings.items())))
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}td:last-child {{ overflow-wrap: anywhere; }}</style>\n"
        f"<h1>{title}</h1>\n{''.join(parts)}</html>\n"
    )
    with recorded(run.folder, PAGE), whole_file(run.folder / PAGE) as file:
        file.write(page)


def feature_figure(
    encoder: PatchTransformer | Backbone, x: Float[Tensor, "batch channels height width"], shown: Tensor
) -> Figure:
    """Images above the first three principal components of their patch features, as red, green and blue.

    Below these, of a vision transformer, `last_attention`, brightest where it is largest.
    """
    with torch.inference_mode():
        tokens = encoder.eval().tokens(x).float().cpu()
        attention = last_attention(encoder, x).cpu() if isinstance(encoder, PatchTransformer) else None
    flat = tokens.reshape(-1, tokens.shape[2])
    flat = flat - flat.mean(0)
    # The covariance is small and symmetric; its last eigenvectors have the largest eigenvalues.
    axes = torch.linalg.eigh(flat.T.double() @ flat.double()).eigenvectors[:, -3:].flip(1)
    # A sign of each axis is free: the larger side is up, so that a picture drawn again is the same.
    axes = axes * (axes.sum(0) >= 0).double().mul(2).sub(1)
    colours = flat.double() @ axes
    low, high = colours.quantile(0.02, 0), colours.quantile(0.98, 0)
    colours = ((colours - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    grids = torch.nn.functional.pad(colours, (0, 3 - colours.shape[1])).reshape(len(x), *encoder.grid, 3)
    count = 2 if attention is None else 3
    figure = Figure(figsize=(1.6 * len(x), 1.7 * count))
    place = plots.image_grid(figure, count, len(x), shown.shape[2:])
    for n in range(len(x)):
        image = (shown[n] if shown.shape[1] == 3 else shown[n, :1]).movedim(0, -1).squeeze(-1)
        image = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-12)
        place(0, n, image.numpy(), cmap="gray")
        place(1, n, grids[n].numpy())
        if attention is not None:
            place(2, n, attention[n].numpy())
    return figure


def last_attention(
    encoder: PatchTransformer, x: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch rows columns"]:
    """How much the last block attends to each patch, averaged over heads: the class token, or all tokens on average."""
    attention, inputs = encoder.blocks[-1].attention, []
    assert isinstance(attention, Attention)
    handle = attention.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    try:
        encoder.tokens(x)
    finally:
        handle.remove()
    query, key, _ = (
        part.unflatten(2, (attention.heads, -1)).transpose(1, 2)
        for part in attention.query_key_value(inputs[0]).chunk(3, 2)
    )
    weights = (query @ key.transpose(2, 3) * query.shape[3] ** -0.5).softmax(3).mean(1)
    of_tokens = weights[:, 0] if encoder.settings.class_token else weights.mean(1)
    maps: Tensor = of_tokens[:, encoder.settings.count :].unflatten(1, encoder.grid)
    return maps


def neighbours_figure(run: Run, queries: int = 6, neighbours: int = 5) -> Figure:
    """Held-out images, and beside each its nearest training images by the encoder's features and by raw values.

    Distances are Euclidean, of features standardised by the training images, as the k-NN probe takes them. A label that
    is not the held-out image's is red.
    """
    data, device = run.dataset, next(run.model.parameters()).device
    chosen = {"train": probe_indices(len(data.train), 1000)}
    chosen["test"] = torch.linspace(0, len(data.test) - 1, min(queries, len(data.test))).long()
    encode: Any = run.model.eval().encode
    encoders = (encode, *raw_values(data.sample_shape).values())
    features = [
        encode_many(encoders, lambda i, p=part: data.fetch(p, i).to(device), index)  # type: ignore[misc]
        for part, index in chosen.items()
    ]
    nearest = []
    for train, test in zip(*([torch.from_numpy(f) for f in of_part] for of_part in features), strict=True):
        mean, deviation = standardizer(train)
        distance = torch.cdist((test - mean) / deviation, (train - mean) / deviation)
        nearest.append(chosen["train"][distance.argsort(dim=1, stable=True)[:, :neighbours]])
    shown = [chosen["test"][:, None], *nearest]
    columns = sum(index.shape[1] for index in shown) + 0.3 * (len(shown) - 1)
    figure = Figure(figsize=(0.85 * columns, 0.95 * len(chosen["test"])))
    place = plots.image_grid(figure, len(chosen["test"]), columns, data.sample_shape[1:], room=0.2)
    heads = ("held out", "nearest by the encoder's features", "nearest by raw values")
    left = 0.0
    for head, part, index in zip(heads, ("test", "train", "train"), shown, strict=True):
        split, images = data.part(part), data.restore(data.fetch(part, index.flatten()))
        images = (images - images.min()) / (images.max() - images.min()).clamp(min=1e-12)
        for n, (image, k) in enumerate(zip(images, index.flatten().tolist(), strict=True)):
            row, column = divmod(n, index.shape[1])
            picture = image if len(image) == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
            name, color = "", "black"
            if split.labels is not None and data.test.labels is not None and data.class_names is not None:
                right = split.labels[k] == data.test.labels[int(chosen["test"][row])]
                name, color = data.class_names[split.labels[k]], "black" if right else "red"
            place(row, left + column, picture.movedim(0, -1).numpy(), name, size=7, color=color)
        middle = left + (index.shape[1] - 0.06) / 2
        figure.axes[0].annotate(head, (middle, 0), (0, 14), textcoords="offset points", ha="center", fontsize=9)
        left += index.shape[1] + 0.3
    return figure


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    plots.write_png(figure, file, dpi=110)
    return file.getvalue()


def _picture(png: bytes, caption: str) -> str:
    image = b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{image}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _table(heading: str, heads: tuple[str, ...], rows: list[Any]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    cells = [[escape(str(cell)).replace(" %", "&nbsp;%") for cell in row] for row in rows]  # unbroken on a phone
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in cells)
    return f"<h2>{escape(heading)}</h2>\n<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>\n"
