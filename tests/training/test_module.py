"""The LightningModule: its options, exact losses, steps that equal a hand-written loop, its
checkpoints, and what a subclass can change.
"""

import math
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.tuner import Tuner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shakespeare_lm.checkpoint.reading import FORMAT, FORMAT_KEY, read_checkpoint
from shakespeare_lm.checkpoint.safetensors_file import safetensors_bytes
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Batch, Documents, encode_documents
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.distillation import DistillationConfig
from shakespeare_lm.methods.multi_token import MultiTokenConfig
from shakespeare_lm.methods.networks import NETWORK_OPTIONS
from shakespeare_lm.methods.objective import Objective, TrainingStep
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.training.module import ModelConfig, ShakespeareLM, TrainingConfig
from shakespeare_lm.training.optimizer import (
    OptimizerConfig,
    OptimizerName,
    build_optimizer,
)
from shakespeare_lm.training.schedule import learning_rate_factor
from tests.conftest import Fit, logged, save

RUN = Path("lightning_logs/version_0")
TEXT = "the cat sat on the mat; a rat ran at the cat, and that was that. " * 3
TOKENIZER = CharTokenizer.from_text(TEXT)
GOLDEN_LOSS, GOLDEN_NORM = 2.811697, 1.060014
# No zero_init: a head of zeros predicts the same, whatever goes wrong before it.
SMALL = {
    "num_layers": 1, "num_heads": 2, "d_model": 16, "context_length": 8, "zero_init": False,
    "previous_characters": 4,
}  # fmt: skip


def small_module(**options: object) -> ShakespeareLM:
    torch.manual_seed(0)
    return ShakespeareLM(TOKENIZER.vocabulary, **{**SMALL, **options})


def batches(
    batch_size: int = 4, documents: Documents | None = None, **options: object
) -> WindowLoader:
    documents = documents or encode_documents([TEXT[:70], TEXT[:13], "t", TEXT[:31]], TOKENIZER)
    return WindowLoader(
        documents,
        context_length=8,
        batch_size=batch_size,
        padding_id=TOKENIZER.padding_id,
        **options,
    )


def trainer(**options: object) -> Trainer:
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    return Trainer(accelerator="cpu", **{**dict.fromkeys(quiet, False), **options})


def validate(module: ShakespeareLM, loaders: object) -> dict[str, float]:
    metrics = trainer().validate(module, loaders, verbose=False)
    return {name: value for part in metrics for name, value in part.items()}


