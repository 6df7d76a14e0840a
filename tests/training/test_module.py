"""The LightningModule: its options, exact losses, steps that equal a hand-written loop, its
checkpoints, and what a subclass can change.
"""

import itertools
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.utilities.model_summary import ModelSummary

from shakespeare_lm import ValidationSteps
from shakespeare_lm.checkpoint.reading import FORMAT, FORMAT_KEY, read_checkpoint
from shakespeare_lm.checkpoint.safetensors_file import safetensors_bytes
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.datamodule import ShakespeareDataModule, SplitKeywords
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.splits import SplitConfig
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Batch, encode_documents
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.distillation import DistillationConfig
from shakespeare_lm.methods.multi_token import MultiTokenConfig
from shakespeare_lm.methods.networks import NETWORK_OPTIONS, build_network
from shakespeare_lm.methods.ngram_memory import NGramMemory
from shakespeare_lm.methods.objective import Objective, TrainingStep
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.training.model_keywords import ModelKeywords
from shakespeare_lm.training.module import ModelConfig, ShakespeareLM, TrainingConfig
from shakespeare_lm.training.optimizer import OptimizerConfig, build_optimizer
from shakespeare_lm.training.schedule import learning_rate_factor
from tests.conftest import logged, save
from tests.training.conftest import curve_names, trainer

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


def batches(batch_size=4, documents=None, **options):
    documents = documents or encode_documents([TEXT[:70], TEXT[:13], "t", TEXT[:31]], TOKENIZER)
    sizes = {"context_length": 8, "batch_size": batch_size, "padding_id": TOKENIZER.padding_id}
    return WindowLoader(documents, **sizes, **options)


def fit(module: ShakespeareLM, steps: int, resumed: object = None, **options: object) -> Trainer:
    made = trainer(**{"max_steps": steps, "limit_val_batches": 0, **options})
    data = batches(window_order="shifted")
    made.fit(module, data, batches(), ckpt_path=resumed, weights_only=True)
    return made


class LossesOfValidation(Callback):
    count = 0

    def on_validation_end(self, *_: object) -> None:
        self.count += 1


def validate(module: ShakespeareLM, loaders: object) -> dict[str, float]:
    metrics = trainer().validate(module, loaders, verbose=False)
    return {name: value for part in metrics for name, value in part.items()}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("d_model", 0, "d_model is 0: expected"),
        ("beta2", 1.0, "beta2 is 1.0: expected 0 <= beta2 < 1"),
        ("ngram_distillation", 1.0, "ngram_distillation is 1.0: expected 0 <= ngram_dist"),
        ("characters_ahead", 0, "characters_ahead is 0: expected a value >= 1"),
        ("num_layer", 2, "option is 'num_layer': choose from: vocabulary, seed, "),
    ],
)
def test_the_options_of_all_classes_are_checked(option, value, message):
    with pytest.raises(UserError, match=message):
        small_module(**{option: value})


def test_no_option_is_in_two_classes():
    kinds = (OptimizerConfig, DistillationConfig, MultiTokenConfig)
    of_training = ["objective", *(field.name for kind in kinds for field in fields(kind))]
    assert sorted(of_training) == sorted(field.name for field in fields(TrainingConfig))
    both = [*of_training, *NETWORK_OPTIONS]
    assert sorted(both) == sorted({field.name for field in fields(ModelConfig)})


@pytest.mark.parametrize(
    ("keywords", "config"), [(ModelKeywords, ModelConfig), (SplitKeywords, SplitConfig)]
)
def test_type_checkers_know_the_options_of_the_dataclasses(keywords, config):
    types = get_type_hints(config)
    assert get_type_hints(keywords) == {field.name: types[field.name] for field in fields(config)}


