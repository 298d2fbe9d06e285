"""Turn a merged configuration into its sections, and find combinations that cannot work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from utils.batches import needs_of
from utils.config import tables
from utils.config.experts import PLACES, files_of, problem_of, width_of
from utils.config.files import label_of, resolve_inside
from utils.config.released import EXPERTS_WITHOUT_FEATURES, accepted
from utils.config.sections import (
    Config,
    DataArgs,
    DataConfig,
    ExpertConfig,
    FeatureEntry,
    File,
    TextConfig,
    read_text_features,
)
from utils.config.tables import table
from utils.config.values import TOKENS
from utils.declared import ANY, Key, Part, Reader, Section, keys_of, leaves
from utils.errors import DataError, nearest
from utils.kinds import shown
from utils.problems import Path as KeyPath
from utils.problems import Problems

OPTIONAL_SECTIONS = ("lr_scheduler", "eval_settings", "visualizer")
"""Sections that may be null or false, which is the same as leaving them out."""

DATA_ARGS = ("data_loader", "args")
EXPERT_TABLE = (*DATA_ARGS, "feat_aggregation")


def build(raw: Mapping[str, Any], problems: Problems, path: Path) -> Config | None:
    """Return the configuration, None when a mistake was found; all of them are noted."""
    values = {key: value for key, value in raw.items() if value or key not in OPTIONAL_SECTIONS}
    file = File(**Reader(problems, accepted, all_keys).section(keys_of(File), values))
    found = _Found(file, problems, path.parent)
    experts, text, layout = found.experts(), found.text(), found.layout()
    arch = found.arch(experts, text)
    found.check_values(experts)
    if problems.found or text is None or arch is None or layout is None:
        return None
    args = file.data_loader.args
    data = DataConfig(
        **{
            **vars(args),
            **protocol_of(args),
            "layout": layout,
            "training_file": file.training_file,
            "testing_file": file.testing_file,
            "caption_masks": file.caption_masks,
        }
    )
    return Config(
        path=str(path),
        name=file.name,
        dataset_folder=PurePath(args.data_dir).name,
        raw=dict(raw),
        seed=file.seed,
        experts=tuple(experts),
        text=text,
        arch=arch,
        data=data,
        optimizer=file.optimizer,
        lr_scheduler=file.lr_scheduler,
        loss=file.loss,
        trainer=file.trainer,
        needs=needs_of(table(tables.MODELS)()[arch.type], arch.args),
    )


def protocol_of(args: DataArgs) -> dict[str, Any]:
    """Return how captions are queries, under the names that are used from here on."""
    fused, captions = args.fuse_captions, args.num_test_captions
    if args.query_shuffling is not None:
        fused = args.query_shuffling == "cat"
    if args.captions_per_video is not None:
        captions = args.captions_per_video
    return {"fuse_captions": fused, "num_test_captions": captions}


class _Found:
    """The values of a file, None where one is wrong; finds mistakes of several keys together."""

    def __init__(self, file: File, problems: Problems, folder: Path) -> None:
        self._file = file
        self._problems = problems
        self._folder = folder
        self._data = file.data_loader.args

    def experts(self) -> list[ExpertConfig]:
        """Return the experts in use that are right, sorted by name."""
        section, entries = self._file.experts, self._data.feat_aggregation
        wanted, dropped = section.modalities or (), section.drop_feats or ()
        for key, names in (("modalities", wanted), ("drop_feats", dropped)):
            for name in names:
                if name not in entries:
                    hint = nearest(name, entries)
                    self._add(("experts", key), f"unknown expert {shown(name)}{hint}")
        self._check_names(entries)
        used = sorted(set(wanted) - set(dropped))
        if wanted and not used:
            message = "found all of modalities, expected some to be left"
            self._add(("experts", "drop_feats"), message)
        built = [self._expert(name, entries[name]) for name in used if name in entries]
        return [expert for expert in built if expert is not None]

    def _expert(self, name: str, entry: FeatureEntry) -> ExpertConfig | None:
        place = (*EXPERT_TABLE, name)
        if self._problems.at(place) or self._problems.at(("experts", "face_dim")):
            return None
        problem = problem_of(name, entry, self._file.experts.face_dim)
        if problem is not None:
            self._add(place, problem)
            return None
        tokens = entry.temporal == TOKENS
        if tokens and name not in self._data.max_tokens:
            self._missing((*DATA_ARGS, "max_tokens", name), "the expert is a token sequence")
        return ExpertConfig(
            name=name,
            width=width_of(name, entry, self._file.experts.face_dim) or 0,
            tokens=tokens,
            max_tokens=self._data.max_tokens.get(name) if tokens else None,
            flaky=entry.flaky,
            files=files_of(name, entry),
        )

    def _check_names(self, entries: Mapping[str, Any]) -> None:
        """Find names in the tables of clusters and tokens that no expert has."""
        arch = self._file.arch
        named = {(*DATA_ARGS, "max_tokens"): self._data.max_tokens}
        for key in ("vlad_clusters", "ghost_clusters", "pooling"):
            named["arch", "args", key] = (arch.args.get(key) if arch else None) or {}
        known = {"text", *entries, *PLACES, *EXPERTS_WITHOUT_FEATURES}
        for place, names in named.items():
            for name in names:
                if name not in known:
                    hint = "" if self._problems.are_many else nearest(name, known)
                    self._add((*place, name), f"there is no expert of this name{hint}")

    def text(self) -> TextConfig | None:
        """Return the form of captions."""
        section, words = self._file.experts, self._data.max_tokens
        if "text" not in words:
            self._missing((*DATA_ARGS, "max_tokens", "text"))
        if section.text_feat is None or self._file.text_embedding_model_configs is None:
            return None
        width = self._text_width(section.text_feat)
        if width is None or words.get("text") is None:
            return None
        return TextConfig(
            section.text_feat, width, section.text_agg, words["text"], section.text_encoder
        )

    def _text_width(self, feature: str) -> int | None:
        """Look up the width of a text feature in the table the configuration names."""
        key = "text_embedding_model_configs"
        named = self._file.text_embedding_model_configs
        path = resolve_inside(named, self._folder)
        if path is None or not path.is_file():
            self._add((key,), f"found {shown(named)}, expected a file inside the repository")
            return None
        try:
            features = read_text_features(path)
        except DataError as error:
            self._add((key,), str(error))
            return None
        if feature not in features:
            message = f"{shown(feature)} is not in {label_of(path)}{nearest(feature, features)}"
            self._add(("experts", "text_feat"), message)
            return None
        return features[feature].dim

    def arch(self, experts: list[ExpertConfig], text: TextConfig | None) -> Part | None:
        """Return the model with all its arguments; its class may refuse combinations of them."""
        arch = self._file.arch
        if arch is None:
            return None
        model = table(tables.MODELS)()[arch.type]
        args = dict(arch.args)
        if "ce_shared_dim" in keys_of(model):
            args["ce_shared_dim"] = self._file.experts.ce_shared_dim
        known = text is not None and not any(
            self._problems.at(place) for place in (("arch",), ("experts",), EXPERT_TABLE)
        )
        for key, message in (
            model.check(experts, text, **args) if known and hasattr(model, "check") else ()
        ):
            self._add(("arch", "args", *key.split(".", 1)), message)
        return Part(arch.type, args)

    def layout(self) -> str | None:
        """Return the class of the data set, None where it is not known."""
        data, known = self._data, table(tables.DATASETS)()
        layout = data.layout or data.dataset_name
        if layout is None or self._problems.at((*DATA_ARGS, "layout")):
            return None
        if layout not in known:
            self._add(
                (*DATA_ARGS, "dataset_name"),
                f"unknown data set {shown(layout)}{nearest(layout, known)} (known: "
                f"{', '.join(sorted(known))}; one's own needs `layout`, one of these)",
            )
            return None
        splits = known[layout].split_lists
        if data.split_name is not None and data.split_name not in splits:
            found, hint = shown(data.split_name), nearest(data.split_name, splits)
            message = f"found {found}, expected {' or '.join(splits)}{hint}"
            self._add((*DATA_ARGS, "split_name"), message)
        return layout

    def check_values(self, experts: Sequence[ExpertConfig]) -> None:
        """Find values of a section that exclude each other."""
        data, trainer = self._data, self._file.trainer
        if data.expert_dropout and len(experts) == 1:
            message = "found more than 0, expected 0 with one expert, which is never hidden"
            self._add((*DATA_ARGS, "expert_dropout"), message)
        if data.fuse_captions and data.text_dropout:
            message = "found more than 0, expected 0 beside fuse_captions"
            self._add((*DATA_ARGS, "text_dropout"), message)
        if trainer.compile and trainer.embed_at_once is not None:
            message = f"found {trainer.embed_at_once}, expected null beside trainer.compile"
            self._add(("trainer", "embed_at_once"), message)
        epochs, period = trainer.epochs, trainer.save_period
        if epochs is not None and period is not None and epochs < period:
            message = f"found {period}, expected no more than trainer.epochs, which is {epochs}"
            self._add(("trainer", "save_period"), message)

    def _missing(self, path: KeyPath, reason: str = "") -> None:
        self._add(path, f"missing, expected a number{': ' if reason else ''}{reason}")

    def _add(self, path: KeyPath, message: str) -> None:
        self._problems.add(path, message)


def all_keys() -> dict[str, KeyPath]:
    """Return the paths of all keys by their last name, for hints."""
    return {path[-1]: path for path, _ in leaves(Key(Section(File))) if ANY not in path}
