"""The sections of a configuration file: a field is a key (utils/declared.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from utils.config import tables
from utils.config.values import (
    BELOW_DATA,
    DROPPED_NAMES,
    FEATURE_FILE,
    LAYOUT,
    LIST_FILE,
    MASKS_FILE,
    MONITOR,
    NAME,
    NULL_IS_0,
    TEMPORAL,
)
from utils.declared import Mistakes, OneOf, Part, read_table
from utils.kinds import MAPPING, PLACE, Range, at_least

DEFAULT_MONITOR = ("max", "val_t2v_metrics_geometric_mean_R1-R5-R10")
FEATURES = "structured-symlinks"
TEXT_FEATURES = "model/text_embedding_models.json"

Count = Annotated[int, at_least(1)]
Share = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, open_high=True)]
Entry = Annotated[dict[str, Any] | None, MAPPING]


@dataclass(frozen=True)
class TextFeature:
    """An entry of the table of text features."""

    dim: Annotated[int, at_least(1), "width"]
    encoder: Annotated[dict[str, Any] | None, MAPPING, "what encodes queries alike"] = None


def read_text_features(path: Path) -> dict[str, TextFeature]:
    """Read the table of text features; DataError with all its mistakes."""
    return read_table(TextFeature, path)


@dataclass(frozen=True, kw_only=True)
class Experts:
    """The section `experts`."""

    modalities: Annotated[tuple[str, ...], "names of the experts in use"]
    drop_feats: Annotated[tuple[str, ...] | None, DROPPED_NAMES, "experts left out"] = None
    text_feat: Annotated[str, "name of a text feature in the table"]
    text_encoder: Annotated[Entry, "what encoded it: type and args (text/build.py)"] = None
    text_agg: Annotated[Literal["vlad", "avg"], '"avg": the mean word is one token'] = "vlad"
    ce_shared_dim: Annotated[Count, "width S of the shared space of CE"] = 768
    face_dim: Annotated[Count | None, "width of the expert `face`"] = None


@dataclass(frozen=True, kw_only=True)
class FeatureWidths:
    """Widths of an expert by `type`."""

    embed: Annotated[Count | None, "width when `type` is embed"] = None
    logits: Annotated[Count | None, "width when `type` is logits"] = None


@dataclass(frozen=True, kw_only=True)
class FeatureEntry:
    """An entry of the table of experts."""

    temporal: Annotated[str, TEMPORAL, '"vlad": tokens; else averages to join']
    file: Annotated[str | None, FEATURE_FILE, "of your own expert, with `width`"] = None
    width: Annotated[Count | None, "width of a token or averaged vector"] = None
    flaky: Annotated[bool, "may be missing in training"] = False
    type: Annotated[Literal["embed", "logits"], "output of the network"] = "embed"
    feat_dims: Annotated[FeatureWidths, "widths by `type`"] = FeatureWidths()
    fps: Annotated[int | None, "part of the folder's name"] = None
    pixel_dim: Annotated[int | None, "part of the folder's name"] = None
    stride: Annotated[int | None, "part of the folder's name"] = None
    offset: Annotated[int | None, "part of the folder's name"] = None
    inner_stride: Annotated[int | None, "part of the folder's name"] = None
    num_segments: Annotated[int | None, "part of the folder's name"] = None


@dataclass(frozen=True, kw_only=True)
class DataArgs:
    """The section `data_loader.args`: the data set, its place, and how batches are made."""

    dataset_name: Annotated[str, "its class, or your name with `layout`"]
    layout: Annotated[str | None, LAYOUT, "class of your own `dataset_name`"] = None
    data_dir: Annotated[str, PLACE, "folder of the data set"]
    root_feat_folder: Annotated[str, BELOW_DATA, "folder of features and lists"] = FEATURES
    packed_dir: Annotated[str | None, PLACE, "of packed features; null: memory"] = "data/packed"
    packed_dtype: Annotated[Literal["keep", "float16"], "their precision"] = "keep"
    feature_device: Annotated[Literal["auto", "host", "device"], "auto: there if they fit"] = "auto"
    split_name: Annotated[str, "split to score (ActivityNet: val1)"] = "val"
    batch_size: Annotated[int, at_least(2), "clips per batch, two or more"]
    num_workers: Annotated[int, "1 or more: a thread gathers ahead if a GPU lacks features"] = 1
    drop_last: Annotated[bool, "leave the short last batch of an epoch out"] = False
    text_dropout: Annotated[Share, "share of training captions that lose half their words"] = 0.0
    expert_dropout: Annotated[Share, "chance that training hides an expert; one stays"] = 0.0
    feature_noise: Annotated[float, "noise in training: share of the features' deviation"] = 0.0
    mix_up: Annotated[Share, "share of training clips mixed with another, captions joined"] = 0.0
    fuse_captions: Annotated[bool, "join all captions of a clip to one"] = False
    num_test_captions: Annotated[Count, "queries per clip at evaluation"] = 1
    query_shuffling: Annotated[Literal["cat", "indiv"] | None, '"cat": `fuse_captions`'] = None
    captions_per_video: Annotated[Count | None, "`num_test_captions`, in MMT"] = None
    restrict_train_captions: Annotated[int, NULL_IS_0, "train on the first n of a clip; 0: all"] = 0
    max_tokens: Annotated[dict[str, Count], "of captions (`text`, needed) and experts; more is cut"]
    feat_aggregation: Annotated[dict[str, FeatureEntry], "the table of experts"]

    @staticmethod
    def check(*, fuse_captions: bool, text_dropout: float, **_: object) -> Mistakes:
        """Yield what excludes each other."""
        if fuse_captions and text_dropout:
            yield "text_dropout", "found more than 0, expected 0 beside fuse_captions"


@dataclass(frozen=True, kw_only=True)
class DataLoader:
    """The section `data_loader`."""

    type: Annotated[Literal["ExpertDataLoader"], "the loader"] = "ExpertDataLoader"
    args: Annotated[DataArgs, "its arguments"]


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The section `trainer`: how long to train, what to keep, and how to compute."""

    epochs: Annotated[Count, "epochs of a run"]
    save_dir: Annotated[str, PLACE, "folder of models, logs and results"] = "data/saved"
    save_period: Annotated[Count, "epochs between two kept checkpoints"] = 1
    save_only_best: Annotated[bool, "false: the newest three checkpoint-epoch<N>.pth too"] = True
    skip_first_n_saves: Annotated[int, "with save_only_best false: from epoch n on"] = 0
    include_optim_in_ckpts: Annotated[bool, "save the optimiser with the best weights"] = True
    val_freq: Annotated[Count, "epochs between two validations"] = 1
    monitor: Annotated[tuple[str, str], MONITOR, "the best epoch; off: the last"] = DEFAULT_MONITOR
    early_stop: Annotated[int | None, "validations without a better one before a stop"] = None
    verbosity: Annotated[int, Range(0, 2), "0: warnings, 1: results, 2: progress too"] = 2
    tensorboard: Annotated[bool, "write curves for TensorBoard"] = True
    start_from: Annotated[str | None, PLACE, "experiment (by seed) or checkpoint"] = None
    finetune_optimizer: Annotated[bool, "take the optimiser's state from there too"] = False
    keep_last: Annotated[bool, "false: a finished seed drops its exact states"] = True
    save_every_epochs: Annotated[Count, "epochs between exact states"] = 1
    save_pause: Annotated[float, "seconds at least between exact states of short epochs"] = 20.0
    save_every_minutes: Annotated[float, "minutes between exact states in an epoch; 0: none"] = 10.0
    ema: Annotated[Decay, "of the averaged weights that are evaluated and saved; 0: none"] = 0.0
    embed_at_once: Annotated[int | None, at_least(4), "clips embedded at a time; null: all"] = None
    precision: Annotated[Literal["fp32", "tf32", "bf16"], "arithmetic of matrix products"] = "fp32"
    compile: Annotated[bool, "compile the model with torch.compile"] = False
    cuda_graphs: Annotated[bool, "replay the step as a CUDA graph (one process, on a GPU)"] = True

    @staticmethod
    def check(
        *, epochs: int, save_period: int, embed_at_once: int | None, **others: object
    ) -> Mistakes:
        """Yield what excludes each other."""
        if epochs < save_period:
            message = f"found {save_period}, expected no more than trainer.epochs"
            yield "save_period", f"{message}, which is {epochs}"
        if others["compile"] and embed_at_once is not None:
            message = f"found {embed_at_once}, expected null beside trainer.compile"
            yield "embed_at_once", message

    @property
    def monitor_mode(self) -> str:
        """Return "off", "max" or "min"."""
        return self.monitor[0]

    @property
    def monitor_metric(self) -> str:
        """Return val_<t2v|v2t>_metrics_<key>; empty when monitor_mode is "off"."""
        return self.monitor[1]


