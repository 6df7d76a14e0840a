"""What TensorBoard shows: curves in groups and charts, the row of each run, and pictures; and other
loggers in its place.
"""

import io
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image, ImageDraw
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Documents, encode_documents
from shakespeare_lm.evaluation import pictures
from shakespeare_lm.evaluation.attention_weights import attention_weights
from shakespeare_lm.evaluation.drawing import bars, heatmap
from shakespeare_lm.training import interim_validation
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.pictures import long_lines, validation_loader, write_projector
from shakespeare_lm.training.tensorboard_layout import tensorboard_writers
from tests.conftest import logged
from tests.training.conftest import RUN, events_of, trainer

RUNS = Path("lightning_logs")
ALWAYS = {"next_characters", "loss_by_position"}
ATTENTION = {f"attention_layer_{layer}_head_{head}" for layer in (1, 2) for head in (1, 2)}
TWO_LAYERS = "--model.num_layers=2"
WHITE, BLUE, RED = (255, 255, 255), (8, 64, 129), (165, 15, 21)


class MetricsOnly(Logger):
    """A logger without pictures, texts and folders, like those of services."""

    name, version = "metrics", 0

    def __init__(self):
        self.names = set()

    def log_metrics(self, metrics, step=None):
        self.names |= set(metrics)

    def log_hyperparams(self, params, *arguments, **options):
        pass


def charts_of(run: Path) -> dict[str, list[str]]:
    (event,) = events_of(run).Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(event.tensor_proto.string_val[0]).category
    return {chart.title: list(chart.multiline.tag) for chart in category.chart}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_losses_come_first_and_each_curve_is_in_one_chart(tiny_fit, monkeypatch, optimizer):
    monkeypatch.setattr(interim_validation, "_TRAINED_PER_CHARACTER", 0)
    tiny_fit("--max_steps=2", f"--model.optimizer={optimizer}", "--data.test_fraction=0.1")
    tags = events_of().Tags()["scalars"]
    losses = ["train_eval_loss", "train_loss", "val_loss", "val_sample_loss"]
    first = [tag for tag in tags if tag.startswith("loss/")]
    assert sorted(first) == [f"loss/{name}" for name in losses]
    assert min(tag.partition("/")[0] for tag in [*tags, *events_of().Tags()["images"]]) == "loss"
    # In the table of runs, which sorts metrics by the codes of their letters.
    assert min(tags) == "loss-summary/best_val_loss"
    found = {
        title: [tag for tag in tags if any(re.match(pattern, tag) for pattern in patterns)]
        for title, patterns in charts_of(RUN).items()
    }
    assert sorted(found["loss (nats per character)"]) == sorted(first)
    rates = ["optimizer/learning_rate", "optimizer/muon_learning_rate"]
    assert found["learning rate"] == rates[: 2 if optimizer == "muon" else 1]
    assert all(found.values())
    names = [name for group in found.values() for name in group]
    assert len(names) == len(set(names))


def test_a_logger_of_metrics_alone_gets_them_and_another_next_to_it_the_pictures(tiny_fit):
    cli = tiny_fit(
        "--max_steps=2",
        '--logger=[{"class_path": "tests.training.test_tensorboard.MetricsOnly"}, '
        '{"class_path": "TensorBoardLogger", "init_args": {"save_dir": "."}}]',
    )
    assert {"val_loss", "train_loss"} <= cli.trainer.loggers[0].names
    tags = events_of().Tags()
    assert {"pictures/attention_layer_1_head_1", "pictures/next_characters"} <= set(tags["images"])
    assert "custom_scalars__config__" in tags["tensors"]


def test_only_the_first_process_has_writers(tmp_path):
    loggers = [CSVLogger(tmp_path), MetricsOnly(), TensorBoardLogger(tmp_path)]
    for is_first, number in ((True, 1), (False, 0)):
        run = SimpleNamespace(loggers=loggers, is_global_zero=is_first)
        assert len(tensorboard_writers(run)) == number


