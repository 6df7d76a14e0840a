"""The modelling file works with what transformers and PEFT offer: generation with a cache, drafts
and beams; Trainer, LoRA and gradient checkpointing; hidden states and attention weights.
"""

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.export.conftest import load
from tests.export.models import VOCABULARY, random_checkpoint

# Warnings of transformers are about its own future.
pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = "abcde'ROabc:\n a.b"
OWN: dict[str, dict[str, Any]] = {
    "n-grams": {"previous_characters": 4},
    "rotary n-grams": {"previous_characters": 2, "positions": "rotary"},
    "post-norm": {"norm": "post", "positions": "learned"},
}
Load = Callable[..., Any]


@pytest.fixture
def own(transformers: Any, tmp_path: Path) -> Load:
    """Return a function that loads a model with code of its own, by its name in `OWN`."""

    def load_own(name: str = "n-grams", attention: str = "sdpa") -> Any:
        folder = Path(mkdtemp(dir=tmp_path))  # weights are mapped from their file
        checkpoint = random_checkpoint(folder, **OWN[name])
        loading = {"trust_remote_code": True, "attn_implementation": attention}
        return load(transformers, checkpoint, folder, **loading)[0]

    return load_own


def ids_of(text: str = TEXT) -> Tensor:
    return torch.tensor([[VOCABULARY.index(character) for character in text]])


def generated(model: Any, ids: Tensor, length: int, **options: Any) -> list[list[int]]:
    made = model.generate(ids, max_new_tokens=length, do_sample=False, **options)
    return made[:, ids.shape[1] :].tolist()


def cache_of(output: Any) -> Any:
    return getattr(output, "cache" if hasattr(output, "cache") else "past_key_values")


@pytest.mark.parametrize("name", OWN)
def test_a_cache_changes_no_text_also_past_the_context(own: Load, name: str) -> None:
    model = own(name)
    ids = ids_of(TEXT[:9] * 4)  # longer than the context of 24
    for given in (ids[:, :3], ids, ids.view(2, -1)):
        mask = torch.ones_like(given)
        mask[0, :2] = 0  # padding
        options = {"attention_mask": mask}
        without = generated(model, given, 50, use_cache=False, **options)
        assert generated(model, given, 50, **options) == without
        beams = generated(model, given, 30, num_beams=3, use_cache=False, **options)
        assert generated(model, given, 30, num_beams=3, **options) == beams


@pytest.mark.parametrize("name", OWN)
def test_a_text_read_in_pieces_has_the_logits_of_the_whole(own: Load, name: str) -> None:
    model, ids, cache, pieces = own(name), ids_of(), None, []
    with torch.inference_mode():
        for piece in ids.split([5, 1, 11], dim=1):
            output = model(piece, past_key_values=cache, use_cache=True)
            cache = cache_of(output)
            pieces.append(output.logits)
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids).logits)
        assert cache_of(model(ids)) is None


@pytest.mark.parametrize("name", OWN)
def test_each_step_with_a_cache_reads_one_character(own: Load, name: str) -> None:
    model, lengths = own(name), []
    model.blocks[0].register_forward_hook(lambda _, given, __: lengths.append(given[0].shape[1]))
    generated(model, ids_of(), 20)
    # A full window of 24 restarts with 12 characters.
    assert lengths == [17, *[1] * 7, 12, *[1] * 11]


@pytest.mark.parametrize("name", OWN)
def test_drafts_change_no_text_within_the_context_and_are_refused_beyond(
    own: Load, name: str
) -> None:
    model, ids = own(name), ids_of("abab")
    greedy = generated(model, ids, 17)
    lookup = {"prompt_lookup_num_tokens": 3, "eos_token_id": 14}  # 4.57 needs an end
    (looked_up,) = generated(model, ids, 17, **lookup)
    assert [looked_up[:17]] == greedy  # 4.57 may go on for the rest of a draft
    for assistant in (own("post-norm"), own(name)):
        assert generated(model, ids, 17, assistant_model=assistant) == greedy
    with pytest.raises(ValueError, match=r"^assisted decoding to 25 characters: expected at most"):
        generated(model, ids, 18, **lookup)


