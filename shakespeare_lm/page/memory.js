"use strict";
// A transformer with an n-gram memory, as shakespeare_lm/methods/memory_network.py has it. The page
// holds the text, and counts it once.

const SMALLEST_PROBABILITY = 1e-9;
const ROOT_SCALE = 4;

// Kneser-Ney over characters, as in ngrams.py: `orders` from the shortest n-grams on. n-grams of one
// context are neighbours, in the order of their last ids.
class NGramMemory {
  constructor(text, lengths, vocabSize, maxOrder) {
    this.vocabSize = vocabSize;
    this.orders = countNGrams(text, lengths, vocabSize, maxOrder).map(tablesOf);
  }

  // Maps an id, and what this returned for the id before, to the n-grams that end there (their numbers;
  // -1 if one was never seen), and for the next id to the probabilities of each order and the total
  // count of its context.
  read(id, before) {
    const ngrams = this.orders.map((order, i) => find(order, i ? before?.ngrams[i - 1] ?? -1 : 0, id));
    const totals = [];
    let below = new Float64Array(this.vocabSize).fill(1 / this.vocabSize);
    const probabilities = this.orders.map((order, i) => {
      const context = i ? ngrams[i - 1] : 0;
      totals.push(context < 0 ? 0 : order.totals[context]);
      return (below = totals[i] ? interpolate(order, context, totals[i], below) : below);
    });
    return { ngrams, totals, probabilities, logProbabilities: below.map((p) => Math.log(Math.max(p, SMALLEST_PROBABILITY))) };
  }
}

// p(id | context) = (count - discount) / total + (backoff mass / total) * below
function interpolate({ first, ids, discounted, backoff }, context, total, below) {
  const probabilities = below.map((p) => (backoff[context] * p) / total);
  for (let i = first[context]; i < first[context + 1]; i++) probabilities[ids[i]] += discounted[i] / total;
  return probabilities;
}

// The number of the n-gram of a context and an id, found by halving; -1 if it was never seen.
function find({ first, ids }, context, id) {
  if (context < 0) return -1;
  let [low, high] = [first[context], first[context + 1]];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ids[middle] < id) low = middle + 1;
    else high = middle;
  }
  return low < first[context + 1] && ids[low] === id ? low : -1;
}

// Returns of each order: `ids`, the last of each n-gram; `first`, the first n-gram of each context, and
// one number more; `counts`, below the highest order of the different ids before each n-gram.
function countNGrams(text, lengths, vocabSize, maxOrder) {
  const byId = sortedBy(Uint32Array.from(text, (_, place) => place), text, vocabSize);
  const orders = [];
  let [contexts, numContexts] = [new Int32Array(text.length), 1]; // of the id at each place, or -1
  while (orders.length < maxOrder) {
    const order = countOrder(byId, text, contexts, numContexts, orders.at(-1));
    orders.push(order);
    contexts = new Int32Array(text.length).fill(-1);
    contexts.set(order.endings.subarray(0, -1), 1);
    let start = 0;
    for (const length of lengths) {
      if (length) contexts[start] = -1;
      start += length;
    }
    numContexts = order.ids.length;
  }
  return orders.map(({ ids, first, counts, different }, i) => ({ ids, first, counts: i + 1 < maxOrder ? different : counts }));
}

// Counts the n-grams of one order, and for those of the order below the different ids before them.
function countOrder(byId, text, contexts, numContexts, below) {
  const places = sortedBy(byId.filter((place) => contexts[place] >= 0), contexts, numContexts);
  const endings = new Int32Array(text.length).fill(-1); // the number of the n-gram that ends at each place
  const first = new Uint32Array(numContexts + 1);
  const [ids, counts] = [new text.constructor(places.length), new Uint32Array(places.length)];
  let [number, context, id] = [-1, -1, -1];
  for (const place of places) {
    if (contexts[place] !== context || text[place] !== id) {
      [context, id] = [contexts[place], text[place]];
      ids[++number] = id;
      first[context + 1]++;
      if (below) below.different[below.endings[place]]++;
    }
    endings[place] = number;
    counts[number]++;
  }
  for (context = 0; context < numContexts; context++) first[context + 1] += first[context];
  const size = number + 1;
  return { ids: ids.slice(0, size), first, counts: counts.slice(0, size), endings, different: new Uint32Array(size) };
}

