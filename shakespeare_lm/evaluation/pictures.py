"""What a network does, as pictures: attention, likely next characters, loss by position."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Documents
from shakespeare_lm.evaluation.attention_weights import attention_weights
from shakespeare_lm.evaluation.breakdown import by_position
from shakespeare_lm.evaluation.drawing import bars, heatmap, visible
from shakespeare_lm.evaluation.losses import character_losses
from shakespeare_lm.model.network import Network

# So that labels can be read in TensorBoard's cards, which scale pictures to a height of 215 pixels,
# or a width of 350, without smoothing: a head's picture has this height.
_ATTENTION_CHARACTERS, _CELL, _LETTERS = 9, 17, 16
_CANDIDATES = 8
# The beginning of a text, for the losses by position.
_SAMPLE_CHARACTERS = 16_384


def attention_pictures(
    network: Network, tokenizer: CharTokenizer, line: str
) -> dict[str, Image.Image]:
    """Return a picture for each head of each layer."""
    line = line[:_ATTENTION_CHARACTERS]
    labels = [visible(character) for character in line]
    # The square root makes small weights visible.
    weights = attention_weights(network, _ids(network, tokenizer, line))[:, 0].float().sqrt().cpu()
    pictures = {}
    for layer, head in np.ndindex(weights.shape[:2]):
        title = f"layer {layer + 1}, head {head + 1}: rows look at columns"
        picture = heatmap(weights[layer, head].numpy(), labels, labels, title, _CELL, size=_LETTERS)
        pictures[f"attention_layer_{layer + 1}_head_{head + 1}"] = picture
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
        "likeliest next characters (frame: the true one)",
        cell=30,
        texts=[[visible(tokenizer.vocabulary[i]) for i in row] for row in candidates.tolist()],
        framed=candidates == following,
    )


def loss_by_position_picture(network: Network, loader: WindowLoader, fast: bool) -> Image.Image:
    """Draw the loss by length of the context, for the beginning of the loader's text."""
    sample = _beginning(loader.documents)
    losses = character_losses(network, sample, loader.context_length, bfloat16=fast)
    groups = by_position(losses, sample.lengths.tolist(), loader.context_length)
    title = "val_loss by number of characters seen"
    unit = f"nats per character, first {len(losses):,}"
    return bars([g.nats for g in groups], [g.name for g in groups], title, unit)


def _beginning(documents: Documents) -> Documents:
    ends = documents.lengths.cumsum(0).clamp(max=_SAMPLE_CHARACTERS)
    lengths = ends.diff(prepend=ends.new_zeros(1))
    return Documents(documents.ids[:_SAMPLE_CHARACTERS], lengths[lengths > 0])


def position_picture(table: Tensor) -> Image.Image:
    """Draw the position table `[length, d_model]`; of a long one, its beginning."""
    table = table[:128]
    rows, columns = ([str(i) if i % 32 == 0 else "" for i in range(n)] for n in table.shape)
    title = "positions (rows): 1 blue, -1 red"
    cell = max(1, math.ceil(640 / table.shape[1]))
    return heatmap(table.numpy(), rows, columns, title, cell)


def _ids(network: Network, tokenizer: CharTokenizer, line: str) -> Tensor:
    device = next(network.parameters()).device
    return torch.tensor([tokenizer.encode(line)], device=device)