def test_the_predictions_are_the_log_probabilities_of_the_validation_part_in_order(tmp_path):
    data = ShakespeareDataModule("sample", context_length=8)
    data.setup()
    path = save(tmp_path / "a.ckpt", ShakespeareLM(data.vocabulary, **SMALL, dropout=0.5))
    module = ShakespeareLM.load_from_checkpoint(path)
    found = torch.cat([rows.flatten() for rows in trainer().predict(module, datamodule=data)])
    (metrics, _) = trainer().validate(module, datamodule=data, verbose=False)
    text = data.encoded["val"].ids.long()
    assert found.isfinite().sum() == len(text) - 1 < len(found)  # the last window has padding
    # Sums of thousands of float32 numbers, in another order.
    assert -found.nanmean() == pytest.approx(metrics["val_loss"], rel=1e-5)
    completer = Completer.from_checkpoint(path)
    with torch.no_grad():
        logits = completer.network(text[None, :8])
    assert found[:8].tolist() == pytest.approx(
        logits[0].log_softmax(-1)[range(8), text[1:9]].tolist(), rel=1e-4
    )


def test_lightnings_summary_counts_operations_and_nothing_random_is_drawn():
    module = small_module(memory_order=2, dropout=0.5)
    drawn = torch.get_rng_state()
    flops = ModelSummary(module).total_flops
    matrices = module.config.num_matrix_weights(TOKENIZER.vocab_size)
    assert flops > 8 * matrices
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.manual_seed(0)
    build_network(TOKENIZER.vocab_size, module.config)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any("example" in name for name in module.state_dict())


@pytest.mark.filterwarnings("ignore:.*no fingerprint of its text")
@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        ("muon", {"lr-MuonAndAdamW/muon", "lr-MuonAndAdamW/others"}),
        ("adamw", {"lr-AdamW/matrices", "lr-AdamW/others"}),
    ],
)
def test_learning_rates_have_the_names_of_the_groups_in_resumed_old_runs_too(
    tmp_path, optimizer, names
):
    path = tmp_path / "a.ckpt"
    options = {"optimizer": optimizer, "schedule": "constant"}
    fit(small_module(**options), 3, callbacks=SaveAfterTwoSteps(path))
    content = torch.load(path, weights_only=True)
    for group in content["optimizer_states"][0]["param_groups"]:
        del group["name"]  # as before there were names
    torch.save(content, path)
    monitor = LearningRateMonitor()
    logs = {"logger": CSVLogger(tmp_path), "log_every_n_steps": 1}
    made = fit(small_module(**options), 3, path, callbacks=monitor, **logs)
    assert {name for name in made.callback_metrics if name.startswith("lr-")} == names


def test_with_the_public_callback_a_plain_trainer_validates_after_the_last_step():
    for callbacks, expected in (([], 1), ([ValidationSteps()], 2)):
        losses = LossesOfValidation()
        options = {"limit_val_batches": 1, "val_check_interval": 2, "num_sanity_val_steps": 0}
        fit(small_module(), 3, callbacks=[*callbacks, losses], **options)
        assert losses.count == expected


@torch.no_grad()
def test_val_loss_is_the_mean_over_real_characters_whatever_the_batches():
    module = small_module()
    nats, count = 0.0, 0
    for row in batches(batch_size=1):
        logits = module.network.eval()(row.inputs)[row.target_mask].double()
        nats -= float(logits.log_softmax(-1).gather(1, row.targets[row.target_mask][:, None]).sum())
        count += int(row.target_mask.sum())
    shuffled = batches(3, window_order="grid", seed=5)
    for loader in (batches(1), batches(3), batches(8), shuffled):
        loss = validate(module, loader)["val_loss"]
        # Sums of a few hundred float32 numbers.
        assert loss == pytest.approx(nats / count, rel=1e-6)


def test_bits_and_perplexity_follow_from_the_loss():
    metrics = validate(small_module(), batches())
    assert metrics["val_bpc"] == pytest.approx(metrics["val_loss"] / math.log(2), rel=1e-5)
    assert metrics["val_perplexity"] == pytest.approx(math.exp(metrics["val_loss"]), rel=1e-5)


