"""The whole story without Lightning: a text becomes a model, and the model continues a line.

    python examples/plain_loop.py [FILE]

Takes about half a minute. `python scripts/fit.py` with the same options computes the same losses.
"""

import sys
from itertools import chain, islice, repeat

import torch
from torch.optim.lr_scheduler import LambdaLR

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.data.corpus import load_corpus
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.splits import split_contiguous
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import encode_documents
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training.optimizer import OptimizerConfig, build_optimizer
from shakespeare_lm.training.schedule import learning_rate_factor

SEED, STEPS, BATCH_SIZE = 1337, 300, 16
NETWORK = NetworkConfig(context_length=64, num_layers=2, num_heads=4, d_model=96)
OPTIMIZER = OptimizerConfig(learning_rate=8e-3, muon_learning_rate=0.04)


def load(corpus: str) -> tuple[CharTokenizer, WindowLoader, WindowLoader]:
    """Return the tokenizer of a text, its training batches, and its validation batches."""
    documents = load_corpus(corpus)
    tokenizer = CharTokenizer.from_text(*documents)
    parts = split_contiguous(documents, val_fraction=0.1)
    train, val = (encode_documents(part, tokenizer) for part in (parts.train, parts.val))
    sizes = {"context_length": NETWORK.context_length, "batch_size": BATCH_SIZE, "seed": SEED}
    sizes |= {"padding_id": tokenizer.padding_id}
    shuffled = WindowLoader(train, window_order="shifted", fill_rows=True, **sizes)
    in_order = WindowLoader(val, window_order="sequential", fill_rows=False, **sizes)
    return tokenizer, shuffled, in_order


def train(network: CausalTransformer, batches: WindowLoader, steps: int) -> list[float]:
    """Train the network; return the loss of every step, in nats per character."""
    optimizer = build_optimizer(network.parameters(), OPTIMIZER, network.blocks)
    schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, OPTIMIZER, steps))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    losses: list[float] = []
    for batch in islice(chain.from_iterable(repeat(batches)), steps):
        nats, count = masked_cross_entropy(network(batch.inputs), batch.targets, batch.target_mask)
        loss = nats / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            print(f"step {len(losses)}  train_loss {loss.item():.4f}")
    return losses


def mean_loss(network: CausalTransformer, batches: WindowLoader) -> float:
    """Return nats per character over all batches of one epoch."""
    with evaluating(network):
        sums = [masked_cross_entropy(network(b.inputs), b.targets, b.target_mask) for b in batches]
    return float(sum(nats for nats, _ in sums) / sum(count for _, count in sums))


if __name__ == "__main__":
    tokenizer, train_batches, val_batches = load(sys.argv[1] if sys.argv[1:] else "auto")
    torch.manual_seed(SEED)
    network = CausalTransformer(tokenizer.vocab_size, NETWORK)
    train(network, train_batches, STEPS)
    print(f"val_loss {mean_loss(network, val_batches):.4f}")
    completer = Completer(network, tokenizer, NETWORK.context_length)
    print("ROMEO:" + completer.complete("ROMEO:", 200, seed=1, unknown="skip"))
