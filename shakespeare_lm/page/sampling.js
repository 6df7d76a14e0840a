"use strict";
// logits -> the next id, as shakespeare_lm/completion/sampling.py chooses it. Filters work in the
// order temperature, top-k, top-p, min-p; each on what the ones before it have kept.

// options: {greedy, temperature, top_k, top_p, min_p}; a filter that is null is off.
function nextId(logits, options, uniform) {
  if (options.greedy || options.temperature === 0) return argmax(logits);
  const cumulative = nextProbabilities(logits, options);
  for (let i = 1; i < cumulative.length; i++) cumulative[i] += cumulative[i - 1];
  const target = uniform() * cumulative[cumulative.length - 1];
  return cumulative.findIndex((value) => value > target);
}

// The distribution that sampling draws from.
function nextProbabilities(logits, options) {
  const scaled = Float64Array.from(logits, (x) => x / Math.max(options.temperature, 1e-200));
  const order = likeliestFirst(scaled);
  let kept = order.slice(0, options.top_k ?? order.length);
  if (options.top_p !== null) kept = nucleus(scaled, kept, options.top_p);
  if (options.min_p !== null) {
    kept = kept.filter((id) => Math.exp(scaled[id] - scaled[order[0]]) >= options.min_p);
  }
  const probabilities = new Float64Array(logits.length);
  const values = probabilitiesOf(scaled, kept);
  kept.forEach((id, i) => (probabilities[id] = values[i]));
  return probabilities;
}

// The fewest of the likeliest ids whose probabilities add up to top_p; at least the likeliest.
function nucleus(scaled, kept, top_p) {
  const probabilities = probabilitiesOf(scaled, kept);
  let before = 0;
  return kept.filter((_, i) => {
    const reached = before >= top_p && i > 0;
    before += probabilities[i];
    return !reached;
  });
}

// Softmax over some ids.
function probabilitiesOf(scaled, ids) {
  const largest = scaled[argmax(scaled)];
  const exponentials = ids.map((id) => Math.exp(scaled[id] - largest));
  const total = exponentials.reduce((sum, value) => sum + value, 0);
  return exponentials.map((value) => value / total);
}

// All ids, the likeliest first; the lower id on ties.
function likeliestFirst(logits) {
  return Array.from(logits, (_, id) => id).sort((a, b) => logits[b] - logits[a] || a - b);
}

function argmax(logits) {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}
