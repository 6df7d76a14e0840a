"""Checks count once they have been seen to fail: each classic mistake turns a named one red.

Each mistake is patched, as text, into a copy of the repository, where pytest runs the named check
in a process of its own. Text that is no longer there fails loudly, so no mistake goes stale.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COPIED = (
    "shakespeare_lm", "tests", "configs", "scripts", "benchmarks", "examples", "pyproject.toml",
)  # fmt: skip
# What an assertion's failure says in pytest's summary; a mere crash would prove nothing.
ASSERTION = r"(assert |AssertionError|Failed: DID NOT RAISE)"

# file: name of the mistake
#   the check that goes red
#   ! its symptom in pytest's summary, a regular expression, if not that of an assertion
#   what stands in the file, once: {-what the mistake takes away-}{+what it puts there+}
TABLE = r"""
kernels/attention.py: causal_mask_not_passed
  tests/model/test_transformer.py::test_gradients_to_later_characters_are_zero_and_to_earlier_ones_are_not
  dropout_p=dropout, is_causal={-causal-}{+False+}
kernels/attention.py: causal_mask_not_built_in_bfloat16
  tests/kernels/test_attention.py::test_attention_in_bfloat16_on_a_cpu_is_exact_up_to_rounding
  torch.ones(time, time, dtype=torch.bool){-.tril()-}
kernels/attention.py: a_part_of_the_queries_without_the_keys_before_it
  tests/kernels/test_attention.py::test_attention_in_bfloat16_on_a_cpu_is_exact_up_to_rounding
  visible = triangle[start:end, :end]{+.tril(0)+}
kernels/attention.py: padding_mask_built_but_not_passed
  tests/model/test_transformer.py::test_an_attention_mask_hides_padding_on_either_side
  q, k, v, attn_mask={-mask-}{+None+}, dropout_p=dropout, is_causal={-causal-}{+True+}
kernels/attention.py: attention_scaled_by_the_root_of_d_model
  tests/model/test_attention.py::test_attention_equals_a_loop_over_its_definition
  dropout_p=dropout, is_causal=causal{+, scale=(q.shape[1] * q.shape[-1]) ** -0.5+}
kernels/dropout.py: dropout_without_its_scale
  tests/kernels/test_dropout.py::test_the_asked_fraction_is_zero_and_the_mean_stays
  {-.div_(1 - fraction)-}
kernels/dropout.py: dropout_not_repeated_on_resume
  tests/system/test_resume.py::test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit
  {-torch.default_generator.manual_seed(seed)-}{+pass+}
kernels/int8.py: one_scale_for_all_rows_of_a_weight
  tests/kernels/test_int8.py::test_a_weight_is_at_most_half_a_step_of_its_own_row_off
  weight.abs().amax{-(dim=1)-}{+().expand(len(weight))+}
methods/ngram_memory.py: teacher_in_the_precision_of_the_trainer
  tests/training/test_module.py::test_a_teacher_has_the_same_probabilities_in_every_precision
  shape, 1 / self.vocab_size{-, dtype=torch.float32-}, device
methods/distillation.py: a_teacher_that_has_seen_the_answers
  tests/methods/test_distillation.py::test_what_a_teacher_says_of_each_position_is_computed_once
  predictions(model, ids, window, window // 2{-, is_counted=True-})
data/windows.py: positions_of_the_inputs
  tests/data/test_windows.py::test_positions_say_where_the_targets_are_in_the_text
  real[:, 1:], {-positions[:, 1:]-}{+positions[:, :-1]+})
methods/ensemble.py: logarithms_averaged_instead_of_probabilities
  tests/completion/test_ensemble.py::test_its_probabilities_are_the_mean_of_its_members
  hidden.{-logsumexp(dim=-2) - math.log(len(self.members))-}{+mean(dim=-2)+}
completion/predictor.py: the_model_itself_learns
  tests/completion/test_predictor.py::test_it_learns_in_a_copy_after_it_has_predicted
  self.network = {-copy.deepcopy(network)-}{+network+}.eval()
completion/predictor.py: nothing_learned
  tests/completion/test_predictor.py::test_it_learns_in_a_copy_after_it_has_predicted
  {-optimizer.step()-}{+pass+}
completion/recent_ngrams.py: mixture_that_does_not_sum_to_one
  tests/completion/test_predictor.py::test_a_prediction_sums_to_one_and_depends_on_earlier_characters_alone
  self._mixed = logits{- - np.logaddexp.reduce(logits)-}
commands/generations.py: the_same_seed_for_all
  tests/commands/test_generations.py::test_each_generation_is_a_run_that_is_taught_by_the_one_before
  self.typed["seed_everything"]{- + number - 1-},
laboratory/statistics.py: a_variant_that_is_better_called_worse
  tests/laboratory/test_comparison.py::test_each_variant_has_its_verdict_means_and_adjusted_p
  round({-variant[seed] - baseline[seed]-}{+baseline[seed] - variant[seed]+}, _DIGITS)
