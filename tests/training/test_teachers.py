"""Which teachers a training has: n-grams of its text, and earlier models that fit it."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.distillation import NGramTeacher
from shakespeare_lm.methods.memory_transformer import MemoryTransformer
from shakespeare_lm.training.config import ModelConfig
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.teachers import teachers_of
from tests.conftest import Fit


def test_a_network_with_a_memory_is_taught_by_it(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=1", "--model.memory_order=2", "--model.ngram_distillation=0.5")
    network, (found,) = cli.model.transformer, cli.model.teachers
    assert isinstance(network, MemoryTransformer)
    assert isinstance(found, NGramTeacher)
    assert found.ngrams is network.ngrams


def test_a_teacher_needs_the_data_module() -> None:
    module = ShakespeareLM("ab", num_layers=1, num_heads=1, d_model=4, ngram_distillation=0.1)
    trainer = Trainer(logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match="need a ShakespeareDataModule"):
        teachers_of(module.config, module.transformer, module.tokenizer, trainer)
    assert teachers_of(ModelConfig(), module.transformer, module.tokenizer, trainer) == []


def test_a_run_is_taught_by_earlier_ones_and_resumes_with_them(tiny_fit: Fit) -> None:
    for seed in ("1", "2"):
        tiny_fit("--max_steps=3", f"--seed_everything={seed}", f"--name=teacher{seed}")
    folders = [f"lightning_logs/teacher{seed}/version_0" for seed in (1, 2)]
    taught = (
        "--model.distillation=0.7", f"--model.teachers={', '.join(folders)}",
        "--val_check_interval=3", "--model.decay_steps=6",
    )  # fmt: skip
    alone = tiny_fit("--max_steps=6", "--val_check_interval=3")
    whole = tiny_fit(*taught, "--max_steps=6")
    tiny_fit(*taught, "--max_steps=3")
    resumed = tiny_fit("--ckpt_path=last", "--max_steps=6")
    states = [cli.model.state_dict() for cli in (alone, whole, resumed)]
    assert states[0].keys() == states[1].keys()
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[0])


def test_a_teacher_that_does_not_fit_is_refused(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=1", "--name=short")
    tiny_fit("--max_steps=1", "--name=memory", "--model.memory_order=2")
    share = "--model.distillation=0.5"
    teacher = "--model.teachers=lightning_logs/short/version_0"
    with pytest.raises(UserError, match="has a context_length of 16: expected at least 32, as"):
        tiny_fit("--max_steps=1", share, teacher, "--data.context_length=32")
    Path("other.txt").write_text("abcabcab" * 200)
    with pytest.raises(UserError, match=r"short/.*best\.ckpt has other characters than this run's"):
        tiny_fit("--max_steps=1", share, teacher, "--data.corpus=other.txt")
    Path("empty").mkdir()
    for path, problem in (
        ("nowhere", "there is no checkpoint nowhere"),
        ("empty", r"no best\.ckpt in empty"),
    ):
        with pytest.raises(UserError, match=f"^the teacher {path}: .*{problem}"):
            tiny_fit("--max_steps=1", share, f"--model.teachers={path}", "--name=wrong")
    assert not Path("lightning_logs/wrong").exists()
    tiny_fit("--max_steps=1", share, "--model.teachers=lightning_logs/memory/version_0")


def test_the_files_of_the_teachers_are_settled_when_a_run_starts(tiny_fit: Fit) -> None:
    first = tiny_fit("--max_steps=1")
    taught = "--model.distillation=0.5", "--model.teachers=lightning_logs"
    second = tiny_fit("--max_steps=1", *taught)  # has the newest best.ckpt from now on
    resumed = tiny_fit("--ckpt_path=last", "--max_steps=2")
    for cli in (second, resumed):
        assert Path(cli.model.config.teachers).samefile(first.best.best_model_path)
