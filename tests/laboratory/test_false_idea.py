"""An idea without an effect is not taken for a better one."""

import pytest

from shakespeare_lm.laboratory.comparison import compare
from shakespeare_lm.laboratory.result import Result

pytest.importorskip("scipy", reason="needs the extra laboratory")
REPETITIONS, SEEDS = 20, 5


@pytest.mark.slow
def test_a_renamed_baseline_is_no_difference_in_most_of_twenty_repetitions(tiny_fit) -> None:
    """At 95 %, more than 3 false alarms among 20 have a probability of 1.6 %."""
    common = ["--max_steps=12", "--val_check_interval=12", "--pictures=false"]
    common += ["--compare_with_ngrams=false", "--precision=32-true", "--logger=false"]

    def result(variant: str, seed: int, *options: str) -> Result:
        score = tiny_fit(*common, f"--seed={seed}", *options).best.best_model_score
        return Result(variant=variant, seed=seed, val_loss=float(score), steps=12)

    alarms = []
    for repetition in range(REPETITIONS):
        seeds = range(SEEDS * repetition, SEEDS * (repetition + 1))
        results = [result("baseline", seed) for seed in seeds]
        results += [result("idea", s, "--model.network=examples.ideas.Unchanged") for s in seeds]
        row = compare(results, [], ["baseline", "idea"]).rows[1]
        assert row.difference is not None
        assert row.difference.mean != 0  # other first weights
        alarms += [] if row.verdict == "no difference shown" else [row]
    assert len(alarms) <= 3, alarms
