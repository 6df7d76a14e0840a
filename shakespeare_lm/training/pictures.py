"""What a network does, as pictures in TensorBoard after each validation."""

import math
import unicodedata
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Documents
from shakespeare_lm.evaluation.attention_weights import attention_weights
from shakespeare_lm.evaluation.breakdown import by_position
from shakespeare_lm.evaluation.losses import character_losses
from shakespeare_lm.model.network import Network
from shakespeare_lm.training.cosmetic import cosmetic
from shakespeare_lm.training.drawing import bars, heatmap, tiled, visible
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.tensorboard_layout import tensorboard_writers

# So that the heads of a layer fit on a screen, and the candidates of a line.
_ATTENTION_CHARACTERS, _LINE_CHARACTERS, _CANDIDATES = 24, 32, 8
_SHORTEST_LINE = 20
# The beginning of the validation part, for the losses by position and for long lines.
_SAMPLE_CHARACTERS = _SEARCHED_CHARACTERS = 16_384
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
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ShakespeareLM)
        network = pl_module.network
        table = getattr(_inner(network), "position_table", None)
        if trainer.global_step == 0 and table is not None and table.ndim == 2:  # not rotary
            _show({"sinusoidal_positions": position_picture(table.float().cpu())}, trainer)

    @cosmetic
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        writers, loader = tensorboard_writers(trainer), validation_loader(trainer)
        finite = torch.isfinite(trainer.callback_metrics["val_loss"])
        if not writers or loader is None or not finite:
            return
        assert isinstance(pl_module, ShakespeareLM)
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
    step = max(0, trainer.global_step - 1)  # from 0, as in the curves
    for writer in tensorboard_writers(trainer):
        for tag, picture in pictures.items():
            writer.add_image(tag, np.asarray(picture), step, dataformats="HWC")


def attention_pictures(
    network: Network, tokenizer: CharTokenizer, line: str
) -> dict[str, Image.Image]:
    """Return a picture for each layer, with all heads."""
    line = line[:_ATTENTION_CHARACTERS]
    labels = [visible(character) for character in line]
    # The square root makes small weights visible.
    weights = attention_weights(network, _ids(network, tokenizer, line))[:, 0].float().sqrt().cpu()
    pictures = {}
    for number, heads in enumerate(weights.numpy(), start=1):
        images = [heatmap(h, labels, labels, f"head {i}") for i, h in enumerate(heads, start=1)]
        title = f"layer {number}: what each character (row) attends to (columns)"
        pictures[f"attention/layer_{number}"] = tiled(images, title)
    return pictures


def next_characters_picture(network: Network, tokenizer: CharTokenizer, line: str) -> Image.Image:
    """Draw the likeliest next characters after each of a line, and a frame around the true one."""
    with evaluating(network):
        logits = network(_ids(network, tokenizer, line))[0, :, : len(tokenizer.vocabulary)]
        probabilities, ids = logits.float().softmax(-1).sort(dim=-1, descending=True)
    count = min(_CANDIDATES, len(tokenizer.vocabulary))
    shown, candidates = probabilities[:, :count].T.cpu().numpy(), ids[:, :count].T.cpu().numpy()
    following = np.array([*tokenizer.encode(line[1:]), -1])
    return heatmap(
        shown,
        [str(place) for place in range(1, count + 1)],
        [visible(character) for character in line],
        "after each character: the likeliest next ones; framed: the one that follows",
        cell=26,
        texts=[[visible(tokenizer.vocabulary[i]) for i in row] for row in candidates.tolist()],
        framed=candidates == following,
    )


def loss_by_position_picture(network: Network, loader: WindowLoader, fast: bool) -> Image.Image:
    """Draw the loss by length of the context, for the beginning of the loader's text."""
    sample = _beginning(loader.documents)
    losses = character_losses(network, sample, loader.context_length, bfloat16=fast)
    groups = by_position(losses, sample.lengths.tolist(), loader.context_length)
    title = f"val_loss by number of characters seen (first {len(losses):,} characters)"
    return bars([g.nats for g in groups], [g.name for g in groups], title, "nats per character")


def _beginning(documents: Documents) -> Documents:
    ends = documents.lengths.cumsum(0).clamp(max=_SAMPLE_CHARACTERS)
    lengths = ends.diff(prepend=ends.new_zeros(1))
    return Documents(documents.ids[:_SAMPLE_CHARACTERS], lengths[lengths > 0])


def position_picture(table: Tensor) -> Image.Image:
    """Draw the position table `[length, d_model]`; of a long one, its beginning."""
    table = table[:128]
    rows, columns = ([str(i) if i % 16 == 0 else "" for i in range(n)] for n in table.shape)
    title = "sinusoidal positions: a row per position, a column per dimension (blue 1, red -1)"
    cell = max(1, math.ceil(640 / table.shape[1]))
    return heatmap(table.numpy(), rows, columns, title, cell)


def _ids(network: Network, tokenizer: CharTokenizer, line: str) -> Tensor:
    device = next(network.parameters()).device
    return torch.tensor([tokenizer.encode(line)], device=device)


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