laboratory/statistics.py: holm_that_decreases
  tests/laboratory/test_statistics.py::test_holm_adjusts_in_the_order_of_p_values_and_never_decreases
  largest = max({-largest-}{+0+}, min(1.0
laboratory/study.py: a_run_taken_twice
  tests/laboratory/test_study.py::test_two_who_fill_the_queue_at_once_train_each_run_once
  if {-_is_taken(study, trial)-}{+"variant" not in trial.user_attrs+}:
laboratory/study.py: seeds_of_one_variant_after_those_of_another
  tests/laboratory/test_study.py::test_every_variant_runs_with_every_seed_in_turns_and_only_once
  {-for seed in seeds -}for variant in plan.variants{+ for seed in seeds+}]
laboratory/trial.py: a_killed_run_begins_anew
  tests/laboratory/test_study.py::test_what_a_killed_process_left_is_resumed_or_only_read
  self._fit({-["--ckpt_path", str(found[0].folder)] if found else []-}{+[]+}, watch)
commands/sweep.py: tuned_on_the_validation_part
  tests/laboratory/test_study.py::test_a_sweep_stops_the_worse_and_compares_the_best_with_new_seeds
  base = [*arguments.rest, {-fraction, -}f"--val_check_interval={every}"]
training/run_record.py: what_was_trained_after_the_checkpoint_counted
  tests/training/test_run_record.py::test_a_resumed_run_continues_its_record
  one for one in record["validations"]{- if one["step"] <= step-}]
data/datamodule.py: another_split_resumed
  tests/data/test_datamodule.py::test_another_split_cannot_be_resumed
  if {-self.trainer is not None and self.trainer.training-}{+False+}:
data/download.py: retry_after_without_a_limit
  tests/data/test_download.py::test_a_busy_server_gets_time_not_hours
  {-retry_after_max=MAX_PAUSE_SECONDS,-}
data/loader.py: resumed_loader_replays_the_first_batches
  tests/data/test_loader.py::test_a_loader_resumed_anywhere_continues_with_the_very_next_batch
  range({-self._next_batch-}{+0+}, len(self), per_gather)
data/loader.py: resumed_run_forgets_its_place_in_the_epoch
  tests/system/test_resume.py::test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit
  self._next_batch = {-state["next_batch"]-}{+0+}
data/loader.py: last_short_batch_dropped
  tests/data/test_loader.py::test_each_character_is_a_target_exactly_once_per_epoch
  {--(-(self._grid_size + more) // per_batch)-}{+(self._grid_size + more) // per_batch+}
data/tokenizer.py: vocabulary_in_the_order_of_a_set
  tests/data/test_tokenizer.py::test_a_vocabulary_made_from_texts_is_in_code_point_order
  "".join({-sorted(set().union(*texts) - set(known))-}{+set().union(*texts) - set(known)+})
data/tokenizer.py: lone_surrogate_accepted
  tests/system/test_properties.py::test_a_lone_surrogate_is_refused
          if {-surrogates-}{+False+}:
data/windows.py: targets_unshifted
  tests/data/test_windows.py::test_a_batch_is_shifted_once_and_padded_on_the_right
  window[:, {-1:-}{+:-1+}], real[:, :-1]
data/windows.py: padding_a_target
  tests/data/test_windows.py::test_a_batch_is_shifted_once_and_padded_on_the_right
  real[:, :-1], real[:, {-1:-}{+:-1+}]
data/windows.py: last_short_window_dropped
  tests/data/test_windows.py::test_each_document_is_cut_along_a_grid
  clamp(min=0){-.add(context_length - 1)-} // context_length
data/windows.py: windows_without_their_shared_id
  tests/data/test_loader.py::test_each_character_is_a_target_exactly_once_per_epoch
  (end - first{- + 1-})[filled]
data/windows.py: halved_windows_lose_a_target
  tests/data/test_windows.py::test_halves_share_one_id_and_stay_next_to_each_other
  windows.starts + first{+ + 1+})
model/attention.py: padding_mask_without_causal_triangle
  tests/model/test_transformer.py::test_an_attention_mask_hides_padding_on_either_side
  ({-(triangle & attention_mask[:, None, :])-}{+attention_mask[:, None, :]+} | itself)
model/attention.py: attention_dropout_active_in_evaluation
  tests/model/test_transformer.py::test_dropout_acts_in_training_and_never_in_evaluation
  self.dropout{- if self.training else 0.0-}
model/initialisation.py: residual_projections_drawn_like_other_layers
  tests/model/test_initialisation.py::test_layers_that_write_to_the_residual_stream_are_drawn_smaller
  if isinstance(layer, {-ResidualProjection-}{+str+})
model/loss.py: targets_shifted_again_in_the_loss
  tests/model/test_loss.py::test_the_sum_and_the_count_equal_a_loop_in_double_precision
      {+logits, targets = logits[:, :-1], targets[:, 1:]
      target_mask = target_mask[:, 1:]
      +}nats =
model/loss.py: padding_scored_in_the_loss
  tests/model/test_loss.py::test_masked_positions_change_neither_loss_nor_gradient
  targets.{-masked_fill(~target_mask, -100).-}flatten()
model/loss.py: padding_counted_in_the_loss
  tests/model/test_loss.py::test_the_sum_and_the_count_equal_a_loop_in_double_precision
  return nats, target_mask.sum(){+ * 0 + target_mask.numel()+}
model/positions.py: one_position_row_for_all
  tests/model/test_positions.py::test_all_rows_of_the_sinusoidal_table_differ
  return torch.{-arange-}{+ones+}(length, dtype=torch.float64)[:, None] * frequencies
model/positions.py: one_position_row_added_everywhere
  tests/model/test_transformer.py::test_the_order_of_the_past_matters
  return x + table[{-positions-}{+0+}], None
model/positions.py: rotary_positions_not_applied
  tests/model/test_transformer.py::test_the_order_of_the_past_matters
  return x, {-table[:, positions].unsqueeze(-3)-}{+None+}
model/transformer.py: dropout_active_in_validation
  tests/training/test_module.py::test_dropout_is_off_in_validation
  x = apply_dropout(x, self.config.dropout, {-self.training-}{+training=True+})
model/transformer.py: every_table_embeds_the_same_preceding_character
  tests/model/test_transformer.py::test_the_embeddings_of_the_preceding_characters_are_added_at_each_position
  ids[:, count - {-distance-}{+1+} :]
methods/distillation.py: teacher_that_has_seen_the_answer
  tests/methods/test_distillation.py::test_the_teacher_has_not_seen_the_answer
  with leaving_out(model, {-batch.targets-}{+None+}):
methods/ensemble.py: one_teacher_instead_of_their_mean
  tests/methods/test_distillation.py::test_networks_teach_what_they_expect_on_average
  member(x, attention_mask, past) for member in self.members{+[:1]+}]