def row(run: str) -> dict[str, str | float]:
    """Return the options that the tab shows, and check that no summary lists the columns."""
    events = events_of(RUNS / run)
    assert "_hparams_/experiment" not in events.summary_metadata
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in shown.items()}


def test_the_row_has_the_options_that_one_types_and_neither_vocabulary_nor_missing_values(tiny_fit):
    for rate in (0.002, 0.004):
        cli = tiny_fit("--max_steps=2", f"--model.learning_rate={rate}", "--seed=7")
    first, shown = row("version_0"), row("version_1")
    expected = {
        "model.learning_rate": 0.004,
        "model.d_model": 16,
        "model.d_feedforward": 64,  # the default's value, not None
        "model.bias": "false",  # as it is typed
        "data.corpus": "sample",
        "data.batch_size": 64,
        "data.context_length": 16,
        "data.split": "contiguous",
        "trainer.max_steps": 2,
        "trainer.precision": cli.trainer.precision,
        "seed_everything": 7,
    }
    assert {name: shown.get(name) for name in expected} == expected
    assert not {"None", cli.model.hparams["vocabulary"], ""} & set(map(str, shown.values()))
    assert "model.decay_steps" not in shown  # None
    # Runs of a sweep differ in what was swept.
    assert {name for name, _ in first.items() ^ shown.items()} == {"model.learning_rate"}


def test_best_and_final_loss_row_and_pictures_are_those_of_the_whole_resumed_run(tiny_fit):
    # A rate this high: some validation is worse than one before it.
    options = ("--val_check_interval=2", "--model.learning_rate=0.5", "--model.schedule=constant",
               "--precision=32-true", "--model.zero_init=true",
               "--model.previous_characters=4")  # fmt: skip
    tiny_fit("--max_steps=4", *options)
    before = row("version_0")
    tiny_fit("--max_steps=6", *options, "--ckpt_path=last")
    losses = logged(RUN, "val_loss")
    assert [*losses] == [2, 4, 6]
    best = {step: min(v for s, v in losses.items() if s <= step) for step in losses}
    assert logged(RUN, "best_val_loss") == best != losses
    assert logged(RUN, "final_val_loss") == {step: losses[step] for step in (4, 6)}
    assert row("version_0") == before
    assert [path.name for path in RUNS.iterdir()] == ["version_0"]
    found = shown()
    assert found.pop("sinusoidal_positions") == [0]
    assert found == {tag: [2, 4, 6] for tag in (*ALWAYS, *(t for t in ATTENTION if "layer_1" in t))}


def shown(run: Path = RUN) -> dict[str, list[int]]:
    """Return the steps at which TensorBoard has a picture, by tag."""
    events = events_of(run)
    tags = events.Tags()["images"]
    for tag in tags:
        for event in events.Images(tag):
            Image.open(io.BytesIO(event.encoded_image_string)).verify()
    return {tag.removeprefix("pictures/"): [e.step for e in events.Images(tag)] for tag in tags}


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        (["--model.positions=learned", "--model.norm=post"], ALWAYS | ATTENTION),
        (["--model.positions=rotary"], ALWAYS | ATTENTION),
        (["--model.network=bigram", "--model.optimizer=adamw"], ALWAYS),
        (["--data.context_length=1"], ALWAYS | ATTENTION),
    ],
)
def test_each_validation_has_its_pictures(tiny_fit, options, tags):
    tiny_fit("--max_steps=3", "--val_check_interval=2", TWO_LAYERS, *options)
    found = shown()
    sinusoidal = found.pop("sinusoidal_positions", None)
    assert found == {tag: [2, 3] for tag in tags}
    # Once: it never changes.
    assert sinusoidal == ([0] if "context" in options[0] else None)
    assert (RUN / "projector_config.pbtxt").exists() == (tags > ALWAYS)