@dataclass(frozen=True, kw_only=True)
class Tester:
    """The section `eval_settings.tester`."""

    save_dir: Annotated[str | None, PLACE, "as in `trainer`"] = None
    verbosity: Annotated[int | None, Range(0, 2), "as in `trainer`"] = None


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """The section `eval_settings`; its `data_loader` is merged over that of the file."""

    data_loader: Annotated[Entry, "as the section of this name"] = None
    tester: Annotated[Tester | None, "settings of the test run"] = None


@dataclass(frozen=True, kw_only=True)
class VisualizerArgs:
    """The section `visualizer.args`."""

    src_video_dir: Annotated[str | None, "folder of recordings that the page links to"] = None
    vis_vid_freq: Annotated[float | None, "no effect: the page is written when a run ends"] = None
    num_samples: Annotated[int | None, "no effect: the page shows all queries"] = None


@dataclass(frozen=True, kw_only=True)
class Visualizer:
    """The section `visualizer`: a page beside the results of a training."""

    type: Annotated[str, "any name"] = ""
    args: Annotated[VisualizerArgs | None, "settings of the page"] = None


@dataclass(frozen=True, kw_only=True)
class File:
    """A whole configuration file, merged."""

    name: Annotated[str, NAME, "of the run; by default `<folder>-<file name>`"] = ""
    seed: Annotated[int, Range(0, 2**32 - 1), "seed where --seeds names none"] = 0
    text_embedding_model_configs: Annotated[str, 'table name -> {"dim": width}'] = TEXT_FEATURES
    training_file: Annotated[str | None, LIST_FILE, "split list of training"] = None
    testing_file: Annotated[str | None, LIST_FILE, "split list of testing"] = None
    caption_masks: Annotated[str | None, MASKS_FILE, "clip -> 0/1: captions to train on"] = None
    experts: Annotated[Experts, "experts and text"]
    arch: Annotated[Part, OneOf(tables.MODELS, ("ce_shared_dim",)), "the model"]
    data_loader: Annotated[DataLoader, "the data"]
    optimizer: Annotated[Part, OneOf(tables.OPTIMIZERS), "the optimiser"]
    lr_scheduler: Annotated[Part | None, OneOf(tables.SCHEDULES), "schedule of its rate"] = None
    loss: Annotated[Part, OneOf(tables.LOSSES), "the loss"]
    trainer: Annotated[TrainerConfig, "training"]
    eval_settings: Annotated[EvalSettings | None, "changes for the test run"] = None
    visualizer: Annotated[Visualizer | None, "a page at the end of a training"] = None