methods/memory_network.py: n_grams_of_what_stands_at_padding
  tests/methods/test_memory_network.py::test_padding_on_the_left_changes_nothing
  {-        ids = self.without_padding(ids, attention_mask)-}
methods/memory_network.py: mixed_memory_in_training
  tests/methods/test_memory_network.py::test_mixed_probabilities_are_its_share_of_the_ngram_model_and_the_rest_of_the_network
  if {-self.share and self.training-}{+False+}:
methods/multi_token.py: further_characters_are_the_ones_before
  tests/methods/test_multi_token.py::test_each_position_predicts_the_character_after_the_next
  (x{-[:, 1 + further :]-}{+[:, further:][:, : hidden.shape[1] - 1 - further]+} for x
methods/multi_token.py: further_loss_with_a_constant_weight
  tests/methods/test_multi_token.py::test_its_weight_falls_with_the_learning_rate
  loss + {-step.schedule * -}self.loss
methods/muon.py: optimizers_not_shared_after_loading
  tests/methods/test_muon.py::test_a_learning_rate_set_after_loading_reaches_both_optimizers
          super().__setstate__(state){-
          self._share()-}
methods/muon.py: muons_scale_inverted
  tests/methods/test_muon.py::test_a_muon_step_equals_torchs_muon_and_adamw_side_by_side
  {-rows / columns-}{+columns / rows+}
methods/import_path.py: code_of_strangers_imported
  tests/system/test_own_network.py::test_a_checkpoint_runs_no_code_that_was_not_allowed
  if {-name not in map(str.strip, os.environ.get(TRUST_VARIABLE, "").split(","))-}{+False+}:
methods/ngram_memory.py: memory_keeps_the_own_character_before
  tests/methods/test_ngram_memory.py::test_leaving_out_the_own_occurrence_is_counting_anew_without_it
  torch.{-where(longer >= 0, known, order.all_different[ngram])-}{+zeros(ngram.shape)+}
checkpoint/ckpt_file.py: code_accepted
  tests/checkpoint/test_ckpt_file.py::test_a_checkpoint_that_holds_code_is_refused_and_nothing_runs
  {-check_pickle(_pickle_of(archive))-}{+_pickle_of(archive)+}
checkpoint/pickle_check.py: keys_of_any_kind_hashed
  tests/checkpoint/test_pickle_check.py::test_what_could_take_forever_or_run_is_refused
  if any({-key.kind != "key"-}{+False+} for key in values[::2])
checkpoint/pickle_check.py: shared_values_counted_once
  tests/checkpoint/test_pickle_check.py::test_what_could_take_forever_or_run_is_refused
  holder.size += sum({-value.size-}{+1+} for value in values)
checkpoint/ckpt_file.py: checksums_not_compared
  tests/checkpoint/test_ckpt_file.py::test_a_bit_that_flipped_in_the_weights_is_noticed
  damaged = {-archive.testzip()-}{+None+}
checkpoint/ckpt_file.py: compressed_archives_accepted
  tests/system/test_hostile_checkpoint.py::test_archives_that_swell_or_are_ambiguous_are_refused
  if {-compressed or-}{+False and+} sum(
methods/ngrams.py: sparse_rows_of_the_next_context
  tests/methods/test_ngram_memory.py::test_sparse_tables_give_the_numbers_of_dense_ones
  (context + i{++ 1+}) * vocab_size)
checkpoint/exportable.py: unknown_values_exported
  tests/checkpoint/test_exportable.py::test_an_unknown_value_is_refused_by_name
  if {-choices is None-}{+True+} or value in choices
checkpoint/reading.py: vocabulary_sorted_on_reload
  tests/completion/test_completer.py::test_a_checkpoint_yields_the_network_that_was_saved
  CharTokenizer{+.from_text+}(hyperparameters["vocabulary"])
checkpoint/reading.py: vocabulary_reversed_on_reload
  tests/completion/test_completer.py::test_a_checkpoint_yields_the_network_that_was_saved
  CharTokenizer(hyperparameters["vocabulary"]{+[::-1]+})
checkpoint/reading.py: sizes_not_compared_with_the_weights
  tests/system/test_hostile_checkpoint.py::test_strange_weights_are_refused
  ! RuntimeError
  {-_check_shapes(expected, weights)-}{+pass+}
checkpoint/reading.py: lightnings_hooks_accepted
  tests/system/test_hostile_checkpoint.py::test_strange_hyperparameters_are_refused
  {-name.startswith("_")-}{+False+}
checkpoint/reading.py: a_later_format_is_read
  tests/checkpoint/test_reading.py::test_what_training_does_not_write_is_refused_by_name
  ! Failed: DID NOT RAISE
  if {-number > FORMAT-}{+False+}:
checkpoint/safetensors_file.py: header_in_random_order
  tests/system/test_reproducible.py::test_the_same_weights_are_exported_as_the_same_bytes
  json.loads(content[8 : 8 + size]){-, sort_keys=True-}
checkpoint/runs.py: no_fallback_from_a_damaged_last
  tests/checkpoint/test_runs.py::test_a_damaged_last_falls_back_to_the_newest_that_is_not_and_says_so
  ! Failed: DID NOT WARN
              {-damaged.append(str(error))-}{+raise+}
checkpoint/runs.py: last_is_last_even_if_best_has_more_steps
  tests/checkpoint/test_runs.py::test_last_is_the_one_with_the_most_steps_if_it_could_not_be_written_on_a_full_disk
  found is None{- or other.step > found.step-}
completion/cached_forward.py: setting_of_the_process_restored_by_the_first_of_several_steps
  tests/completion/test_cached_forward.py::test_the_last_of_steps_in_several_threads_restores_the_flag
  _enabled=_found.pop({+0+}))
