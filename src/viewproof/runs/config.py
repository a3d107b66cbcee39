"""The configuration as the user gives it; imports are light, for the command line's help."""

from dataclasses import KW_ONLY, MISSING, dataclass, fields
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from viewproof.methods import METHODS


def whole_number(kind: Any, tokens: Any) -> int:
    """Convert a flag to an integer; a fraction is refused, never rounded."""
    return int(tokens[0].value)


Integer = Annotated[int, Parameter(converter=whole_number)]
OptionalInteger = Annotated[int | None, Parameter(converter=whole_number)]
METHOD_HELP = "; ".join(f"{name} {entry.summary}" for name, entry in METHODS.items())
MethodName = Annotated[
    str, Parameter(help=f"the objective: {METHOD_HELP}; all but mae and mlm need images, or clips for ijepa")
]


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run as the user gives it; None stands for a default.

    `viewproof.runs.resolved.resolve` chooses the defaults, and the run's config.json holds them. A method ignores the
    settings of other methods, but for ``mask`` and ``guard``, which it refuses.

    Attributes:
        data: digits, photos, fashion-mnist[:FOLDER], cifar-10[:FOLDER], a .npy, .npz or .txt file, a folder of images
            or recordings, hf:NAME[/CONFIG][@REVISION] or hf:PATH (Hugging Face), wds:SHARDS (WebDataset tar files)
        model: the network: masked-autoencoder, vit, resnet, conv or vector; or timm:NAME or transformers:NAME, a model
            of that library; default: masked-autoencoder for images, vector for everything else; vit for other methods
            than mae
        pretrained: start from the weights that the library has for the model; the same as --init with its name
        decoder: of the masked-autoencoder: self-attention (MAE) or cross-attention (CrossMAE)
        mask: the rule that hides, for instance "~Rotating(PatchMask(4, 4, 4, 0))"; ~ hides what the rule shows
            (for ijepa a MultiBlockMask, or a MultiRangeMask of two; two views hide nothing)
        loss: of mae, the distance that is summed over the hidden coordinates
        guard: of mae, a regularizer of the mean visible token: vicreg's variance and covariance, or sigreg's test; of
            ijepa, sigreg's test of the mean token in place of the EMA target encoder
        guard_weight: what the regularizer is multiplied by before it is added to the loss
        norm_pix: predict pixels normalised by their own patch's mean and variance (MAE's norm_pix_loss)
        predict: of the masked-autoencoder, the share of all patches that the loss asks for, drawn among the hidden ones
            by the sample's id (CrossMAE's is 0.25); default: all hidden patches
        backbone: a named encoder, vit-tiny, vit-small, vit-base or vit-large; sets dim, depth and heads
        init: weights to start from: a run or exported folder, a checkpoint (.pth, .safetensors), timm:NAME or hf:NAME
        class_token: of the encoder: a learned token beside the patches'; default: no
        registers: of the encoder: further learned tokens beside the patches'; default: 0
        positions: of the encoder's patches: fixed sines and cosines (default), or learned
        features: what is evaluated: the mean patch token (default), the class token, both, or grid, the means of 4 x 4
            areas, which tell where (in recordings when) something is
        norm_eps: of the encoder's layer norms; default: 1e-6
        patch_size: rows and columns of the encoder's patches; default: a divisor of the image
        tubelet: of clips [C, T, H, W], the frames that a patch spans; default: 2 if that divides T, else 1
        dim: width of the encoder
        depth: blocks of the encoder
        heads: attention heads of the encoder
        decoder_dim: width of the decoder, or of ijepa's predictor
        decoder_depth: blocks of the decoder, or of ijepa's predictor
        decoder_heads: attention heads of the decoder, or of ijepa's predictor
        projector_dim: width of the embeddings that a two-view loss compares
        momentum: of the EMA teacher of ijepa, dino and data2vec at the first step, in [0, 1]; rises to 1 at the last
        target_layers: of data2vec, how many of the teacher's last blocks are averaged; default: 2 (1 for a depth of 1)
        prototypes: of dino, how many prototypes the head compares with; default: 1024
        local_views: of dino and lejepa, small views beside the two global ones; default: 4 (6 for lejepa)
        centring: of dino, what keeps the teacher's outputs apart: a moving centre, or Sinkhorn's balancing of a batch
        koleo: of dino, the weight of KoLeo, which spreads the features of a batch; default: 0
        min_area: of two or more views, the least share of the image that a view (a global one) shows; default: 0.3
            (0.4 for dino, 0.6 for digits)
        flip: of two views, whether every second one is mirrored; default: True (False for digits)
        keep_tokens: of two views, the share of the patches that the encoder sees in training, drawn by the sample's id;
            in the last tenth of training all
        augment: transforms that make a step's source, for instance "RandomResizedCrop(0.2), Flip()", or none; of two
            views, in place of min_area and flip; default: that crop and flip for mae on photographs, else none
        size: H,W that images in files are brought to; default: their own if they have one, else 224,224
        mean: subtracted from each channel, as a share of full scale (0.485,0.456,0.406), or imagenet, for std too
        std: what each channel is divided by, as a share of full scale; default: both are measured
        skip_unreadable: leave out files of a folder that cannot be read, and list them in the run's skipped.txt
        max_pixels: the most pixels that an image may decode to
        image_column: of hf: data, the column of samples; default: the first of images, recordings or arrays
        label_column: of hf: data, the column of labels, '' for none; default: the first of classes, or called label
        epochs: passes over the training part
        steps: optimizer steps, in place of epochs
        batch_size: samples a step, over all devices and micro-batches
        accumulate: equal micro-batches in which a step's batch is taken, one after the other; no statistic spans two
        optimizer: adamw (default), or muon on the hidden matrices with adamw on embeddings, heads and vectors; one rate
            for both; the default for mae and simclr on digits
        learning_rate: peak rate of the optimizer
        rate_rule: fixed takes learning_rate as it is; linear multiplies it by batch_size / 256, sqrt by its root
        weight_decay: decay of matrices; biases, norms, tokens and positions are not decayed
        ema: momentum of an average of the weights over training, which is then what is evaluated; default: none
        warmup_epochs: epochs of linear warm-up before the cosine
        clip: the largest norm of the gradient; default: no limit
        seed: of the initial weights, the order of the data, and what a method draws
        workers: processes that load data beside the training process
        threads: of the CPU; default: torch's choice (1 for digits, whose matrices are too small to share)
        precision: 32-true, bf16-mixed for autocast, or auto for the one in which this machine multiplies faster,
            measured once at the start; config.json holds the choice
        compile: train the network through torch.compile; a line says what the first batch cost, a minute or so; whether
            it pays depends on the machine and the sizes, see docs/decisions.md
        checkpoint_every: steps between two checkpoints within an epoch; default: one at the end of each epoch
        accelerator: where the network trains; auto takes cuda if there is one
        devices: processes on this machine, each with its share of the batch
        nodes: machines, on each of which the same command is started; see docs/scaling.md
        strategy: of several devices: ddp, a copy of the network on each, or fsdp, its parameters sharded
        online_probe: also train a linear classifier on each batch's embeddings, which the training does not see; its
            accuracy is in metrics.csv
        online_knn: also measure the k-NN accuracy on held-out samples after each epoch, for metrics.csv
        lidar: also measure LiDAR (arXiv 2312.04000) after each epoch, beside RankMe in metrics.csv
        logger: which of Lightning's loggers writes the metrics too, into the run folder
        probe_samples: labelled training samples that the k-NN and linear probes fit on, at most
        out: the run folder, which must not exist; default: runs/DATA-METHOD, numbered
    """

    data: str
    _: KW_ONLY
    method: MethodName = "mae"
    model: str | None = None
    pretrained: bool = False
    decoder: Literal["self-attention", "cross-attention"] = "self-attention"
    mask: str | None = None
    loss: Literal["mse", "l1", "smooth-l1"] = "mse"
    guard: Literal["vicreg", "sigreg"] | None = None
    guard_weight: float = 0.01
    norm_pix: bool = False
    predict: float | None = None
    backbone: str | None = None
    init: str | None = None
    class_token: bool | None = None
    registers: OptionalInteger = None
    positions: Literal["fixed", "learned"] | None = None
    features: Literal["mean", "class", "both", "grid"] | None = None
    norm_eps: float | None = None
    patch_size: OptionalInteger = None
    tubelet: OptionalInteger = None
    dim: OptionalInteger = None
    depth: OptionalInteger = None
    heads: OptionalInteger = None
    decoder_dim: OptionalInteger = None
    decoder_depth: OptionalInteger = None
    decoder_heads: OptionalInteger = None
    projector_dim: OptionalInteger = None
    momentum: float | None = None
    target_layers: OptionalInteger = None
    prototypes: OptionalInteger = None
    local_views: OptionalInteger = None
    centring: Literal["centre", "sinkhorn"] | None = None
    koleo: float | None = None
    min_area: float | None = None
    flip: bool | None = None
    keep_tokens: float = 1.0
    augment: str | None = None
    size: str | None = None
    mean: str | None = None
    std: str | None = None
    skip_unreadable: bool = False
    max_pixels: Integer = 2**26
    image_column: str | None = None
    label_column: str | None = None
    epochs: OptionalInteger = None
    steps: OptionalInteger = None
    batch_size: OptionalInteger = None
    accumulate: Integer = 1
    optimizer: Literal["adamw", "muon"] | None = None
    learning_rate: float | None = None
    rate_rule: Literal["fixed", "linear", "sqrt"] = "fixed"
    weight_decay: float = 0.05
    ema: float | None = None
    warmup_epochs: float = 1.0
    clip: float | None = None
    seed: Integer = 0
    workers: Integer = 0
    threads: OptionalInteger = None
    precision: Literal["32-true", "bf16-mixed", "auto"] = "32-true"
    compile: bool = False
    checkpoint_every: OptionalInteger = None
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Integer = 1
    nodes: Integer = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    online_probe: bool = False
    online_knn: bool = False
    lidar: bool = False
    logger: Literal["tensorboard", "csv", "wandb", "mlflow"] = "tensorboard"
    probe_samples: Integer = 10_000
    out: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is None and field.default is not MISSING:
                object.__setattr__(self, field.name, field.default)

    @property
    def ranks(self) -> int:
        """The processes that train together."""
        return self.devices * self.nodes
