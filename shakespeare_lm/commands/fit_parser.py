"""How the words after `fit` are read: by jsonargparse, with a short help and short names."""

import functools
import inspect
import os
import re
import sys
from argparse import SUPPRESS, Action, Namespace
from typing import Any, NoReturn

import jsonargparse
import pytorch_lightning
from jsonargparse import ActionConfigFile
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser

from shakespeare_lm.commands.console import did_you_mean
from shakespeare_lm.errors import printable
from shakespeare_lm.invocation import command_line
from shakespeare_lm.methods.import_path import is_import_path

# jsonargparse 4.53 reads and writes YAML in the system's encoding, which on Windows is UTF-8 only
# since Python 3.15 (not reported).
for _module in (jsonargparse._core, jsonargparse._paths):
    _module.open = functools.partial(open, encoding="utf-8")  # type: ignore[attr-defined]

TRAINER_OPTIONS = tuple(inspect.signature(Trainer).parameters)
# Of the more than a hundred options, those that matter most.
SHORT_HELP = {
    "config": "recipe or YAML: quick, memory, laptop, gpu, ...",
    "name": "of the run, in lightning_logs/NAME/version_N",
    "data.corpus": "files, tinyshakespeare, complete, sample",
    "data.split": "or documents: validate on files",
    "data.batch_size": "windows per step and process",
    "data.context_length": "characters seen at once",
    "model.network": "--model my.Network: your own",
    "model.objective": "--objective my.Objective: your own",
    "model.optimizer": "adamw, sgd, my.Optimizer: your own",
    "model.num_layers": "blocks of the transformer",
    "model.num_heads": "attention heads of a block",
    "model.d_model": "width of the transformer",
    "model.dropout": "against overfitting",
    "model.learning_rate": "the highest, of AdamW and SGD",
    "model.muon_learning_rate": "the highest, of Muon",
    "trainer.max_steps": "when to stop; or --max_epochs, --max_time",
    "trainer.val_check_interval": "steps between validations",
    "trainer.accelerator": "cpu, gpu, mps",
    "trainer.devices": "how many of them",
    "trainer.precision": "bf16-mixed, 32-true, ... (the fastest here)",
    "seed_everything": "--seed for short",
    "ckpt_path": "resume: last (the newest run), a folder, a file",
    "more_steps": "train longer than planned",
    "init_from": "start with the weights of a model",
    "early_stopping": "patience, in validations",
    "print_config": "print all options as YAML, without training",
}


class FitParser(LightningArgumentParser):
    """Lightning's parser. Trainer options have short names: --max_steps is --trainer.max_steps."""

    def __init__(self, **options: Any) -> None:
        header = [f"pytorch_lightning=={pytorch_lightning.__version__}"]
        super().__init__(**options, prog=command_line("fit"), dump_header=header)
        self.config_files: list[str] = []  # that were named so far
        if "usage" not in options:  # of one class, such as WandbLogger, which has its own config
            return
        self.add_argument("-c", "--config", action=_ConfigFile, help="recipe or YAML file")
        self.add_argument("--help_all", action=_HelpAll, nargs=0, help="show all options and exit")

    def format_help(self, formatter: Any = None) -> str:
        """Return the help in one screen."""
        defaults = self.get_defaults()
        lines = [f"usage: {self.usage}", ""]
        for name, text in SHORT_HELP.items():
            default = defaults.get(name)
            shown = "" if default in (None, "") or default is False else f" ({default})"
            lines.append(f"  --{name.removeprefix('trainer.'):<25} {text}{shown}")
        lines += ["", f"{command_line('fit')} --help_all shows all options."]
        return "\n".join(lines) + "\n"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line that names the most similar option, and exit with code 2."""
        text = " ".join(message.split()).replace("--trainer.", "--")
        hint = ""
        if unknown := re.search(r"arguments: --([\w.]+)|Group '(\w+)' .* option '(\w+)'", text):
            word = unknown[1] or f"{unknown[2]}.{unknown[3]}".removeprefix("trainer.")
            options = (name for action in self._actions for name in action.option_strings)
            hint = did_you_mean(f"--{word}", (name.replace("--trainer.", "--") for name in options))
        self.exit(2, f"error: {printable(text)}{hint} (try {self.prog} --help)\n")


class _ConfigFile(ActionConfigFile):
    """Collects the files: what is typed wins over them, wherever they stand."""

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        parser.config_files.append(values)


class _HelpAll(Action):
    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest=SUPPRESS, default=SUPPRESS, **options)

    def __call__(self, parser: Any, *_: Namespace | Any) -> None:
        parser._print_message(LightningArgumentParser.format_help(parser), sys.stdout)
        parser.exit()


def spell_out(words: list[str]) -> list[str]:
    """Spell out the short names of options: `--max_steps=5` becomes `--trainer.max_steps=5`."""
    full = {f"--{name}": f"--trainer.{name}" for name in TRAINER_OPTIONS}
    full |= {"--seed": "--seed_everything", "--objective": "--model.objective"}
    # The name ends before a value, a nested key, or the + that appends to a list.
    name = re.compile(r"^--\w+(?=$|[=.+])")
    words = [name.sub(lambda found: full.get(found[0], found[0]), word) for word in words]
    model = typed_value("model", words) or ""  # or JSON, or a file, for all its options
    if is_import_path(model) and not os.path.exists(model):
        words = [re.sub("^--model(?=$|=)", "--model.network", word) for word in words]
    # Lightning has no default for the folder of a logger of files.
    writes_files = typed_value("trainer.logger", words) in ("CSVLogger", "TensorBoardLogger")
    if writes_files and not any("save_dir" in word for word in words):
        root = os.path.expanduser(typed_value("trainer.default_root_dir", words) or ".")
        words.append(f"--trainer.logger.save_dir={root}")
    return words


def typed_value(name: str, words: list[str]) -> str | None:
    """Return the value of an option among the words; None if it was not typed."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        option, equals, value = word.partition("=")
        if option == f"--{name}":
            return value if equals else following
    return None