completion/cache.py: cache_that_forgets_when_it_grows
  tests/completion/test_cache.py::test_memory_grows_with_the_text_and_keeps_what_is_stored
  F.pad({-memory-}{+memory.zero_()+}, more)
completion/cache.py: cached_positions_one_behind
  tests/completion/test_decoder.py::test_cached_equals_uncached
  self.positions = self.newest[:, None]{+ - 1+}
completion/cache.py: padding_of_shorter_windows_attended_to
  tests/completion/test_decoder.py::test_cached_equals_uncached
  <= self.newest{+.max().expand_as(self.newest)+}[:, None]
completion/cache.py: equal_prompts_mixed_up
  tests/completion/test_decoder.py::test_cached_equals_uncached
  keys_values[:, self.source{+.flip(0)+}]
completion/cache.py: caches_of_texts_mixed_up
  tests/completion/test_decoder.py::test_texts_that_come_and_go_do_not_change_each_other
  memory[:, to] = memory[:, {-source-}{+to+}]
completion/completer.py: prompts_share_one_random_generator
  tests/completion/test_completer.py::test_several_prompts_together_equal_each_alone
  {-[random_numbers(seed) for seed in seeds]-}{+[random_numbers(seeds[0])] * len(seeds)+}
completion/cuda_graph.py: graphed_steps_that_all_draw_the_first_number
  tests/completion/test_generate.py::test_graphed_steps_choose_what_generate_chooses
  {-self.column += 1-}{+pass+}
completion/sampling.py: padding_produced
  tests/completion/test_completer.py::test_padding_is_never_produced_however_likely
  ! IndexError: string index out of range
  decoder.logits(texts){-[:, :choices]-}
completion/sampling.py: samples_drawn_from_the_global_generator
  tests/completion/test_completer.py::test_completing_is_the_same_in_either_mode_and_changes_no_state
  {-[source.random() for source in randoms]-}{+__import__('torch').rand(len(randoms)).tolist()+}
completion/sampling.py: text_made_of_non_finite_logits
  tests/completion/test_generate.py::test_no_text_is_made_of_non_finite_logits
  ! Failed: DID NOT RAISE
  check_all_finite({-ids < logits.shape[-1]-}{+ids >= 0+})