def test_the_attention_picture_shows_the_weights_of_every_head(transformer, monkeypatch):
    drawn, original = [], pictures.heatmap

    def heatmap(values, rows, columns, *looks, **others):
        drawn.append(values)
        assert rows == columns == ["b", "a", "·", "c"]
        count = pictures._ATTENTION_CHARACTERS
        longest = original(np.zeros((count, count)), "W" * count, "W" * count, *looks, **others)
        assert longest.height == 215  # which TensorBoard does not scale
        assert longest.width <= 350
        return original(values, rows, columns, *looks, **others)

    monkeypatch.setattr(pictures, "heatmap", heatmap)
    tokenizer = CharTokenizer("abcdefghi ")
    assert set(pictures.attention_pictures(transformer, tokenizer, "ba c")) == ATTENTION
    weights = attention_weights(transformer, torch.tensor([tokenizer.encode("ba c")]))[:, 0]
    # Four heads: two layers of two.
    torch.testing.assert_close(torch.from_numpy(np.stack(drawn)).square(), weights.flatten(0, 1))


def test_the_likeliest_character_is_above_and_the_next_has_a_frame(transformer, monkeypatch):
    given: dict[str, object] = {}
    monkeypatch.setattr(pictures, "heatmap", lambda *values, **names: given.update(names, v=values))
    tokenizer = CharTokenizer("abcdefghi ")
    pictures.next_characters_picture(transformer, tokenizer, "ba c")
    values, rows, columns, _ = given["v"]
    with torch.no_grad():
        logits = transformer(torch.tensor([tokenizer.encode("ba c")]))[0, :, :10]
    assert values[0].tolist() == pytest.approx(logits.softmax(-1).max(-1).values.tolist())
    assert np.all(np.diff(values, axis=0) <= 0)
    assert (columns, len(rows)) == (["b", "a", "·", "c"], 8)
    texts = np.array(given["texts"])
    assert texts[0, 3] == "abcdefghi·"[int(logits[3].argmax())]
    framed = np.array(given["framed"])
    for column, following in enumerate("a·c"):
        assert (texts[:, column] == following).tolist() == framed[:, column].tolist()
    assert not framed[:, 3].any()  # nothing follows


def test_a_run_that_diverged_has_no_pictures_but_its_own_error(tiny_main, monkeypatch, capsys):
    def diverge(self: ShakespeareLM) -> None:
        torch.nn.init.constant_(next(self.parameters()), float("nan"))

    monkeypatch.setattr(ShakespeareLM, "on_validation_start", diverge)
    assert tiny_main("--max_steps=2") == 1
    assert "val_loss is nan at step 2" in capsys.readouterr().err
    assert set(shown()) == {"sinusoidal_positions"}


@pytest.mark.filterwarnings("ignore:split is random_chunks")
@pytest.mark.parametrize(
    ("option", "labels"),
    [
        ("--data.split=random_chunks", ["1", "2", "3 to 4", "5 to 8", "9 to 16"]),
        ("--data.context_length=8", ["1", "2", "3 to 4", "5 to 8"]),
    ],
)
def test_the_loss_by_position_is_that_of_the_validation(tiny_fit, monkeypatch, option, labels):
    drawn, original = [], pictures.bars

    def bars(values, labels, *words):
        drawn.append((values, labels))
        return original(values, labels, *words)

    monkeypatch.setattr(pictures, "bars", bars)
    cli = tiny_fit("--max_steps=2", "--precision=32-true", option)
    ((values, found),) = drawn
    assert found == labels
    loader = validation_loader(cli.trainer)
    assert torch.equal(loader.documents.ids, cli.datamodule.encoded["val"].ids)
    assert validation_loader(trainer()) is None  # other loaders have no text
    # The part is shorter than what the picture takes of it: by character, the mean is val_loss.
    mean = float(np.average(values, weights=[1, 1, 2, 4, 8][: len(labels)]))
    # But for the last, shorter block of each document.
    assert mean == pytest.approx(float(cli.trainer.callback_metrics["val_loss"]), rel=0.01)


