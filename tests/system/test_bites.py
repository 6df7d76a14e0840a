"""Checks count once they have been seen to fail: each classic mistake turns a named one red.

Each mistake is patched, as text, into a copy of the repository, where pytest runs the named check
in a process of its own. Text that is no longer there fails loudly, so no mistake goes stale.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COPIED = ("shakespeare_lm", "tests", "configs", "scripts", "benchmarks", "pyproject.toml")
# What an assertion's failure says in pytest's summary; a mere crash would prove nothing.
ASSERTION = r"(assert |AssertionError|Failed: DID NOT RAISE)"
# The installed package is the original: a copy that finds itself testing that refuses to run.
GUARD = """\
from pathlib import Path

import shakespeare_lm

assert Path(shakespeare_lm.__file__).parents[1] == Path(__file__).parent
"""

WINDOWS = "tests/data/test_windows.py::"
LOADER = "tests/data/test_loader.py::"
ATTENTION = "tests/model/test_attention.py::"
ARCHIVE = "tests/checkpoint/test_archive.py::"
RUNS = "tests/checkpoint/test_runs.py::"
DISTILLATION = "tests/methods/test_distillation.py::"
AHEAD = "tests/methods/test_multi_token.py::"
STOPPING = "tests/training/test_stopping.py::"
COMPLETION = "tests/completion/test_completer.py::"
READER = "tests/completion/test_decoder.py::"
ENDING = "tests/completion/test_stop_strings.py::"
SCORING = "tests/completion/test_scoring.py::"
DOWNLOAD = "tests/data/test_download.py::"
FIT = "tests/commands/test_fit.py::"
HOSTILE = "tests/system/test_hostile_checkpoint.py::"
COMMAND_LINE = "tests/commands/test_fit_cli.py::"
INITIAL = "tests/training/test_starting_model.py::"
READING = "tests/checkpoint/test_reading.py::"
KILL = "tests/system/test_kill.py::"
PAGE = "tests/system/test_page_parity.py::"
PROPERTIES = "tests/system/test_properties.py::"
SAVING = "tests/training/test_checkpointing.py::"
LOSS = "tests/model/test_loss.py::"
MODULE = "tests/training/test_module.py::"
OPTIM = "tests/training/test_optimizer.py::"
POSITIONS = "tests/model/test_positions.py::"
RESUME = (
    "tests/system/test_resume.py::"
    "test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit"
)
SAMPLING = "tests/completion/test_sampling.py::"
TOKENIZER = "tests/data/test_tokenizer.py::"
TRANSFORMER = "tests/model/test_transformer.py::"


class Mistake(NamedTuple):
    """`right`, which stands once in a file of the package, becomes `wrong`; `check` goes red."""

    file: str
    right: str
    wrong: str
    check: str
    symptom: str = ASSERTION


MISTAKES = {
    "one_position_row_for_all": Mistake(
        "model/positions.py",
        "return torch.arange(length, dtype=torch.float64)[:, None] * frequencies",
        "return torch.ones(length, dtype=torch.float64)[:, None] * frequencies",
        f"{POSITIONS}test_all_rows_of_the_sinusoidal_table_differ",
    ),
    "one_position_row_added_everywhere": Mistake(
        "model/positions.py",
        "return x + table[positions], None",
        "return x + table[0], None",
        f"{TRANSFORMER}test_the_order_of_the_past_matters",
    ),
    "rotary_positions_not_applied": Mistake(
        "model/positions.py",
        "return x, table[:, positions].unsqueeze(-3)",
        "return x, None",
        f"{TRANSFORMER}test_the_order_of_the_past_matters",
    ),
    "vocabulary_sorted_on_reload": Mistake(
        "checkpoint/reading.py",
        'CharTokenizer(hyperparameters["vocabulary"])',
        'CharTokenizer.from_text(hyperparameters["vocabulary"])',
        f"{COMPLETION}test_a_checkpoint_yields_the_network_that_was_saved",
    ),
    "causal_mask_not_passed": Mistake(
        "kernels/attention.py",
        "dropout_p=dropout, is_causal=causal",
        "dropout_p=dropout, is_causal=False",
        f"{TRANSFORMER}test_gradients_to_later_characters_are_zero_and_to_earlier_ones_are_not",
    ),
    "one_scale_for_all_rows_of_a_weight": Mistake(
        "kernels/int8.py",
        "weight.abs().amax(dim=1)",
        "weight.abs().amax().expand(len(weight))",
        "tests/kernels/test_int8.py::test_a_weight_is_at_most_half_a_step_of_its_own_row_off",
    ),
    "causal_mask_not_built_in_bfloat16": Mistake(
        "kernels/attention.py",
        "torch.ones(time, time, dtype=torch.bool).tril()",
        "torch.ones(time, time, dtype=torch.bool)",
        "tests/kernels/test_attention.py::test_attention_in_bfloat16_on_a_cpu_is_exact_up_to_rounding",
    ),
    "n_grams_of_what_stands_at_padding": Mistake(
        "methods/memory_network.py",
        "        ids = self.without_padding(ids, attention_mask)\n",
        "",
        "tests/methods/test_memory_network.py::test_padding_on_the_left_changes_nothing",
    ),
    "own_occurrence_left_out_in_another_text": Mistake(
        "evaluation/losses.py",
        "any(memory.has_counted(*documents) for memory in memories)",
        "bool(memories)",
        "tests/evaluation/test_evaluation.py::"
        "test_a_memory_leaves_out_the_own_occurrence_in_its_own_text_alone",
    ),
    "a_part_of_the_queries_without_the_keys_before_it": Mistake(
        "kernels/attention.py",
        "visible = triangle[start:end, :end]",
        "visible = triangle[start:end, :end].tril(0)",
        "tests/kernels/test_attention.py::test_attention_in_bfloat16_on_a_cpu_is_exact_up_to_rounding",
    ),
    "padding_mask_built_but_not_passed": Mistake(
        "kernels/attention.py",
        "q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal",
        "q, k, v, attn_mask=None, dropout_p=dropout, is_causal=True",
        f"{TRANSFORMER}test_an_attention_mask_hides_padding_on_either_side",
    ),
    "padding_mask_without_causal_triangle": Mistake(
        "model/attention.py",
        "((triangle & attention_mask[:, None, :]) | itself)",
        "(attention_mask[:, None, :] | itself)",
        f"{TRANSFORMER}test_an_attention_mask_hides_padding_on_either_side",
    ),
    "attention_scaled_by_the_root_of_d_model": Mistake(
        "kernels/attention.py",
        "dropout_p=dropout, is_causal=causal",
        "dropout_p=dropout, is_causal=causal, scale=(q.shape[1] * q.shape[-1]) ** -0.5",
        f"{ATTENTION}test_attention_equals_a_loop_over_its_definition",
    ),
    "targets_unshifted": Mistake(
        "data/windows.py",
        "window[:, 1:], real[:, :-1]",
        "window[:, :-1], real[:, :-1]",
        f"{WINDOWS}test_a_batch_is_shifted_once_and_padded_on_the_right",
    ),
    "targets_shifted_again_in_the_loss": Mistake(
        "model/loss.py",
        '"""\n    nats =',
        '"""\n    logits, targets = logits[:, :-1], targets[:, 1:]\n'
        "    target_mask = target_mask[:, 1:]\n    nats =",
        f"{LOSS}test_the_sum_and_the_count_equal_a_loop_in_double_precision",
    ),
    "targets_shifted_again_in_training": Mistake(
        "training/module.py",
        "nats, count = masked_cross_entropy(logits, batch.targets, batch.target_mask)\n"
        "        loss",
        "nats, count = masked_cross_entropy("
        "logits[:, :-1], batch.targets[:, 1:], batch.target_mask[:, 1:])\n        loss",
        f"{MODULE}test_ten_trainer_steps_equal_ten_steps_of_a_hand_written_loop",
    ),
    "targets_shifted_again_in_validation": Mistake(
        "training/module.py",
        "self(batch.inputs)\n        nats, count = masked_cross_entropy("
        "logits, batch.targets, batch.target_mask)",
        "self(batch.inputs)\n        nats, count = masked_cross_entropy("
        "logits[:, :-1], batch.targets[:, 1:], batch.target_mask[:, 1:])",
        f"{MODULE}test_val_loss_is_the_mean_over_real_characters_whatever_the_batches",
    ),
    "memory_that_has_seen_the_answer": Mistake(
        "training/module.py",
        "with leaving_out(self.network, batch.targets):\n            hidden, logits",
        "with leaving_out(self.network, None):\n            hidden, logits",
        "tests/methods/test_memory_network.py::test_the_own_occurrence_is_left_out_in_training_and_in_train_eval_loss",
    ),
    "teacher_that_has_seen_the_answer": Mistake(
        "methods/distillation.py",
        "with leaving_out(ngrams, batch.targets):",
        "with leaving_out(ngrams, None):",
        DISTILLATION + "test_the_teacher_has_not_seen_the_answer",
    ),
    "teacher_without_a_share_of_the_loss": Mistake(
        "training/module.py",
        "loss = objective(loss, step)",
        "objective(loss, step)",
        DISTILLATION + "test_it_changes_what_is_learned_but_not_what_is_logged_and_saved",
    ),
    "one_teacher_instead_of_their_mean": Mistake(
        "methods/distillation.py",
        "torch.stack(predictions).mean(0)",
        "predictions[0]",
        DISTILLATION + "test_networks_teach_what_they_expect_on_average",
    ),
    "mixed_memory_in_training": Mistake(
        "methods/memory_network.py",
        "            if not self.training:\n",
        "            if True:\n",
        "tests/methods/test_memory_network.py::test_mixed_probabilities_are_its_share_of_the_ngram_model_and_the_rest_of_the_network",
    ),
    "graphed_steps_that_all_draw_the_first_number": Mistake(
        "completion/cuda_graph.py",
        "self.column += 1",
        "pass",
        "tests/completion/test_cuda_graph.py::test_the_ids_are_those_of_generate",
    ),
    "further_characters_are_the_ones_before": Mistake(
        "methods/multi_token.py",
        "batch.targets[:, 1 + character :]",
        "batch.targets[:, character:][:, : hidden.shape[1] - 1 - character]",
        AHEAD + "test_each_position_predicts_the_character_after_the_next",
    ),
    "further_loss_with_a_constant_weight": Mistake(
        "methods/multi_token.py",
        "loss + step.schedule * self.loss",
        "loss + self.loss",
        AHEAD + "test_its_weight_falls_with_the_learning_rate",
    ),
    "further_head_not_trained": Mistake(
        "training/module.py",
        "            self.parameters(), self.config, getattr",
        "            self.network.parameters(), self.config, getattr",
        AHEAD + "test_its_weight_falls_with_the_learning_rate",
    ),
    "memory_keeps_the_own_character_before": Mistake(
        "methods/ngram_memory.py",
        "torch.where(longer >= 0, known, order.all_different[ngram])",
        "torch.zeros(ngram.shape)",
        "tests/methods/test_ngram_memory.py::"
        "test_leaving_out_the_own_occurrence_is_counting_anew_without_it",
    ),
    "val_loss_a_mean_of_batch_means": Mistake(
        "training/module.py",
        "mean.update(total, count)",
        "mean.update(total / count.clamp(min=1), torch.ones_like(count))",
        f"{MODULE}test_val_loss_is_the_mean_over_real_characters_whatever_the_batches",
    ),
    "padding_scored_in_the_loss": Mistake(
        "model/loss.py",
        "targets.masked_fill(~target_mask, -100).flatten()",
        "targets.flatten()",
        f"{LOSS}test_masked_positions_change_neither_loss_nor_gradient",
    ),
    "padding_counted_in_the_loss": Mistake(
        "model/loss.py",
        "return nats, target_mask.sum()",
        "return nats, target_mask.sum() * 0 + target_mask.numel()",
        f"{LOSS}test_the_sum_and_the_count_equal_a_loop_in_double_precision",
    ),
    "padding_counted_in_training": Mistake(
        "training/module.py",
        "loss = nats / count.clamp(min=1)",
        "loss = nats / batch.targets.numel()",
        f"{MODULE}test_ten_trainer_steps_equal_ten_steps_of_a_hand_written_loop",
    ),
    "padding_counted_in_the_perplexity": Mistake(
        "training/module.py",
        "perplexity.update(logits.float(), batch.targets.masked_fill(~batch.target_mask, -100))",
        "perplexity.update(logits.float(), batch.targets)",
        f"{MODULE}test_bits_and_perplexity_follow_from_the_loss",
    ),
    "padding_a_target": Mistake(
        "data/windows.py",
        "real[:, :-1], real[:, 1:]",
        "real[:, :-1], real[:, :-1]",
        f"{WINDOWS}test_a_batch_is_shifted_once_and_padded_on_the_right",
    ),
    "attention_dropout_active_in_evaluation": Mistake(
        "model/attention.py",
        "self.dropout if self.training else 0.0",
        "self.dropout",
        f"{TRANSFORMER}test_dropout_acts_in_training_and_never_in_evaluation",
    ),
    "dropout_active_in_validation": Mistake(
        "model/transformer.py",
        "x = apply_dropout(x, self.config.dropout, self.training)",
        "x = apply_dropout(x, self.config.dropout, training=True)",
        f"{MODULE}test_dropout_is_off_in_validation",
    ),
    "dropout_without_its_scale": Mistake(
        "kernels/dropout.py",
        ".div_(1 - fraction)",
        "",
        "tests/kernels/test_dropout.py::test_the_asked_fraction_is_zero_and_the_mean_stays",
    ),
    "dropout_active_in_completion": Mistake(
        "completion/inference.py",
        "network.eval()",
        "pass",
        f"{COMPLETION}test_completing_is_the_same_in_either_mode",
    ),
    "evaluation_mode_left_on_after_completion": Mistake(
        "completion/inference.py",
        "network.train()",
        "pass",
        f"{COMPLETION}test_completing_leaves_mode_and_global_randomness_as_they_were",
    ),
    "scheduler_state_lost_on_resume": Mistake(
        "training/module.py",
        'check_hyperparameters(checkpoint.get("hyper_parameters", {}), self.hparams)',
        'checkpoint["lr_schedulers"] = []',
        RESUME,
        ".*UserWarning: the learning rate jumps",
    ),
    "dropout_not_repeated_on_resume": Mistake(
        "kernels/dropout.py",
        "torch.default_generator.manual_seed(seed)",
        "pass",
        RESUME,
    ),
    "resumed_loader_replays_the_first_batches": Mistake(
        "data/loader.py",
        "range(self._next_batch, len(self), per_gather)",
        "range(0, len(self), per_gather)",
        f"{LOADER}test_a_loader_resumed_anywhere_continues_with_the_very_next_batch",
    ),
    "resumed_run_forgets_its_place_in_the_epoch": Mistake(
        "data/loader.py",
        'self._next_batch = state["next_batch"]',
        "self._next_batch = 0",
        RESUME,
    ),
    "vocabulary_in_the_order_of_a_set": Mistake(
        "data/tokenizer.py",
        '"".join(sorted(set().union(*texts) - set(known)))',
        '"".join(set().union(*texts) - set(known))',
        f"{TOKENIZER}test_a_vocabulary_made_from_texts_is_in_code_point_order",
    ),
    "vocabulary_reversed_on_reload": Mistake(
        "checkpoint/reading.py",
        'CharTokenizer(hyperparameters["vocabulary"])',
        'CharTokenizer(hyperparameters["vocabulary"][::-1])',
        f"{COMPLETION}test_a_checkpoint_yields_the_network_that_was_saved",
    ),
    "checkpoint_of_another_vocabulary_accepted": Mistake(
        "training/compatibility.py",
        'if stored.get("vocabulary") != ours["vocabulary"]:',
        "if False:",
        f"{MODULE}test_a_checkpoint_of_another_vocabulary_is_refused",
    ),
    "data_of_another_vocabulary_accepted": Mistake(
        "training/module.py",
        'check_vocabulary(self.hparams["vocabulary"], self.trainer)',
        "pass",
        "tests/training/test_compatibility.py::"
        "test_data_in_which_ids_stand_for_other_characters_is_refused",
        "(Failed: DID NOT RAISE|IndexError)",
    ),
    "two_runs_in_one_folder": Mistake(
        "training/run_folder.py",
        'os.makedirs(os.path.join(self.root_dir, f"version_{version}"))',
        'os.makedirs(os.path.join(self.root_dir, f"version_{version}"), exist_ok=True)',
        "tests/training/test_run_folder.py::"
        "test_loggers_that_start_together_get_folders_of_their_own",
    ),
    "schedule_ignores_max_epochs": Mistake(
        "training/schedule.py",
        "if max_epochs < 0 or",
        "if True or",
        "tests/training/test_schedule.py::test_the_schedule_ends_with_the_run",
        "(assert |.*UserError)",
    ),
    "checkpoint_overwritten_by_output": Mistake(
        "commands/text_files.py",
        'if target.resolve().suffix == ".ckpt":',
        "if False:",
        "tests/commands/test_text_files.py::"
        "test_no_output_overwrites_an_input_or_a_checkpoint_by_any_of_its_names",
    ),
    "last_short_window_dropped": Mistake(
        "data/windows.py",
        "clamp(min=0).add(context_length - 1) // context_length",
        "clamp(min=0) // context_length",
        f"{WINDOWS}test_a_document_is_cut_along_the_grid_and_keeps_its_short_last_window",
    ),
    "last_short_batch_dropped": Mistake(
        "data/loader.py",
        "-(-(self._grid_size + more) // per_batch)",
        "(self._grid_size + more) // per_batch",
        f"{LOADER}test_each_character_but_a_documents_first_is_a_target_exactly_once_per_epoch",
    ),
    "windows_without_their_shared_id": Mistake(
        "data/windows.py",
        "(end - first + 1)[filled]",
        "(end - first)[filled]",
        f"{LOADER}test_each_character_but_a_documents_first_is_a_target_exactly_once_per_epoch",
    ),
    "padding_produced": Mistake(
        "completion/generation.py",
        "decoder.logits(texts)[:, :choices]",
        "decoder.logits(texts)",
        f"{COMPLETION}test_padding_is_never_produced_however_likely",
        symptom="IndexError: string index out of range",  # the padding id has no character
    ),
    "logits_modified_in_place": Mistake(
        "completion/sampling.py",
        "logits = logits.detach()",
        "logits = logits.detach().sub_(logits.max())",
        f"{SAMPLING}test_logits_are_not_modified",
    ),
    "top_k_keeps_ties_beyond_k": Mistake(
        "completion/sampling.py",
        "kept[:, options.top_k :] = False",
        "kept &= ordered >= ordered[:, : options.top_k].amin(-1, keepdim=True)",
        f"{SAMPLING}test_top_k_keeps_exactly_k_on_ties",
    ),
    "samples_drawn_from_the_global_generator": Mistake(
        "completion/generation.py",
        "[source.random() for source in randoms]",
        "__import__('torch').rand(len(randoms)).tolist()",
        f"{COMPLETION}test_completing_leaves_mode_and_global_randomness_as_they_were",
    ),
    "biases_in_no_group": Mistake(
        "training/optimizer.py",
        "if p.ndim < 2]",
        "if p.ndim < 1]",
        f"{OPTIM}test_every_parameter_is_in_exactly_one_group",
    ),
    "biases_decayed": Mistake(
        "training/optimizer.py",
        'if p.ndim < 2], "weight_decay": 0.0}',
        'if p.ndim < 2], "weight_decay": weight_decay}',
        f"{OPTIM}test_matrices_decay_and_biases_and_norms_do_not",
    ),
    "optimizers_not_shared_after_loading": Mistake(
        "methods/muon.py",
        "        super().__setstate__(state)\n        self._share()\n",
        "        super().__setstate__(state)\n",
        "tests/methods/test_muon.py::test_a_learning_rate_set_after_loading_reaches_both_optimizers",
    ),
    "muons_scale_inverted": Mistake(
        "methods/muon.py",
        "rows / columns",
        "columns / rows",
        "tests/methods/test_muon.py::test_a_muon_step_equals_torchs_muon_and_adamw_side_by_side",
    ),
    "embeddings_updated_by_muon": Mistake(
        "training/optimizer.py",
        "{p for p in blocks.parameters() if p.ndim == 2}",
        "{p for p in trained if p.ndim == 2}",
        f"{OPTIM}test_muon_is_for_the_matrices_inside_blocks",
    ),
    "every_table_embeds_the_same_preceding_character": Mistake(
        "model/transformer.py",
        "ids[:, count - distance :]",
        "ids[:, count - 1 :]",
        f"{TRANSFORMER}test_the_embeddings_of_the_preceding_characters_are_added_at_each_position",
    ),
    "cached_positions_one_behind": Mistake(
        "completion/cache.py",
        "self.positions = self.newest[:, None]",
        "self.positions = self.newest[:, None] - 1",
        f"{READER}test_cached_equals_uncached",
    ),
    "padding_of_shorter_windows_attended_to": Mistake(
        "completion/cache.py",
        "<= self.newest[:, None]",
        "<= self.newest.max().expand_as(self.newest)[:, None]",
        f"{READER}test_cached_equals_uncached",
    ),
    "equal_prompts_mixed_up": Mistake(
        "completion/cache.py",
        "keys_values[:, self.source]",
        "keys_values[:, self.source.flip(0)]",
        f"{READER}test_cached_equals_uncached",
    ),
    "prompts_share_one_random_generator": Mistake(
        "completion/completer.py",
        "[random_numbers(seed) for seed in seeds]",
        "[random_numbers(seeds[0])] * len(seeds)",
        f"{COMPLETION}test_several_prompts_together_equal_each_alone",
    ),
    "min_p_not_relative_to_the_likeliest": Mistake(
        "completion/sampling.py",
        "(ordered - ordered[:, :1]).exp() >= options.min_p",
        "ordered.softmax(-1) >= options.min_p",
        f"{SAMPLING}test_min_p_keeps_those_as_likely_as_a_share_of_the_likeliest",
    ),
    "stop_shown_before_it_is_complete": Mistake(
        "completion/stop_strings.py",
        "self._release(self._length_of_partial_match())",
        "self._release(0)",
        f"{ENDING}test_a_possible_beginning_is_held_back_until_it_is_certain",
    ),
    "scored_twice_where_windows_overlap": Mistake(
        "completion/scoring.py",
        ">= kept - 1",
        ">= 0",
        f"{SCORING}test_each_character_sees_the_window_that_completion_would",
    ),
    "code_accepted": Mistake(
        "checkpoint/archive.py",
        'hidden or (operation.name == "GLOBAL" and argument not in _HARMLESS)',
        "False",
        f"{ARCHIVE}test_a_checkpoint_that_holds_code_is_refused_and_nothing_runs",
    ),
    "checksums_not_compared": Mistake(
        "checkpoint/archive.py",
        "damaged = archive.testzip()",
        "damaged = None",
        f"{ARCHIVE}test_a_bit_that_flipped_in_the_weights_is_noticed",
    ),
    "compressed_archives_accepted": Mistake(
        "checkpoint/archive.py",
        "if compressed or sum(",
        "if False and sum(",
        f"{HOSTILE}test_archives_that_swell_or_are_ambiguous_are_refused",
    ),
    "sizes_not_compared_with_the_weights": Mistake(
        "checkpoint/reading.py",
        "_check_shapes(expected, weights)",
        "pass",
        f"{HOSTILE}test_strange_weights_are_refused",
        "RuntimeError",
    ),
    "lightnings_hooks_accepted": Mistake(
        "checkpoint/reading.py",
        'name.startswith("_")',
        "False",
        f"{HOSTILE}test_strange_hyperparameters_are_refused",
    ),
    "lone_surrogate_accepted": Mistake(
        "data/tokenizer.py",
        "        if surrogates:",
        "        if False:",
        f"{PROPERTIES}test_a_lone_surrogate_is_refused",
    ),
    "no_fallback_from_a_damaged_last": Mistake(
        "checkpoint/runs.py",
        "            damaged.append(str(error))\n",
        "            raise\n",
        f"{RUNS}test_a_damaged_last_falls_back_to_the_newest_that_is_not_and_says_so",
        "Failed: DID NOT WARN",
    ),
    "last_is_last_even_if_best_has_more_steps": Mistake(
        "checkpoint/runs.py",
        "found is None or other.step > found.step",
        "found is None",
        f"{RUNS}test_last_is_the_one_with_the_most_steps_if_it_could_not_be_written_on_a_full_disk",
    ),
    "a_later_format_is_read": Mistake(
        "checkpoint/reading.py",
        "if number > FORMAT:",
        "if False:",
        f"{READING}test_a_later_format_is_refused_with_what_to_do",
        "Failed: DID NOT RAISE",
    ),
    "halved_windows_lose_a_target": Mistake(
        "data/windows.py",
        "windows.starts + first)",
        "windows.starts + first + 1)",
        f"{WINDOWS}test_halves_share_one_id_and_stay_next_to_each_other",
    ),
    "new_symbols_take_the_row_of_the_padding": Mistake(
        "training/starting_model.py",
        "torch.where(ids == old - 1, new - 1, ids)",
        "ids",
        f"{INITIAL}test_known_characters_keep_their_logits_and_new_ones_get_fresh_rows",
    ),
    "more_steps_begin_at_a_rate_of_zero": Mistake(
        "training/schedule.py",
        'group["lr"] = base * factor(step)',
        "pass",
        f"{COMMAND_LINE}test_more_steps_begin_the_schedule_anew_and_can_be_resumed_themselves",
    ),
    "checkpoint_not_written_to_a_temporary_file": Mistake(
        "training/checkpointing.py",
        "_write(checkpoint, part)",
        "_write(checkpoint, path)",
        f"{SAVING}test_a_full_disk_keeps_the_previous_file_and_says_so",
    ),
    "checkpoint_not_flushed": Mistake(
        "training/checkpointing.py",
        "os.fsync(file.fileno())",
        "pass",
        f"{SAVING}test_the_file_is_flushed_before_the_rename_and_the_folder_after",
    ),
    "half_a_checkpoint_left_behind": Mistake(
        "training/checkpointing.py",
        "        finally:\n            part.unlink(missing_ok=True)",
        "        finally:\n            pass",
        f"{SAVING}test_a_full_disk_keeps_the_previous_file_and_says_so",
    ),
    "start_of_the_run_not_saved": Mistake(
        "training/checkpointing.py",
        "            self.save(trainer)\n",
        "            pass\n",
        f"{SAVING}test_a_run_saves_its_initial_state_and_keeps_two_files",
    ),
    "gradient_of_an_accumulated_step_lost": Mistake(
        "training/module.py",
        "self.get_parameter(name).grad = gradient.to(self.device)",
        "pass",
        f"{KILL}test_sigterm_between_the_batches_of_one_step_loses_no_gradient",
    ),
    "validation_logged_at_another_step_within_an_accumulated_one": Mistake(
        "training/tensorboard_layout.py",
        "_batches_that_stepped = max(0, trainer.global_step - 1)",
        "_batches_that_stepped = trainer.global_step",
        f"{RESUME}[11---accumulate_grad_batches=4]",
    ),
    "sigterm_saves_nothing": Mistake(
        "training/stopping.py",
        "self.last.save(trainer)",
        "pass",
        f"{KILL}test_sigterm_saves_the_step_and_the_run_resumes_from_it",
    ),
    "sigterm_loses_the_losses_of_its_step": Mistake(
        "training/stopping.py",
        "            self._saved = True",
        "            raise Terminated",
        f"{KILL}test_sigterm_saves_the_step_and_the_run_resumes_from_it",
    ),
    "signal_handlers_restored_too_late": Mistake(
        "training/stopping.py",
        "def on_train_end(self, *_",
        "def on_fit_end(self, *_",
        f"{STOPPING}test_a_run_leaves_signals_as_they_were",
    ),
    "non_finite_gradient_overlooked": Mistake(
        "training/stopping.py",
        "if not torch.isfinite(norm):",
        "if False:",
        f"{STOPPING}test_a_non_finite_gradient_ends_the_run_before_the_weights_are_damaged",
    ),
    "max_time_counts_earlier_runs": Mistake(
        "training/stopping.py",
        "def load_state_dict(self, state_dict: dict[str, Any]) -> None:\n        pass\n",
        "def forget(self, state_dict: dict[str, Any]) -> None:\n        pass\n",
        f"{STOPPING}test_max_time_counts_from_the_start_of_each_run",
    ),
    "another_split_resumed": Mistake(
        "data/datamodule.py",
        "if difference and self.trainer is not None and self.trainer.training:",
        "if False:",
        "tests/data/test_datamodule.py::test_another_split_cannot_be_resumed",
    ),
    "residual_projections_drawn_like_other_layers": Mistake(
        "model/initialisation.py",
        "if isinstance(layer, ResidualProjection)",
        "if isinstance(layer, str)",
        "tests/model/test_initialisation.py::"
        "test_layers_that_write_to_the_residual_stream_are_drawn_smaller",
    ),
    "resumed_checkpoint_read_again": Mistake(
        "training/checkpointing.py",
        "if resumed is not None and resumed.path == Path(path):",
        "if False:",
        f"{SAVING}test_a_resumed_run_reads_its_checkpoint_file_exactly_once",
    ),
    "signal_lost_while_the_processes_agree": Mistake(
        "training/stopping.py",
        "self._agreed = int(trainer.strategy.reduce(received",
        "self._agreed = self._received = int(trainer.strategy.reduce(received",
        f"{STOPPING}test_a_signal_that_arrives_while_the_processes_agree_is_not_lost",
    ),
    "full_window_of_the_page_restarts_elsewhere": Mistake(
        "page/sliding_window.js",
        "start = ids.length - this.kept(window);",
        "start = ids.length - this.kept(window) + 1;",
        f"{PAGE}test_a_thousand_characters_are_those_of_python",
    ),
    "keys_of_the_page_not_rotated": Mistake(
        "page/transformer.js",
        "[query, key].forEach((one) =>",
        "[query].forEach((one) =>",
        f"{PAGE}test_the_logits_of_a_thousand_positions_are_pytorchs",
    ),
    "changed_text_read_from_the_old_cache": Mistake(
        "page/sliding_window.js",
        " && cache.ids[known] === ids[start + known]",
        "",
        f"{PAGE}test_the_cache_gives_the_same_when_a_text_is_changed_anywhere",
    ),
    "damaged_weights_of_a_page_accepted": Mistake(
        "page/weights.js",
        " || crc32(bytes) !== manifest.crc32",
        "",
        f"{PAGE}test_damage_is_found",
    ),
    "caches_of_texts_mixed_up": Mistake(
        "completion/cache.py",
        "theirs[:, : len(kept)] = ours[:, rows]",
        "theirs[:, : len(kept)] = ours[:, : len(kept)]",
        "tests/completion/test_decoder.py::test_texts_that_come_and_go_do_not_change_each_other",
    ),
    "options_of_one_request_for_all": Mistake(
        "serving/engine.py",
        "chosen = next_ids(logits[rows], sampling, uniform).tolist()",
        "chosen = next_ids(logits[rows], streams[0].sampling, uniform).tolist()",
        "tests/serving/test_engine.py::test_options_of_one_do_not_reach_another",
    ),
    "numbers_of_any_size_accepted": Mistake(
        "serving/request.py",
        "return _as_float(name, value) if hint in (float, float | None) else value",
        "return value",
        "tests/serving/test_request.py::test_a_wrong_value_is_refused_by_name",
    ),
    "retry_after_without_a_limit": Mistake(
        "data/download.py",
        "retry_after_max=MAX_PAUSE_SECONDS,",
        "",
        f"{DOWNLOAD}test_a_busy_server_is_given_the_time_it_asks_for_but_not_hours",
    ),
    "another_function_in_the_page_than_in_the_model": Mistake(
        "commands/exported.py",
        "if not difference < _TOLERANCE:",
        "if False:",
        "tests/commands/test_exported.py::test_a_form_that_computes_something_else_is_refused",
        "Failed: DID NOT RAISE",
    ),
    "unknown_values_exported": Mistake(
        "checkpoint/closed.py",
        "if choices is None or value in choices",
        "if True or value in choices",
        "tests/checkpoint/test_closed.py::test_an_unknown_value_is_refused_by_name",
    ),
    "code_of_strangers_imported": Mistake(
        "methods/networks.py",
        'if name not in os.environ.get(TRUST_VARIABLE, "").split(","):',
        "if False:",
        "tests/system/test_own_network.py::test_a_checkpoint_runs_no_code_that_was_not_allowed",
    ),
    "pictures_before_checkpoints": Mistake(
        "commands/fit_cli.py",
        'trainer.callbacks.append(self.config_init["sample"])',
        'trainer.callbacks.insert(0, self.config_init["sample"])',
        f"{FIT}test_a_failing_picture_is_a_warning_and_the_checkpoints_are_there_before_it",
    ),
    "own_parameters_not_trained": Mistake(
        "training/module.py",
        "            self.parameters(), self.config, getattr",
        "            self.network.parameters(), self.config, getattr",
        f"{MODULE}test_the_parameters_of_a_subclass_are_trained",
    ),
}


