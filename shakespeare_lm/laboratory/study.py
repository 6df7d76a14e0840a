"""Which run is trained next: a queue in Optuna's storage, from which several processes, on one
machine or more, each take the next run.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock

from shakespeare_lm.checkpoint.runs import LOG_FOLDER
from shakespeare_lm.errors import UserError, import_extra
from shakespeare_lm.laboratory.result import Failure, Point, Result
from shakespeare_lm.laboratory.trial import RunFailedError, TrainedRun

# A process that has not reported for so long is dead, and its run is taken by another.
_HEARTBEAT_SECONDS, _GRACE_SECONDS = 5, 20
_POLL_SECONDS, _LOCK_SECONDS = 1.0, 60.0
_FILE = "study.db"
_PLAN = "plan"  # the key under which a study keeps what it compares

Say = Callable[[str], None]
Train = Callable[[Any], float]  # of a trial of Optuna's


@dataclass(frozen=True)
class Plan:
    """What is compared: words for `fit`, those of all runs and those that each variant adds."""

    base: list[str]
    variants: dict[str, list[str]]  # the baseline first


def open_study(url: str | None, folder: str, name: str, **options: Any) -> Any:
    """Return the Optuna study of this name in the storage at `url`; by default a SQLite file in
    `lightning_logs/folder`.

    Raises:
        UserError: if Optuna is missing, the storage cannot be opened, or the folder has other runs.
    """
    with nullcontext() if url else _lock(Path(LOG_FOLDER, folder)):
        return _created(url or f"sqlite:///{Path(LOG_FOLDER, folder, _FILE)}", name, options)


def import_optuna() -> Any:
    """Import Optuna, which then prints nothing itself; a `UserError` says how to install it."""
    optuna = import_extra("optuna", "laboratory", "a study")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
    return optuna


def _lock(root: Path) -> FileLock:
    """Return a lock for making a study: Optuna 5.0 fails if two processes make its tables."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / _FILE).exists() and any(path.is_dir() for path in root.iterdir()):
        raise UserError(f"{root} has runs of no study: choose another --name")
    return FileLock(root / ".lock")


def _created(url: str, name: str, options: Mapping[str, Any]) -> Any:
    optuna = import_optuna()
    waits = {"connect_args": {"timeout": _LOCK_SECONDS}} if url.startswith("sqlite") else {}
    try:
        storage = optuna.storages.RDBStorage(
            url, engine_kwargs=waits,
            heartbeat_interval=_HEARTBEAT_SECONDS, grace_period=_GRACE_SECONDS,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
        )  # fmt: skip
        if waits:
            _lock_when_reading(storage.engine)
        return optuna.create_study(
            storage=storage, study_name=name, load_if_exists=True, direction="minimize", **options
        )
    except Exception as error:  # of SQLAlchemy, a driver, or Optuna
        reason = str(error).splitlines()[0]
        raise UserError(f"storage is {url}: {type(error).__name__}: {reason}") from error


def _lock_when_reading(engine: Any) -> None:
    """Let a transaction of SQLite lock before it reads. Optuna 5.0 takes a waiting trial by reading
    and then writing, and two processes could both take it (not reported).
    """
    event = import_module("sqlalchemy.event")
    engine.dispose()

    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # or Python begins transactions

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def run_plan(study: Any, folder: str, plan: Plan, seeds: Sequence[int], say: Say) -> None:
    """Train all runs that are missing: each variant with each seed, the variants in turn, so that a
    slow hour of the machine hits all of them.

    Other processes may do the same with the same study: then each run is trained by one of them,
    and all return when the last run has ended. A run that crashes does not end the others.

    Raises:
        UserError: if the study has other options under these names.
    """
    register(study, plan)
    wanted = [(variant, seed) for seed in seeds for variant in plan.variants]
    _enqueue(study, wanted)

    def train(trial: Any) -> float:
        if _is_taken(study, trial):
            raise import_optuna().TrialPruned()
        variant, seed = trial.user_attrs["variant"], trial.user_attrs["seed"]
        # Of the study: the queue can hold runs of an earlier, interrupted command.
        words = study.user_attrs[_PLAN]["variants"][variant]
        run = TrainedRun(folder, variant, seed, [*plan.base, *words])
        result = finish(trial, run, say)
        done = {(one.variant, one.seed) for one in results(study)} | {(variant, seed)}
        told = f"{len(done & set(wanted))} of {len(wanted)}"
        say(f"{variant}, seed {seed}: val_loss {result.val_loss:.4f} ({told})")
        return result.val_loss

    train_waiting(study, train, say)


