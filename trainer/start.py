"""The start of a training: a new run, a run found again, or the weights of another one."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint import Checkpoint, config_of, load_checkpoint
from trainer.keeper import BEST
from trainer.runs import (
    Run,
    damaged_hint,
    finished_checkpoint,
    last_usable,
    new_run,
    newest_runs,
    newest_state,
    open_run,
    purge_runs,
)
from utils.config import Config, config_from_dict
from utils.errors import CheckpointError, DataError, UsageError
from utils.fetching.experiments import Source, find_experiment

logger = logging.getLogger(__name__)

AUTO = "auto"


@dataclass(frozen=True)
class Request:
    """The flags that decide where a training starts."""

    seeds: tuple[int, ...] | None
    """Those asked for; None: the one of the configuration, or those of the run that goes on."""
    group: str | None = None
    resume: str | None = None
    """A checkpoint, the folder of a run, or AUTO."""
    finetune: bool = False
    """`resume` gives the weights of a new run."""
    mini: bool = False
    purge: bool = False
    """Remove the earlier runs of the experiment first."""

    @functools.cached_property
    def named(self) -> Path | None:
        """The checkpoint whose run goes on, None when none is named."""
        if self.resume in (None, AUTO) or self.finetune:
            return None
        return checkpoint_at(self.resume)


def find_start(source: str | None, root_url: str, save_dir: Path, seed: int) -> Path | None:
    """Return the checkpoint that a seed of a run starts from, None for fresh weights.

    `source` is a checkpoint, or an experiment: trained here under its name, or published and then
    fetched (NAME@GROUP says which one where two have the name).
    """
    if source is None:
        return None
    place = Path(source)
    if place.is_file() or (place.is_dir() and newest_state(place) is not None):
        return checkpoint_at(place)
    own = finished_checkpoint(save_dir, source.partition("@")[0], seed)
    if own is not None:
        return own
    try:
        experiment = find_experiment(source)
    except UsageError as error:
        raise UsageError(
            f"{source} is neither a checkpoint nor an experiment with a finished seed {seed}: "
            f"{error}"
        ) from None
    return Source(root_url, save_dir.parent).fetch(experiment, seed) / BEST


def checkpoint_at(place: str | Path | None) -> Path:
    """Return a checkpoint by its own path or by the folder of its run or seed."""
    path = Path(place or "")
    if not path.is_dir():
        return path
    found = newest_state(path)
    if found is None:
        raise UsageError(f"{path} holds no checkpoint; expected a run with last.pth in it")
    return found


def config_of_run(named: Path, config_file: str | None, changes: Mapping[str, object]) -> Config:
    """Load the configuration that the run of a checkpoint goes on with, under the run's own name.

    It is `config_file`, or the config.json beside the checkpoint, or the checkpoint's own.
    """
    try:
        checkpoint = load_checkpoint(named)
    except (CheckpointError, DataError) as error:
        raise CheckpointError(f"{error}{damaged_hint(named)}") from error
    name = (checkpoint.config or {}).get("name")
    return config_of(
        checkpoint, config_file, changes if name is None else {**changes, "name": name}
    )


def choose_run(
    request: Request, config: Config, start: Callable[[int], Path | None]
) -> tuple[Run, int | None]:
    """Return the run to work on, made where there is none, and the seed of a named checkpoint.

    `start` finds the checkpoint that a seed of a new run starts from.
    """
    save_dir, named = config.trainer.save_dir, request.named
    if request.purge:
        purge_runs(save_dir, config.name)
    if request.resume == AUTO:
        runs = newest_runs(save_dir, config.name, request.seeds, request.group, mini=request.mini)
        if runs:
            _explain_choice(runs)
            return runs[0], None
        logger.info("--resume auto: no run of %s to continue; starting a new one", config.name)
    elif named is not None:
        run, seed = open_run(save_dir, named, config.seed)
        if request.seeds not in (None, run.seeds):
            raise UsageError(
                f"{named} belongs to a run of the seeds {listed(run.seeds)}, not "
                f"{listed(request.seeds)}; leave the seeds out"
            )
        if run.mini != request.mini:
            found = "with" if run.mini else "without"
            raise UsageError(f"{named} was trained {found} --mini_train; continue it likewise")
        return run, seed
    seeds = request.seeds or (config.seed,)
    for seed in seeds:
        start(seed)  # what is missing shows before the folders are made
    return new_run(save_dir, config.name, seeds, request.group, mini=request.mini), None


def _explain_choice(runs: Sequence[Run]) -> None:
    """Log which run goes on and why; where it has nothing yet, name an older one that has."""
    newest, *older = runs
    if _has_state(newest):
        logger.info("--resume auto: continuing %s, the newest run that was begun", newest.models)
        return
    further = next(filter(_has_state, older), None)
    logger.warning(
        "--resume auto: %s is the newest run that was begun, but saved nothing yet; it begins "
        "anew%s",
        newest.models,
        f"; for the run before it: --resume {further.models}" if further else "",
    )


def _has_state(run: Run) -> bool:
    return any(run.result(seed) or last_usable(run, seed) for seed in run.seeds)


def listed(seeds: Sequence[int]) -> str:
    """Return seeds as on the command line."""
    return ",".join(map(str, seeds))


def check_settings(config: Config, checkpoint: Checkpoint) -> None:
    """Refuse to continue on other terms than the stored state was trained on.

    Optimiser and schedule bring their own settings along, so that changed ones would be reported
    but not used; with another loss or other batches the run's records would hold for its end only.
    """
    if checkpoint.config is None:
        return
    before = _settings(config_from_dict(checkpoint.config, checkpoint.path))
    now = _settings(config)
    changed = "".join(
        f"\n  {key}: {before.get(key, 'unset')} there, {now.get(key, 'unset')} now"
        for key in before | now
        if before.get(key) != now.get(key)
    )
    if changed:
        raise UsageError(
            f"{checkpoint.path} was trained with other settings than {config.path} has:{changed}\n"
            "continue with those it was trained with, or start a new run from its weights: "
            f"--resume {checkpoint.path} --finetune"
        )


def _settings(config: Config) -> dict[str, object]:
    """Return the settings that decide on the steps of a training, by their configuration keys."""
    schedule = {} if config.lr_scheduler is None else config.lr_scheduler.args
    return {
        "optimizer.type": config.optimizer.type,
        **{f"optimizer.args.{key}": value for key, value in config.optimizer.args.items()},
        **{f"lr_scheduler.args.{key}": value for key, value in schedule.items()},
        "loss.type": config.loss.type,
        **{f"loss.args.{key}": value for key, value in config.loss.args.items()},
        "data_loader.args.dataset_name": config.data.dataset_name,
        "data_loader.args.batch_size": config.data.batch_size,
        "trainer.ema": config.trainer.ema,
    }
