"""Turn a checked configuration into its sections, and find combinations that cannot work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeVar

from utils.config.check import TABLE_OF_EXPERTS, Value, value_at
from utils.config.experts import (
    TOKENS,
    WITHOUT_PLACE,
    expert_files,
    expert_width,
    is_known_place,
    place_problem,
)
from utils.config.files import label_of, resolve_inside
from utils.config.kinds import shown
from utils.config.problems import Problems
from utils.config.schema import LAYOUTS, LOSS_ARGS, OPTIMIZER_ARGS, split_path
from utils.config.sections import (
    ArchConfig,
    Config,
    DataConfig,
    ExpertConfig,
    LossConfig,
    OptimizerConfig,
    SchedulerConfig,
    TextConfig,
    TrainerConfig,
)
from utils.errors import DataError, nearest
from utils.files import read_json

Section = TypeVar("Section")


class _Unreadable(Exception):  # noqa: N818
    """A value that is already known to be wrong was needed."""


class Builder:
    """Builds the sections of one configuration, one after another, noting what is wrong."""

    def __init__(self, raw: Mapping[str, Any], problems: Problems, folder: Path) -> None:
        self._raw = raw
        self._problems = problems
        self._folder = folder

    def build(self, path: str, name: str) -> Config | None:
        """Return the configuration, None when a mistake was found."""
        experts = self._attempt(self._experts)
        text = self._attempt(self._text)
        arch = self._attempt(lambda: self._arch(len(experts) if experts is not None else None))
        data = self._attempt(self._data)
        optimizer = self._attempt(self._optimizer)
        scheduler = self._attempt(self._scheduler)
        loss = self._attempt(self._loss)
        trainer = self._attempt(self._trainer)
        seed = self._attempt(lambda: self._get("seed"))
        if self._problems.found:
            return None
        # Without a problem no section can be missing; the checks say so to the type checker.
        if experts is None or text is None or arch is None or data is None:
            return None
        if optimizer is None or loss is None or trainer is None:
            return None
        return Config(
            path=path,
            name=name,
            dataset_folder=PurePath(data.data_dir).name,
            raw=dict(self._raw),
            seed=seed or 0,
            experts=experts,
            text=text,
            arch=arch,
            data=data,
            optimizer=optimizer,
            lr_scheduler=scheduler,
            loss=loss,
            trainer=trainer,
        )

    def _attempt(self, section: Callable[[], Section]) -> Section | None:
        try:
            return section()
        except _Unreadable:
            return None

    def _get(self, dotted: str) -> Value:
        return self._at(tuple(dotted.split(".")))

    def _at(self, path: tuple[str, ...]) -> Value:
        if self._problems.at(path):
            raise _Unreadable
        return value_at(self._raw, path)

    def _refuse(self, dotted: str, message: str) -> None:
        self._problems.add(split_path(dotted), message)

    def _table(self, *path: str) -> dict[str, Any]:
        place: Any = self._raw
        for part in path:
            place = place.get(part, {}) if isinstance(place, Mapping) else {}
        return dict(place) if isinstance(place, Mapping) else {}

    def _experts(self) -> tuple[ExpertConfig, ...]:
        entries = self._table(*TABLE_OF_EXPERTS)
        self._check_names_of_experts(entries)
        modalities = self._get("experts.modalities")
        dropped = self._get("experts.drop_feats") or ()
        for key, names in (("modalities", modalities), ("drop_feats", dropped)):
            for name in names:
                if name not in entries:
                    self._refuse(
                        f"experts.{key}", f"unknown expert {shown(name)}{nearest(name, entries)}"
                    )
        used = sorted(set(modalities) - set(dropped))
        if not used:
            self._refuse("experts.drop_feats", "found all of modalities, expected some to be left")
        built = [self._attempt(partial(self._expert, name)) for name in used]
        experts = tuple(expert for expert in built if expert is not None)
        if not used or len(experts) < len(used):
            raise _Unreadable
        return experts

    def _check_names_of_experts(self, entries: Mapping[str, Any]) -> None:
        """Find names in the tables of clusters and tokens that no expert has."""
        known = {"text", *entries, *WITHOUT_PLACE}
        for table in (
            ("arch", "args", "vlad_clusters"),
            ("arch", "args", "ghost_clusters"),
            ("data_loader", "args", "max_tokens"),
        ):
            for name in self._table(*table):
                if name not in known and not is_known_place(name):
                    hint = "" if self._problems.are_many else nearest(name, known)
                    self._problems.add((*table, name), f"there is no expert of this name{hint}")

    def _expert(self, name: str) -> ExpertConfig:
        entry = (*TABLE_OF_EXPERTS, name)
        if name not in self._table(*TABLE_OF_EXPERTS):
            raise _Unreadable

        def read(key: str) -> Value:
            return self._at((*entry, *key.split(".")))

        problem = place_problem(name, read)
        if problem is not None:
            self._problems.add(entry, problem)
            raise _Unreadable
        width = expert_width(name, read, self._get("experts.face_dim"))
        if width is None:
            self._problems.add(entry, "its width is not known; give `width`")
            raise _Unreadable
        tokens = read("temporal") == TOKENS
        return ExpertConfig(
            name=name,
            width=width,
            tokens=tokens,
            max_tokens=self._needed("data_loader.args.max_tokens", name) if tokens else None,
            clusters=self._needed("arch.args.vlad_clusters", name) if tokens else None,
            ghost_clusters=self._at(("arch", "args", "ghost_clusters", name)) if tokens else 0,
            flaky=read("flaky"),
            files=expert_files(name, read),
        )

    def _needed(self, table: str, name: str) -> int:
        path = (*table.split("."), name)
        value: int | None = self._at(path)
        if value is None:
            self._problems.add(path, "missing, expected a number: the expert is a token sequence")
            raise _Unreadable
        return value

    def _text(self) -> TextConfig:
        feature = self._get("experts.text_feat")
        clusters = self._get("arch.args.vlad_clusters.text")
        max_tokens = self._get("data_loader.args.max_tokens.text")
        if clusters == 0 and max_tokens != 1:
            self._refuse(
                "data_loader.args.max_tokens.text",
                f"found {max_tokens}, expected 1, because arch.args.vlad_clusters.text is 0",
            )
        return TextConfig(
            feature=feature,
            width=self._text_width(feature),
            aggregate=self._get("experts.text_agg"),
            max_tokens=max_tokens,
            clusters=clusters,
            ghost_clusters=self._get("arch.args.ghost_clusters.text"),
        )

    def _text_width(self, feature: str) -> int:
        """Look up the width of a text feature in the table the configuration names."""
        key = "text_embedding_model_configs"
        named = self._get(key)
        path = resolve_inside(named, self._folder)
        if path is None or not path.is_file():
            self._refuse(key, f"found {shown(named)}, expected a file inside the repository")
            raise _Unreadable
        try:
            table = read_json(path)
        except DataError as error:
            self._refuse(key, str(error))
            raise _Unreadable from None
        if not isinstance(table, dict) or feature not in table:
            known = table if isinstance(table, dict) else ()
            self._refuse(
                "experts.text_feat",
                f"{shown(feature)} is not in {label_of(path)}{nearest(feature, known)}",
            )
            raise _Unreadable
        entry = table[feature]
        width = entry.get("dim") if isinstance(entry, dict) and set(entry) == {"dim"} else None
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            self._refuse(
                key, f'{label_of(path)}: {feature}: found {shown(entry)}, expected {{"dim": width}}'
            )
            raise _Unreadable
        return width

    def _arch(self, experts: int | None) -> ArchConfig:
        """Choose the form of the model; `experts` None: their number is not known."""
        pairwise = self._get("arch.args.use_ce") == "pairwise"
        single = self._get("arch.args.mimic_ce_dims")
        if pairwise and single:
            self._refuse(
                "arch.args.mimic_ce_dims", 'found true, expected false beside use_ce "pairwise"'
            )
        elif pairwise and experts == 1:
            self._refuse(
                "arch.args.use_ce",
                'found "pairwise" with one expert, expected use_ce "" with mimic_ce_dims true',
            )
        elif single and experts is not None and experts > 1:
            self._refuse(
                "arch.args.mimic_ce_dims",
                f'found true with {experts} experts, expected false and use_ce "pairwise"',
            )
        return ArchConfig(
            use_ce="pairwise" if pairwise else "",
            mimic_ce_dims=single,
            ce_shared_dim=self._get("experts.ce_shared_dim"),
            use_mish=self._get("arch.args.use_mish"),
            use_bn_reason=self._get("arch.args.use_bn_reason"),
            num_g_layers=self._get("arch.args.num_g_layers"),
            num_h_layers=self._get("arch.args.num_h_layers"),
            include_self=self._get("arch.args.include_self"),
            keep_missing_modalities=self._get("arch.args.keep_missing_modalities"),
            test_caption_mode=self._get("arch.args.test_caption_mode"),
        )

    def _data(self) -> DataConfig:
        args = "data_loader.args"
        name = self._get(f"{args}.dataset_name")
        layout = self._get(f"{args}.layout") or name
        if layout not in LAYOUTS:
            self._refuse(
                f"{args}.dataset_name",
                f"unknown data set {shown(name)}{nearest(name, LAYOUTS)} (known: "
                f"{', '.join(sorted(LAYOUTS))}; one's own needs `layout`, one of these)",
            )
        if self._get(f"{args}.fuse_captions") and self._get(f"{args}.text_dropout"):
            self._refuse(
                f"{args}.text_dropout", "found more than 0, expected 0 beside fuse_captions"
            )
        return DataConfig(
            dataset_name=name,
            layout=layout,
            data_dir=self._get(f"{args}.data_dir"),
            root_feat_folder=self._get(f"{args}.root_feat_folder"),
            split_name=self._get(f"{args}.split_name"),
            batch_size=self._get(f"{args}.batch_size"),
            num_workers=self._get(f"{args}.num_workers"),
            text_dropout=self._get(f"{args}.text_dropout"),
            fuse_captions=self._get(f"{args}.fuse_captions"),
            num_test_captions=self._get(f"{args}.num_test_captions"),
            drop_last=self._get(f"{args}.drop_last"),
            restrict_train_captions=self._get(f"{args}.restrict_train_captions") or 0,
            training_file=self._get("training_file"),
            testing_file=self._get("testing_file"),
            caption_masks=self._get("caption_masks"),
            packed_dir=self._get(f"{args}.packed_dir"),
            packed_dtype=self._get(f"{args}.packed_dtype"),
            feature_device=self._get(f"{args}.feature_device"),
        )

    def _optimizer(self) -> OptimizerConfig:
        kind = self._get("optimizer.type")
        known = OPTIMIZER_ARGS[kind]
        given = self._table("optimizer", "args")
        for name in given:
            if name not in known:
                self._refuse(
                    f"optimizer.args.{name}",
                    f"{kind} takes no such argument{nearest(name, known)} "
                    f"(known: {', '.join(sorted(known))})",
                )
        args = {name: self._get(f"optimizer.args.{name}") for name in ("lr", "weight_decay")}
        args |= {name: self._get(f"optimizer.args.{name}") for name in sorted(given)}
        return OptimizerConfig(type=kind, args=args)

    def _scheduler(self) -> SchedulerConfig | None:
        if not self._raw.get("lr_scheduler"):
            return None
        self._get("lr_scheduler.type")
        return SchedulerConfig(
            step_size=self._get("lr_scheduler.args.step_size"),
            gamma=self._get("lr_scheduler.args.gamma"),
        )

    def _loss(self) -> LossConfig:
        kind = self._get("loss.type")
        args = {name: self._get(f"loss.args.{name}") for name in LOSS_ARGS[kind]}
        return LossConfig(type=kind, args=args)

    def _trainer(self) -> TrainerConfig:
        def get(key: str) -> Value:
            return self._get(f"trainer.{key}")

        if get("epochs") < get("save_period"):
            self._refuse(
                "trainer.save_period",
                f"found {get('save_period')}, expected no more than trainer.epochs, which is "
                f"{get('epochs')}",
            )
        mode, metric = get("monitor")
        return TrainerConfig(
            epochs=get("epochs"),
            save_dir=get("save_dir"),
            save_period=get("save_period"),
            save_only_best=get("save_only_best"),
            val_freq=get("val_freq"),
            verbosity=get("verbosity"),
            tensorboard=get("tensorboard"),
            monitor_mode=mode,
            monitor_metric=metric,
            early_stop=get("early_stop"),
            skip_first_n_saves=get("skip_first_n_saves"),
            include_optim_in_ckpts=get("include_optim_in_ckpts"),
            start_from=get("start_from"),
            finetune_optimizer=get("finetune_optimizer"),
            save_every_minutes=get("save_every_minutes"),
            save_every_epochs=get("save_every_epochs"),
            precision=get("precision"),
            compile=get("compile"),
            cuda_graphs=get("cuda_graphs"),
        )
