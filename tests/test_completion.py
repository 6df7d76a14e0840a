"""A checkpoint and a prompt become text."""

import pickle
from pathlib import Path

import pytest
import torch

from shakespeare_lm.bigram import BigramTable
from shakespeare_lm.completion import Completer, newest_checkpoint
from shakespeare_lm.errors import UserError
from shakespeare_lm.module import ShakespeareLM
from shakespeare_lm.tokenizer import CharTokenizer
from shakespeare_lm.transformer import CausalTransformer

# Ten characters, not sorted: with padding as many ids as the `transformer` fixture has.
VOCABULARY = "\nihgfedcba"


@pytest.fixture
def completer(transformer: CausalTransformer) -> Completer:
    return Completer(transformer, CharTokenizer(VOCABULARY), context_length=8)


def test_a_completion_has_as_many_characters_as_asked_for(completer: Completer) -> None:
    for number in (0, 1, 30):
        assert len(completer.complete("abc", number, seed=0)) == number


def test_greedy_takes_the_most_likely_character_each_time(completer: Completer) -> None:
    text = "abc"
    for _ in range(12):
        ids = torch.tensor([completer.tokenizer.encode(text[-8:])])
        text += VOCABULARY[int(completer.transformer(ids)[0, -1, :-1].argmax())]
    assert completer.complete("abc", 12, greedy=True) == text[3:]


def test_of_a_long_prompt_the_last_context_length_characters_count(completer: Completer) -> None:
    long = "ihgfedcbaabcdefgh"
    assert completer.complete(long, 5, greedy=True) == completer.complete(long[-8:], 5, greedy=True)
    assert completer.complete(long, 5, greedy=True) != completer.complete(long[:8], 5, greedy=True)


@pytest.mark.parametrize("options", [{"greedy": True}, {"seed": 3, "temperature": 1.0}])
def test_several_prompts_together_equal_each_alone(completer: Completer, options: dict) -> None:
    prompts = ["a", "abcd", "ihgfedcbaabcdefgh", ""]
    together = completer.complete(prompts, 15, **options)
    assert together == [completer.complete(prompt, 15, **options) for prompt in prompts]
    assert len(set(together)) > 1


def test_a_stream_yields_what_complete_returns(completer: Completer) -> None:
    pieces = list(completer.stream("abc", 20, seed=1))
    assert len(pieces) == 20
    assert "".join(pieces) == completer.complete("abc", 20, seed=1)


