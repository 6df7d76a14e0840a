"""A run's `run.json`, next to its `config.yaml`: what the run was made with, and what it measured.

The laboratory compares runs by it. A resumed run continues its record.
"""

import math
import os
import platform
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import shakespeare_lm
from shakespeare_lm import invocation
from shakespeare_lm.checkpoint.runs import Run
from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.model.network import Network
from shakespeare_lm.training.cosmetic import cosmetic
from shakespeare_lm.training.progress import Throughput
from shakespeare_lm.training.schedule import planned_steps
from shakespeare_lm.training.step_metrics import peak_memory_bytes

_TOTALS = ("characters", "train_seconds", "seconds")  # over all processes of the run
_PACKAGES = ("shakespeare-lm", "torch", "pytorch-lightning", "numpy")


class RunRecord(Callback):
    """Writes `run.json` in the run's folder at the first step, after each validation and after a
    test.

    Keys: `processes` (the provenance of each process that trained, and from which step on), `state`
    (running, finished, stopped), `steps`, `characters` trained on, `train_seconds` (without
    start-up and validations), `seconds` (of the processes), `peak_memory_bytes`, `weights` and
    `flops_per_character` (of the network, forward and backward), `validations` (`step`,
    `train_seconds`, `val_loss`, `train_eval_loss`), and `test_loss` if there is a test part. What
    was not recorded before a resume, by an older version or in another folder, is None.
    """

    def __init__(self, throughput: Throughput) -> None:
        self._throughput = throughput
        self._run: Run | None = None
        self._content: dict[str, Any] = {}
        self._before: dict[str, Any] = dict.fromkeys(_TOTALS, 0)

    @cosmetic
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        folder = trainer.log_dir  # in all processes: the first tells the others
        self._run = None if folder is None else Run(Path(folder))
        self._content = self._resumed(trainer) or {"processes": [], "validations": []}
        process = {"from_step": trainer.global_step, **provenance(trainer)}
        self._content["processes"].append(process)
        self._content |= sizes(pl_module.network)

    @cosmetic
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if "state" not in self._content:  # only now it is certain that nothing is wrong
            self._write(trainer, pl_module, "running")

    def _resumed(self, trainer: Trainer) -> dict[str, Any] | None:
        """Return the record up to the step that the run resumes from."""
        record, step = self._run.record() if self._run else {}, trainer.global_step
        if not step:
            return None
        self._before = {name: record.get(name) for name in _TOTALS}
        if not record:
            return None
        del record["state"]
        record["validations"] = [one for one in record["validations"] if one["step"] <= step]
        if record["steps"] > step:  # killed since, so what it did then is not part of the run
            earlier = {**self._before, **(record["validations"] or [{}])[-1]}
            self._before = {name: earlier[name] for name in _TOTALS}
        return record

    @cosmetic
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        losses = {n: _plain(trainer.callback_metrics[n]) for n in ("val_loss", "train_eval_loss")}
        totals = {"step": trainer.global_step, **self._totals()}
        self._content["validations"].append(totals | losses)
        self._write(trainer, pl_module, "running")

    @cosmetic
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_whole = 0 < planned_steps(trainer) <= trainer.global_step
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            is_whole |= bool(getattr(callback, "stopping_reason_message", None))  # early stopping
        self._write(trainer, pl_module, "finished" if is_whole else "stopped")

    @cosmetic
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._content:
            self._content["test_loss"] = _plain(trainer.callback_metrics["test_loss"])
            self._write(trainer, pl_module, self._content["state"])

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._content:  # the newest only: checkpoints must not grow with the run
            checkpoint["provenance"] = self._content["processes"][-1]

    def _totals(self) -> dict[str, float | None]:
        done = self._throughput
        here = done.total_characters, done.train_seconds, time.time() - invocation.STARTED
        before = self._before.values()
        return {
            name: None if earlier is None else earlier + value
            for name, earlier, value in zip(_TOTALS, before, here, strict=True)
        }

    def _write(self, trainer: Trainer, module: LightningModule, state: str) -> None:
        self._content |= {"state": state, "steps": trainer.global_step, **self._totals()}
        peaks = self._content.get("peak_memory_bytes"), peak_memory_bytes(module.device)
        self._content["peak_memory_bytes"] = max(peak or 0 for peak in peaks) or None
        if trainer.is_global_zero and self._run is not None:
            self._run.write_record(self._content)


def provenance(trainer: Trainer) -> dict[str, Any]:
    """Return what the losses and times of a run depend on besides its options."""
    data = getattr(trainer, "datamodule", None)
    of_text = data.fingerprint["text_sha256"] if isinstance(data, ShakespeareDataModule) else None
    root, words = trainer.strategy.root_device, sys.argv[1:]
    return {
        **_commit(),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in _PACKAGES}},
        "processor": torch.cuda.get_device_name(root) if root.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "accelerator": root.type,
        "world_size": trainer.world_size,
        "precision": str(trainer.precision),
        "text_sha256": of_text,
        "command": f"{invocation.command_line('fit')} {shlex.join(words[words[:1] == ['fit'] :])}",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(invocation.STARTED)),
    }


def _commit() -> dict[str, Any]:
    """Return the commit of this repository, and whether its files differ from it; None for an
    installed package.
    """
    root = Path(shakespeare_lm.__file__).parents[1]
    if not (root / ".git").exists():
        return {"commit": None, "uncommitted_changes": None}
    asked = {
        "commit": ["rev-parse", "HEAD"],
        "uncommitted_changes": ["status", "--porcelain", "-uno"],
    }
    answers: dict[str, Any] = dict.fromkeys(asked)
    with suppress(OSError, subprocess.SubprocessError):  # no git here
        for name, words in asked.items():
            command = ["git", "-C", str(root), *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            answers[name] = done.stdout.strip()
        answers["uncommitted_changes"] = bool(answers["uncommitted_changes"])
    return answers


def processor() -> str:
    """Return the name of this machine's processor, and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    affinity = getattr(os, "sched_getaffinity", None)
    return f"{name}, {len(affinity(0)) if affinity else os.cpu_count()} cores"


def sizes(network: Network) -> dict[str, Any]:
    """Return the number of weights, and of the operations for a character in training: three times
    those of a forward pass over a whole context, by torch's count.
    """
    length = network.config.context_length
    ids = torch.zeros(1, length, dtype=torch.long, device=next(network.parameters()).device)
    # The only kernel of attention whose operations torch 2.13 counts on a CPU.
    with evaluating(network), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as count:
        network(ids)
    weights = sum(parameter.numel() for parameter in network.parameters())
    return {"weights": weights, "flops_per_character": 3 * count.get_total_flops() / length}


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None  # as JSON has it
