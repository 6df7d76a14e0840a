"""Pictures of the network at each validation: the right ones, and without any effect."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from pytorch_lightning import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Documents, encode_documents
from shakespeare_lm.evaluation.attention_weights import attention_weights
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training import pictures
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.pictures import long_lines, validation_loader, write_projector
from tests.conftest import Fit, Main
from tests.training.test_module import trainer

RUN = Path("lightning_logs/version_0")
ALWAYS = {"next_characters", "loss_by_position"}
ATTENTION = {"attention/layer_1", "attention/layer_2"}
TWO_LAYERS = "--model.num_layers=2"


def shown(run: Path = RUN) -> dict[str, list[int]]:
    """Return the steps at which TensorBoard has a picture, by tag."""
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    for tag in events.Tags()["images"]:
        for event in events.Images(tag):
            Image.open(io.BytesIO(event.encoded_image_string)).verify()
    return {tag: [one.step for one in events.Images(tag)] for tag in events.Tags()["images"]}


def test_pictures_leave_the_training_untouched(tiny_fit: Fit) -> None:
    options = ("--max_steps=6", "--val_check_interval=2", "--model.dropout=0.2")
    runs = [tiny_fit(*options, f"--pictures={word}") for word in ("false", "true")]
    assert set(shown(RUN)) == set()
    assert set(shown(Path("lightning_logs/version_1"))) > ALWAYS
    states = [run.model.state_dict() for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ([], ALWAYS | ATTENTION),
        (["--model.positions=learned", "--model.norm=post"], ALWAYS | ATTENTION),
        (["--model.positions=rotary"], ALWAYS | ATTENTION),
        (["--model.network=bigram", "--model.optimizer=adamw"], ALWAYS),
        (["--data.context_length=1"], ALWAYS | ATTENTION),
    ],
)
def test_each_validation_has_its_pictures(
    tiny_fit: Fit, options: list[str], tags: set[str]
) -> None:
    tiny_fit("--max_steps=3", "--val_check_interval=2", TWO_LAYERS, *options)
    found = shown()
    sinusoidal = found.pop("sinusoidal_positions", None)
    assert found == {tag: [1, 2] for tag in tags}  # as in the curves, the first step is 0
    # Once: it never changes.
    assert sinusoidal == ([0] if not options or "context" in options[0] else None)
    assert (RUN / "projector_config.pbtxt").exists() == (tags > ALWAYS)


def test_a_resumed_run_adds_its_pictures_to_those_before(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=2", "--model.decay_steps=4", TWO_LAYERS)
    tiny_fit("--max_steps=4", "--model.decay_steps=4", TWO_LAYERS, "--ckpt_path=last")
    found = shown()
    assert found.pop("sinusoidal_positions") == [0]
    assert found == {tag: [1, 3] for tag in ALWAYS | ATTENTION}


def test_the_attention_picture_shows_the_weights_of_every_head(
    transformer: CausalTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    original = pictures.heatmap

    def heatmap(values: np.ndarray, rows: list[str], columns: list[str], title: str):
        drawn.append(values)
        assert rows == columns == ["b", "a", "·", "c"]
        return original(values, rows, columns, title)

    monkeypatch.setattr(pictures, "heatmap", heatmap)
    tokenizer = CharTokenizer("abcdefghi ")
    found = pictures.attention_pictures(transformer, tokenizer, "ba c")
    assert set(found) == ATTENTION
    weights = attention_weights(transformer, torch.tensor([tokenizer.encode("ba c")]))[:, 0]
    # Four heads: two layers of two.
    torch.testing.assert_close(torch.from_numpy(np.stack(drawn)).square(), weights.flatten(0, 1))


def test_the_likeliest_next_character_is_above_and_the_one_that_follows_has_a_frame(
    transformer: CausalTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(pictures, "heatmap", lambda *values, **names: given.update(names, v=values))
    tokenizer = CharTokenizer("abcdefghi ")
    pictures.next_characters_picture(transformer, tokenizer, "ba c")
    values, rows, columns, _ = given["v"]  # type: ignore[misc]
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


def test_a_run_that_diverged_has_no_pictures_but_its_own_error(
    tiny_main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverge(self: ShakespeareLM) -> None:
        torch.nn.init.constant_(next(self.parameters()), float("nan"))

    monkeypatch.setattr(ShakespeareLM, "on_validation_start", diverge)
    assert tiny_main("--max_steps=2") == 1
    assert "val_loss is nan at step 2" in capsys.readouterr().err
    assert set(shown()) == {"sinusoidal_positions"}


@pytest.mark.filterwarnings("ignore:split is random_chunks")
@pytest.mark.parametrize("options", [["--data.split=random_chunks"], ["--data.context_length=8"]])
def test_the_loss_by_position_is_that_of_the_validation(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    drawn: list[tuple[list[float], list[str]]] = []
    original = pictures.bars

    def bars(values: list[float], labels: list[str], *words: str) -> Image.Image:
        drawn.append((values, labels))
        return original(values, labels, *words)

    monkeypatch.setattr(pictures, "bars", bars)
    cli = tiny_fit("--max_steps=2", "--precision=32-true", *options)
    ((values, labels),) = drawn
    doubling = ["1", "2", "3 to 4", "5 to 8", "9 to 16"]
    assert labels == doubling[: 4 if "context" in options[0] else 5]
    # The part is shorter than what the picture takes of it: by character, the mean is val_loss.
    sizes = [1, 1, 2, 4, 8][: len(labels)]
    mean = float(np.average(values, weights=sizes))
    # But for the last, shorter block of each document.
    assert mean == pytest.approx(float(cli.trainer.callback_metrics["val_loss"]), rel=0.01)


def test_the_beginning_of_a_text_keeps_its_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_SAMPLE_CHARACTERS", 5)
    documents = Documents(torch.arange(9), torch.tensor([2, 1, 4, 2]))
    beginning = pictures._beginning(documents)
    assert beginning.ids.tolist() == [0, 1, 2, 3, 4]
    assert beginning.lengths.tolist() == [2, 1, 2]


def test_each_character_has_its_row_and_its_label(tmp_path: Path) -> None:
    table = torch.tensor([[1.5, -2.0], [0.25, 3.0], [4.0, 5.0], [9.0, 9.0]])  # the last: padding
    for _ in range(2):  # the newest replaces the one before
        write_projector(tmp_path, table.requires_grad_(), "\n A")
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    rows = (tmp_path / embedding.tensor_path).read_text().splitlines()
    assert [list(map(float, row.split("\t"))) for row in rows] == table[:3].tolist()
    labels = (tmp_path / embedding.metadata_path).read_text(encoding="utf-8").splitlines()
    # With two columns TensorBoard takes the first row for a heading.
    assert labels == ["character\tUnicode category", "\\n\tCc", "·\tZs", "A\tLu"]


def test_nothing_is_written_where_there_is_no_local_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_projector("s3://runs/version_0", torch.zeros(2, 2), "a")
    assert list(tmp_path.iterdir()) == []


def lines_of(text: str, count: int) -> list[str]:
    tokenizer = CharTokenizer.from_text(text)
    return long_lines(encode_documents([text], tokenizer), tokenizer, count)


def test_lines_are_long_and_evenly_spaced() -> None:
    lines = [f"this is a long line, number {number}" for number in range(6)]
    text = "ROMEO:\n" + "\nshort\n".join(lines)
    assert lines_of(text, 1) == lines[:1]
    assert lines_of(text, 2) == [lines[0], lines[3]]
    assert lines_of(text, 9) == lines


def test_a_text_without_long_lines_gives_its_beginning() -> None:
    assert lines_of("a\nb\n" * 10, 2) == ["a\nb\n" * 5]


def test_the_loader_is_that_of_the_validation_part(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=1")
    loader = validation_loader(cli.trainer)
    assert loader is not None
    assert torch.equal(loader.documents.ids, cli.datamodule.encoded["val"].ids)


def test_other_loaders_have_no_text() -> None:
    run: Trainer = trainer()
    assert validation_loader(run) is None
