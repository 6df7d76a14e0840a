"""Joins corpus, tokenizer and chunks: what the Lightning Trainer asks for its batches.

Enters: the name of a corpus. Leaves: loaders of `Batch`. No arithmetic of its own.
"""

import warnings
from functools import cached_property

import torch
from pytorch_lightning import LightningDataModule

from shakespeare_lm.data.corpus import (
    Parts,
    Split,
    load_corpus,
    split_contiguous,
    split_random_chunks,
)
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import (
    Documents,
    Sampling,
    WindowLoader,
    encode_documents,
    grid_windows,
)
from shakespeare_lm.errors import UserError, check_at_least_1

# Without gradients a batch can be larger; this many characters keep two CPU cores busy.
_EVALUATION_CHARACTERS = 16_384
# With thousands of symbols it is the logits that fill the memory: 16 MiB of them.
_EVALUATION_LOGITS = 1 << 22
# The fixed sample of the training part that shows overfitting.
_TRAIN_SAMPLE_CHARACTERS = 32_768


class ShakespeareDataModule(LightningDataModule):
    """Padded chunks of a text, with attention masks.

    Args:
        corpus: tinyshakespeare, complete, sample, auto, or text files or globs (each file is a
            document).
        data_dir: folder of downloaded texts; the environment variable SHAKESPEARE_LM_DATA, or data,
            if not given.
        context_length: characters that the model sees at once.
        batch_size: windows per training step and process.
        sampling: training windows in the text's order (sequential), the same in a new order each
            epoch (grid), moved by a fresh offset each epoch as well (shifted), or at random places
            (random).
        split: contiguous (by position), or random_chunks (neighbours leak: losses look too good).
        val_fraction: part of the text for validation.
        test_fraction: part of the text for a test after training.
        seed: decides the order of the windows, and random chunks; --seed_everything sets it.
    """

    def __init__(
        self,
        corpus: str | list[str] = "auto",
        data_dir: str | None = None,
        context_length: int = 128,
        batch_size: int = 16,
        sampling: Sampling = "shifted",
        split: Split = "contiguous",
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        seed: int = 1337,
    ) -> None:
        super().__init__()
        check_at_least_1(context_length=context_length, batch_size=batch_size)
        _check_parts(val_fraction, test_fraction)
        self.corpus = corpus
        self.data_dir = data_dir
        self.context_length = context_length
        self.batch_size = batch_size
        self.sampling: Sampling = sampling
        self.split = split
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.seed = seed

    @cached_property
    def documents(self) -> list[str]:
        """The documents of the corpus; loaded, and downloaded if need be, when first asked for."""
        return load_corpus(self.corpus, self.data_dir)

    @cached_property
    def tokenizer(self) -> CharTokenizer:
        """Knows every character of the whole corpus, validation part included."""
        return CharTokenizer.from_text(*self.documents)

    @property
    def vocabulary(self) -> str:
        return self.tokenizer.vocabulary

    @cached_property
    def parts(self) -> Parts:
        """The documents of the train, validation and test parts."""
        if self.split == "contiguous":
            parts = split_contiguous(self.documents, self.val_fraction, self.test_fraction)
        else:
            warnings.warn(
                "split is random_chunks: neighbours of the validation chunks are trained on, so "
                "its losses are too good and compare with no loss on a contiguous split",
                stacklevel=2,
            )
            parts = split_random_chunks(
                self.documents,
                self.val_fraction,
                self.test_fraction,
                self.context_length,
                self.seed,
            )
        self._check_long_enough(parts)
        return parts

    @cached_property
    def encoded(self) -> dict[str, Documents]:
        """Each part as ids."""
        parts = self.parts._asdict()
        return {name: encode_documents(part, self.tokenizer) for name, part in parts.items()}

    def setup(self, stage: str | None = None) -> None:
        """Load and encode the text, and let go of the characters.

        There is no `prepare_data`: every process needs the vocabulary before it can build its
        model, and a lock makes the download of several processes one.
        """
        _ = self.encoded
        vars(self).pop("parts", None)
        vars(self).pop("documents", None)

    def train_dataloader(self) -> WindowLoader:
        overfitting = getattr(self.trainer, "overfit_batches", 0) > 0
        sampling = self.sampling
        if self.split == "random_chunks" and sampling == "shifted":
            sampling = "grid"  # a chunk is a window already: shifting would cut each in two
        if overfitting:
            sampling = "sequential"  # the same batches each epoch
        return self._loader(self.encoded["train"], self.batch_size, sampling)

    def val_dataloader(self) -> list[WindowLoader]:
        """The whole validation part, and a fixed sample of the training part to hold against it."""
        return [
            self._evaluation_loader(self.encoded["val"]),
            self._evaluation_loader(self._train_sample()),
        ]

    def test_dataloader(self) -> WindowLoader:
        return self._evaluation_loader(self.encoded["test"])

    def _evaluation_loader(self, documents: Documents) -> WindowLoader:
        characters = min(_EVALUATION_CHARACTERS, _EVALUATION_LOGITS // self.tokenizer.vocab_size)
        batch_size = max(1, characters // self.context_length)
        return self._loader(documents, batch_size, "sequential")

    def _loader(self, documents: Documents, batch_size: int, sampling: Sampling) -> WindowLoader:
        trainer = self.trainer
        return WindowLoader(
            documents,
            context_length=self.context_length,
            batch_size=batch_size,
            padding_id=self.tokenizer.padding_id,
            sampling=sampling,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )

    def _train_sample(self) -> Documents:
        """Return windows of the training part, evenly spread over it, each as a document."""
        train = self.encoded["train"]
        windows = grid_windows(train.lengths, self.context_length)
        count = max(1, _TRAIN_SAMPLE_CHARACTERS // self.context_length)
        chosen = torch.linspace(0, len(windows.starts) - 1, min(count, len(windows.starts))).long()
        sizes = windows.sizes[chosen]
        pieces = [train.ids[s : s + n] for s, n in zip(windows.starts[chosen], sizes, strict=True)]
        return Documents(torch.cat(pieces), sizes)

    def _check_long_enough(self, parts: Parts) -> None:
        needed = {"train": True, "val": True, "test": self.test_fraction > 0}
        for name, part in parts._asdict().items():
            if needed[name] and not any(len(document) > 1 for document in part):
                total = sum(map(len, self.documents))
                raise UserError(
                    f"the text has {total} characters, too few for a split with val_fraction "
                    f"{self.val_fraction} and test_fraction {self.test_fraction}: every part "
                    "needs at least 2"
                )


def _check_parts(val_fraction: float, test_fraction: float) -> None:
    for name, fraction in {"val_fraction": val_fraction, "test_fraction": test_fraction}.items():
        if not 0.0 <= fraction < 1.0:
            raise UserError(f"{name} is {fraction}: accepted is 0 or more and less than 1")
    if val_fraction == 0.0:
        raise UserError(
            "val_fraction is 0.0: checkpoints are chosen by val_loss, so more than 0 is needed"
        )
    if val_fraction + test_fraction >= 1.0:
        raise UserError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to "
            "train on: their sum must be less than 1"
        )
