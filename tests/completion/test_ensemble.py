"""Several networks as one: the mean of their probabilities, also with a cache and from files."""

import re

import pytest
import torch

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Documents
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.losses import character_losses
from shakespeare_lm.methods.ensemble import Ensemble
from shakespeare_lm.methods.ngram_memory import leaving_out
from shakespeare_lm.training.module import ShakespeareLM
from tests.completion.conftest import VOCABULARY, assert_same, random_network
from tests.completion.test_decoder import cached, grow, prompts, uncached
from tests.conftest import save

# Members of several sizes, contexts, lookbacks and caches, two of them with a memory.
MEMBERS: list[dict] = [
    {"memory_order": 3, "previous_characters": 1},
    {"network": "bigram", "context_length": 6},
    {"num_layers": 1, "d_model": 4, "positions": "rotary", "context_length": 5},
    {"memory_order": 2, "memory_share": 0.2, "num_heads": 1, "positions": "learned"},
]
ENSEMBLE = Ensemble([random_network(**options) for options in MEMBERS]).eval()


def test_its_probabilities_are_the_mean_of_its_members():
    ids, members = torch.tensor(prompts(5, 5)), list(ENSEMBLE.members)
    for targets in (None, ids.roll(-1, 1)):
        with leaving_out(ENSEMBLE, targets):
            expected = sum(member(ids).softmax(-1) for member in members) / 4
            torch.testing.assert_close(ENSEMBLE(ids).exp(), expected)
    assert_same(Ensemble(members[:1] * 3)(ids), members[0](ids).log_softmax(-1))


@pytest.mark.parametrize("window", ["stride", "exact"])
def test_with_a_cache_it_is_the_same(window):
    texts = prompts(3, 1, 5, 9, 3)
    whole = grow(uncached(ENSEMBLE, window), texts)
    for fixed_shape in (False, True):
        assert_same(grow(cached(ENSEMBLE, 5, window, fixed_shape=fixed_shape), texts), whole)
    completer = Completer(ENSEMBLE, CharTokenizer(VOCABULARY), 5)
    for options in ({"greedy": True}, {"seed": 3, "temperature": 1.0}):
        texts = {completer.complete("abc", 40, cache=cache, **options) for cache in (False, True)}
        assert len(texts) == 1


def test_memories_of_different_texts_are_not_mixed_up():
    memory = ENSEMBLE.members[0].ngrams
    with pytest.raises(UserError, match="only some of the n-gram memories have counted this text"):
        character_losses(ENSEMBLE, Documents(memory.text, memory.lengths), 5)


def test_checkpoints_are_named_in_a_list_or_with_commas_and_have_one_vocabulary(tmp_path):
    sizes = {"num_layers": 1, "num_heads": 1, "d_model": 32}
    first, second, other = (
        save(tmp_path / f"{length}.ckpt", ShakespeareLM(text, context_length=length, **sizes))
        for text, length in ((VOCABULARY, 8), (VOCABULARY, 7), (VOCABULARY[1:], 6))
    )
    completer = Completer.from_checkpoint([first, str(second)], dtype="int8")
    assert (completer.context_length, completer.dtype) == (7, "int8")
    assert Completer.from_checkpoint(f"{first}, {second}").context_length == 7
    for given, message in (
        ([first, second, other], f"{other} has other characters than {first}: choose another"),
        (f"{first},none.ckpt", "there is no checkpoint none.ckpt: expected"),
        ([], "no checkpoint is given: expected at least one path"),
    ):
        with pytest.raises(UserError, match="^" + re.escape(message)):
            Completer.from_checkpoint(given)
    assert Completer.from_checkpoint(str(first.rename(tmp_path / "a,b.ckpt"))).context_length == 8