def test_one_seed_gives_one_text_and_another_seed_another(completer: Completer) -> None:
    texts = [completer.complete("abc", 40, seed=seed, temperature=1.0) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("options", [{"greedy": True}, {"seed": 0, "temperature": 1.0}])
def test_padding_is_never_produced_however_likely(options: dict) -> None:
    table = BigramTable(11)
    with torch.no_grad():
        table.table.weight[:, -1] = 100.0
    text = Completer(table, CharTokenizer(VOCABULARY), 8).complete("abc", 50, **options)
    assert len(text) == 50
    assert set(text) <= set(VOCABULARY)


def test_an_empty_prompt_starts_from_a_new_line(completer: Completer) -> None:
    assert completer.complete("", 10, greedy=True) == completer.complete("\n", 10, greedy=True)


def test_a_vocabulary_without_a_new_line_starts_from_its_first_character(
    transformer: CausalTransformer,
) -> None:
    completer = Completer(transformer, CharTokenizer("abcdefghij"), 8)
    assert completer.complete("", 5, greedy=True) == completer.complete("a", 5, greedy=True)


def test_an_unknown_character_is_named_or_skipped(completer: Completer) -> None:
    with pytest.raises(UserError, match=r"'Z' \(U\+005A\) at position 2"):
        completer.complete("abZc", 5)
    skipped = completer.complete("abZc", 5, greedy=True, unknown="skip")
    assert skipped == completer.complete("abc", 5, greedy=True)


def test_mistakes_show_when_asked_and_not_when_the_stream_is_read(completer: Completer) -> None:
    with pytest.raises(UserError, match="max_new_tokens is -1"):
        completer.stream("abc", -1)
    with pytest.raises(UserError, match="temperature is -1"):
        completer.stream("abc", temperature=-1)
    with pytest.raises(UserError, match="'Z'"):
        completer.stream("Z")


def test_completing_leaves_mode_and_global_randomness_as_they_were(completer: Completer) -> None:
    for training in (True, False):
        completer.transformer.train(training)
        before = torch.get_rng_state()
        completer.complete("abc", 5, seed=0)
        assert completer.transformer.training is training
        assert torch.equal(torch.get_rng_state(), before)


def test_completing_is_the_same_in_either_mode(transformer: CausalTransformer) -> None:
    torch.manual_seed(0)
    network = CausalTransformer(
        11, 8, num_layers=2, num_heads=2, d_model=8, dropout=0.5, zero_init=False
    )
    completer = Completer(network, CharTokenizer(VOCABULARY), 8)
    network.train()
    text = completer.complete("abc", 30, greedy=True)
    network.eval()
    assert completer.complete("abc", 30, greedy=True) == text


def save(path: Path, module: ShakespeareLM, **changes: object) -> Path:
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save({**content, **changes}, path)
    return path


@pytest.fixture
def module() -> ShakespeareLM:
    torch.manual_seed(0)
    return ShakespeareLM(VOCABULARY, context_length=8, num_layers=1, num_heads=2, d_model=8)


def test_a_checkpoint_yields_the_network_that_was_saved(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    completer = Completer.from_checkpoint(save(tmp_path / "a.ckpt", module))
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(completer.transformer(ids), module.transformer.eval()(ids))
    assert completer.tokenizer.vocabulary == VOCABULARY
    assert completer.context_length == 8
    assert not completer.transformer.training


def test_a_bigram_checkpoint_completes(tmp_path: Path) -> None:
    module = ShakespeareLM(VOCABULARY, network="bigram", context_length=8)
    completer = Completer.from_checkpoint(str(save(tmp_path / "a.ckpt", module)))
    assert len(completer.complete("abcabcabcabc", 10)) == 10


class Harmful:
    """Pickles into a call that would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


def test_a_checkpoint_that_holds_code_is_refused_and_nothing_runs(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    target = tmp_path / "ran"
    path = save(tmp_path / "a.ckpt", module, extra=Harmful(target))
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        Completer.from_checkpoint(path)
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Harmful(target)))
    with pytest.raises(UserError, match=r"b\.ckpt is damaged or no checkpoint"):
        Completer.from_checkpoint(tmp_path / "b.ckpt")
    assert not target.exists()


def test_every_truncation_of_a_checkpoint_is_refused_in_one_line(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    whole = save(tmp_path / "a.ckpt", module).read_bytes()
    for size in range(0, len(whole), len(whole) // 25):
        (tmp_path / "cut.ckpt").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"cut\.ckpt is damaged or no checkpoint") as caught:
            Completer.from_checkpoint(tmp_path / "cut.ckpt")
        assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_a_folder_and_an_address_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ckpt", tmp_path, "https://example.org/model.ckpt"):
        with pytest.raises(UserError, match=f"there is no checkpoint {path}"):
            Completer.from_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        {"model": torch.zeros(3)},
        [1, 2],
        {"state_dict": {}, "hyper_parameters": {"d_model": 8}},
        {"state_dict": {}},
    ],
)
def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt is a checkpoint of another program"):
        Completer.from_checkpoint(tmp_path / "other.ckpt")


def test_weights_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, module: ShakespeareLM
) -> None:
    for change in ({"d_model": 16}, {"d_model": "wide"}, {"vocabulary": "ab"}, {"num_layers": 2}):
        path = save(tmp_path / "a.ckpt", module, hyper_parameters={**module.hparams, **change})
        with pytest.raises(UserError, match=r"a\.ckpt holds no working model") as caught:
            Completer.from_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_the_newest_run_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    for number in (0, 9, 10):
        folder = tmp_path / f"version_{number}" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "best.ckpt").touch()
    (tmp_path / "version_11" / "checkpoints").mkdir(parents=True)
    assert newest_checkpoint("best", tmp_path).parts[-3] == "version_10"
    with pytest.raises(UserError, match=r"no last\.ckpt in"):
        newest_checkpoint("last", tmp_path)