def curve_names(run_folder: Path) -> set[str]:
    events = EventAccumulator(str(run_folder))
    events.Reload()
    return set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("d_model", 0, "d_model is 0: expected"),
        ("beta2", 1.0, "beta2 is 1.0: expected 0 <= beta2 < 1"),
        ("ngram_distillation", 1.0, "ngram_distillation is 1.0: expected 0 <= ngram_dist"),
        ("characters_ahead", 0, "characters_ahead is 0: expected a value >= 1"),
        ("ngram_distillation", "half", "ngram_distillation is 'half': expected float"),
    ],
)
def test_the_options_of_all_classes_are_checked(option: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(**{option: value})  # type: ignore[arg-type]


def test_no_option_is_in_two_classes() -> None:
    kinds = (OptimizerConfig, DistillationConfig, MultiTokenConfig)
    of_training = [field.name for kind in kinds for field in fields(kind)]
    assert sorted(of_training) == sorted(field.name for field in fields(TrainingConfig))
    both = [*of_training, *NETWORK_OPTIONS]
    assert sorted(both) == sorted({field.name for field in fields(ModelConfig)})


@torch.no_grad()
def test_val_loss_is_the_mean_over_real_characters_whatever_the_batches() -> None:
    module = small_module()
    nats, count = 0.0, 0
    for row in batches(batch_size=1):
        logits = module.network.eval()(row.inputs)[row.target_mask].double()
        nats -= float(logits.log_softmax(-1).gather(1, row.targets[row.target_mask][:, None]).sum())
        count += int(row.target_mask.sum())
    for batch_size in (1, 3, 8):
        # Sums of a few hundred float32 numbers.
        assert validate(module, batches(batch_size))["val_loss"] == pytest.approx(
            nats / count, rel=1e-6
        )
    shuffled = validate(module, batches(3, window_order="grid", seed=5))
    assert shuffled["val_loss"] == pytest.approx(nats / count, rel=1e-6)


def test_bits_and_perplexity_follow_from_the_loss() -> None:
    metrics = validate(small_module(), batches())
    assert metrics["val_bpc"] == pytest.approx(metrics["val_loss"] / math.log(2), rel=1e-5)
    assert metrics["val_perplexity"] == pytest.approx(math.exp(metrics["val_loss"]), rel=1e-5)


def test_the_sample_of_the_training_part_is_scored_apart_from_the_validation_part() -> None:
    train = encode_documents([TEXT[:40]], TOKENIZER)
    metrics = validate(small_module(), [batches(), batches(documents=train)])
    assert (
        metrics["train_eval_loss"] == validate(small_module(), batches(documents=train))["val_loss"]
    )
    assert metrics["val_loss"] == validate(small_module(), batches())["val_loss"]


def test_dropout_is_off_in_validation() -> None:
    losses = {validate(small_module(dropout=0.9), batches())["val_loss"] for _ in range(2)}
    assert losses == {validate(small_module(), batches())["val_loss"]}


def steps_by_hand(
    name: OptimizerName, module: ShakespeareLM, data: Iterable[Batch], steps: int
) -> list[float]:
    """The training loop as one would write it without Lightning."""
    config = OptimizerConfig(
        optimizer=name,
        learning_rate=1e-2,
        muon_learning_rate=0.02,
        weight_decay=0.1,
        warmup_steps=3,
    )
    optimizer = build_optimizer(module.network.parameters(), config, module.network.blocks)
    highest = [group["lr"] for group in optimizer.param_groups]
    losses: list[float] = []
    module.network.train()
    while len(losses) < steps:
        for batch in data:
            factor = learning_rate_factor(len(losses), config, steps)
            for group, learning_rate in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = learning_rate * factor
            logits = module.network(batch.inputs)
            nats, count = masked_cross_entropy(logits, batch.targets, batch.target_mask)
            loss = nats / count
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if len(losses) == steps:
                break
    return losses


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_ten_trainer_steps_equal_ten_steps_of_a_hand_written_loop(name: OptimizerName) -> None:
    options = {
        "optimizer": name,
        "learning_rate": 1e-2,
        "muon_learning_rate": 0.02,
        "weight_decay": 0.1,
        "schedule": "linear",
        "warmup_steps": 3,
    }
    by_hand, by_trainer = small_module(**options), small_module(**options)
    losses: list[float] = []
    original = by_trainer.training_step

    def training_step(batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = original(batch, batch_idx)
        losses.append(float(loss.detach()))
        return loss

    by_trainer.training_step = training_step  # type: ignore[method-assign]
    trainer(max_steps=10, num_sanity_val_steps=0).fit(
        by_trainer, batches(window_order="shifted"), batches()
    )
    assert losses == steps_by_hand(name, by_hand, batches(window_order="shifted"), 10)
    for ours, theirs in zip(by_trainer.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_one_seeded_step_has_these_golden_numbers() -> None:
    module = small_module(num_layers=2, positions="rotary", bias=True, zero_init=False)
    batch = next(iter(batches(batch_size=8)))
    nats, count = masked_cross_entropy(
        module.network(batch.inputs), batch.targets, batch.target_mask
    )
    loss = nats / count
    loss.backward()
    norm = torch.nn.utils.get_total_norm(p.grad for p in module.network.parameters())
    why = "update these only with a change meant to alter initialisation, batches or the network"
    # Summation order differs between processors and versions of torch.
    assert loss.item() == pytest.approx(GOLDEN_LOSS, rel=1e-4), why
    assert norm.item() == pytest.approx(GOLDEN_NORM, rel=1e-3), why


def test_one_batch_is_memorised_and_greedy_completion_reproduces_it() -> None:
    module = small_module(d_model=32, context_length=32, learning_rate=1e-2)
    ids = torch.tensor([TOKENIZER.encode(TEXT[:33])])
    mask = torch.ones(1, 32, dtype=torch.bool)
    config = OptimizerConfig(optimizer="adamw", learning_rate=1e-2)
    optimizer = build_optimizer(module.network.parameters(), config, None)
    for _ in range(150):
        nats, count = masked_cross_entropy(module.network(ids[:, :-1]), ids[:, 1:], mask)
        optimizer.zero_grad()
        (nats / count).backward()
        optimizer.step()
    assert float((nats / count).detach()) < 0.05
    completer = Completer(module.network, TOKENIZER, 32)
    assert completer.complete(TEXT[:1], 32, greedy=True) == TEXT[1:33]


def test_ids_keep_the_order_of_the_vocabulary_that_is_given() -> None:
    module = ShakespeareLM("zab", **SMALL)
    assert module.hparams["vocabulary"] == module.tokenizer.vocabulary == "zab"


def test_hyperparameters_are_plain_values_and_rebuild_the_module() -> None:
    module = small_module(d_feedforward=24)
    assert module.hparams["vocabulary"] == TOKENIZER.vocabulary
    assert module.hparams["d_feedforward"] == 24
    assert {type(value) for value in module.hparams.values()} <= {str, int, float, bool, type(None)}
    again = ShakespeareLM(**module.hparams)
    assert dict(again.hparams) == dict(module.hparams)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.5}, "dropout is 1.5: expected 0 <= dropout < 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected a value > 0"),
    ],
)
def test_options_of_the_network_and_of_the_optimizer_are_checked(
    options: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        small_module(**options)


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(UserError, match="option is 'num_layer': choose from: vocabulary, seed, "):
        small_module(num_layer=2)


def test_a_checkpoint_with_an_unknown_hyperparameter_is_refused_in_one_line(tmp_path: Path) -> None:
    module = small_module()
    hyperparameters = {**module.hparams, "of_a_later_version": 1}
    path = save(tmp_path / "later.ckpt", module, hyper_parameters=hyperparameters)
    with pytest.raises(UserError, match="option is 'of_a_later_version': choose from"):
        ShakespeareLM.load_from_checkpoint(path)


def test_a_safetensors_file_is_loaded_as_its_checkpoint_is(tmp_path: Path) -> None:
    module = small_module(optimizer="adamw")
    checkpoint = read_checkpoint(save(tmp_path / "a.ckpt", module))
    options = {name: module.hparams[name] for name in ("vocabulary", *NETWORK_OPTIONS)}
    exported = safetensors_bytes(checkpoint.distinct_weights, options, FORMAT)
    (tmp_path / "a.safetensors").write_bytes(exported)
    loaded = ShakespeareLM.load_from_checkpoint(tmp_path / "a.safetensors")
    assert all(map(torch.equal, module.parameters(), loaded.parameters()))


def test_a_checkpoint_is_loaded_without_its_code_or_not_at_all(tmp_path: Path) -> None:
    module = small_module()
    path = save(tmp_path / "a.ckpt", module)
    loaded = ShakespeareLM.load_from_checkpoint(path, map_location="cpu")
    assert all(map(torch.equal, module.parameters(), loaded.parameters()))
    with pytest.raises(UserError, match="weights_only is False"):
        ShakespeareLM.load_from_checkpoint(path, weights_only=False)
    state = {**module.state_dict(), "more": torch.zeros(1)}
    with pytest.raises(UserError, match=r"b\.ckpt: .*more"):
        ShakespeareLM.load_from_checkpoint(save(tmp_path / "b.ckpt", module, state_dict=state))


def test_a_checkpoint_of_another_vocabulary_is_refused() -> None:
    module = small_module()
    other = {"hyper_parameters": {**module.hparams, "vocabulary": "ab"}}
    with pytest.raises(UserError, match="the checkpoint's vocabulary differs"):
        module.on_load_checkpoint(other)
    module.on_load_checkpoint({"hyper_parameters": dict(module.hparams)})


def test_resuming_with_another_network_or_optimizer_is_refused_by_name(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=2")
    for option, message in (
        ("--model.num_layers=2", r"num_layers 1, but this run has 2: resume with the options of"),
        ("--model.learning_rate=0.1", r"learning_rate 0\.008, but this run has 0\.1"),
        ("--model.beta2=0.9", r"beta2 0\.99, but this run has 0\.9"),
        ("--seed=7", r"seed 1337, but this run has 7"),
    ):
        with pytest.raises(UserError, match=message):
            tiny_fit("--max_steps=4", option, "--ckpt_path=last")


def test_curves_of_the_training_have_the_same_steps_and_the_values_of_these_steps(
    tiny_fit: Fit,
) -> None:
    # The last of ten steps is no multiple of 3: nothing is written for it, nor old values.
    every_step, every_third, never = (
        Path(f"lightning_logs/version_{number}") for number in range(3)
    )
    for every in (1, 3, 0):
        tiny_fit("--max_steps=10", "--val_check_interval=4", f"--log_every_n_steps={every}")
    names = ["train_loss", "gradient_norm", "learning_rate"]
    for name in names:
        values = logged(every_step, name)
        assert set(values) == set(range(10)), name
        assert logged(every_third, name) == {step: values[step] for step in (2, 5, 8)}, name
    assert set(logged(every_third, "tokens_per_second")) == {2, 5, 8}
    assert not curve_names(never) & {*names, "tokens_per_second"}


def test_the_gradient_norm_is_that_before_clipping(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=3", "--gradient_clip_val=1e-3")
    tiny_fit("--max_steps=3", "--gradient_clip_val=0")
    clipped, free = (
        logged(Path(f"lightning_logs/version_{run}"), "gradient_norm") for run in (0, 1)
    )
    assert clipped[0] == free[0] > 0.1


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_loaded_model_warns_if_it_is_evaluated_on_another_text_or_split(
    tiny_fit: Fit, stage: str
) -> None:
    Path("text.txt").write_text("To be, or not to be: that is the question.\n" * 50)
    data: dict[str, Any] = {"corpus": "text.txt", "context_length": 16, "test_fraction": 0.2}
    path = tiny_fit("--data.corpus=text.txt", "--data.test_fraction=0.2", "--max_steps=1").last.path
    module = ShakespeareLM.load_from_checkpoint(path)

    def evaluate(**changes: object) -> None:
        datamodule = ShakespeareDataModule(**{**data, **changes})
        getattr(trainer(), stage)(module, datamodule=datamodule, verbose=False)

    evaluate()  # a warning would be an error
    evaluate(batch_size=3, window_order="random")  # the loss does not depend on these
    with pytest.warns(UserWarning, match="on other data than its own: .* with val_fraction 0.1"):
        evaluate(val_fraction=0.3)
    # The alphabet is the same, so nothing else would notice the difference.
    Path("text.txt").write_text("to be: That is the question, or not To be.\n" * 50)
    with pytest.warns(UserWarning, match="trained on another text; the loss cannot be compared"):
        evaluate()


class WithProbe(ShakespeareLM):
    """A subclass with a parameter of its own, which its training step uses."""

    def __init__(self, vocabulary: str, **options: Any) -> None:
        super().__init__(vocabulary, **options)
        self.probe = torch.nn.Linear(16, 2)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        hidden, _ = self.network(batch.inputs, with_hidden=True)
        return super().training_step(batch, batch_idx) + self.probe(hidden).square().mean()


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd"])
def test_the_parameters_of_a_subclass_are_trained(name: OptimizerName) -> None:
    torch.manual_seed(0)
    module = WithProbe(TOKENIZER.vocabulary, **{**SMALL, "optimizer": name})
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    trainer(max_steps=2, limit_val_batches=0).fit(
        module, batches(window_order="shifted"), batches()
    )
    for name, parameter in module.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert {"probe.weight", "probe.bias"} <= before.keys()


class OwnOptimizer(ShakespeareLM):
    """A subclass that has no schedule."""

    def configure_optimizers(self) -> torch.optim.Optimizer:  # type: ignore[override]
        return torch.optim.Adam(self.parameters(), lr=0.01)


class SaveAfterTwoSteps(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings("ignore:.*no fingerprint of its text")
@pytest.mark.parametrize("kind", [OwnOptimizer, WithProbe, ShakespeareLM])
def test_a_subclass_is_resumed_as_if_it_had_not_stopped(
    tmp_path: Path, kind: type[ShakespeareLM]
) -> None:
    made = []
    options: dict[str, Any] = {"callbacks": SaveAfterTwoSteps(tmp_path / "a.ckpt")}
    for steps, path in ((5, None), (2, None), (5, tmp_path / "a.ckpt")):
        torch.manual_seed(0)
        module = kind(TOKENIZER.vocabulary, **SMALL, decay_steps=9, dropout=0.1)
        trainer(max_steps=steps, limit_val_batches=0, **options).fit(
            module, batches(window_order="shifted"), batches(), ckpt_path=path, weights_only=True
        )
        made.append(module)
    whole, half, resumed = (module.state_dict() for module in made)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(whole[name], half[name]) for name in whole)


@pytest.mark.filterwarnings("ignore:.*no fingerprint of its text")
def test_a_checkpoint_of_format_1_is_resumed_by_a_trainer_without_our_plugin(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.ckpt"
    states = []
    for steps, resumed in ((5, None), (2, None), (5, path)):
        module = small_module(decay_steps=9, characters_ahead=2)
        made = trainer(max_steps=steps, limit_val_batches=0, callbacks=SaveAfterTwoSteps(path))
        made.fit(
            module, batches(window_order="shifted"), batches(), ckpt_path=resumed, weights_only=True
        )
        states.append(module.state_dict())
        content = torch.load(path, weights_only=True)
        content[FORMAT_KEY] = 1
        content["state_dict"] = {
            name.replace("network.", "transformer.", 1).replace(
                "objectives.multi_token.head.", "further_head."
            ): tensor
            for name, tensor in content["state_dict"].items()
        }
        torch.save(content, path)
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[2][name]), name


def test_build_optimizer_has_every_parameter_of_the_module_once() -> None:
    module = WithProbe(TOKENIZER.vocabulary, **SMALL, characters_ahead=2)
    groups = module.build_optimizer().param_groups
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(map(id, module.parameters()))
    assert [group["lr"] for group in groups] == [8e-3, 0.04]


def test_the_loss_that_is_logged_is_that_on_the_text_whatever_objectives_there_are(
    tmp_path: Path,
) -> None:
    class Twice(Objective):
        def forward(self, loss: torch.Tensor, step: TrainingStep) -> torch.Tensor:
            return 2 * loss

    losses = {}
    for name in ("plain", "doubled"):
        module = small_module(learning_rate=0.1, optimizer="sgd")
        if name == "doubled":
            module.objectives["twice"] = Twice()
        made = trainer(
            max_steps=1, limit_val_batches=0, log_every_n_steps=1, logger=CSVLogger(tmp_path, name)
        )
        made.fit(module, batches(), batches())
        losses[name] = made.logged_metrics["train_loss"]
        moved = module.network.head.weight - small_module().network.head.weight
        losses[f"{name} step"] = moved.norm().detach()
    assert losses["plain"] == losses["doubled"]
    torch.testing.assert_close(losses["doubled step"], 2 * losses["plain step"])


def lr_find(folder: Path, optimizer: str) -> tuple[ShakespeareLM, ShakespeareDataModule]:
    data = ShakespeareDataModule("sample", context_length=8, batch_size=16)
    data.setup()
    sizes = {**SMALL, "optimizer": optimizer, "schedule": "constant", "learning_rate": 1e-5}
    module = ShakespeareLM(data.vocabulary, **sizes)
    made = trainer(default_root_dir=folder, limit_val_batches=0, max_steps=30)
    Tuner(made).lr_find(module, datamodule=data, num_training=20)
    return module, data


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_learning_rate_that_is_found_is_the_one_of_the_training(
    tmp_path: Path, optimizer: str
) -> None:
    module, data = lr_find(tmp_path, optimizer)
    found = module.hparams["learning_rate"]
    assert found > 1e-5
    made = trainer(max_steps=1, limit_val_batches=0)
    made.fit(module, datamodule=data)
    assert {group["lr"] for group in made.optimizers[0].param_groups} == {found}
    assert module.config.learning_rate == found


def test_no_learning_rate_is_found_for_muon_which_has_two(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^lr_find tries one learning rate for .*: use it with"):
        lr_find(tmp_path, "muon")
