"""Runs -> what each variant is against the baseline, and in what else the runs differ."""

import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shakespeare_lm.laboratory.result import Failure, Result
from shakespeare_lm.laboratory.statistics import (
    LEVEL,
    Difference,
    holm,
    paired_difference,
    seeds_needed,
)

MEANS = (
    "steps", "characters", "weights", "flops_per_character", "flops", "train_seconds", "seconds",
    "peak_memory_bytes",
)  # fmt: skip
_PROVENANCE = (
    "processor", "threads", "accelerator", "precision", "text_sha256", "commit",
    "uncommitted_changes",
)  # fmt: skip
# Options that change where a run's files go and what it prints, not what it learns.
_COSMETIC = (
    "seed_everything", "config", "name", "ckpt_path", "more_steps", "pictures", "small_best",
    "compare_with_ngrams", "traceback", "data.data_dir", "trainer.default_root_dir",
    "trainer.logger", "trainer.enable_", "trainer.profiler", "sample.",
)  # fmt: skip


_Runs = Mapping[str, Sequence[Result]]  # by variant, the baseline first


@dataclass(frozen=True)
class Spread:
    """Losses over seeds, in nats per character."""

    runs: int
    mean: float
    deviation: float | None  # sample standard deviation; None for one run


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant: the first row of a comparison is the baseline."""

    name: str
    crashed: int
    val_loss: Spread | None  # None if every run crashed
    test_loss: Spread | None  # None unless every run has one
    difference: Difference | None  # of val_loss from the baseline's; None without a common seed
    p: float | None  # adjusted for the number of variants
    verdict: str
    more_seeds: int | None  # that would show the difference asked for; None if it is unknown
    means: dict[str, float | None]  # by the names in MEANS; None unless every run has one


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that the tables and the page show."""

    shown_difference: float  # in nats per character: `more_seeds` is about it
    rows: list[Row]
    warnings: list[str]
    results: list[Result]
    failures: list[Failure]


def compare(
    results: Sequence[Result],
    failures: Sequence[Failure],
    order: Sequence[str],
    difference: float = 0.005,
    named: Mapping[str, Collection[str]] | None = None,
) -> Comparison:
    """Compare the variants of `order`, whose first is the baseline, seed by seed.

    `named` has the options by which each variant is meant to differ from the baseline, those that
    follow from them included. Options that differ and are not there make warnings.
    """
    runs = {name: [result for result in results if result.variant == name] for name in order}
    losses = {name: {run.seed: run.val_loss for run in runs[name]} for name in order}
    found = {name: paired_difference(losses[order[0]], losses[name]) for name in order[1:]}
    p_values = {name: one.p for name, one in found.items() if one and one.p is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    level = LEVEL / max(1, len(p_values))  # the strictest of Holm's
    rows = [
        Row(
            name=name,
            crashed=sum(failure.variant == name for failure in failures),
            val_loss=_spread([run.val_loss for run in runs[name]]),
            test_loss=_spread([run.test_loss for run in runs[name]]),
            difference=found.get(name),
            p=adjusted.get(name),
            verdict="baseline" if name == order[0] else _verdict(found[name], adjusted.get(name)),
            more_seeds=_more_seeds(found.get(name), difference, level),
            means={key: _mean([getattr(run, key) for run in runs[name]]) for key in MEANS},
        )
        for name in order
    ]
    named = named or {}
    warnings = [*_of_seeds(runs, found), *_of_options(runs, named), *_of_origin(runs, named)]
    return Comparison(
        shown_difference=difference, rows=rows, warnings=warnings,
        results=list(results), failures=list(failures),
    )  # fmt: skip


def _spread(losses: Sequence[float | None]) -> Spread | None:
    known = [loss for loss in losses if loss is not None]
    if not known or len(known) < len(losses):
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Spread(len(known), statistics.fmean(known), deviation)


def _mean(values: Sequence[float | None]) -> float | None:
    spread = _spread(values)
    return spread.mean if spread else None


def _verdict(difference: Difference | None, p: float | None) -> str:
    if difference is None or p is None:
        return "too few common seeds"
    if p >= LEVEL:
        return "no difference shown"
    return "better" if difference.mean < 0 else "worse"


def _more_seeds(found: Difference | None, difference: float, level: float) -> int | None:
    if found is None or found.deviation is None:
        return None
    return max(0, seeds_needed(found.deviation, difference, level) - found.pairs)


def _of_seeds(runs: _Runs, found: Mapping[str, Difference | None]) -> Iterator[str]:
    for name, those in runs.items():
        seeds = Counter(run.seed for run in those)
        for seed in [seed for seed, count in seeds.items() if count > 1]:
            yield f"{name} has several runs with seed {seed}: only the last is compared"
        if name in found and found[name] is None:
            yield f"{name} and the baseline have no seed in common: no difference is claimed"


def _of_options(runs: _Runs, named: Mapping[str, Collection[str]]) -> Iterator[str]:
    options = {
        name: [
            {k: v for k, v in run.options.items() if not k.startswith(_COSMETIC)} for run in those
        ]
        for name, those in runs.items()
    }
    baseline = next(iter(options.values()))[:1]
    for name, those in options.items():
        for key, values in _differing(those):
            yield f"runs of {name} differ in {key}: {counted(values)}"
        for key, (other, value) in _differing(baseline + those[:1]):
            if key not in named.get(name, ()):
                yield f"{name} has another {key} than the baseline: {value}, not {other}"


def _of_origin(runs: _Runs, named: Mapping[str, Collection[str]]) -> Iterator[str]:
    meant = {name.removeprefix("trainer.") for names in named.values() for name in names}
    for key, values in _differing([origin(run) for those in runs.values() for run in those]):
        if key not in meant:
            yield f"runs differ in {key}: {counted(values)}"


def _differing(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, Counter[str]]]:
    return [(key, values) for key, values in recorded(records).items() if len(values) > 1]


def origin(run: Result) -> dict[str, Any]:
    """Return what a run's losses and times depend on besides its options."""
    kept = {key: run.provenance[key] for key in _PROVENANCE if key in run.provenance}
    return kept | run.provenance.get("versions", {})


def recorded(records: Sequence[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Return the values of each key, and in how many records it has each of them."""
    keys = dict.fromkeys(key for record in records for key in record)
    return {
        key: Counter(str(record.get(key, "not recorded")) for record in records) for key in keys
    }


def counted(values: Counter[str]) -> str:
    """Return the values in one line, each with the number of its records if there are several."""
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(f"{value} ({n} of {values.total()})" for value, n in values.items())
