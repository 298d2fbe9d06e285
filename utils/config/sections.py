"""The configuration as the rest of the project sees it: frozen, checked, plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ExpertConfig:
    """One expert: where its features lie and how they enter the model."""

    name: str
    width: int
    """Of one token, or of the averaged vector (all aggregates together)."""
    tokens: bool
    """True: a sequence of tokens, pooled by NetVLAD; False: one vector per clip."""
    max_tokens: int | None
    clusters: int | None
    ghost_clusters: int
    flaky: bool
    """May be missing in training."""
    files: tuple[str, ...] | None
    """Below root_feat_folder, joined side by side; None: the data set knows the place."""

    @property
    def in_dim(self) -> int:
        """Width of the vector that enters the embedding: D*C for tokens, D otherwise."""
        return self.width * (self.clusters or 1) if self.tokens else self.width

    @property
    def output_width(self) -> int:
        """Width of the expert's gated embedding in MoEE: that of its features."""
        return self.width


@dataclass(frozen=True)
class TextConfig:
    """How captions enter the model."""

    feature: str
    width: int
    aggregate: Literal["vlad", "avg"]
    max_tokens: int
    clusters: int
    """0: no pooling, the single token is used as it is."""
    ghost_clusters: int

    @property
    def pooled_width(self) -> int:
        """Width of the caption vector: D*C after pooling, D without."""
        return self.width * (self.clusters or 1)


@dataclass(frozen=True)
class ArchConfig:
    """The arguments of the model, by their keys in `arch.args`."""

    use_ce: Literal["pairwise", ""]
    mimic_ce_dims: bool
    ce_shared_dim: int
    use_mish: bool
    use_bn_reason: bool
    num_g_layers: int
    num_h_layers: int
    include_self: bool
    keep_missing_modalities: bool
    test_caption_mode: Literal["indep", "avg"]


@dataclass(frozen=True)
class DataConfig:
    """Which data set is read, from where, and how it is made into batches."""

    dataset_name: str
    layout: str
    """The data set class whose published layout the files follow; usually dataset_name."""
    data_dir: str
    root_feat_folder: str
    split_name: str
    batch_size: int
    num_workers: int
    text_dropout: float
    fuse_captions: bool
    num_test_captions: int
    drop_last: bool
    restrict_train_captions: int
    """0: any caption of the clip; n: one of the first n."""
    training_file: str | None
    testing_file: str | None
    caption_masks: str | None
    packed_dir: str | None
    """None: never pack, keep the features in memory."""
    packed_dtype: Literal["keep", "float16"]
    feature_device: Literal["auto", "host", "device"]


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser by name, with its checked arguments."""

    type: Literal["Ranger", "RAdam", "Adam", "AdamW"]
    args: dict[str, Any]


@dataclass(frozen=True)
class SchedulerConfig:
    """Multiply the learning rate by `gamma` after every `step_size` epochs."""

    step_size: int
    gamma: float


@dataclass(frozen=True)
class LossConfig:
    """The ranking loss by name, and its arguments."""

    type: str
    args: dict[str, Any]


@dataclass(frozen=True)
class TrainerConfig:
    """How long to train, what to keep, and how to compute."""

    epochs: int
    save_dir: str
    save_period: int
    save_only_best: bool
    val_freq: int
    verbosity: int
    tensorboard: bool
    monitor_mode: Literal["off", "max", "min"]
    monitor_metric: str
    """"val_<t2v|v2t>_metrics_<key>"; empty when monitor_mode is "off"."""
    early_stop: int | None
    skip_first_n_saves: int
    include_optim_in_ckpts: bool
    start_from: str | None
    finetune_optimizer: bool
    save_every_minutes: float
    """0: save between epochs only."""
    save_every_epochs: int
    precision: Literal["fp32", "tf32", "bf16"]
    compile: bool
    cuda_graphs: bool


@dataclass(frozen=True)
class Config:
    """A whole configuration.

    `raw` is the merged configuration as plain JSON types, without `inherit_from`: a run writes it
    as its config.json, and loading that file from anywhere gives an equal Config.
    """

    path: str = field(compare=False)
    name: str
    """"<config folder>-<file name>" and the tags of custom arguments: the name of the run."""
    dataset_folder: str
    """Last part of data_dir: the name by which the data set's archive is fetched."""
    raw: dict[str, Any]
    seed: int
    experts: tuple[ExpertConfig, ...]
    """Sorted by name: the order of every index and column in the model."""
    text: TextConfig
    arch: ArchConfig
    data: DataConfig
    optimizer: OptimizerConfig
    lr_scheduler: SchedulerConfig | None
    loss: LossConfig
    trainer: TrainerConfig
    evaluation: Config | None = field(default=None, repr=False, compare=False)
    """The same with `eval_settings` merged over; None: there are none."""

    def for_evaluation(self) -> Config:
        """Return the configuration of the test run: `eval_settings` merged over this one."""
        return self if self.evaluation is None else self.evaluation