def test_the_sample_of_the_training_part_is_scored_apart_from_the_validation_part():
    train = encode_documents([TEXT[:40]], TOKENIZER)
    together = validate(small_module(), [batches(), batches(documents=train)])
    assert together["val_loss"] == validate(small_module(), batches())["val_loss"]
    alone = validate(small_module(), batches(documents=train))
    assert together["train_eval_loss"] == alone["val_loss"] != together["val_loss"]


def test_dropout_is_off_in_validation():
    losses = {validate(small_module(dropout=0.9), batches())["val_loss"] for _ in range(2)}
    assert losses == {validate(small_module(), batches())["val_loss"]}


RATES = {"learning_rate": 1e-2, "muon_learning_rate": 0.02, "weight_decay": 0.1, "warmup_steps": 3}


def steps_by_hand(name: str, module: ShakespeareLM, steps: int) -> list[float]:
    """The training loop as one would write it without Lightning."""
    config = OptimizerConfig(optimizer=name, schedule="linear", **RATES)
    optimizer = build_optimizer(module.network.parameters(), config, module.network.blocks)
    highest = [group["lr"] for group in optimizer.param_groups]
    epochs = itertools.repeat(batches(window_order="shifted"))
    losses: list[float] = []
    module.network.train()
    for batch in itertools.islice(itertools.chain.from_iterable(epochs), steps):
        factor = learning_rate_factor(len(losses), config, steps)
        for group, learning_rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = learning_rate * factor
        nats, count = masked_cross_entropy(
            module.network(batch.inputs), batch.targets, batch.target_mask
        )
        loss = nats / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


class Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, _: Trainer, __: ShakespeareLM, outputs: dict, *rest: object):
        self.losses.append(float(outputs["loss"]))


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_ten_trainer_steps_equal_ten_steps_of_a_hand_written_loop(name):
    by_hand, by_trainer = (
        small_module(optimizer=name, schedule="linear", **RATES) for _ in range(2)
    )
    callback = Losses()
    fit(by_trainer, 10, callbacks=callback, limit_val_batches=1.0, num_sanity_val_steps=0)
    assert callback.losses == steps_by_hand(name, by_hand, 10)
    assert all(map(torch.equal, by_trainer.parameters(), by_hand.parameters()))


def test_one_seeded_step_has_these_golden_numbers():
    network = small_module(num_layers=2, positions="rotary", bias=True, zero_init=False).network
    batch = next(iter(batches(batch_size=8)))
    nats, count = masked_cross_entropy(network(batch.inputs), batch.targets, batch.target_mask)
    loss = nats / count
    loss.backward()
    norm = torch.nn.utils.get_total_norm(parameter.grad for parameter in network.parameters())
    why = "update these only with a change meant to alter initialisation, batches or the network"
    # Summation order differs between processors and versions of torch.
    assert loss.item() == pytest.approx(GOLDEN_LOSS, rel=1e-4), why
    assert norm.item() == pytest.approx(GOLDEN_NORM, rel=1e-3), why


def test_one_batch_is_memorised_and_greedy_completion_reproduces_it():
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


def test_hyperparameters_are_plain_values_and_rebuild_the_module():
    module = ShakespeareLM("zab", **SMALL, d_feedforward=24)  # ids keep this order
    assert module.hparams["vocabulary"] == module.tokenizer.vocabulary == "zab"
    assert module.hparams["d_feedforward"] == 24
    assert {type(value) for value in module.hparams.values()} <= {str, int, float, bool, type(None)}
    assert dict(ShakespeareLM(**module.hparams).hparams) == dict(module.hparams)


