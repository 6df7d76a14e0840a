"""`run.json`: what a run was made with and what it measured, also of one that was resumed."""

import json
from pathlib import Path

import pytest
import torch

from shakespeare_lm.checkpoint.runs import Run
from shakespeare_lm.training.run_record import sizes

RUN = Run(Path("lightning_logs/version_0"))


def test_a_run_records_its_provenance_and_what_it_measured(tiny_fit) -> None:
    options = ("--max_steps=6", "--val_check_interval=3", "--data.test_fraction=0.1")
    cli = tiny_fit(*options)
    record = RUN.record()
    (process,) = record["processes"]
    assert process["versions"]["torch"] == torch.__version__
    assert process["text_sha256"] == cli.datamodule.fingerprint["text_sha256"]
    assert process["threads"] == torch.get_num_threads()
    assert process["precision"] == cli.trainer.precision
    assert process["commit"] is None or len(process["commit"]) == 40
    assert (record["state"], record["steps"]) == ("finished", 6)
    assert [one["step"] for one in record["validations"]] == [3, 6]
    assert record["validations"][1]["val_loss"] == pytest.approx(
        float(cli.history.validations[1].val_loss)
    )
    assert record["test_loss"] == pytest.approx(float(cli.trainer.callback_metrics["test_loss"]))
    windows = sum(
        int(batch.target_mask.sum())
        for batch, _ in zip(cli.datamodule.train_dataloader(), range(6), strict=False)
    )
    assert record["characters"] == pytest.approx(windows, rel=0.02)  # the last of an epoch differ
    assert 0 < record["train_seconds"] < record["seconds"]
    content = torch.load(cli.last.path, weights_only=True)
    assert content["provenance"] == process


def test_a_resumed_run_continues_its_record(tiny_fit) -> None:
    whole = tiny_fit("--max_steps=4", "--val_check_interval=2", "--name=whole")
    tiny_fit("--max_steps=2", "--val_check_interval=2", "--model.decay_steps=4")
    first = RUN.record()
    killed = first | {"steps": 3, "state": "running", "characters": 10**9, "validations": [
        *first["validations"], {**first["validations"][0], "step": 3}]}  # fmt: skip
    RUN.record_file.write_text(json.dumps(killed))
    tiny_fit("--ckpt_path=last", "--max_steps=4")
    record = RUN.record()
    of_whole = Run(Path(whole.last.path).parents[1]).record()
    assert [one["step"] for one in record["validations"]] == [2, 4]
    assert record["characters"] == of_whole["characters"]
    assert [one["from_step"] for one in record["processes"]] == [0, 2]
    assert record["train_seconds"] > first["train_seconds"]


def test_what_was_not_recorded_before_a_resume_is_not_known(tiny_fit) -> None:
    tiny_fit("--max_steps=2")
    RUN.record_file.unlink()  # as of an older version
    tiny_fit("--ckpt_path=last", "--max_steps=4")
    record = RUN.record()
    assert (record["steps"], record["characters"], record["train_seconds"]) == (4, None, None)
    assert record["weights"] > 0


def test_a_damaged_record_is_none_and_does_not_end_a_run(tiny_fit) -> None:
    tiny_fit("--max_steps=2")
    for damaged in ("{", "[]", '{"steps": "x"}'):
        RUN.record_file.write_text(damaged)
        cli = tiny_fit("--ckpt_path=last", "--max_steps=3")
        assert cli.trainer.global_step == 3


def test_operations_are_six_for_each_weight_and_those_of_attention(transformer) -> None:
    """Without the embeddings, which are looked up; attention multiplies twice by 8 positions."""
    found = sizes(transformer)
    weights = sum(
        p.numel()
        for name, p in transformer.named_parameters()
        if p.ndim == 2 and "embedding" not in name
    )
    attention = 3 * 2 * 2 * 8 * 8 * 2  # training, two operations, two products, 2 layers
    assert found["flops_per_character"] == 6 * weights + attention
    assert found["weights"] == sum(p.numel() for p in transformer.parameters())