completion/inference.py: dropout_active_in_completion
  tests/completion/test_completer.py::test_completing_is_the_same_in_either_mode_and_changes_no_state
  {-network.eval()-}{+pass+}
completion/inference.py: evaluation_mode_left_on_after_completion
  tests/completion/test_completer.py::test_completing_is_the_same_in_either_mode_and_changes_no_state
  {-network.train()-}{+pass+}
completion/sampling.py: logits_modified_in_place
  tests/completion/test_sampling.py::test_logits_are_not_modified
  logits = logits.detach(){+.sub_(logits.max())+}
completion/sampling.py: top_k_keeps_ties_beyond_k
  tests/completion/test_sampling.py::test_top_k_keeps_exactly_k_on_ties
  kept{-[:, options.top_k :] = False-}{+ &= ordered >= ordered[:, : options.top_k].amin(-1, True)+}
completion/sampling.py: min_p_not_relative_to_the_likeliest
  tests/completion/test_sampling.py::test_each_filter_keeps_the_likeliest_that_it_should
  {-(ordered - ordered[:, :1]).exp()-}{+ordered.softmax(-1)+} >= options.min_p
methods/sliding_window.py: scored_twice_where_windows_overlap
  tests/completion/test_scoring.py::test_characters_see_the_window_that_completion_would
  >= {-kept - 1-}{+0+}
completion/stop_strings.py: stop_shown_before_it_is_complete
  tests/completion/test_stop_strings.py::test_a_possible_beginning_is_held_back_until_it_is_certain
  self._release({-self._length_of_partial_match()-}{+0+})
evaluation/split_corpus.py: any_file_that_a_checkpoint_names_is_evaluated
  tests/evaluation/test_evaluation.py::test_a_checkpoint_names_no_files_of_this_disk_but_its_own_text
  ! Failed: DID NOT RAISE
  if self.difference and corpus is None and {-names not in _NAMED-}{+False+}:
evaluation/line_chart.py: a_line_through_a_single_point
  tests/evaluation/test_report.py::test_a_single_point_is_a_dot_with_its_number
  if line.dots{- or len(points) == 1-}:
evaluation/losses.py: own_occurrence_left_out_in_another_text
  tests/evaluation/test_evaluation.py::test_a_memory_leaves_out_the_own_occurrence_in_its_own_text_alone
  counted = {{-memory.has_counted(*documents)-}{+True+} for memory in memories_in(network)}
page/sliding_window.js: logits_that_are_not_finite_taken_for_a_distribution
  tests/system/test_page_in_browser.py::test_logits_that_are_not_finite_make_no_text
  if ({-all.every((logits) => logits.every(Number.isFinite))-}{+true+}) return all
page/sliding_window.js: full_window_of_the_page_restarts_elsewhere
  tests/system/test_page_parity.py::test_a_thousand_characters_are_those_of_python
  start = ids.length - this.kept(window){+ + 1+};
page/sliding_window.js: changed_text_read_from_the_old_cache
  tests/system/test_page_parity.py::test_the_cache_gives_the_same_when_a_text_is_changed_anywhere
  {- && cache.ids[known] === ids[start + known]-}
