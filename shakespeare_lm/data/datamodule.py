"""Joins corpus, split, tokenizer and windows for the Lightning Trainer, which asks for batches."""

from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from pytorch_lightning import LightningDataModule

from shakespeare_lm.data import splits
from shakespeare_lm.data.corpus import corpus_names, load_corpus
from shakespeare_lm.data.loader import WindowLoader, WindowOrder, check_loader_options
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Documents, encode_documents, grid_windows
from shakespeare_lm.errors import UserError, check_option_names
from shakespeare_lm.hardware import check_memory

# Of an evaluation batch, which needs no gradients: so many characters keep two CPU cores busy; with
# thousands of symbols, memory goes into the logits, and so many are 16 MiB.
_EVALUATION_CHARACTERS, _EVALUATION_LOGITS = 16_384, 1 << 22
# Length of the fixed sample of the training part that shows overfitting.
_TRAIN_SAMPLE_CHARACTERS = 32_768


class SplitKeywords(TypedDict, total=False):
    """The names and types of `SplitConfig`, for type checkers."""

    split: splits.SplitKind
    val_fraction: float
    test_fraction: float


class ShakespeareDataModule(LightningDataModule):
    """Padded windows of a text, with attention masks.

    Args:
        corpus: tinyshakespeare, complete, sample, auto, or text files or globs (each file is a
            document).
        data_dir: folder of downloaded texts; by default the environment variable
            SHAKESPEARE_LM_DATA, or data.
        context_length: characters that the model sees at once.
        batch_size: windows per training step and process.
        window_order: training windows in the order of the text (sequential), shuffled anew each
            epoch (grid), also moved by a new offset each epoch (shifted), or at random positions
            (random).
        known_characters: the first of the vocabulary, whether the text has them or not;
            --init_from sets them.
        seed: determines the order of the windows, and random chunks; --seed_everything sets it.
        **split_options: of `SplitConfig`.

    Raises:
        UserError: for an unknown option, or a value of the wrong type or out of range.
    """

    def __init__(
        self,
        # In this order: with Path first, jsonargparse 4.53 writes a list of str to YAML as one str.
        corpus: str | list[str] | Path | list[Path] = "auto",
        data_dir: str | Path | None = None,
        context_length: int = 128,
        batch_size: int = 16,
        window_order: WindowOrder = "shifted",
        known_characters: str = "",
        seed: int = 1337,
        **split_options: Unpack[SplitKeywords],
    ) -> None:
        super().__init__()
        check_option_names(split_options, ShakespeareDataModule, splits.SplitConfig)
        check_loader_options(context_length, batch_size, window_order, seed)
        self.split_config = splits.SplitConfig(**split_options)
        self.corpus, self.data_dir = corpus_names(corpus), data_dir
        self.context_length, self.batch_size = context_length, batch_size
        self.window_order: WindowOrder = window_order
        self.known_characters, self.seed = known_characters, seed

    # jsonargparse takes names, defaults and help from `SplitConfig`; from a TypedDict, only names.
    __init__.__annotations__["split_options"] = Any

    @cached_property
    def documents(self) -> list[str]:
        """The corpus, loaded on first use."""
        return load_corpus(self.corpus, self.data_dir)

    @cached_property
    def tokenizer(self) -> CharTokenizer:
        """Knows every character of the whole corpus, validation part included."""
        return CharTokenizer.from_text(*self.documents, known=self.known_characters)

    @property
    def vocabulary(self) -> str:
        return self.tokenizer.vocabulary

    @cached_property
    def encoded(self) -> dict[str, Documents]:
        """Each part as ids, by name: train, val, test."""
        parts = splits.split_documents(*self._split_arguments)._asdict()
        return {name: encode_documents(part, self.tokenizer) for name, part in parts.items()}

    @cached_property
    def fingerprint(self) -> dict[str, str | float | int]:
        return splits.fingerprint(*self._split_arguments)

    @property
    def _split_arguments(self) -> tuple[list[str], splits.SplitConfig, int, int]:
        return self.documents, self.split_config, self.context_length, self.seed

    def setup(self, stage: str | None = None) -> None:
        """Load and encode the text, then free the characters.

        There is no `prepare_data`: every process needs the vocabulary before it can build its
        model, and a lock makes sure that several processes download once.
        """
        _ = self.fingerprint, self.encoded
        # Ids and masks, and the logits with their gradient in float32.
        needed = self.batch_size * self.context_length * (34 + 8 * self.tokenizer.vocab_size)
        check_memory(needed, f"a batch of {self.batch_size:,} windows", "use a smaller batch_size")
        vars(self).pop("documents", None)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the fingerprint of text and split, and the corpus."""
        return {**self.fingerprint, "corpus": self.corpus}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume training on another text or split than the checkpoint's."""
        if self.trainer is not None and self.trainer.training:
            self.check_resumes(state_dict)

    def check_resumes(self, state_dict: object) -> None:
        """Raise a `UserError` unless text and split are those of a checkpoint's `state_dict`. The
        text comes first: a shorter one, or one file less, may not even be divisible as this run's
        options say, which `setup` would find.
        """
        if difference := splits.describe_difference(state_dict, self.fingerprint):
            raise UserError(
                f"cannot resume: {difference}; resume with the --data options of the first run"
            )

    def train_dataloader(self) -> WindowLoader:
        order = self.window_order
        if self.split_config.split == "random_chunks" and order == "shifted":
            order = "grid"  # a chunk is a window already: shifting would cut each in two
        if getattr(self.trainer, "overfit_batches", 0) > 0:
            order = "sequential"  # the same batches each epoch
        return self._loader(self.encoded["train"], self.batch_size, order, fill_rows=True)

    def val_dataloader(self) -> list[WindowLoader]:
        """Return the whole validation part, and a fixed sample of the training part to compare."""
        documents = self.encoded["val"], self._train_sample()
        return list(map(self._evaluation_loader, documents))

    def test_dataloader(self) -> WindowLoader:
        return self._evaluation_loader(self.encoded["test"])

    def predict_dataloader(self) -> WindowLoader:
        """Return the whole validation part, in the order of the text."""
        return self._evaluation_loader(self.encoded["val"])

    def _evaluation_loader(self, documents: Documents) -> WindowLoader:
        characters = min(_EVALUATION_CHARACTERS, _EVALUATION_LOGITS // self.tokenizer.vocab_size)
        batch_size = max(1, characters // self.context_length)
        return self._loader(documents, batch_size, "sequential")

    def _loader(
        self, documents: Documents, batch_size: int, order: WindowOrder, fill_rows: bool = False
    ) -> WindowLoader:
        return WindowLoader(
            documents,
            context_length=self.context_length,
            batch_size=batch_size,
            padding_id=self.tokenizer.padding_id,
            window_order=order,
            seed=self.seed,
            fill_rows=fill_rows,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )

    def _train_sample(self) -> Documents:
        """Return windows of the training part, evenly spaced, each as a document."""
        train = self.encoded["train"]
        windows = grid_windows(train.lengths, self.context_length)
        total = len(windows.starts)
        count = min(total, max(1, _TRAIN_SAMPLE_CHARACTERS // self.context_length))
        chosen = torch.linspace(0, total - 1, count).long()
        starts, sizes = windows.starts[chosen], windows.sizes[chosen]
        pieces = [train.ids[s : s + n] for s, n in zip(starts, sizes, strict=True)]
        return Documents(torch.cat(pieces), sizes)
