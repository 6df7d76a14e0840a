"""The model card: its tables, and text that stays text."""

from shakespeare_lm.export.model_card import model_card


def test_it_has_facts_losses_and_how_to_load_it() -> None:
    card = model_card("my model", [("Seed", "1")], [("this model", "1.5")], "a text", "import x")
    assert card.startswith("---\nlibrary_name: transformers\n")
    for line in (
        "# my model",
        "| Seed | 1 |",
        "| this model | 1.5 |",
        "```python\nimport x\n```",
        "on a text.",
    ):
        assert line in card, line
    assert "How good" not in model_card("m", [], [], "", "")


def test_names_cannot_break_the_page() -> None:
    card = model_card("a\n---\n<script>", [("x | y", "[a](b)\n# c")], [], "", "")
    assert "<script>" not in card
    assert "| x \\| y | \\[a\\]\\(b\\) \\# c |" in card
    assert card.count("\n---\n") == 1
