"""What a network does, as pictures in TensorBoard after each validation.

Enters: the network and the validation part. Leaves: who attends to whom on a line of it, the
likeliest next characters along this line, the loss by position in the context, and the character
embeddings for the projector.
"""

import math

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.data.documents import Documents
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.evaluation.attention_weights import attention_weights
from shakespeare_lm.evaluation.breakdown import by_position
from shakespeare_lm.evaluation.losses import character_losses
from shakespeare_lm.methods.networks import Network
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training.drawing import bars, heatmap, tiled, visible
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.projector import write_projector
from shakespeare_lm.training.tensorboard_layout import tensorboard_writers
from shakespeare_lm.training.validation_text import long_lines, validation_loader

# So that the heads of a layer fit on a screen, and the candidates of a line.
_ATTENTION_CHARACTERS = 24
_LINE_CHARACTERS = 32
_CANDIDATES = 8
_SAMPLE_CHARACTERS = 16_384


class Pictures(Callback):
    """Shows what the network does after each validation, where a logger of TensorBoard is.

    The training is the same with and without.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ShakespeareLM)
        network = pl_module.transformer
        sinusoidal = pl_module.config.positions == "sinusoidal"
        if trainer.global_step == 0 and sinusoidal and isinstance(network, CausalTransformer):
            picture = position_picture(network.position_table.float().cpu())
            _show({"sinusoidal_positions": picture}, trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        writers, loader = tensorboard_writers(trainer), validation_loader(trainer)
        finite = torch.isfinite(trainer.callback_metrics["val_loss"])
        if not writers or loader is None or not finite:
            return
        assert isinstance(pl_module, ShakespeareLM)
        network, tokenizer = pl_module.transformer, pl_module.tokenizer
        (line,) = long_lines(loader.documents, tokenizer, 1)
        line = line[: min(_LINE_CHARACTERS, loader.context_length)]
        pictures = {"next_characters": next_characters_picture(network, tokenizer, line)}
        if isinstance(network, CausalTransformer):
            pictures |= attention_pictures(network, tokenizer, line)
            for writer in writers:
                folder = writer.get_logdir()
                write_projector(folder, network.embedding.weight, tokenizer.vocabulary)
        fast = trainer.precision == "bf16-mixed"
        pictures["loss_by_position"] = loss_by_position_picture(network, loader, fast)
        _show(pictures, trainer)


def _show(pictures: dict[str, Image.Image], trainer: Trainer) -> None:
    step = max(0, trainer.global_step - 1)  # from 0, as in the curves
    for writer in tensorboard_writers(trainer):
        for tag, picture in pictures.items():
            writer.add_image(tag, np.asarray(picture), step, dataformats="HWC")


def attention_pictures(
    network: CausalTransformer, tokenizer: CharTokenizer, line: str
) -> dict[str, Image.Image]:
    """Return a picture for each layer, with all heads: each row is a character, and its darkest
    columns are those that it attends to most.
    """
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
    """Draw the likeliest next characters after each character of a line, the likeliest first, with
    a frame around the one that follows.
    """
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
    """Draw the loss after so many characters of context, on the beginning of the loader's text.

    Args:
        network: of the run.
        loader: of the validation part.
        fast: compute in bfloat16, as the training does.
    """
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
