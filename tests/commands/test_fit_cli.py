"""The command line of `fit`: names, YAML files, help, and mistakes refused before a run."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from shakespeare_lm.commands.fit import fit, main
from shakespeare_lm.commands.fit_cli import ShakespeareCLI
from shakespeare_lm.commands.fit_parser import SHORT_HELP, spell_out
from shakespeare_lm.commands.recipes import (
    FOLDER,
    config_path,
    read_options,
    recipe_name,
    recipe_names,
)
from shakespeare_lm.data.splits import SplitConfig
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.distillation import DistillationConfig
from shakespeare_lm.methods.multi_token import MultiTokenConfig
from shakespeare_lm.methods.objectives import ObjectiveConfig
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.training.optimizer import OptimizerConfig
from tests.conftest import TINY


def test_short_names_are_trainer_options_and_leave_the_rest_alone(tiny_fit):
    typed = ["--max_steps=5", "--devices", "2", "--seed", "7", "--model.d_model=8", "--none", "-x"]
    assert spell_out(typed) == [
        "--trainer.max_steps=5", "--trainer.devices", "2", "--seed_everything", "7",
        "--model.d_model=8", "--none", "-x",
    ]  # fmt: skip
    nested = ["--callbacks+=EarlyStopping", "--callbacks.monitor=val_loss"]
    assert spell_out(nested) == [word.replace("--", "--trainer.") for word in nested]
    for spelling in ("--max_steps=7", "--trainer.max_steps=7"):
        assert ShakespeareCLI([*TINY, spelling]).trainer.max_steps == 7


def test_what_is_typed_wins_over_yaml_files_and_later_files_over_earlier_ones(tiny_fit):
    Path("a[1].yaml").write_text("trainer: {max_steps: 9}\nmodel: {d_model: 8, num_heads: 2}\n")
    Path("b.yaml").write_text("model: {d_model: 4}\n")
    given = ["--model.num_heads=1", "--config=a[1].yaml", "-c", "b.yaml", "--data.corpus=sample"]
    cli = ShakespeareCLI(given, "default")
    assert (cli.trainer.max_steps, cli.recipe, cli.is_default) == (9, "a[1].yaml, b.yaml", False)
    options = cli.model.hparams
    assert (options["d_model"], options["num_heads"], options["zero_init"]) == (4, 1, False)
    cli = ShakespeareCLI(["--data.corpus=sample"], "default")
    assert (cli.recipe, cli.is_default, cli.model.hparams["zero_init"]) == ("default", True, True)


def test_every_recipe_has_the_name_of_its_file_and_a_file_comes_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_names()[0] == "default"
    paths = {config_path(name) for name in recipe_names()}
    assert paths == set(FOLDER.glob("*.yaml"))
    assert sorted(map(recipe_name, paths)) == sorted(recipe_names())
    Path("little").write_text("data: {}")
    assert (config_path("little"), recipe_name(Path("little"))) == (Path("little"), "little")
    for config in ("none.yaml", "Little", "little.yaml", "."):
        with pytest.raises(UserError, match=r"expected a YAML file, or one of the recipes: defaul"):
            config_path(config)

    with pytest.raises(UserError, match=r"cannot read \.: Is a directory"):
        read_options(Path())


def test_a_file_named_as_a_recipe_does_not_replace_the_default(tiny_main):
    Path("default").write_text("hello")
    assert tiny_main("--max_steps=1") == 0


def test_print_config_shows_every_option(tiny_fit, capsys):
    with pytest.raises(SystemExit) as caught:
        ShakespeareCLI([*TINY, "--max_steps=7", "--print_config"])
    assert caught.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["max_steps"] == 7
    assert config["data"]["context_length"] == 16
    assert config["model"]["positions"] == "sinusoidal"


def test_the_short_help_fits_a_screen_and_names_options_that_exist(tiny_main, capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    steps = "when to stop; or --max_epochs, --max_time (1250)"
    assert f"  --max_steps                 {steps}" in lines
    options = ShakespeareCLI(["--data.corpus=sample"]).parser._option_string_actions
    assert {f"--{name}" for name in SHORT_HELP} <= set(options)


def documentation(config: type) -> dict[str, str]:
    """Return the text that a class's docstring has for each of its arguments."""
    arguments, *_ = (inspect.getdoc(config) or "").partition("Raises:")
    return dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", arguments, re.MULTILINE))