page/transformer.js: keys_of_the_page_not_rotated
  tests/system/test_page_parity.py::test_the_logits_of_a_thousand_positions_are_pytorchs
  [query{-, key-}].forEach((one) =>
page/weights.js: damaged_weights_of_a_page_accepted
  tests/system/test_page_parity.py::test_damage_is_found
  {- && crc32(bytes) === manifest.crc32-}
serving/engine.py: options_of_one_request_for_all
  tests/serving/test_engine.py::test_options_of_one_do_not_reach_another
  chosen = next_ids(logits[rows], {+streams[0].+}sampling, uniform).tolist()
serving/engine.py: window_moved_by_a_pause
  tests/serving/test_engine.py::test_a_stream_whose_client_lags_gives_its_place_to_others
  if {-len(self.ids) == self.ids.maxlen-}{+False+}:
serving/connections.py: half_a_request_held_for_ever
  tests/serving/test_connections.py::test_what_is_not_a_request_is_answered_in_openais_form
  ! TimeoutError
  elif {-arriving and not unsent-}{+False+} and now >
serving/request.py: pages_of_other_sites_may_use_the_server
  tests/serving/test_connections.py::test_only_pages_of_known_sites_may_use_it
  {-raise RequestError(message, 403)-}{+return+}
serving/request.py: nan_accepted_as_json
  tests/serving/test_request.py::test_what_is_not_a_json_object_is_refused
  ! Failed: DID NOT RAISE
  from_json(body{-, allow_inf_nan=False-})
serving/request.py: numbers_of_any_size_accepted
  tests/serving/test_request.py::test_a_wrong_value_is_refused_by_name
  {-Field(None, ge=-(2**63), lt=2**63)-}{+None+}
training/checkpointing.py: checkpoint_not_written_to_a_temporary_file
  tests/training/test_checkpointing.py::test_a_full_disk_keeps_the_previous_file_and_says_so
  _write(checkpoint, {-part-}{+path+})
training/checkpointing.py: checkpoint_not_flushed
  tests/training/test_checkpointing.py::test_the_file_is_flushed_before_the_rename_and_the_folder_after
  {-os.fsync(file.fileno())-}{+pass+}
training/checkpointing.py: half_a_checkpoint_left_behind
  tests/training/test_checkpointing.py::test_a_full_disk_keeps_the_previous_file_and_says_so
          finally:
              {-part.unlink(missing_ok=True)-}{+pass+}
training/checkpointing.py: start_of_the_run_not_saved
  tests/training/test_checkpointing.py::test_a_run_saves_its_initial_state_and_keeps_two_files
              {-self.save(trainer)-}{+pass+}
training/checkpointing.py: resumed_checkpoint_read_again
  tests/training/test_checkpointing.py::test_a_resumed_run_reads_its_checkpoint_file_exactly_once
  if {-resumed is not None and resumed.path == Path(path)-}{+False+}:
training/compatibility.py: steps_counted_twice_differently
  tests/commands/test_fit_resumed.py::test_a_state_that_is_not_one_is_one_line
  ! Failed: DID NOT RAISE
  if {-steps != content["global_step"]-}{+False+}:
training/compatibility.py: checkpoint_of_another_vocabulary_accepted
  tests/training/test_compatibility.py::test_options_that_a_resumed_run_would_ignore_are_compared
  if {-stored.get("vocabulary") != ours["vocabulary"]-}{+False+}:
training/module.py: targets_shifted_again_in_training
  tests/training/test_module.py::test_ten_trainer_steps_equal_ten_steps_of_a_hand_written_loop
  nats, count = masked_cross_entropy({-logits, batch.targets, batch.target_mask-}{+
              logits[:, :-1], batch.targets[:, 1:], batch.target_mask[:, 1:]
          +})
          loss
training/module.py: targets_shifted_again_in_validation
  tests/training/test_module.py::test_val_loss_is_the_mean_over_real_characters_whatever_the_batches
  self(batch.inputs)
          nats, count = masked_cross_entropy({-logits, batch.targets, batch.target_mask-}{+
              logits[:, :-1], batch.targets[:, 1:], batch.target_mask[:, 1:]
          +})
training/module.py: memory_that_has_seen_the_answer
  tests/methods/test_memory_network.py::test_the_own_occurrence_is_left_out_in_training_and_in_train_eval_loss
  with leaving_out(self.network, {-batch.targets-}{+None+}):
              hidden, logits
training/module.py: teacher_without_a_share_of_the_loss
  tests/methods/test_runs.py::test_it_changes_what_is_learned_but_not_what_is_logged_and_saved
  {-loss = -}objective(loss, step)
training/module.py: further_head_not_trained
  tests/methods/test_multi_token.py::test_its_weight_falls_with_the_learning_rate
              self.{+network.+}parameters(), self.config, getattr
training/module.py: val_loss_a_mean_of_batch_means
  tests/training/test_module.py::test_val_loss_is_the_mean_over_real_characters_whatever_the_batches
  mean.update(total{-, count-}{+ / count.clamp(min=1), torch.ones_like(count)+})
training/module.py: padding_counted_in_training
  tests/training/test_module.py::test_ten_trainer_steps_equal_ten_steps_of_a_hand_written_loop
  loss = nats / {-count.clamp(min=1)-}{+batch.targets.numel()+}
training/module.py: padding_counted_in_the_perplexity
  tests/training/test_module.py::test_bits_and_perplexity_follow_from_the_loss
  perplexity.update(logits.float(), batch.targets{-.masked_fill(~batch.target_mask, -100)-})
training/module.py: data_of_another_vocabulary_accepted
  tests/training/test_compatibility.py::test_data_in_which_ids_stand_for_other_characters_is_refused
  ! (Failed: DID NOT RAISE|IndexError)
  {-check_vocabulary(self.hparams["vocabulary"], self.trainer)-}{+pass+}
training/module.py: gradient_of_an_accumulated_step_lost
  tests/system/test_resume.py::test_sigterm_between_the_batches_of_one_step_loses_no_gradient
  {-self.get_parameter(name).grad = gradient.to(self.device)-}{+pass+}
training/module.py: own_parameters_not_trained
  tests/training/test_module.py::test_the_parameters_of_a_subclass_are_trained
              self.{+network.+}parameters(), self.config, getattr
training/optimizer.py: biases_in_no_group
  tests/training/test_optimizer.py::test_every_parameter_is_in_exactly_one_group
  if p.ndim < {-2-}{+1+}), 0.0
training/optimizer.py: biases_decayed
  tests/training/test_optimizer.py::test_matrices_decay_and_biases_and_norms_do_not
  if p.ndim < 2), {-0.0-}{+config.weight_decay+}),
