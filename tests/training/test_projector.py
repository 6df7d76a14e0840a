"""The projector's files: a row and a readable label for each character."""

from pathlib import Path

import pytest
import torch
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from shakespeare_lm.training.projector import write_projector


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