def test_help_all_documents_every_option_of_the_dataclasses(tiny_fit, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")  # no words divided at their hyphens
    with pytest.raises(SystemExit):
        ShakespeareCLI(["--help_all"])
    text = " ".join(capsys.readouterr().out.split())
    options = ("model.d_model D_MODEL", "data.corpus CORPUS", "trainer.max_steps MAX_STEPS")
    first = [text.index(f"--{option}") for option in options]
    assert first == sorted(first)  # this project's options before Lightning's
    of_objective = (DistillationConfig, MultiTokenConfig, ObjectiveConfig)
    of_model = (NetworkConfig, OptimizerConfig, *of_objective)
    for config in (*of_model, SplitConfig):
        group = "model" if config in of_model else "data"
        documented = documentation(config)
        own = [field for field in fields(config) if field.name in config.__annotations__]
        defaults = {field.name: field.default for field in own}
        assert documented.keys() == defaults.keys()
        # Set by --data.context_length, so not an option of the model.
        for name in defaults.keys() - {"context_length"}:
            described = re.escape(" ".join(documented[name].split()))
            default = "null" if defaults[name] is None else defaults[name]
            shown = rf"--{group}\.{name} \S+ {described} \(type: [^()]*, default: {default}\)"
            assert re.search(shown, text), name
    assert "--model.context_length " not in text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.dropout=1.5", "dropout is 1.5"),
        ("--data.split=documents", "split is documents: the corpus has 1 document(s)"),
        ("--data.corpus=no/such.txt", "'no/such.txt' is neither an existing file nor a known"),
        ("--ckpt_path=none.ckpt", "there is no checkpoint none.ckpt"),
        ("--ckpt_path=a,b", "one model of several, distil them: --model.teachers a,b"),
        ("--ckpt_path=last", "no last.ckpt in lightning_logs"),
        ("--ckpt_path=https://example.org/a.ckpt", "no checkpoint https://example.org/a.ckpt"),
        ("--max_steps=-1 --max_time=00:00:01:00", "schedule is linear"),
        ("--limit_val_batches=0", "limit_val_batches is 0"),
        ("--data.corpus=/dev/zero", "cannot read /dev/zero: expected a regular file"),
        ("--data.batch_size=1000000000000", "a batch of 1,000,000,000,000 windows needs"),
        ("--model.d_model=10000000", "use a smaller model"),
        ("--model.num_layers=1000000000", "use a smaller model"),
        ('--model={"seed":5}', "--model sets model.seed, which follows from seed_everything: set"),
        ("--model=seed.yaml", "--model sets model.seed, which follows from seed_everything: set"),
        ("--max_time=00:00:00:00", "max_time is 0.0: expected a value > 0"),
        ("--val_check_interval=5s", "Invalid time format for `val_check_interval`: '5s'"),
        ("--default_root_dir=s3://a/b", "default_root_dir is s3://a/b: expected a folder of this"),
        ("--limit_train_batches=0", "limit_train_batches is 0: nothing to train"),
        ("--max_steps=0", "max_steps is 0: nothing to train"),
        ("--max_epochs=0", "max_epochs is 0: nothing to train"),
        ("--val_check_interval=0", "val_check_interval is 0: expected a value > 0"),
        ("--accumulate_grad_batches=0", "accumulate_grad_batches is 0: expected a value >= 1"),
        ("--check_val_every_n_epoch=0", "check_val_every_n_epoch is 0: expected a value >= 1"),
        ("--gradient_clip_val=-1", "gradient_clip_val is -1: expected a value >= 0"),
        ("--seed=-1", "seed_everything is -1"),
        ("--more_steps=5", "no last.ckpt in lightning_logs: train a model first (python scripts"),
        ("--early_stopping=0", "early_stopping is 0: expected a value >= 1"),
        ("--init_from=none.ckpt", "there is no checkpoint none.ckpt"),
        ("--init_from=a,b", "one model of several, distil them: --model.teachers a,b"),
        ("--name=../elsewhere", "name is '../elsewhere': expected letters, digits, _, - and ."),
        ("--name=version_3", "name is 'version_3': expected"),
        ("--config=none.yaml", "config is 'none.yaml': expected a YAML file, or one of the rec"),
        ("--config=latin.yaml", "latin.yaml is not UTF-8 text: invalid byte 0xE9 at offset 16"),
        ("--logger=CometLogger", "Requirement 'comet-ml>=3.44.4' not met. HINT: Try running `pip"),
        ("--precision=transformer-engine", "HINT: Try running `pip install -U 'transformer_eng"),
        ("--num_nodes=2 --devices=1", "num_nodes is 2: set MASTER_ADDR and MASTER_PORT"),
        ("--max_steps=-5", "the Trainer rejects these options"),
        ("--sample.temperature=-1", "temperature is -1.0"),
        ("--sample.max_new_tokens=-1", "max_new_tokens is -1"),
        ("--accelerator=banana", "--accelerator banana"),
        ("--accelerator=gpu", "--accelerator gpu"),
        ("--init_from=a.ckpt --more_steps=2", "--init_from starts a new run, and --ckpt_pa"),
        ("--init_from=a.ckpt --ckpt_path=last", "--init_from starts a new run, and --ckpt_pa"),
        ("--more_steps=2 --max_steps=9", "--more_steps and --max_steps both say when"),
        ("--more_steps=2 --max_epochs=9", "--more_steps and --max_epochs both say when"),
        ("--more_steps=2 --model.decay_steps=9", "--more_steps and --model.decay_steps both say"),
        ("--name=a --logger=CSVLogger --logger.save_dir=.", "name is for the default logger"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(tiny_main, capsys, option, message):
    if option == "--accelerator=gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    Path("latin.yaml").write_bytes(b'data: {corpus: "\xe9"}')
    Path("seed.yaml").write_text("seed: 5")
    assert tiny_main(*option.split()) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: null", "a.yaml has NoneType under model: expected options by their names"),
        ("trainer: 5", "a.yaml has int under trainer"),
        ("data: [corpus]", "a.yaml has list under data"),
        ("[5]", "a.yaml has list: expected options by their names"),
        ("model: {seed: 5}", "a.yaml sets model.seed, which follows from seed_everything: set th"),
        ("data.seed: 5", "a.yaml sets data.seed, which follows from seed_everything"),
        ("model: {vocabulary: abc}", "a.yaml sets model.vocabulary, which follows from data.corpu"),
        ("model: {context_length: 5}", "which follows from data.context_length"),
        ("more_steps: 3", "--more_steps and --max_steps both say when the run ends"),
        ("a: &a [*a, *a]", "a.yaml holds more than 10,000 values"),
        ("a: [", "a.yaml is not YAML: while parsing"),
        ("[" * 100_000, "a.yaml is not YAML: maximum recursion depth exceeded"),
        ("seed_everything: true", "seed_everything is True: expected int"),
        ("trainer: {max_steps: null}", "Parser key"),
        ("model: {network: null}", 'Parser key "model.network": Expected a'),
        ("name: null", 'Parser key "name": Expected a'),
    ],
)
def test_a_yaml_file_with_more_or_less_than_options_is_one_line(tiny_main, capsys, text, message):
    Path("a.yaml").write_text(text)
    typed = [] if text.startswith("trainer") else ["--max_steps=2"]
    assert tiny_main("--config=a.yaml", *typed) in (1, 2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert message in line
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "null", "---\n", "data: {}"])
def test_a_yaml_file_without_options_sets_none(tiny_fit, text):
    Path("a.yaml").write_text(text)
    cli = ShakespeareCLI([*TINY, "--config=a.yaml"], "default")
    assert (cli.recipe, cli.model.hparams["zero_init"]) == ("a.yaml", False)