def test_a_checkpoint_is_loaded_without_its_code_or_not_at_all(tmp_path):
    module = small_module(optimizer="adamw")
    path, exported = save(tmp_path / "a.ckpt", module), tmp_path / "a.safetensors"
    options = {name: module.hparams[name] for name in ("vocabulary", *NETWORK_OPTIONS)}
    weights = read_checkpoint(path).distinct_weights
    exported.write_bytes(safetensors_bytes(weights, options, FORMAT))
    for file in (path, exported):
        loaded = ShakespeareLM.load_from_checkpoint(file, map_location="cpu")
        assert all(map(torch.equal, module.parameters(), loaded.parameters()))
    with pytest.raises(UserError, match="weights_only is False"):
        ShakespeareLM.load_from_checkpoint(path, weights_only=False)
    for name in ("strict", "hparams_file"):  # which Lightning has
        with pytest.raises(UserError, match=f"option is '{name}': choose from: checkpoint_path, "):
            ShakespeareLM.load_from_checkpoint(path, **{name: None})
    more = {"state_dict": {**module.state_dict(), "more": torch.zeros(1)}}
    later = {"hyper_parameters": {**module.hparams, "of_a_later_version": 1}}
    unknown = "option is 'of_a_later_version': choose from"
    for changes, message in ((more, r"b\.ckpt: .*more"), (later, unknown)):
        with pytest.raises(UserError, match=message):
            ShakespeareLM.load_from_checkpoint(save(tmp_path / "b.ckpt", module, **changes))


def test_curves_of_the_training_have_the_same_steps_and_the_values_of_these_steps(tiny_fit):
    # The last of ten steps is no multiple of 3: nothing is written for it, nor old values.
    for every in (1, 3, 0):
        tiny_fit("--max_steps=10", "--val_check_interval=4", f"--log_every_n_steps={every}",
                 "--gradient_clip_val=1e-3")  # fmt: skip
    tiny_fit("--max_steps=1", "--gradient_clip_val=0")
    runs = [Path(f"lightning_logs/version_{number}") for number in range(4)]
    every_step, every_third, never, unclipped = runs
    names = ["train_loss", "gradient_norm", "learning_rate"]
    for name in names:
        values = logged(every_step, name)
        assert set(values) == set(range(1, 11)), name
        assert logged(every_third, name) == {step: values[step] for step in (3, 6, 9)}, name
    assert set(logged(every_third, "tokens_per_second")) == {3, 6, 9}
    assert not curve_names(never) & {*names, "tokens_per_second"}
    assert "epoch" not in curve_names(every_step)
    # The norm is that before clipping.
    assert logged(every_step, "gradient_norm")[1] == logged(unclipped, "gradient_norm")[1] > 0.1


def test_a_loaded_model_warns_if_it_is_evaluated_on_another_text_or_split(tiny_fit):
    text = Path("text.txt")
    text.write_text("To be, or not to be: that is the question.\n" * 50)
    data: dict[str, Any] = {"corpus": str(text), "context_length": 16, "test_fraction": 0.2}
    path = tiny_fit("--data.corpus=text.txt", "--data.test_fraction=0.2", "--max_steps=1").last.path
    module = ShakespeareLM.load_from_checkpoint(path)

    def evaluate(stage, **changes):
        datamodule = ShakespeareDataModule(**{**data, **changes})
        getattr(trainer(), stage)(module, datamodule=datamodule, verbose=False)

    for stage in ("validate", "test"):
        evaluate(stage)  # a warning would be an error
        evaluate(stage, batch_size=3, window_order="random")  # which do not change the loss
        with pytest.warns(UserWarning, match="on other data than its own: .* val_fraction 0.1"):
            evaluate(stage, val_fraction=0.3)
    # The alphabet is the same, so nothing else would notice the difference.
    text.write_text("to be: That is the question, or not To be.\n" * 50)
    for stage in ("validate", "test"):
        with pytest.warns(UserWarning, match="trained on another text; the loss cannot be compar"):
            evaluate(stage)


class WithProbe(ShakespeareLM):
    """A subclass with a parameter of its own, which its training step uses."""

    def __init__(self, vocabulary: str, **options: Any) -> None:
        super().__init__(vocabulary, **options)
        self.probe = torch.nn.Linear(16, 2)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        hidden, _ = self.network(batch.inputs, with_hidden=True)
        return super().training_step(batch, batch_idx) + self.probe(hidden).square().mean()


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd"])
def test_the_parameters_of_a_subclass_are_trained(name):
    torch.manual_seed(0)
    module = WithProbe(TOKENIZER.vocabulary, **{**SMALL, "optimizer": name})
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    fit(module, 2)
    for name, parameter in module.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert {"probe.weight", "probe.bias"} <= before.keys()