training/optimizer.py: embeddings_updated_by_muon
  tests/training/test_optimizer.py::test_muon_is_for_the_matrices_inside_blocks
  {p for p in {-blocks.parameters()-}{+trained+} if p.ndim == 2}
training/run_logger.py: two_runs_in_one_folder
  tests/training/test_run_logger.py::test_loggers_that_start_together_get_folders_of_their_own
  os.makedirs(os.path.join(self.root_dir, f"version_{version}"){+, exist_ok=True+})
training/schedule.py: scheduler_state_lost_on_resume
  tests/system/test_resume.py::test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit
  scheduler._step_count = {-step-}{+0+}, step + 1
training/schedule.py: rates_of_a_file_that_the_options_do_not_ask_for
  tests/commands/test_fit_resumed.py::test_rates_and_schedule_are_those_of_the_options_not_of_the_file
  {-**own, -}"params": group["params"]
training/schedule.py: schedule_ignores_max_epochs
  tests/training/test_optimizer.py::test_the_schedule_ends_with_the_run
  ! (assert |.*UserError)
  if {-max_epochs < 0-}{+True+} or
training/schedule.py: more_steps_begin_at_a_rate_of_zero
  tests/commands/test_fit_resumed.py::test_more_steps_begin_the_schedule_anew_and_can_be_resumed_themselves
  "lr": {-base * factor(step)-}{+group["lr"]+}
checkpoint/starting_model.py: new_symbols_take_the_row_of_the_padding
  tests/checkpoint/test_origin.py::test_known_characters_keep_their_logits_and_new_ones_get_fresh_rows
  {-torch.where(ids == old - 1, new - 1, ids)-}{+ids+}
training/stopping.py: validations_counted_in_batches
  tests/training/test_stopping.py::test_a_run_is_validated_and_saved_at_its_last_step
  accumulates = trainer.accumulate_grad_batches {->-}{+<+} 1
training/stopping.py: slurm_job_submitted_again_as_a_new_run
  tests/training/test_stopping.py::test_under_slurm_a_job_is_not_submitted_again_as_a_new_run
  cluster_environment.auto_requeue = {-False-}{+True+}
training/stopping.py: sigterm_saves_nothing
  tests/system/test_resume.py::test_sigterm_saves_the_step_and_the_run_resumes_from_it
  {-self.last.save(trainer)-}{+pass+}
training/stopping.py: sigterm_loses_the_losses_of_its_step
  tests/system/test_resume.py::test_sigterm_saves_the_step_and_the_run_resumes_from_it
              {-self._saved = True-}{+raise Terminated+}
training/stopping.py: signal_handlers_restored_too_late
  tests/training/test_stopping.py::test_a_signal_that_is_ignored_stays_ignored_as_nohup_asks_for
  {-on_train_end-}{+on_fit_end+} = on_exception
training/stopping.py: non_finite_gradient_overlooked
  tests/training/test_stopping.py::test_a_non_finite_step_ends_the_run_undamaged
  if {-not torch.isfinite(norm)-}{+False+}:
training/stopping.py: max_time_counts_earlier_runs
  tests/training/test_stopping.py::test_max_time_counts_from_the_start_of_each_run
  def {-load_state_dict-}{+forget+}(self, state_dict: dict[str, Any]) -> None:
          pass
