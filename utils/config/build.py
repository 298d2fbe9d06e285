"""Turn a merged configuration into its sections, and find combinations that cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from utils.batches import needs_of
from utils.config import tables
from utils.config.configuration import Config, DataConfig, ExpertConfig, TextConfig
from utils.config.experts import PLACES, expert_of
from utils.config.files import label_of, resolve_inside
from utils.config.released import EXPERTS_WITHOUT_FEATURES, accepted
from utils.config.sections import DataArgs, File, read_text_features
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
    file: File = Section(File).read(values, (), Reader(problems, accepted, all_keys))
    args = file.data_loader.args
    experts, text = find_experts(file, problems), find_text(file, problems, path.parent)
    layout, arch = find_layout(args, problems), find_arch(file, experts, text, problems)
    if args.expert_dropout and len(experts) == 1:
        message = "found more than 0, expected 0 with one expert, which is never hidden"
        problems.add((*DATA_ARGS, "expert_dropout"), message)
    if args.mix_up and arch and needs_of(tables.MODELS()[arch.type], arch.args).frames:
        message = f"found more than 0, expected 0 with {arch.type}, which reads frames"
        problems.add((*DATA_ARGS, "mix_up"), message)
    if problems.found or text is None or arch is None or layout is None:
        return None
    data = DataConfig(
        **vars(args) | protocol_of(args) | {"layout": layout},
        training_file=file.training_file,
        testing_file=file.testing_file,
        caption_masks=file.caption_masks,
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
        needs=needs_of(tables.MODELS()[arch.type], arch.args),
    )


def protocol_of(args: DataArgs) -> dict[str, Any]:
    """Return how captions are queries, under the names that are used from here on."""
    captions = args.captions_per_video or args.num_test_captions
    shuffling = args.query_shuffling
    fused = args.fuse_captions if shuffling is None else shuffling == "cat"
    return {"fuse_captions": fused, "num_test_captions": captions}


def find_experts(file: File, problems: Problems) -> list[ExpertConfig]:
    """Return the experts in use that are right, sorted by name."""
    section, args = file.experts, file.data_loader.args
    entries, places = args.feat_aggregation, args.max_tokens
    wanted, dropped = section.modalities or (), section.drop_feats or ()
    for key, names in (("modalities", wanted), ("drop_feats", dropped)):
        for name in names:
            if name not in entries:
                message = f"unknown expert {shown(name)}{nearest(name, entries)}"
                problems.add(("experts", key), message)
    check_names(file, problems)
    used = sorted(set(wanted) - set(dropped))
    if wanted and not used:
        message = "found all of modalities, expected some to be left"
        problems.add(("experts", "drop_feats"), message)
    experts = []
    for name in used:
        place = (*EXPERT_TABLE, name)
        if name not in entries or problems.at(place) or problems.at(("experts", "face_dim")):
            continue
        try:
            expert = expert_of(name, entries[name], section.face_dim, places.get(name))
        except ValueError as error:
            problems.add(place, str(error))
            continue
        if expert.tokens and name not in places:
            message = "missing, expected a number: the expert is a token sequence"
            problems.add((*DATA_ARGS, "max_tokens", name), message)
        experts.append(expert)
    return experts


def check_names(file: File, problems: Problems) -> None:
    """Find names in the tables of clusters and tokens that no expert has."""
    args, arch = file.data_loader.args, file.arch
    named = {(*DATA_ARGS, "max_tokens"): args.max_tokens}
    for key in ("vlad_clusters", "ghost_clusters", "pooling"):
        named["arch", "args", key] = (arch.args.get(key) if arch else None) or {}
    known = {"text", *args.feat_aggregation, *PLACES, *EXPERTS_WITHOUT_FEATURES}
    for place, names in named.items():
        for name in names:
            if name not in known:
                hint = "" if problems.are_many else nearest(name, known)
                problems.add((*place, name), f"there is no expert of this name{hint}")


def find_text(file: File, problems: Problems, folder: Path) -> TextConfig | None:
    """Return the form of captions, whose width is in the table that the configuration names."""
    section, words = file.experts, file.data_loader.args.max_tokens
    if "text" not in words:
        problems.add((*DATA_ARGS, "max_tokens", "text"), "missing, expected a number")
    key, feature = "text_embedding_model_configs", section.text_feat
    named = file.text_embedding_model_configs
    if feature is None or named is None:
        return None
    path = resolve_inside(named, folder)
    if path is None or not path.is_file():
        problems.add((key,), f"found {shown(named)}, expected a file inside the repository")
        return None
    try:
        features = read_text_features(path)
    except DataError as error:
        problems.add((key,), str(error))
        return None
    if feature not in features:
        message = f"{shown(feature)} is not in {label_of(path)}{nearest(feature, features)}"
        problems.add(("experts", "text_feat"), message)
        return None
    if words.get("text") is None:
        return None
    width, encoder = features[feature].dim, section.text_encoder
    return TextConfig(feature, width, section.text_agg, words["text"], encoder)


def find_arch(
    file: File, experts: list[ExpertConfig], text: TextConfig | None, problems: Problems
) -> Part | None:
    """Return the model with all its arguments; its class may refuse combinations of them."""
    if file.arch is None:
        return None
    model, args = tables.MODELS()[file.arch.type], dict(file.arch.args)
    if "ce_shared_dim" in keys_of(model):
        args["ce_shared_dim"] = file.experts.ce_shared_dim
    wrong = any(problems.at(place) for place in (("arch",), ("experts",), EXPERT_TABLE))
    if text is not None and not wrong and hasattr(model, "check"):
        for key, message in model.check(experts, text, **args):
            problems.add(("arch", "args", *key.split(".", 1)), message)
    return Part(file.arch.type, args)


def find_layout(args: DataArgs, problems: Problems) -> str | None:
    """Return the class of the data set, None where it is not known."""
    known, layout = tables.DATASETS(), args.layout or args.dataset_name
    if layout is None or problems.at((*DATA_ARGS, "layout")):
        return None
    if layout not in known:
        problems.add(
            (*DATA_ARGS, "dataset_name"),
            f"unknown data set {shown(layout)}{nearest(layout, known)} (known: "
            f"{', '.join(sorted(known))}; one's own needs `layout`, one of these)",
        )
        return None
    splits = known[layout].split_lists
    if args.split_name is not None and args.split_name not in splits:
        found, hint = shown(args.split_name), nearest(args.split_name, splits)
        message = f"found {found}, expected {' or '.join(splits)}{hint}"
        problems.add((*DATA_ARGS, "split_name"), message)
    return layout


def all_keys() -> dict[str, KeyPath]:
    """Return the paths of all keys by their last name, for hints."""
    return {path[-1]: path for path, _ in leaves(Key(Section(File))) if ANY not in path}