class OwnOptimizer(ShakespeareLM):
    """A subclass that has no schedule."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class SaveAfterTwoSteps(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


def to_format_1(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    renamed = (name.replace("network.", "transformer.", 1) for name in content["state_dict"])
    names = [name.replace("objectives.multi_token.head.", "further_head.") for name in renamed]
    weights = dict(zip(names, content["state_dict"].values(), strict=True))
    torch.save({**content, FORMAT_KEY: 1, "state_dict": weights}, path)


@pytest.mark.filterwarnings("ignore:.*no fingerprint of its text")
@pytest.mark.parametrize(
    ("kind", "convert"),
    [(kind, lambda _: None) for kind in (OwnOptimizer, WithProbe, ShakespeareLM)]
    + [(ShakespeareLM, to_format_1)],
)
def test_a_trainer_resumes_subclasses_and_format_1_bit_for_bit(tmp_path, kind, convert):
    path, states = tmp_path / "a.ckpt", []
    for steps, resumed in ((5, None), (2, None), (5, path)):
        torch.manual_seed(0)
        options = {**SMALL, "decay_steps": 9, "dropout": 0.1, "characters_ahead": 2}
        module = kind(TOKENIZER.vocabulary, **options)
        fit(module, steps, resumed, callbacks=SaveAfterTwoSteps(path))
        states.append(module.state_dict())
        convert(path)
    whole, half, resumed = states
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(whole[name], half[name]) for name in whole)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_teacher_has_the_same_probabilities_in_every_precision(precision):
    memory, ids = NGramMemory(TOKENIZER.vocab_size, 3), torch.tensor(TOKENIZER.encode(TEXT))
    memory.remember(ids, torch.tensor([len(ids)]))
    expected = memory.probabilities(ids[None])
    with trainer(precision=precision).precision_plugin.train_step_context():
        found = memory.probabilities(ids[None])
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_the_loss_that_is_logged_is_that_on_the_text_whatever_objectives_there_are(tmp_path):
    class Twice(Objective):
        def forward(self, loss: torch.Tensor, step: TrainingStep) -> torch.Tensor:
            return 2 * loss

    losses, moved = [], []
    for name, objectives in (("plain", {}), ("doubled", {"twice": Twice()})):
        module = small_module(learning_rate=0.1, optimizer="sgd")
        module.objectives.update(objectives)
        made = fit(module, 1, log_every_n_steps=1, logger=CSVLogger(tmp_path, name))
        losses.append(made.logged_metrics["train_loss"])
        step = module.network.head.weight - small_module().network.head.weight
        moved.append(step.norm().detach())
    assert losses[0] == losses[1]
    torch.testing.assert_close(moved[1], 2 * moved[0])


def lr_find(folder: Path, optimizer: str) -> tuple[ShakespeareLM, ShakespeareDataModule]:
    data = ShakespeareDataModule("sample", context_length=8, batch_size=16)
    data.setup()
    sizes = {**SMALL, "optimizer": optimizer, "schedule": "constant", "learning_rate": 1e-5}
    module = ShakespeareLM(data.vocabulary, **sizes)
    made = trainer(default_root_dir=folder, limit_val_batches=0, max_steps=30)
    Tuner(made).lr_find(module, datamodule=data, num_training=20)
    return module, data


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_learning_rate_that_is_found_is_the_one_of_the_training(tmp_path, optimizer):
    module, data = lr_find(tmp_path, optimizer)
    found = module.hparams["learning_rate"]
    assert found > 1e-5
    made = trainer(max_steps=1, limit_val_batches=0)
    made.fit(module, datamodule=data)
    assert {group["lr"] for group in made.optimizers[0].param_groups} == {found}
    assert module.config.learning_rate == found


def test_no_learning_rate_is_found_for_muon_which_has_two(tmp_path):
    with pytest.raises(UserError, match=r"^lr_find tries one learning rate for .*: use it with"):
        lr_find(tmp_path, "muon")
