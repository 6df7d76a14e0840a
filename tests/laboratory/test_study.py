"""The queue of runs: each is trained once, whoever trains it, and whatever happens in between."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from shakespeare_lm.commands import compare, sweep
from shakespeare_lm.errors import UserError
from shakespeare_lm.laboratory import study as study_module
from shakespeare_lm.laboratory.study import (
    Plan,
    failures,
    open_study,
    results,
    run_plan,
)
from shakespeare_lm.laboratory.sweep import Range
from shakespeare_lm.laboratory.trial import RunFailedError, TrainedRun, read_results
from tests.conftest import TINY

optuna = pytest.importorskip("optuna", reason="needs the extra laboratory")
PLAN = Plan(["--max_steps=4"], {"baseline": [], "idea": ["--model.dropout=0.1"]})
NATS = {"baseline": 1.5, "idea": 1.4}


def leave_run(run: TrainedRun, losses: list[float], state: str = "finished", **more) -> Path:
    """Write what `fit` leaves: a folder with a checkpoint and a record."""
    folder = run.folder / "version_0"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "best.ckpt").touch()
    validations = [
        {"step": 2 * number, "train_seconds": float(number), "val_loss": loss}
        for number, loss in enumerate(losses, start=1)
    ]
    record = {"validations": validations, "state": state, "steps": 2 * len(losses), **more}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(f"seed_everything: {run.seed}\nmodel: {{dropout: 0.1}}\n")
    return folder


@pytest.fixture
def trained(tmp_path, monkeypatch) -> list[str]:
    """Replace `fit` by a loss that depends on variant and seed; return the names of runs."""
    monkeypatch.chdir(tmp_path)
    names: list[str] = []

    def fit(run: TrainedRun, more, watch) -> None:
        names.append(run.name)
        if "--fails" in run.words:
            raise RunFailedError("error: it fails")
        nats = NATS.get(run.variant, 1.6) + 0.001 * run.seed
        leave_run(run, [nats + 0.5, nats])

    monkeypatch.setattr(TrainedRun, "_fit", fit)
    return names


def quiet(line: str) -> None:
    pass


def test_every_variant_runs_with_every_seed_in_turns_and_only_once(trained: list[str]) -> None:
    study = open_study(None, "s", "s")
    run_plan(study, "s", PLAN, [1, 2], quiet)
    assert trained == [f"s/{v}/seed_{s}" for s in (1, 2) for v in ("baseline", "idea")]
    found = {(one.variant, one.seed): one for one in results(study)}
    assert found["idea", 2].val_loss == pytest.approx(1.402)
    assert [point.step for point in found["idea", 2].curve] == [2, 4]
    wider = Plan(PLAN.base, {**PLAN.variants, "other": []})
    run_plan(open_study(None, "s", "s"), "s", wider, [1, 2, 3], quiet)
    assert sorted(trained[4:]) == sorted(
        ["s/other/seed_1", "s/other/seed_2", *(f"s/{v}/seed_3" for v in wider.variants)]
    )


def test_a_run_that_crashes_does_not_end_the_others_and_is_tried_again(trained: list[str]) -> None:
    plan = Plan([], {"baseline": [], "broken": ["--fails"]})
    study = open_study(None, "s", "s")
    run_plan(study, "s", plan, [1, 2], quiet)
    assert [one.variant for one in results(study)] == ["baseline", "baseline"]
    (first, second) = failures(study)
    assert (first.variant, first.seed, second.seed) == ("broken", 1, 2)
    assert first.reason == "error: it fails"
    assert first.log == str(Path("lightning_logs/s/broken/seed_1/fit.log"))
    run_plan(study, "s", plan, [1, 2], quiet)
    assert Counter(trained)["s/broken/seed_1"] == 2
    assert len(failures(study)) == 2


def test_a_study_keeps_its_plan(trained: list[str]) -> None:
    study = open_study(None, "s", "s")
    run_plan(study, "s", PLAN, [1], quiet)
    for plan, what, earlier in (
        (Plan(["--max_steps=5"], PLAN.variants), "s", "--max_steps=4"),
        (
            Plan(PLAN.base, {"idea": ["--model.dropout=0.2"]}),
            "s, variant idea,",
            *PLAN.variants["idea"],
        ),
        (Plan(PLAN.base, {"baseline": ["--size=3M"]}), "s, variant baseline,", "none"),
    ):
        with pytest.raises(UserError, match=rf"study {what} had other options \({earlier}\)"):
            run_plan(study, "s", plan, [1], quiet)
    assert len(trained) == 2


def test_after_ctrl_c_the_same_command_or_a_shorter_one_resumes(
    trained, monkeypatch, capsys
) -> None:
    fit = TrainedRun._fit

    def interrupted(run: TrainedRun, more, watch) -> None:
        if run.variant == "idea":
            raise KeyboardInterrupt
        fit(run, more, watch)

    variants = ["--variant", "idea: --model.dropout 0.1", "--variant", "other: --model.bias true"]
    monkeypatch.setattr(TrainedRun, "_fit", interrupted)
    assert compare.main([*variants, "--seeds=1"]) == 130
    assert capsys.readouterr().err.endswith("stopped: the same command again resumes\n")
    monkeypatch.setattr(TrainedRun, "_fit", fit)
    # What waits in the queue since then, `other`, is trained, too.
    assert compare.main([*variants[:2], "--seeds=1"]) == 0
    assert sorted(trained) == [f"compare/{name}/seed_1" for name in ("baseline", "idea", "other")]
    assert "idea, seed 1: val_loss 1.4010 (2 of 2)" in capsys.readouterr().err


def test_folders_and_storages_that_are_no_study_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lightning_logs/mine/version_0").mkdir(parents=True)
    with pytest.raises(UserError, match="mine has runs of no study: choose another --name"):
        open_study(None, "mine", "mine")
    for url in ("nonsense", "sqlite:////nowhere/at/all.db"):
        with pytest.raises(UserError, match=f"storage is {url}: "):
            open_study(url, "s", "s")


def test_two_who_fill_the_queue_at_once_train_each_run_once(trained, monkeypatch) -> None:
    both = threading.Barrier(2)

    def fill(study, wanted) -> None:
        for variant, seed in wanted:
            study.enqueue_trial({}, user_attrs={"variant": variant, "seed": seed})
        both.wait()

    monkeypatch.setattr(study_module, "_enqueue", fill)
    study_of = [open_study(None, "s", "s") for _ in range(2)]
    threads = [
        threading.Thread(target=run_plan, args=(study, "s", PLAN, range(1, 6), quiet))
        for study in study_of
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == len(set(trained)) == 10
    assert len(results(study_of[0])) == 10


def test_what_a_killed_process_left_is_resumed_or_only_read(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[list[str]] = []

    def fit(run: TrainedRun, more: list[str], watch) -> None:
        asked.append(more)
        leave_run(run, [1.6, 1.5])

    monkeypatch.setattr(TrainedRun, "_fit", fit)
    run = TrainedRun("s", "idea", 1, [])
    assert run.train().val_loss == 1.5
    assert asked == [[]]
    folder = leave_run(run, [1.6], state="running")
    assert run.train().val_loss == 1.5
    assert asked == [[], ["--ckpt_path", str(folder)]]
    leave_run(run, [1.6, 1.4])
    assert run.train().val_loss == 1.4
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("text", "values"),
    [("a.b=log:1e-3:0.1", (0.001, 0.1)), ("a.b=int:1:6", (1, 6)), ("a.b=x,y", ("x", "y"))],
)
def test_ranges(text: str, values: tuple[object, ...]) -> None:
    name, one = Range.parse(text)
    assert (name, one.ends) == ("a.b", values)
    trial = optuna.trial.FixedTrial({"a.b": values[0]})
    assert one.suggest(trial, "a.b") == values[0]


@pytest.mark.parametrize(
    "text", ["a", "a=", "a=x", "a=log:0:1", "a=log:2:1", "a=int:1.5:3", "a=log:1:inf", "a=exp:1:2"]
)
def test_wrong_ranges_say_what_is_expected(text: str) -> None:
    with pytest.raises(UserError, match=r"sweep is '.*': expected OPTION=log:LOW:HIGH"):
        Range.parse(text)


def test_a_sweep_stops_the_worse_and_compares_the_best_with_new_seeds(
    tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    stopped: list[str] = []

    def fit(run: TrainedRun, more, watch) -> None:
        words = dict(word.split("=") for word in run.words if "=" in word)
        nats = 1.5 + abs(float(words.get("--model.dropout", 0.2)) - 0.1)
        folder = leave_run(run, [nats + 0.5, nats])
        assert (run.seed == 0) == ("--data.test_fraction" in words)
        if watch is not None:
            try:
                for point in read_results(folder)[0].curve:
                    watch([point])
            except BaseException:
                stopped.append(run.variant)
                raise

    monkeypatch.setattr(TrainedRun, "_fit", fit)
    words = ["--config=little", "--seeds=2", "--trials=12", "--json=-"]
    assert sweep.main([*words, "--sweep", "model.dropout=linear:0:0.5"]) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in comparison["rows"]] == ["baseline", "best-of-12"]
    assert comparison["rows"][1]["verdict"] == "better"
    assert stopped
    found = optuna.load_study(
        study_name="sweep-sweep", storage="sqlite:///lightning_logs/sweep/study.db"
    )
    states = Counter(trial.state.name for trial in found.trials)
    assert states == {"PRUNED": len(stopped), "COMPLETE": 12 - len(stopped)}
    assert abs(found.best_params["model.dropout"] - 0.1) < 0.1
    assert sweep.main([*words, "--sweep", "model.dropout=linear:0:0.4"]) == 1
    assert "study sweep-sweep had other options" in capsys.readouterr().err


@pytest.mark.slow
def test_of_two_processes_one_is_killed_and_no_run_is_lost_or_done_twice(tmp_path) -> None:
    """With real trainings: the survivor takes the run of the other, from its checkpoint."""
    words = ["compare", *TINY, "--max_steps=400", "--val_check_interval=20", "--seeds=3"]
    words += ["--variant", "idea: --model.dropout 0.1", "--json=out.json"]
    command = [sys.executable, "-m", "shakespeare_lm", *words]
    one, other = (
        subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in "ab"
    )
    folder = tmp_path / "lightning_logs" / "compare"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*/*/version_0/checkpoints/best.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    one.send_signal(signal.SIGKILL)
    _, errors = other.communicate(timeout=500)
    one.communicate()
    assert other.returncode == 0, errors
    content = json.loads((tmp_path / "out.json").read_text())
    assert [(row["val_loss"]["runs"], row["crashed"]) for row in content["rows"]] == [(3, 0)] * 2
    assert sorted(path.name for path in folder.glob("*/*/version_*")) == ["version_0"] * 6
    assert {run["steps"] for run in content["results"]} == {400}


def test_words_that_fit_would_refuse_are_found_before_any_run(trained, capsys) -> None:
    good = ["--variant", "idea: --model.dropout 0.1"]
    for words, message in (
        ([], "nothing to compare: give a --variant, or the folders of runs"),
        (["--variant", "idea"], "variant is 'idea': expected 'NAME: --option value ...'"),
        (["--variant", "baseline: --seed 1"], "variant is 'baseline: --seed 1': expected"),
        (["--variant", "a: 'x"], "No closing quotation"),
        ([*good, *good], "two variants have one name"),
        (["--variant", "a: --model.dropuot 1"], "a: unrecognized arguments: --model.dropuot"),
        (["--variant", "a: --model.dropout 2"], "dropout is 2.0: expected 0 <= dropout < 1"),
        (["--variant", "a: --model.network nowhere.Net"], "No module named 'nowhere'"),
        ([*good, "--seed", "3"], "--seed: not for the runs of a study"),
        ([*good, "--seeds", "0"], "seeds is 0: expected a value >= 1"),
        ([*good, "--name", "version_1"], "name is 'version_1': expected"),
        ([*good, "--json", "nowhere/x.json"], "nowhere"),
        (["a", "b", "--storage=x"], "a is a folder: only new runs take --storage"),
        (["a", "b", *good], "a is a folder: only new runs take --variant"),
        (["a", "b", "--select"], "--select is for --variant, which is missing"),
        ([*good, "--sizes=1M"], "--variant and --sizes are two kinds of comparison: choose one"),
        ([*good, "--steps=100"], "--steps is for --sizes, which is missing"),
        (["--speedrun=a.json", "--nanogpt=b", "--csv=-"], "--speedrun writes its own file"),
        (["--speedrun=nowhere/a.json", "--nanogpt=b"], "nowhere"),
        ([*good, "--csv=a", "--json=./a"], "csv and json are both ./a: choose two files"),
        (["lightning_logs"], "no runs in lightning_logs"),
    ):
        assert compare.main(words) != 0, words
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: "), line
        assert message in line, line
    assert not trained
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize("unit", ["seconds", "flops"])
def test_equal_time_trains_each_variant_once_more_as_long_as_the_baseline(
    tmp_path, monkeypatch, capsys, unit: str
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: dict[str, list[str]] = {}

    def fit(run: TrainedRun, more, watch) -> None:
        asked[run.variant] = run.words
        cost = 8.0 if run.variant == "idea" else 4.0
        costs = {"seconds": {"train_seconds": cost}, "flops": {"flops_per_character": cost}}
        leave_run(run, [1.6, 1.5], characters=10, **costs[unit])

    monkeypatch.setattr(TrainedRun, "_fit", fit)
    words = ["--max_steps=100", "--val_check_interval=50", f"--equal_time={unit}", "--csv=-"]
    assert compare.main([*words, "--variant", "idea: --model.dropout 0.1", "--seeds=2"]) == 0
    assert asked[f"idea-equal-{unit}"][-2:] == ["--max_steps=50", "--val_check_interval=25"]
    assert capsys.readouterr().out.count(f"idea-equal-{unit}") == 2


def test_select_decides_before_the_validation_part(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)

    def fit(run: TrainedRun, more, watch) -> None:
        assert "--data.test_fraction=0.1" in run.words
        leave_run(run, [NATS[run.variant]], test_loss=NATS[run.variant] + 0.2)

    monkeypatch.setattr(TrainedRun, "_fit", fit)
    assert compare.main(["--select", "--variant", "idea: --model.dropout 0.1", "--json=-"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["val_loss"]["mean"] for row in rows] == pytest.approx([1.5, 1.4])
    assert [row["test_loss"]["mean"] for row in rows] == pytest.approx([1.7, 1.6])


def test_runs_that_exist_are_compared_by_seed(trained, capsys) -> None:
    run_plan(open_study(None, "s", "s"), "s", PLAN, [1, 2, 3], quiet)
    folders = [f"lightning_logs/s/{name}" for name in NATS]
    assert compare.main([*folders, "--json=-"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == folders
    assert rows[1]["difference"]["mean"] == pytest.approx(-0.1)
    assert compare.main(["lightning_logs/s/idea", "nowhere"]) == 1
    assert "no runs in nowhere" in capsys.readouterr().err


def test_sizes_are_trained_for_each_length_and_their_law_is_shown(
    tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)

    def fit(run: TrainedRun, more, watch) -> None:
        size, steps = run.variant.split("-")
        assert run.words[-4:] == [
            f"--size={size}", f"--max_steps={steps}", f"--val_check_interval={steps}",
            f"--model.warmup_steps={int(steps) // 16}",
        ]  # fmt: skip
        weights, characters = 1e6 * float(size[:-1]), 2048 * int(steps)
        loss = 1.2 + (1e4 / weights) ** 0.5 + (1e4 / characters) ** 0.5
        leave_run(run, [loss], weights=weights, characters=characters)

    monkeypatch.setattr(TrainedRun, "_fit", fit)
    words = ["--config=plain", "--sizes=0.1M,1M,3M", "--steps=100,400,1600", "--seeds=1"]
    assert compare.main([*words, "--report=sizes.html"]) == 0
    out = capsys.readouterr().out
    assert "alpha" in out
    assert Path("sizes.html").read_text().count("<figure>") >= 1
    assert compare.main(["--sizes=0.1M"]) == 2
    assert "--sizes needs --steps" in capsys.readouterr().err
    assert compare.main(["--sizes=0.1M", "--steps=x"]) == 2
    assert "steps has 'x': expected whole numbers" in capsys.readouterr().err
    assert compare.main(["--sizes=7M", "--steps=100"]) == 1
    assert "size is '7M': choose from: 0.1M" in capsys.readouterr().err


def test_a_speedrun_takes_turns_with_nanogpt_and_keeps_every_run(
    trained, monkeypatch, capsys
) -> None:
    Path("nanoGPT").mkdir()
    words = ["--config=memory", "--speedrun=entry.json", "--seeds=2", "--name=record"]
    assert compare.main(words) == 2
    assert "--speedrun needs --nanogpt FOLDER" in capsys.readouterr().err
    assert compare.main([*words, "--nanogpt=nanoGPT"]) == 1
    assert "nanogpt is nanoGPT: its train.py ended with: " in capsys.readouterr().err
    Path("nanoGPT/train.py").write_text("import sys; print(sys.argv)")
    assert compare.main([*words, "--nanogpt=nanoGPT"]) == 0
    entry = json.loads(Path("entry.json").read_text())
    assert entry["command"] == ["fit", "--config=memory"]
    assert [run["seed"] for run in entry["runs"]] == [1, 2]
    assert entry["val_loss"] == pytest.approx(1.6015)
    assert entry["ratio"] > 0
    assert trained == ["record/speedrun/seed_1", "record/speedrun/seed_2"]
    assert compare.main([*words, "--nanogpt=nanoGPT"]) == 1
    assert "exists, and a record is one process" in capsys.readouterr().err