def test_hidden_states_attention_weights_and_embeddings(own: Load) -> None:
    ids, eager = ids_of(), own("post-norm", "eager")
    output = eager(ids, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(eager.head(output.hidden_states[-1]), output.logits)
    assert [tuple(states.shape) for states in output.hidden_states] == [(1, 17, 16)] * 3
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 2, 17))
        assert weights.triu(1).count_nonzero() == 0
    sdpa = own("post-norm")
    torch.testing.assert_close(sdpa(ids).logits, output.logits)
    embeddings = sdpa.get_input_embeddings()
    torch.testing.assert_close(sdpa(inputs_embeds=embeddings(ids)).logits, output.logits)
    sdpa.set_input_embeddings(nn.Embedding(15, 16))
    assert not sdpa(ids).logits.allclose(output.logits)


def test_what_it_cannot_do_is_one_line(own: Load) -> None:
    model, ids = own(), ids_of()
    embeddings = model.get_input_embeddings()(ids)
    for given, message in (
        ({"input_ids": ids + 16}, "input_ids has [23, 24, 25"),
        ({"input_ids": ids.tile(2)}, "34 characters are more than the context_length, 24"),
        ({}, "expected input_ids or inputs_embeds"),
        ({"inputs_embeds": embeddings}, "inputs_embeds: not with a cache or previous"),
        ({"input_ids": ids, "attention_mask": ids[:, :3]}, "attention_mask is [1, 3]: expected [1"),
        (
            {"input_ids": ids, "output_attentions": True},
            "output_attentions: needs attn_implementation='eager'",
        ),
        ({"input_ids": ids, "position_ids": ids}, "position_ids: they follow from attention_mask"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            model(**given)
    with pytest.raises(ValueError, match="inputs_embeds"):
        model.generate(inputs_embeds=embeddings)
    with pytest.raises((ValueError, ImportError)):
        own(attention="flash_attention_2")


def gradients(model: Any) -> dict[str, Tensor]:
    model.train()
    model(ids_of(), labels=ids_of()).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_gradient_checkpointing_computes_the_same_gradients(own: Load) -> None:
    plain, model, calls = gradients(own()), own(), []
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.blocks[0].attention.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(gradients(model), plain)
    assert len(calls) == 2  # once more, backwards


def test_accumulated_gradients_have_the_loss_of_one_batch(
    own: Load, transformers: Any, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="needs pip install accelerate")
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(15, (8, 20))]
    losses = []
    for size, steps in ((8, 1), (2, 4)):
        arguments = transformers.TrainingArguments(
            str(tmp_path / "trainer"), per_device_train_batch_size=size, max_steps=1, use_cpu=True,
            gradient_accumulation_steps=steps, logging_steps=1, report_to=[], disable_tqdm=True,
        )  # fmt: skip
        trainer = transformers.Trainer(own(), arguments, train_dataset=rows)
        trainer.train()
        logged = trainer.state.log_history[0]
        losses.append((logged["loss"], logged["grad_norm"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("targets", ["documented", "all-linear"])
def test_lora_trains_its_own_weights_and_merges(own: Load, targets: str) -> None:
    peft = pytest.importorskip("peft", reason="needs pip install peft")
    names = ["query_key_value", "output", "feed_forward.0", "feed_forward.2"]
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=names if targets == "documented" else targets
    )
    model = peft.get_peft_model(own(), config)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * 4 * 2  # two matrices for each of four layers in two blocks
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    losses = []
    for _ in range(5):
        losses.append(model(input_ids=ids_of(), labels=ids_of()).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    expected = generated(model, ids_of(), 20)
    assert generated(model.merge_and_unload(), ids_of(), 20) == expected
