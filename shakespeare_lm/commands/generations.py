"""Runs of one recipe, each taught by the best model of the one before it (Furlanello et al. 2018,
"Born-Again Neural Networks"). The folder alone says which is next: the same command resumes them.
"""

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from shakespeare_lm.checkpoint.origin import Origin
from shakespeare_lm.checkpoint.runs import Run, find_runs
from shakespeare_lm.errors import UserError, check_fraction, check_type
from shakespeare_lm.laboratory.trial import flat_options

_FIXED_IN_CHAIN = ("seed_everything", "model.", "data.", "trainer.max_steps", "trainer.max_epochs")


@dataclass(frozen=True)
class Chain:
    """The runs `root/NAME/generation_K/version_N` that the options `typed` ask for. Those that do
    not go with `--generations` raise a `UserError`.
    """

    typed: Any
    root: Path

    def __post_init__(self) -> None:
        typed, trainer = self.typed, self.typed["trainer"]
        refused = {f"--{name}": typed[name] for name in ("ckpt_path", "more_steps", "init_from")}
        refused["--fast_dev_run"] = trainer["fast_dev_run"]
        refused["--enable_checkpointing false"] = trainer["enable_checkpointing"] is False
        refused["--logger"] = not isinstance(trainer["logger"], bool | None)
        refused["--max_steps -1"] = max(trainer["max_steps"], trainer["max_epochs"] or 0) < 1
        for name in filter(refused.get, refused):
            raise UserError(f"--generations and {name} do not go together: leave one of them out")
        check_type(int, seed_everything=typed["seed_everything"])
        check_fraction(distillation=typed["model"]["distillation"])

    @property
    def runs(self) -> list[Run]:
        """The generations so far; all but the last are finished."""
        folders = (self.root / self._name(k + 1) for k in range(self.typed["generations"]))
        found = takewhile(bool, (find_runs(folder, "last", "best") for folder in folders))
        # Later versions are repetitions from the `config.yaml` of the first.
        return [min(versions, key=lambda run: run.version or 0) for versions in found]

    @property
    def finished(self) -> int:
        """How many generations are finished."""
        return sum(run.record().get("state") == "finished" for run in self.runs)

    def _name(self, number: int) -> str:
        return f"{self.typed['name'] or 'chain'}/generation_{number}"

    def _options(self, number: int) -> dict[str, object]:
        """Return what only this generation has; the first is number 1. A teacher is best alone."""
        model, before = self.typed["model"], self.runs[: number - 1]
        teachers = str(before[-1].checkpoint("best")) if before else model["teachers"]
        return {
            "name": self._name(number),
            "seed_everything": self.typed["seed_everything"] + number - 1,
            "model.teachers": teachers,
            "model.distillation": (model["distillation"] or 0.5) if teachers else 0.0,
            "model.ngram_distillation": 0.0 if teachers else model["ngram_distillation"],
        }

    def next(self) -> tuple[list[str], str | None]:
        """Return words for `fit` that train the next generation, and the run to resume, if any."""
        runs, number = self.runs, self.finished + 1
        words = Origin([], self._options(min(number, self.typed["generations"]))).arguments
        return words, str(runs[number - 1].folder) if number <= len(runs) else None

    def check(self, config: Any) -> None:
        """Raise a `UserError` if a generation was trained with other options than `config`."""
        for number, run in enumerate(self.runs, start=1):
            trained, ours = flat_options(run.options()), flat_options(config)
            for name, value in (ours | self._options(number)).items():
                if name.startswith(_FIXED_IN_CHAIN) and trained.get(name, value) != value:
                    was = f"{run.folder} has {name} {trained[name]}, not {value}"
                    raise UserError(f"{was}: give a new chain another --name")
