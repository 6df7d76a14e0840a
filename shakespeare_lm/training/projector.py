"""Character embeddings -> TensorBoard's tab "Projector", which shows which are close.

Enters: a table of embeddings. Leaves: three files in the run's folder, always of the newest.
"""

import unicodedata
from pathlib import Path

import numpy as np
from torch import Tensor

from shakespeare_lm.training.drawing import visible

_CONFIG = """\
embeddings {
  tensor_name: "characters"
  tensor_path: "embeddings.tsv"
  metadata_path: "characters.tsv"
}
"""


def write_projector(folder: str | Path, embeddings: Tensor, vocabulary: str) -> None:
    """Write a row of the table, and a label, for each character.

    `SummaryWriter.add_embedding` adds another copy each time, and complains when a run is resumed.

    Args:
        folder: of the run; nothing is written if it is not a local one.
        embeddings: `[vocab, d_model]`; the padding symbol's row is left out.
        vocabulary: the characters, in the order of their ids.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    table = embeddings.detach()[: len(vocabulary)].float().cpu().numpy()
    np.savetxt(folder / "embeddings.tsv", table, "%.5g", "\t")
    rows = ["character\tUnicode category"]
    rows += [f"{visible(character)}\t{unicodedata.category(character)}" for character in vocabulary]
    (folder / "characters.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "projector_config.pbtxt").write_text(_CONFIG)
