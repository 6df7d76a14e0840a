"use strict";
// ids -> next-character logits: what shakespeare_lm/model/transformer.py computes, with a
// key-value cache, in plain loops. The names of the weights are those of PyTorch.

class Transformer {
  constructor(config, weights) {
    this.config = config;
    this.paddingId = config.vocab_size - 1;
    this.headDim = config.d_model / config.num_heads;
    this.weights = weights;
    this.embedding = weights.get("embedding.weight");
    this.previous = [];
    for (let distance = 0; distance < config.previous_characters; distance++) {
      this.previous.push(weights.get(`previous_embeddings.${distance}.weight`));
    }
    this.blocks = [];
    for (let layer = 0; layer < config.num_layers; layer++) {
      this.blocks.push(this.blockWeights(`blocks.${layer}.`));
    }
    this.finalNorm = this.norm("final_norm");
    this.head = this.linear("head");
    if (config.tied_head) this.head.weight = this.embedding;
    this.positions = this.positionTable();
  }

  blockWeights(prefix) {
    return {
      attentionNorm: this.norm(`${prefix}attention_norm`),
      queryKeyValue: this.linear(`${prefix}attention.query_key_value`),
      attentionOutput: this.linear(`${prefix}attention.output`),
      feedForwardNorm: this.norm(`${prefix}feed_forward_norm`),
      expand: this.linear(`${prefix}feed_forward.0`),
      project: this.linear(`${prefix}feed_forward.2`),
    };
  }

  linear(name) {
    return { weight: this.weights.get(`${name}.weight`), bias: this.weights.get(`${name}.bias`) };
  }

  norm(name) {
    const weight = this.weights.get(`${name}.weight`);
    return weight && { weight, bias: this.weights.get(`${name}.bias`) };
  }

  // One row per position: added to the embedding, or [cosines, sines] that rotate queries and keys.
  positionTable() {
    const { positions, context_length, d_model } = this.config;
    if (positions === "learned") return this.weights.get("learned_positions");
    const width = positions === "rotary" ? this.headDim : d_model;
    const values = new Float32Array(context_length * width);
    for (let position = 0; position < context_length; position++) {
      for (let pair = 0; pair < width / 2; pair++) {
        const angle = position * 10000 ** (-(2 * pair) / width);
        const [first, second] =
          positions === "rotary" ? [pair, width / 2 + pair] : [2 * pair, 2 * pair + 1];
        values[position * width + first] = positions === "rotary" ? Math.cos(angle) : Math.sin(angle);
        values[position * width + second] = positions === "rotary" ? Math.sin(angle) : Math.cos(angle);
      }
    }
    return new Matrix(context_length, width, values);
  }

  newCache() {
    const { num_layers, context_length, d_model } = this.config;
    const empty = () => new Matrix(context_length, d_model, new Float32Array(context_length * d_model));
    const layers = Array.from({ length: num_layers }, () => ({ keys: empty(), values: empty() }));
    return { ids: [], layers };
  }

  // Adds ids to the window in the cache, and returns the logits after the last `wanted` of them, one
  // Float32Array each. `observe(layer, x, attention)` gets what each block computes for the last id.
  read(cache, ids, wanted = 1, observe = null) {
    const first = cache.ids.length;
    cache.ids.push(...ids);
    let x = this.embed(cache, first);
    this.blocks.forEach((block, layer) => {
      const attention = observe && [];
      x = this.block(block, x, cache.layers[layer], first, attention);
      if (observe) observe(layer, x.slice(-this.config.d_model), attention);
    });
    return this.logits(x.subarray((ids.length - wanted) * this.config.d_model), cache);
  }

  // Maps vectors of the residual stream, of the newest ids in the cache, to logits.
  logits(x) {
    const { d_model, vocab_size } = this.config;
    const count = x.length / d_model;
    const normed = this.finalNorm ? layerNorm(x, this.finalNorm) : x;
    const all = matrixProduct(normed, count, this.head);
    return Array.from({ length: count }, (_, i) => all.subarray(i * vocab_size, (i + 1) * vocab_size));
  }

  embed({ ids }, first) {
    const { d_model, scale_embedding, positions } = this.config;
    const scale = scale_embedding ? Math.sqrt(d_model) : 1;
    const x = new Float32Array((ids.length - first) * d_model);
    for (let position = first; position < ids.length; position++) {
      const row = x.subarray((position - first) * d_model, (position - first + 1) * d_model);
      add(row, this.embedding.row(ids[position]));
      this.previous.forEach((embedding, i) => {
        const id = position > i ? ids[position - i - 1] : this.paddingId;
        add(row, embedding.row(id));
      });
      for (let i = 0; i < d_model; i++) row[i] *= scale;
      if (positions !== "rotary") add(row, this.positions.row(position));
    }
    return x;
  }

