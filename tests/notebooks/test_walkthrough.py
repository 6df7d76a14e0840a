"""The notebook is short, committed with its outputs, and runs from top to bottom."""

import ast
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from shakespeare_lm.data.corpus import DATA_DIR_VARIABLE, NAMED_CORPORA

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "walkthrough.ipynb"
CONTENT = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CELLS: list[dict[str, Any]] = CONTENT["cells"]
PROSE = [cell for cell in CELLS if cell["cell_type"] == "markdown"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")

# Run after the last cell: what the prose says about the results.
FACTS = """
import json
print(json.dumps({"vocab_size": tokenizer.vocab_size, "fresh": fresh_loss, **nats_of}))
"""

DEFAULT_LOSS = float(re.search(r"best val_loss (\d\.\d+) nats", README)[1])  # type: ignore[index]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


# What a reader types to solve the exercises.
SOLUTIONS = re.findall(
    "<details>.*?```python\n(.*?)```", "\n".join(map(source, PROSE)), flags=re.DOTALL
)


def printed(cell: dict[str, Any]) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def pictures(cell: dict[str, Any]) -> list[str]:
    found = [output["data"].get("image/png") for output in cell["outputs"] if "data" in output]
    return [picture for picture in found if picture]


def test_it_is_short_and_has_pictures() -> None:
    assert 40 < len(CELLS) < 70
    assert len(PROSE) > 20
    assert len(CODE) > 20
    assert len([picture for cell in CODE for picture in pictures(cell)]) >= 12
    assert NOTEBOOK.stat().st_size < 1_500_000
    for cell in PROSE:
        assert 0 < len(source(cell).split()) < 80, cell["id"]


def test_each_code_cell_fits_on_a_screen_and_has_a_visible_result_and_no_error() -> None:
    for cell in CODE:
        without_magics = re.sub(r"^(\s*)%.*$", r"\1pass", source(cell), flags=re.MULTILINE)
        ast.parse(without_magics)
        assert len(source(cell).splitlines()) <= 40, cell["id"]
        assert printed(cell) or pictures(cell), cell["id"]
        for output in cell["outputs"]:
            assert output["output_type"] in ("stream", "display_data"), cell["id"]
            assert output.get("name", "stdout") == "stdout", cell["id"]  # no warnings


def test_its_outputs_come_from_one_run_on_tiny_shakespeare() -> None:
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    output = "".join(map(printed, CODE))
    assert "66 ids: 65 characters and padding" in output
    assert "ln 66 = 4.1897\nby hand 4.1897, by the package 4.1897" in output


def test_the_first_ten_lines_turn_a_line_into_ids_and_no_size_is_written_into_the_text() -> None:
    lines = [line for line in source(CODE[1]).splitlines() if line]
    assert "tokenizer.encode(LINE)" in "".join(lines[:10])
    assert not re.search(r"\b66\b|4\.19", "".join(map(source, CELLS)))


def test_the_first_cell_installs_the_package_by_its_name_without_editing() -> None:
    install = source(CODE[0])
    assert '%pip install -q --find-links . "shakespeare-lm[plot]"' in install
    assert not re.search("OWNER|https?:", install)


def test_each_section_has_an_exercise_with_a_solution_folded_away() -> None:
    sections = re.split(r"^## \d+\.", "\n".join(map(source, PROSE)), flags=re.MULTILINE)[1:]
    assert len(sections) == 11
    for section in sections:
        assert "**Exercise.**" in section
        assert "\n<details><summary>Solution</summary>\n\n" in section
    assert sum(map(len, SOLUTIONS)) > 500


def test_nothing_in_it_tells_where_or_when_it_ran() -> None:
    text = json.dumps([[source(cell) for cell in CELLS], [printed(cell) for cell in CODE]])
    assert not re.search(r"/(work|tmp|home|root|usr|Users)/|site-packages|Warning", text)
    assert set(CONTENT["metadata"]) == {"kernelspec", "language_info"}
    assert CONTENT["metadata"]["kernelspec"]["name"] == "python3"
    assert CONTENT["metadata"]["language_info"] == {"name": "python"}
    for cell in CELLS:
        assert cell["metadata"] == {}, cell["id"]
        for output in cell.get("outputs", []):
            assert not output.get("metadata"), cell["id"]


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", "".join(map(source, PROSE)))
    assert len(links) >= 9
    for target in links:
        assert (NOTEBOOK.parent / target).exists(), target


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_and_what_it_says_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ("matplotlib", "ipykernel", "nbclient", "nbformat")
    *_, nbclient, nbformat = (pytest.importorskip(n, reason=f"needs {n}") for n in needed)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # other tests run at the same time
    folder = Path(os.environ.get(DATA_DIR_VARIABLE) or "data").resolve()
    real_text = (folder / NAMED_CORPORA["tinyshakespeare"].file_name).is_file()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if real_text:
        monkeypatch.setenv(DATA_DIR_VARIABLE, str(folder))
    else:
        call = 'ShakespeareDataModule("'  # without tiny Shakespeare, "auto" would download it
        (cell,) = [cell for cell in notebook.cells if f'{call}auto"' in cell.source]
        cell.source = cell.source.replace(f'{call}auto"', f'{call}sample"')
    notebook.cells += map(nbformat.v4.new_code_cell, [FACTS, *SOLUTIONS])
    where = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where)
    client.execute()  # which raises the error of a cell
    facts = json.loads(notebook.cells[len(CELLS)].outputs[0].text)
    assert facts["fresh"] == pytest.approx(math.log(facts["vocab_size"]), abs=1e-5)
    ours = facts["our transformer"]
    if real_text:
        assert facts["vocab_size"] == 66
        assert DEFAULT_LOSS < facts["7-gram"] < ours < facts["3-gram"] < facts["2-gram"]
    else:
        assert ours < facts["unigram"]
