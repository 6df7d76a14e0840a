"""Pictures of what a network does, in TensorBoard after each validation."""

import unicodedata
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Documents
from shakespeare_lm.evaluation.drawing import visible
from shakespeare_lm.evaluation.pictures import (
    attention_pictures,
    loss_by_position_picture,
    next_characters_picture,
    position_picture,
)
from shakespeare_lm.model.network import Network
from shakespeare_lm.training.cosmetic import cosmetic
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.progress import announce
from shakespeare_lm.training.tensorboard_layout import tensorboard_writers

# So that labels can be read in TensorBoard's cards, which are 325 pixels wide.
_LINE_CHARACTERS = 16
_SHORTEST_LINE = 20
_SEARCHED_CHARACTERS = 16_384  # the beginning of the validation part
_PROJECTOR_CONFIG = """\
embeddings {
  tensor_name: "characters"
  tensor_path: "embeddings.tsv"
  metadata_path: "characters.tsv"
}
"""


class Pictures(Callback):
    """Shows what the network does in TensorBoard, without changing the training."""

    @cosmetic
    def on_train_start(self, trainer: Trainer, pl_module: ShakespeareLM) -> None:
        table = getattr(_inner(pl_module.network), "position_table", None)
        if trainer.global_step == 0 and table is not None and table.ndim == 2:  # not rotary
            _show({"sinusoidal_positions": position_picture(table.float().cpu())}, trainer)

    @cosmetic
    def on_validation_end(self, trainer: Trainer, pl_module: ShakespeareLM) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        writers, loader = tensorboard_writers(trainer), validation_loader(trainer)
        finite = torch.isfinite(trainer.callback_metrics["val_loss"])
        if not writers or loader is None or not finite:
            return
        announce(trainer, "drawing pictures")
        network, tokenizer = pl_module.network, pl_module.tokenizer
        (line,) = long_lines(loader.documents, tokenizer, 1)
        line = line[: min(_LINE_CHARACTERS, loader.context_length)]
        pictures = {"next_characters": next_characters_picture(network, tokenizer, line)}
        if hasattr(network, "blocks"):
            pictures |= attention_pictures(network, tokenizer, line)
        if (embedding := getattr(_inner(network), "embedding", None)) is not None:
            for writer in writers:
                write_projector(writer.get_logdir(), embedding.weight, tokenizer.vocabulary)
        fast = trainer.precision == "bf16-mixed"
        pictures["loss_by_position"] = loss_by_position_picture(network, loader, fast)
        _show(pictures, trainer)


def _inner(network: Network) -> Network:
    """Return the network inside one with a memory."""
    return getattr(network, "base", network)


def _show(pictures: dict[str, Image.Image], trainer: Trainer) -> None:
    for writer in tensorboard_writers(trainer):
        for name, picture in pictures.items():
            image = np.asarray(picture)
            writer.add_image(f"pictures/{name}", image, trainer.global_step, dataformats="HWC")


def write_projector(folder: str | Path, embeddings: Tensor, vocabulary: str) -> None:
    """Write embeddings `[vocab, d_model]` for TensorBoard's projector, if the folder is local.

    `SummaryWriter.add_embedding` adds another copy each time, and complains when a run is resumed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    table = embeddings.detach()[: len(vocabulary)].float().cpu().numpy()
    np.savetxt(folder / "embeddings.tsv", table, "%.5g", "\t")
    rows = ["character\tUnicode category"]
    rows += [f"{visible(character)}\t{unicodedata.category(character)}" for character in vocabulary]
    (folder / "characters.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "projector_config.pbtxt").write_text(_PROJECTOR_CONFIG)


def validation_loader(trainer: Trainer) -> WindowLoader | None:
    """Return the loader of the validation part; None if the Trainer was given another kind."""
    loaders = trainer.val_dataloaders
    first = loaders[0] if isinstance(loaders, list) else loaders
    return first if isinstance(first, WindowLoader) else None


def long_lines(documents: Documents, tokenizer: CharTokenizer, count: int) -> list[str]:
    """Return at most `count` long lines of the first pages, or else the beginning of the text."""
    text = tokenizer.decode(documents.ids[:_SEARCHED_CHARACTERS].tolist())
    lines = [line for line in text.split("\n") if len(line) >= _SHORTEST_LINE]
    return lines[:: max(1, len(lines) // count)][:count] or [text[:_SHORTEST_LINE]]