def test_the_beginning_of_a_text_keeps_its_documents(monkeypatch):
    monkeypatch.setattr(pictures, "_SAMPLE_CHARACTERS", 5)
    documents = Documents(torch.arange(9), torch.tensor([2, 1, 4, 2]))
    beginning = pictures._beginning(documents)
    assert beginning.ids.tolist() == [0, 1, 2, 3, 4]
    assert beginning.lengths.tolist() == [2, 1, 2]


def test_each_character_has_its_row_and_its_label_in_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_projector("s3://runs/version_0", torch.zeros(2, 2), "a")
    assert list(tmp_path.iterdir()) == []
    table = torch.tensor([[1.5, -2.0], [0.25, 3.0], [4.0, 5.0], [9.0, 9.0]])  # the last: padding
    for _ in range(2):  # the newest replaces the one before
        write_projector(tmp_path, table.requires_grad_(), "\n\tA")
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    rows = (tmp_path / embedding.tensor_path).read_text().splitlines()
    assert [list(map(float, row.split("\t"))) for row in rows] == table[:3].tolist()
    labels = (tmp_path / embedding.metadata_path).read_text(encoding="utf-8").splitlines()
    # With two columns TensorBoard takes the first row for a heading.
    assert labels == ["character\tUnicode category", "\\n\tCc", "\\t\tCc", "A\tLu"]


LONG_LINES = [f"this is a long line, number {number}" for number in range(6)]
WITH_SHORT_ONES = "ROMEO:\n" + "\nshort\n".join(LONG_LINES)


@pytest.mark.parametrize(
    ("text", "count", "lines"),
    [
        (WITH_SHORT_ONES, 1, LONG_LINES[:1]),
        (WITH_SHORT_ONES, 2, [LONG_LINES[0], LONG_LINES[3]]),
        (WITH_SHORT_ONES, 9, LONG_LINES),
        ("a\nb\n" * 10, 2, ["a\nb\n" * 5]),  # without any: the beginning
    ],
)
def test_lines_are_long_and_evenly_spaced(text, count, lines):
    tokenizer = CharTokenizer.from_text(text)
    assert long_lines(encode_documents([text], tokenizer), tokenizer, count) == lines


def cells(image: object, values: np.ndarray, cell: int) -> list[list[tuple[int, ...]]]:
    """Return the colour of each cell's corner: the last cell ends 8 pixels before the edge."""
    pixels = np.asarray(image)
    height, width = values.shape
    y, x = (pixels.shape[0] - 8 - height * cell, pixels.shape[1] - 8 - width * cell)
    return [
        [tuple(pixels[y + r * cell, x + c * cell].tolist()) for c in range(width)]
        for r in range(height)
    ]


def test_cells_are_white_at_zero_blue_at_one_red_at_minus_one_and_framed_if_asked_for():
    values = np.array([[0.0, 1.0, -1.0], [2.0, 0.25, 0.5]])
    ones, (blue, light, middle) = cells(heatmap(values, "ab", "cde", ""), values, 24)
    assert (ones, blue) == ([WHITE, BLUE, RED], BLUE)
    assert WHITE > light > middle > BLUE
    values, framed = np.zeros((2, 2)), np.array([[False, True], [False, False]])
    (a, b), (c, d) = cells(heatmap(values, "ab", "cd", "", framed=framed), values, 24)
    assert a == c == d == WHITE != b


def test_rows_columns_and_cells_have_their_texts(monkeypatch):
    drawn, original = [], ImageDraw.ImageDraw.text

    def text(self, place, words, *arguments):
        drawn.append(words)
        original(self, place, words, *arguments)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    heatmap(np.zeros((1, 2)), ["row"], ["a", "b"], "title", texts=[["x", "y"]])
    assert drawn == ["title", "row", "a", "b", "x", "y"]
    drawn.clear()
    bars([1.0, 2.0], ["first", "second"], "title", "nats")
    assert drawn == ["title", "first", "1.000", "second", "2.000", "nats"]
