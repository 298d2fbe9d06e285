"""Every configuration key: what it holds, its default, and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from utils.config.kinds import (
    Choice,
    Flag,
    Kind,
    Monitor,
    Name,
    PathBelow,
    Place,
    Real,
    RealPair,
    Temporal,
    Text,
    TextList,
    Unused,
    Whole,
)

REQUIRED = object()
"""The default of a key that every configuration must give."""

LAYOUTS = ("AudioCaps", "CLOTHO", "ActivityNet", "QuerYD", "QuerYDSegments", "SoundScenes")

METRIC_KEYS = ("R1", "R5", "R10", "R50", "MedR", "MeanR", "geometric_mean_R1-R5-R10")
MONITORED = tuple(f"val_{task}_metrics_{key}" for task in ("v2t", "t2v") for key in METRIC_KEYS)

OPTIMIZER_ARGS = {
    "Ranger": ("lr", "weight_decay", "betas", "eps", "alpha", "k", "N_sma_threshhold"),
    "RAdam": ("lr", "weight_decay", "betas", "eps"),
    "Adam": ("lr", "weight_decay", "betas", "eps", "amsgrad"),
    "AdamW": ("lr", "weight_decay", "betas", "eps", "amsgrad"),
}

LOSS_ARGS = {
    "MaxMarginRankingLoss": ("margin", "fix_norm"),
}
"""Losses, and the keys of loss.args that each takes; those of others are left aside."""

ABLATIONS = ("pairwise-star", "pairwise-star-specific", "pairwise-star-tensor", "triplet")

EXPERT = "<expert>"
"""Stands for the name of an expert in the path of a key."""

OPTIONAL_SECTIONS = ("lr_scheduler", "eval_settings", "visualizer")
"""Sections that may be null, which is the same as leaving them out."""


@dataclass(frozen=True)
class Key:
    """One key: its kind, its default (REQUIRED: there is none) and its meaning."""

    kind: Kind
    default: object
    meaning: str

    @property
    def has_effect(self) -> bool:
        """False for keys that are only accepted because published files carry them."""
        return not isinstance(self.kind, Unused) and not self.meaning.startswith(WITHOUT_EFFECT)


WITHOUT_EFFECT = "no effect"

_FEATURES = f"data_loader.args.feat_aggregation.{EXPERT}"
_ALL_SUFFIXES = (".hickle", ".pkl", ".pickle")

_KEYS: dict[str, Key] = {
    "inherit_from": Key(
        Text(may_be_empty=True),
        "",
        "files merged below this one, in order, separated by commas; relative to the repository",
    ),
    "name": Key(Name(), "", "name of the run; by default `<folder of the file>-<file name>`"),
    "seed": Key(Whole(most=2**32 - 1), 0, "seed of a run for which no other is asked"),
    "text_embedding_model_configs": Key(
        Text(),
        "model/text_embedding_models.json",
        'table of text features: name -> {"dim": width}',
    ),
    "training_file": Key(
        PathBelow(below="root_feat_folder", or_null=True),
        None,
        "split list to train on, in place of the data set's own; AudioCaps and ActivityNet only",
    ),
    "testing_file": Key(
        PathBelow(below="root_feat_folder", or_null=True),
        None,
        "split list to test on, in place of the data set's own; AudioCaps only",
    ),
    "caption_masks": Key(
        PathBelow(below="root_feat_folder", suffixes=(".pkl", ".pickle"), or_null=True),
        None,
        "file clip -> 0/1 per caption; training draws among the ones",
    ),
    "experts.modalities": Key(TextList(), REQUIRED, "names of the experts in use"),
    "experts.drop_feats": Key(
        TextList(may_be_empty=True, or_text=True, or_null=True),
        None,
        "experts taken out of `modalities` again",
    ),
    "experts.text_feat": Key(Text(), REQUIRED, "name of a text feature in the table"),
    "experts.text_agg": Key(
        Choice(words=("vlad", "avg")),
        "vlad",
        '"vlad": a caption is a sequence of words; "avg": their mean, one token',
    ),
    "experts.ce_shared_dim": Key(Whole(least=1), 768, "width S of the shared space of CE"),
    "experts.face_dim": Key(Whole(least=1, or_null=True), None, "width of the expert `face`"),
    "arch.type": Key(Choice(words=("CENet",)), "CENet", "the model"),
    "arch.args.use_ce": Key(
        Choice(words=("pairwise", ""), refused=ABLATIONS, empty_means_off=True),
        REQUIRED,
        '"pairwise": Collaborative Experts, two experts or more; "": MoEE, or with `mimic_ce_dims` '
        "CE of one expert",
    ),
    "arch.args.mimic_ce_dims": Key(Flag(), False, "CE of one expert, with the widths of CE"),
    "arch.args.use_mish": Key(Flag(), True, "Mish in the pair network; false: ReLU"),
    "arch.args.use_bn_reason": Key(Flag(), True, "batch norm in the pair network"),
    "arch.args.num_g_layers": Key(Whole(least=1), 3, "layers of the pair network g"),
    "arch.args.num_h_layers": Key(Whole(), 0, "layers of the network h after it"),
    "arch.args.include_self": Key(Flag(), True, "an expert is paired with itself too"),
    "arch.args.keep_missing_modalities": Key(
        Flag(), False, "similarity is the plain sum over experts; weights and availability unused"
    ),
    "arch.args.test_caption_mode": Key(
        Choice(words=("indep", "avg")),
        "indep",
        'several captions per clip at evaluation: "indep" each by itself, "avg" their mean score',
    ),
    "arch.args.vlad_clusters.text": Key(
        Whole(), REQUIRED, "NetVLAD clusters of captions; 0: no pooling, for captions of one token"
    ),
    f"arch.args.vlad_clusters.{EXPERT}": Key(
        Whole(least=1), None, "NetVLAD clusters of an expert of tokens, which needs them"
    ),
    "arch.args.ghost_clusters.text": Key(Whole(), 0, "further clusters that are thrown away"),
    f"arch.args.ghost_clusters.{EXPERT}": Key(Whole(), 0, "the same for an expert of tokens"),
    "data_loader.type": Key(Choice(words=("ExpertDataLoader",)), "ExpertDataLoader", "the loader"),
    "data_loader.args.dataset_name": Key(
        Name(), REQUIRED, f"the data set: {', '.join(LAYOUTS)}, or one's own with `layout`"
    ),
    "data_loader.args.layout": Key(
        Choice(words=LAYOUTS, or_null=True),
        None,
        "data set whose layout of files one's own follows; by default `dataset_name`",
    ),
    "data_loader.args.data_dir": Key(Place(), REQUIRED, "folder of the data set"),
    "data_loader.args.root_feat_folder": Key(
        PathBelow(below="data_dir"), "structured-symlinks", "folder of features and split lists"
    ),
    "data_loader.args.packed_dir": Key(
        Place(or_null=True), "data/packed", "where packed features are kept; null: in memory only"
    ),
    "data_loader.args.packed_dtype": Key(
        Choice(words=("keep", "float16")), "keep", "precision of packed features"
    ),
    "data_loader.args.feature_device": Key(
        Choice(words=("auto", "host", "device")),
        "auto",
        "where features lie during a run; auto: on the device when they fit",
    ),
    "data_loader.args.split_name": Key(
        Choice(words=("train", "val", "val1", "test")),
        "val",
        "split scored during training, and in `eval_settings` at the end (ActivityNet: val1)",
    ),
    "data_loader.args.batch_size": Key(
        Whole(least=2), REQUIRED, "clips per batch; batch norm and ranking loss need two"
    ),
    "data_loader.args.num_workers": Key(
        Whole(),
        1,
        "0: the main thread gathers every batch; more: one thread gathers ahead for a GPU that "
        "does not hold the features. The batches are the same",
    ),
    "data_loader.args.drop_last": Key(Flag(), False, "leave the short last batch of an epoch out"),
    "data_loader.args.text_dropout": Key(
        Real(most=1.0),
        0.0,
        "probability that a training caption loses each of its words with probability 1/2",
    ),
    "data_loader.args.fuse_captions": Key(
        Flag(), False, "all captions of a clip, one after another, are one caption"
    ),
    "data_loader.args.num_test_captions": Key(
        Whole(least=1), 1, "captions per clip that are queries at evaluation"
    ),
    "data_loader.args.restrict_train_captions": Key(
        Whole(or_null=True), 0, "train on the first n captions of a clip; 0: on all"
    ),
    "data_loader.args.max_tokens.text": Key(
        Whole(least=1), REQUIRED, "words of a caption; longer ones are cut, shorter ones padded"
    ),
    f"data_loader.args.max_tokens.{EXPERT}": Key(
        Whole(least=1), None, "the same for an expert of tokens, which needs it"
    ),
    f"{_FEATURES}.temporal": Key(
        Temporal(), REQUIRED, '"vlad": a sequence of tokens; else the averages that are joined'
    ),
    f"{_FEATURES}.file": Key(
        PathBelow(below="root_feat_folder", suffixes=_ALL_SUFFIXES, or_null=True),
        None,
        "file of your own expert, with `width`",
    ),
    f"{_FEATURES}.width": Key(
        Whole(least=1, or_null=True), None, "width of its tokens, or of its averaged vector"
    ),
    f"{_FEATURES}.flaky": Key(Flag(), False, "may be missing in training"),
    f"{_FEATURES}.type": Key(
        Choice(words=("embed", "logits")), "embed", "which output of the network the files hold"
    ),
    f"{_FEATURES}.feat_dims.embed": Key(Whole(least=1), None, "width when `type` is embed"),
    f"{_FEATURES}.feat_dims.logits": Key(Whole(least=1), None, "width when `type` is logits"),
    f"{_FEATURES}.aggregate": Key(
        Choice(words=("concat",)), "concat", "how several averages are joined"
    ),
    f"{_FEATURES}.aggregate-axis": Key(
        Whole(least=1, most=1), 1, "axis along which they are joined"
    ),
    f"{_FEATURES}.fps": Key(Whole(or_null=True), None, "part of the folder's name"),
    f"{_FEATURES}.pixel_dim": Key(Whole(or_null=True), None, "part of the folder's name"),
    f"{_FEATURES}.stride": Key(Whole(or_null=True), None, "part of the folder's name"),
    f"{_FEATURES}.offset": Key(Whole(or_null=True), None, "part of the folder's name"),
    f"{_FEATURES}.inner_stride": Key(Whole(or_null=True), None, "part of the folder's name"),
    f"{_FEATURES}.num_segments": Key(Whole(or_null=True), None, "part of the folder's name"),
    f"{_FEATURES}.model": Key(Text(or_null=True), None, WITHOUT_EFFECT),
    f"{_FEATURES}.feat_type": Key(Text(or_null=True), None, WITHOUT_EFFECT),
    f"{_FEATURES}.binarise": Key(Unused(), False, ""),
    f"{_FEATURES}.trn_seg": Key(Unused(), None, ""),
    "data_loader.args.trn_cat": Key(Unused(), 0, ""),
    "optimizer.type": Key(Choice(words=tuple(OPTIMIZER_ARGS)), REQUIRED, "the optimiser"),
    "optimizer.args.lr": Key(Real(open_below=True), REQUIRED, "learning rate"),
    "optimizer.args.weight_decay": Key(Real(), 0.0, "decoupled weight decay (Adam: L2 penalty)"),
    "optimizer.args.betas": Key(RealPair(), None, "decay rates of the two moments"),
    "optimizer.args.eps": Key(Real(open_below=True), None, "added to the second moment's root"),
    "optimizer.args.alpha": Key(Real(most=1.0), None, "Ranger: share of the fast weights"),
    "optimizer.args.k": Key(Whole(least=1), None, "Ranger: steps between two slow ones"),
    "optimizer.args.N_sma_threshhold": Key(
        Real(), None, "Ranger: length of the average from which the step is rectified"
    ),
    "optimizer.args.amsgrad": Key(Flag(), None, "Adam, AdamW: keep the largest second moment"),
    "lr_scheduler.type": Key(Choice(words=("StepLR",)), REQUIRED, "the schedule"),
    "lr_scheduler.args.step_size": Key(Whole(least=1), REQUIRED, "epochs between two changes"),
    "lr_scheduler.args.gamma": Key(
        Real(open_below=True, most=1.0), REQUIRED, "factor of the learning rate at each"
    ),
    "loss.type": Key(Choice(words=tuple(LOSS_ARGS)), REQUIRED, "the loss"),
    "loss.args.margin": Key(Real(open_below=True), REQUIRED, "margin of the ranking"),
    "loss.args.fix_norm": Key(Flag(), True, "average over the pairs that do not match only"),
    "trainer.epochs": Key(Whole(least=1), REQUIRED, "epochs of a run"),
    "trainer.save_dir": Key(Place(), "data/saved", "folder of models, logs and results"),
    "trainer.save_period": Key(Whole(least=1), 1, "epochs between two kept checkpoints"),
    "trainer.save_only_best": Key(
        Flag(), True, "false: also keep checkpoint-epoch<N>.pth, the newest three"
    ),
    "trainer.skip_first_n_saves": Key(
        Whole(), 0, "with save_only_best false: keep them from epoch n on"
    ),
    "trainer.include_optim_in_ckpts": Key(
        Flag(), True, "the optimiser's state is saved with the best weights"
    ),
    "trainer.val_freq": Key(Whole(least=1), 1, "epochs between two validations"),
    "trainer.monitor": Key(
        Monitor(metrics=MONITORED),
        "max val_t2v_metrics_geometric_mean_R1-R5-R10",
        'what decides on the best epoch; "off": the last epoch is the best',
    ),
    "trainer.early_stop": Key(
        Whole(or_null=True),
        None,
        "stop after more than n validations that are worse than the best one; an equal one is not",
    ),
    "trainer.verbosity": Key(Whole(most=2), 2, "0: warnings, 1: results, 2: progress too"),
    "trainer.tensorboard": Key(Flag(), True, "write curves for TensorBoard"),
    "trainer.start_from": Key(
        Place(or_null=True),
        None,
        "experiment (seed N starts from its seed N) or checkpoint whose weights a run starts from",
    ),
    "trainer.finetune_optimizer": Key(
        Flag(), False, "take the optimiser's state from there too, as the published runs did"
    ),
    "trainer.save_every_epochs": Key(Whole(least=1), 1, "epochs between two saved exact states"),
    "trainer.save_every_minutes": Key(
        Real(), 10.0, "minutes between two exact states within an epoch; 0: none"
    ),
    "trainer.precision": Key(
        Choice(words=("fp32", "tf32", "bf16")), "fp32", "arithmetic of the matrix products"
    ),
    "trainer.compile": Key(Flag(), False, "compile the model with torch.compile"),
    "trainer.cuda_graphs": Key(
        Flag(), False, "replay the step as a CUDA graph; one process on a GPU only"
    ),
    "eval_settings.tester.save_dir": Key(
        Place(or_null=True), None, "`trainer.save_dir` of the test run"
    ),
    "eval_settings.tester.verbosity": Key(
        Whole(most=2, or_null=True), None, "`trainer.verbosity` of the test run"
    ),
    "eval_settings.disable_gpu": Key(Flag(), False, WITHOUT_EFFECT),
    "n_gpu": Key(Whole(), 1, f"{WITHOUT_EFFECT} (--device decides)"),
    "disable_gpu": Key(Flag(), False, f"{WITHOUT_EFFECT} (--device decides)"),
    "disable_nan_checks": Key(Flag(), False, WITHOUT_EFFECT),
    "task": Key(Choice(words=("retrieval",)), "retrieval", WITHOUT_EFFECT),
    "metrics": Key(
        TextList(exactly=("t2v_metrics", "v2t_metrics")),
        ("t2v_metrics", "v2t_metrics"),
        f"{WITHOUT_EFFECT}: both directions are always computed",
    ),
    "log_name": Key(Text(may_be_empty=True, or_null=True), None, WITHOUT_EFFECT),
    "eval_mode": Key(Text(may_be_empty=True, or_null=True), None, WITHOUT_EFFECT),
    "experts.use_zeros_for_missing": Key(Flag(), False, WITHOUT_EFFECT),
    "visualizer.type": Key(Text(may_be_empty=True, or_null=True), None, WITHOUT_EFFECT),
    "visualizer.args.src_video_dir": Key(
        Text(may_be_empty=True, or_null=True), None, WITHOUT_EFFECT
    ),
    "visualizer.args.vis_vid_freq": Key(Whole(or_null=True), None, WITHOUT_EFFECT),
    "visualizer.args.num_samples": Key(Whole(or_null=True), None, WITHOUT_EFFECT),
    "eval_config": Key(Unused(), None, ""),
    "challenge_mode": Key(Unused(), False, ""),
}

_OLD_KEYS = (
    "spatial_feats",
    "refresh_lru_cache",
    "cls_partitions",
    "challenge_test_root_feat_folder",
    "force_cpu_val",
    "cache_targets",
    "distil_loss",
    "distil_params",
    "manual_linear_init",
)
_OLD_MODEL_KEYS = (
    "l2renorm",
    "randomise_feats",
    "freeze_weights",
    "kron_dets",
    "geometric_mlp",
    "rand_proj",
    "coord_dets",
    "spatial_feats",
    "concat_experts",
    "concat_mix_experts",
    "verbose",
    "num_classes",
)


def _old_keys() -> Iterator[tuple[str, Key]]:
    """Yield the keys of older releases, which kept the same ones in several sections."""
    for section in ("", "experts.", "arch.", "data_loader.", "data_loader.args.", "trainer."):
        for name in _OLD_KEYS:
            yield section + name, Key(Unused(), None, "")
    for name in _OLD_MODEL_KEYS:
        yield f"arch.args.{name}", Key(Unused(), None, "")


SCHEMA: dict[str, Key] = {**_KEYS, **dict(_old_keys())}
"""Path of a key, dots between its parts -> the key."""

Tree = dict[str, "Tree | Key"]


def _tree() -> Tree:
    """Arrange the keys by section; eval_settings holds the whole data_loader section again."""
    tree: Tree = {}
    for path, key in SCHEMA.items():
        *sections, last = path.split(".")
        place = tree
        for section in sections:
            place = _section(place, section)
        place[last] = key
    _section(tree, "eval_settings")["data_loader"] = tree["data_loader"]
    return tree


def _section(tree: Tree, name: str) -> Tree:
    inner = tree.setdefault(name, {})
    if isinstance(inner, Key):
        raise TypeError(f"{name} is a key and a section at once")
    return inner


TREE = _tree()


def entry_below(tree: Tree, part: str) -> Tree | Key | None:
    """Return the key or section `part` of a section; any name fits where experts stand."""
    return tree.get(part, tree.get(EXPERT))


def entry_at(path: tuple[str, ...]) -> Tree | Key | None:
    """Return the key or section at a path, None where there is none."""
    place: Tree | Key | None = TREE
    for part in path:
        if not isinstance(place, dict):
            return None
        place = entry_below(place, part)
    return place


def split_path(dotted: str) -> tuple[str, ...]:
    """Split a dotted path into keys; a dot inside a key is written `_.`."""
    parts = dotted.replace("_.", "\0").split(".")
    return tuple(part.replace("\0", ".") for part in parts)


def join_path(path: tuple[str, ...]) -> str:
    """Join keys to a dotted path, the inverse of split_path; safe to print."""
    joined = ".".join(part.replace(".", "_.") for part in path)
    return joined if joined.isprintable() else ascii(joined)