training/stopping.py: signal_lost_while_the_processes_agree
  tests/training/test_stopping.py::test_a_signal_that_arrives_while_the_processes_agree_is_not_lost
  self._agreed = {+self._received = +}int(trainer.strategy.reduce(received
training/tensorboard_layout.py: validation_logged_at_another_step_within_an_accumulated_one
  tests/system/test_resume.py::test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit[accumulated]
  step = trainer.global_step {++ 1 +}if step is None else step
commands/exported.py: another_function_in_the_page_than_in_the_model
  tests/commands/test_export.py::test_a_form_that_computes_something_else_is_refused
  ! Failed: DID NOT RAISE
  if {-not difference < _TOLERANCE-}{+False+}:
commands/recipes.py: option_of_a_yaml_file_ignored
  tests/commands/test_fit_cli.py::test_a_yaml_file_with_more_or_less_than_options_is_one_line
  if {-name in options or option in options.get(group, {})-}{+False+}:
commands/fit_parser.py: yaml_in_the_systems_encoding
  tests/system/test_other_systems.py::test_yaml_files_are_utf_8_where_the_system_has_another_encoding
  for _module in ({-jsonargparse._core, jsonargparse._paths-}):
commands/fit_cli.py: pictures_before_checkpoints
  tests/commands/test_fit.py::test_a_failing_picture_is_a_warning_and_the_checkpoints_are_there_before_it
  trainer.callbacks.{-append(self.config_init["sample"])-}{+insert(0, self.config_init["sample"])+}
commands/text_files.py: model_overwritten_by_output
  tests/commands/test_text_files.py::test_no_output_replaces_an_input_a_model_or_a_file_of_a_run
  ! Failed: DID NOT RAISE
  if {-target.suffix in _MODELS-}{+False+}:
commands/text_files.py: output_truncates_the_file_that_stdin_comes_from
  tests/commands/test_text_files.py::test_redirected_files_are_inputs_and_outputs_too
  for given in ({-STDIN-}{+None+}, *inputs):
commands/text_files.py: output_written_in_place
  tests/system/test_faults.py::test_any_call_that_fails_leaves_the_old_or_the_new_and_one_line_that_names_it
  part = {-target.with_name(f".{crc32(os.fsencode(target.name)):08x}.part")-}{+target+}
commands/page.py: page_over_the_corpus_that_it_is_measured_on
  tests/commands/test_page.py::test_bad_input_is_one_line_and_leaves_nothing
  check_output(arguments.output, path, *others{-, *corpus_inputs(checkpoint, arguments.corpus)-})
commands/console.py: texts_control_the_terminal
  tests/commands/test_console.py::test_a_text_cannot_control_a_terminal_and_is_unchanged_elsewhere
  sys.stdout = {-PrintableOutput(sys.stdout)-}{+sys.stdout+}
"""


class Mistake(NamedTuple):
    """`right`, which stands once in a file of the package, becomes `wrong`; `check` goes red."""

    file: str
    right: str
    wrong: str
    check: str
    symptom: str


def mistakes(table: str) -> Iterator[tuple[str, Mistake]]:
    for entry in re.split(r"\n(?=\S)", table.strip()):
        heading, check, *lines = entry.replace("\n  ", "\n").split("\n")
        symptom = lines.pop(0).removeprefix("! ") if lines[0].startswith("! ") else ASSERTION
        file, name = heading.split(": ")
        yield name, Mistake(file, *without_and_with("\n".join(lines)), check, symptom)


def without_and_with(changes: str) -> tuple[str, str]:
    """Return a text without and with the changes that it marks as {-removed-} and {+added+}."""
    removed, added = (re.compile(rf"\{{\{sign}(.*?)\{sign}\}}", re.DOTALL) for sign in "-+")
    return removed.sub(r"\1", added.sub("", changes)), added.sub(r"\1", removed.sub("", changes))


MISTAKES = dict(mistakes(TABLE))

# The installed package is the original: a copy that finds itself testing that refuses to run.
GUARD = """
from pathlib import Path

import shakespeare_lm

assert Path(shakespeare_lm.__file__).parents[1] == Path(__file__).parent
"""
# Imports once what every check needs, but nothing of the package, and is forked for each check.
SERVER = """
import os, shlex, sys
import jsonargparse, pytest, pytorch_lightning, torch.utils.tensorboard, torchmetrics.text

for line in sys.stdin:
    if os.fork() == 0:
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, file in enumerate([os.open(os.devnull, os.O_RDONLY), output, output]):
            os.dup2(file, number)
        sys.exit(pytest.main(shlex.split(line)))
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
OPTIONS = ["-x", "-q", "-m", "", "-p", "no:cacheprovider", "--basetemp=tmp"]
OPTIONS += ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTEST_ADDOPTS": "",
    "COLUMNS": "500",  # so that pytest's summary names test and symptom in full
}


def copy_repository(folder: Path) -> None:
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (folder / "conftest.py").write_text(GUARD)
    # By content: the times of two changes within a second can be equal.
    compiling = ["-m", "compileall", "-q", "--invalidation-mode=checked-hash", "shakespeare_lm"]
    subprocess.run([sys.executable, *compiling], cwd=folder, check=True)


class Copy:
    """A copy of the repository, and a process that runs pytest in it."""

    def __init__(self, folder: Path) -> None:
        copy_repository(folder)
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=folder,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *checks: str) -> tuple[int, str]:
        """Return pytest's exit code (1 is a failed test, above that is no verdict) and output."""
        assert self.server.stdin
        assert self.server.stdout
        print(shlex.join([*OPTIONS, *checks]), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline()), (self.folder / "output.txt").read_text()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    copy = Copy(tmp_path_factory.mktemp("repository"))
    with copy.server:  # which closes its input, and so ends it
        yield copy


def test_every_named_check_is_green_without_a_mistake(copy: Copy) -> None:
    code, output = copy.run(*sorted({mistake.check for mistake in MISTAKES.values()}))
    assert code == 0, output


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_turns_the_named_check_red(copy: Copy, mistake: Mistake) -> None:
    path = copy.folder / "shakespeare_lm" / mistake.file
    text = path.read_text()
    assert text.count(mistake.right) == 1, f"{mistake.file} has changed: {mistake.right!r}"
    path.write_text(text.replace(mistake.right, mistake.wrong))
    try:
        code, output = copy.run(mistake.check)
    finally:
        path.write_text(text)
    assert code == 1, output
    failed = rf"^FAILED {re.escape(mistake.check)}(\[.*\])? - {mistake.symptom}"
    assert re.search(failed, output, re.MULTILINE), output