def train_waiting(study: Any, train: Train, say: Say) -> None:
    """Call `train` with each trial in the queue, until no process has one."""
    while _await_next(study):
        train_next(study, train, say)


def train_next(study: Any, train: Train, say: Say) -> None:
    """Call `train` with the next trial in the queue; with a new one, if it is empty."""
    try:
        study.optimize(train, n_trials=1, catch=(RunFailedError,))
    except KeyboardInterrupt:
        say("stopped: the same command again resumes")
        raise


def finish(
    trial: Any, run: TrainedRun, say: Say, watch: Callable[[list[Point]], None] | None = None
) -> Result:
    """Train a run to its end, and keep in the trial what it ended with.

    Raises:
        RunFailedError: if it crashes.
    """
    try:
        result = run.train(watch)
    except RunFailedError as error:
        failure = Failure(
            variant=run.variant, seed=run.seed, reason=str(error), log=str(run.log_file)
        )
        trial.set_user_attr("failure", asdict(failure))
        say(f"{run.variant}, seed {run.seed} failed: {error} ({run.log_file})")
        raise
    trial.set_user_attr("result", asdict(result))
    return result


def results(study: Any) -> list[Result]:
    """Return what the finished runs of a study ended with."""
    found = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "COMPLETE":
            kept = dict(trial.user_attrs["result"])
            found.append(Result(**{**kept, "curve": [Point(*point) for point in kept["curve"]]}))
    return found


def failures(study: Any) -> list[Failure]:
    """Return the runs that crashed, and did not end well at another attempt."""
    done = {(one.variant, one.seed) for one in results(study)}
    failed = {
        (trial.user_attrs["variant"], trial.user_attrs["seed"]): trial.user_attrs["failure"]
        for trial in study.get_trials(deepcopy=False)
        if "failure" in trial.user_attrs
    }
    return [Failure(**kept) for key, kept in failed.items() if key not in done]


def register(study: Any, plan: Plan) -> None:
    """Keep the plan with the study; a `UserError` refuses one that contradicts what is kept."""
    kept = study.user_attrs.get(_PLAN, {"base": plan.base, "variants": {}})
    before = {**kept["variants"], "": kept["base"]}
    for name, words in {"": plan.base, **plan.variants}.items():
        if before.get(name, words) != words:
            what = f"study {study.study_name}" + (f", variant {name}," if name else "")
            earlier = " ".join(before[name]) or "none"
            raise UserError(f"{what} had other options ({earlier}): choose another --name")
    kept = {"base": plan.base, "variants": {**kept["variants"], **plan.variants}}
    study.set_user_attr(_PLAN, kept)


def _enqueue(study: Any, wanted: Sequence[tuple[str, int]]) -> None:
    known = {
        (trial.user_attrs.get("variant"), trial.user_attrs.get("seed"))
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "RUNNING", "WAITING")
    }
    for variant, seed in wanted:
        if (variant, seed) not in known:
            study.enqueue_trial({}, user_attrs={"variant": variant, "seed": seed})


def _is_taken(study: Any, trial: Any) -> bool:
    """Say whether a trial was not in the queue, because another process took the last, or was there
    twice, because two processes filled the queue at once.
    """
    mine: Mapping[str, str | int] = trial.user_attrs
    return "variant" not in mine or any(
        other.state.name == "COMPLETE"
        or (other.state.name == "RUNNING" and other.number < trial.number)
        for other in study.get_trials(deepcopy=False)
        if other.number != trial.number
        and all(other.user_attrs.get(name) == mine[name] for name in ("variant", "seed"))
    )


def _await_next(study: Any) -> bool:
    """Return whether a run waits; if none does, wait for those that other processes train, which
    may die: then theirs wait again.
    """
    while True:
        import_optuna().storages.fail_stale_trials(study)
        states = {trial.state.name for trial in study.get_trials(deepcopy=False)}
        if "WAITING" in states or "RUNNING" not in states:
            return "WAITING" in states
        time.sleep(_POLL_SECONDS)