  block(block, x, cache, first, observed) {
    if (this.config.norm === "pre") {
      x = sum(x, this.attention(block, layerNorm(x, block.attentionNorm), cache, first, observed));
      return sum(x, this.feedForward(block, layerNorm(x, block.feedForwardNorm)));
    }
    const attended = sum(x, this.attention(block, x, cache, first, observed));
    x = layerNorm(attended, block.attentionNorm);
    return layerNorm(sum(x, this.feedForward(block, x)), block.feedForwardNorm);
  }

  feedForward(block, x) {
    const count = x.length / this.config.d_model;
    const inner = matrixProduct(x, count, block.expand);
    const activation = ACTIVATIONS[this.config.activation];
    for (let i = 0; i < inner.length; i++) inner[i] = activation(inner[i]);
    return matrixProduct(inner, count, block.project);
  }

  attention(block, x, cache, first, observed) {
    const { d_model, positions } = this.config;
    const count = x.length / d_model;
    const heads = matrixProduct(x, count, block.queryKeyValue);
    const mixed = new Float32Array(x.length);
    for (let i = 0; i < count; i++) {
      const [query, key, value] = [0, 1, 2].map((part) =>
        heads.subarray((3 * i + part) * d_model, (3 * i + part + 1) * d_model),
      );
      if (positions === "rotary") [query, key].forEach((one) => this.rotate(one, first + i));
      cache.keys.row(first + i).set(key);
      cache.values.row(first + i).set(value);
      const last = i === count - 1;
      const out = mixed.subarray(i * d_model, (i + 1) * d_model);
      this.attend(query, cache, first + i + 1, out, last ? observed : null);
    }
    return matrixProduct(mixed, count, block.attentionOutput);
  }

  // softmax(query keys^T / sqrt(head_dim)) values, for each head, over the first `length` positions.
  attend(query, cache, length, out, observed) {
    const { num_heads, d_model } = this.config;
    const { headDim } = this;
    const [keys, values] = [cache.keys.values, cache.values.values];
    for (let head = 0; head < num_heads; head++) {
      const start = head * headDim;
      const weights = new Float32Array(length);
      for (let position = 0; position < length; position++) {
        weights[position] = dot(query, start, keys, position * d_model + start, headDim);
      }
      softmax(weights, 1 / Math.sqrt(headDim));
      for (let position = 0; position < length; position++) {
        const weight = weights[position];
        const row = position * d_model + start;
        for (let i = 0; i < headDim; i++) out[start + i] += weight * values[row + i];
      }
      if (observed) observed.push(weights);
    }
  }

  rotate(x, position) {
    const { headDim } = this;
    const half = headDim / 2;
    const rotation = this.positions.row(position);
    for (let start = 0; start < x.length; start += headDim) {
      for (let i = start; i < start + half; i++) {
        const [cos, sin] = [rotation[i - start], rotation[i - start + half]];
        const [first, second] = [x[i], x[i + half]];
        x[i] = first * cos - second * sin;
        x[i + half] = first * sin + second * cos;
      }
    }
  }
}

// The baseline: a table of next-character logits, as in bigram.py.
class BigramTable {
  constructor(config, weights) {
    this.config = config;
    this.table = weights.get("table.weight");
  }

  newCache() {
    return { ids: [], layers: [] };
  }

  read(cache, ids, wanted = 1) {
    cache.ids.push(...ids);
    return ids.slice(ids.length - wanted).map((id) => this.table.row(id));
  }
}

// All that this file computes; what is not here is an error.
const ACTIVATIONS = { gelu, relu };
const CHOICES = {
  network: ["transformer", "bigram"],
  positions: ["sinusoidal", "learned", "rotary"],
  norm: ["pre", "post"],
  activation: Object.keys(ACTIVATIONS),
};

function buildNetwork(config, weights) {
  for (const [name, choices] of Object.entries(CHOICES)) {
    if (!choices.includes(config[name])) {
      throw new Error(`${name} is ${config[name]}: this page knows only ${choices.join(", ")}`);
    }
  }
  if (config.network === "bigram") return new BigramTable(config, weights);
  return config.memory_order ? new MemoryTransformer(config, weights) : new Transformer(config, weights);
}