RENAMED = "data.sampling was renamed: use data.window_order (try"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("--max_steps=many", 'Parser key "trainer.max_steps"'),
        ("--config", "argument -c/--config: expected one argument (try"),
        ("--data.sampling=grid", RENAMED),
        ("--data.sampling grid", RENAMED),
        ("--config=old.yaml", RENAMED),
        ("--max_step 5", "arguments: --max_step 5: did you mean --max_steps?"),
        ("--model.d_modle=5", "arguments: --model.d_modle=5: did you mean --model.d_model?"),
        ("--config=own.yaml", "does not accept option 'd_modle': did you mean --model.d_model?"),
        ("--qqqq", "arguments: --qqqq (try"),
        ("--model=\udcc1", r"'--model=\udcc1' is not UTF-8 (try"),
        ("--q\x1b[31m", r"arguments: --q\x1b[31m (try"),
        ("validate", "fit has no subcommand validate: python scripts/evaluate.py --part val"),
        ("test -x", "fit has no subcommand test: python scripts/evaluate.py --part test"),
        ("predict", "fit has no subcommand predict: python scripts/complete.py --prompt"),
    ],
)
def test_wrong_usage_is_one_line_with_a_hint(tiny_main, capsys, monkeypatch, words, hint):
    Path("own.yaml").write_text("model: {d_modle: 5}")
    Path("old.yaml").write_text("data: {sampling: grid}\n")
    monkeypatch.setattr("sys.argv", ["scripts/fit.py"])
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert hint in line
    assert not Path("lightning_logs").exists()


def test_a_size_sets_layers_heads_width_and_rate_and_what_is_typed_wins(tiny_fit) -> None:
    own = ["--config=plain", "--size=0.1M", "--max_steps=1", "--limit_val_batches=1"]
    own += ["--data.corpus=sample", "--data.batch_size=1", "--accelerator=cpu"]
    options = fit([*own, "--model.num_heads=4"]).model.config
    assert (options.num_layers, options.num_heads, options.d_model) == (2, 4, 64)
    assert options.learning_rate == pytest.approx(4e-3 * 160 / 64)
    repeated = fit(
        [f"--config={Path('lightning_logs/version_0/config.yaml')}"]
    ).model.config  # not scaled twice
    assert repeated == options
