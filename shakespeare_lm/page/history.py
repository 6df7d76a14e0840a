"""Checkpoints of a run -> weights of a few earlier moments, for a slider on a page. `history.js`
reads them.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.page.packing import Packed, pack

_MOMENTS = 6  # with the last one
# Differences are rounded to steps of this size, as a part of the root mean square of their row: 3
# bits each when deflated, so that six moments take less than three times the size of one.
_STEP = 0.7


class History(NamedTuple):
    """The weights of earlier moments as a page holds them, the newest first."""

    data: bytes  # deflated: each moment as its difference to the one after it
    manifest: dict[str, Any]  # step of the last moment, and of each before: step, bytes, tensors
    rounded: list[dict[str, Tensor]]  # the weights that the page will compute with


def pack_moments(path: Path, checkpoint: Checkpoint, packed: Packed) -> History:
    """Pack the moments before a checkpoint, whose own weights are packed already.

    Raises:
        UserError: if there are none, or one is of another model.
    """
    step = int(checkpoint.content.get("global_step", 0))
    return pack_history(packed, step, _read_moments(find_moments(path, step), checkpoint))


def find_moments(path: Path, step: int) -> list[Path]:
    """Return the files next to a checkpoint that `ModelCheckpoint` named by steps before `step`:
    at most five, in about equal ratios of steps, the newest first.

    Raises:
        UserError: if there are none.
    """
    found = {int(name[1]): file for file in path.parent.glob("*.ckpt")
             if (name := re.search(r"step=(\d+)", file.stem))}  # fmt: skip
    earlier = sorted(number for number in found if 0 < number < step)
    if not earlier:
        raise UserError(
            f"there are no checkpoints of earlier steps next to {path}: train with "
            "--trainer.callbacks+=ModelCheckpoint --trainer.callbacks.every_n_train_steps=50 "
            "--trainer.callbacks.save_top_k=-1 --trainer.callbacks.save_weights_only=true"
        )
    ratio = (step / earlier[0]) ** (1 / (_MOMENTS - 1))
    wanted = [earlier[0] * ratio**power for power in range(_MOMENTS - 1)]
    chosen = {min(earlier, key=lambda number: abs(number - one)) for one in wanted}
    return [found[number] for number in sorted(chosen, reverse=True)]


def _read_moments(paths: Sequence[Path], checkpoint: Checkpoint) -> list[Checkpoint]:
    """Read checkpoints; a `UserError` names one of another model."""
    moments = [read_checkpoint(path) for path in paths]
    for path, moment in zip(paths, moments, strict=True):
        if (moment.tokenizer.vocabulary, moment.config) != (
            checkpoint.tokenizer.vocabulary, checkpoint.config
        ):  # fmt: skip
            raise UserError(f"{path} is of another model: move it out of the folder of the run")
    return moments


def pack_history(packed: Packed, step: int, moments: Sequence[Checkpoint]) -> History:
    """Pack moments, the newest first, before the weights that were packed after `step` steps."""
    after, parts, entries, rounded = packed.rounded, b"", [], []
    for moment in moments:
        change = pack(_differences(moment.distinct_weights, after), _scales)
        after = after | {name: after[name] + one for name, one in change.rounded.items()}
        rounded.append(after)
        parts += change.data
        tensors = change.manifest["tensors"]
        step_then = moment.content["global_step"]
        entries.append({"step": step_then, "bytes": len(change.data), "tensors": tensors})
    deflate = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)  # nothing occurs twice
    data = deflate.compress(parts) + deflate.flush()
    sizes = {"bytes": len(data), "crc32": zlib.crc32(data)}
    return History(data, {"step": step, "moments": entries, **sizes}, rounded)


def _differences(weights: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.float() - after[name]
        for name, tensor in weights.items()
        if tensor.is_floating_point()  # not the text of an n-gram memory
    }


def _scales(differences: Tensor) -> Tensor:
    return (_STEP * differences.square().mean(1).sqrt()).clamp(min=1e-12)