// Sorts places by their keys from 0 to numKeys - 1; equal keys keep their order.
function sortedBy(places, keys, numKeys) {
  const starts = new Uint32Array(numKeys + 1);
  for (const place of places) starts[keys[place] + 1]++;
  for (let key = 0; key < numKeys; key++) starts[key + 1] += starts[key];
  const sorted = new Uint32Array(places.length);
  for (const place of places) sorted[starts[keys[place]]++] = place;
  return sorted;
}

function tablesOf({ ids, first, counts }) {
  const byCount = discounts(counts);
  const discounted = Float32Array.from(counts, (count) => count - byCount[Math.min(count, 3)]);
  const [totals, backoff] = [0, 0].map(() => new Float64Array(first.length - 1));
  for (let context = 0; context < totals.length; context++) {
    for (let i = first[context]; i < first[context + 1]; i++) {
      totals[context] += counts[i];
      backoff[context] += byCount[Math.min(counts[i], 3)];
    }
  }
  return { ids, first, discounted, totals, backoff };
}

// Discounts of counts of 0, 1, 2, and 3 or more (Chen & Goodman, eq. 26); half of the count, at most 1,
// where a text is too short for the formula.
function discounts(counts) {
  const n = [0, 0, 0, 0, 0, 0];
  for (const count of counts) n[Math.min(count, 5)]++;
  if (!n[1] || !n[2] || !n[3]) return [0, 0.5, 1, 1];
  const y = n[1] / (n[1] + 2 * n[2]);
  return [0, 1, 2, 3].map((k) => k && Math.min(k, Math.max(0.01, k - ((k + 1) * y * n[k + 1]) / n[k])));
}

// The memory is read with the embeddings and added to the logits, or mixed with the prediction.
class MemoryTransformer extends Transformer {
  constructor(config, weights) {
    super(config, new Map([...weights].map(([name, one]) => [name.replace(/^base\./, ""), one])));
    const [text, lengths] = [weights.get("ngrams.text"), weights.get("ngrams.lengths")];
    text.memory ??= new NGramMemory(text, lengths, config.vocab_size, config.memory_order); // counted once
    this.memory = text.memory;
    this.readNGrams = this.linear("read_ngrams");
    this.trust = weights.get("trust")?.[0];
  }

  newCache() {
    return { ...super.newCache(), memories: [] };
  }

  embed(cache, first) {
    const x = super.embed(cache, first);
    const { ids, memories } = cache;
    memories.length = first;
    for (let place = first; place < ids.length; place++) memories.push(this.memory.read(ids[place], memories[place - 1]));
    if (!this.config.memory_share) {
      const features = memories.slice(first).flatMap(featuresOf);
      add(x, matrixProduct(Float32Array.from(features), ids.length - first, this.readNGrams));
    }
    return x;
  }

  logits(x, cache) {
    const all = super.logits(x, cache);
    const first = cache.memories.length - all.length;
    all.forEach((logits, i) => this.join(logits, cache.memories[first + i].logProbabilities));
    return all;
  }

  join(logits, logProbabilities) {
    const share = this.config.memory_share;
    if (!share) {
      logProbabilities.forEach((value, id) => (logits[id] += this.trust * value));
      return;
    }
    softmax(logits, 1);
    logits.forEach((p, id) => (logits[id] = Math.log((1 - share) * p + share * Math.exp(logProbabilities[id]))));
  }
}

function featuresOf({ probabilities, totals }) {
  return [
    ...probabilities.flatMap((one) => Array.from(one, (p) => ROOT_SCALE * Math.sqrt(p))),
    ...totals.map(Math.log1p),
  ];
}