def copy_repository(folder: Path) -> Path:
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (folder / "conftest.py").write_text(GUARD)
    return folder


def run_checks(repository: Path, *checks: str) -> tuple[int, str]:
    """Return pytest's exit code (1 is a failed test, above that is no verdict) and its output."""
    changes = {
        "PYTHONPATH": str(repository),
        "OMP_NUM_THREADS": "1",
        "PYTEST_ADDOPTS": "",
        "COLUMNS": "500",  # so that pytest's summary names test and symptom in full
    }
    options = ["-x", "-q", "-m", "", "-p", "no:cacheprovider", f"--basetemp={repository / 'tmp'}"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *checks],
        cwd=repository,
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_every_named_check_is_green_without_a_mistake(tmp_path: Path) -> None:
    checks = sorted({mistake.check for mistake in MISTAKES.values()})
    code, output = run_checks(copy_repository(tmp_path), *checks)
    assert code == 0, output


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_turns_the_named_check_red(tmp_path: Path, mistake: Mistake) -> None:
    path = copy_repository(tmp_path) / "shakespeare_lm" / mistake.file
    text = path.read_text()
    assert text.count(mistake.right) == 1, f"{mistake.file} has changed: {mistake.right!r}"
    path.write_text(text.replace(mistake.right, mistake.wrong))
    code, output = run_checks(tmp_path, mistake.check)
    assert code == 1, output
    failed = rf"^FAILED {re.escape(mistake.check)}(\[.*\])? - {mistake.symptom}"
    assert re.search(failed, output, re.MULTILINE), output
