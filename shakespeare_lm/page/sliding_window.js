"use strict";
// A text as ids -> logits at each of its positions, through a window that moves on when it is full:
// as decoder.py and scoring.py do.

// So many positions are read at once; between them, the worker looks for messages.
const POSITIONS_TOGETHER = 32;

class Reader {
  constructor(network, choices) {
    this.network = network;
    this.choices = choices; // ids that can come next: all but the padding symbol
    this.contextLength = network.config.context_length;
    this.cache = network.newCache();
    this.start = 0; // of the window in the cache
  }

  // "stride" restarts a full window with its newer half, "exact" drops its oldest character.
  kept(window) {
    const half = Math.max(1, Math.floor(this.contextLength / 2));
    return window === "exact" ? this.contextLength : half;
  }

  // Where the window begins that scores what follows a position of a text.
  windowStart(position, window) {
    if (position < this.contextLength) return 0;
    const step = this.contextLength + 1 - this.kept(window);
    return step * (1 + Math.floor((position - this.contextLength) / step));
  }

  // Reads ids[start] up to ids[end - 1]; what is in the cache already is not read again. Returns the
  // logits after each id from ids[first] on.
  read(ids, start, end, first = end - 1, observe = null) {
    const { cache } = this;
    if (start !== this.start) cache.ids.length = 0;
    this.start = start;
    let known = 0;
    while (known < Math.min(cache.ids.length, first - start) && cache.ids[known] === ids[start + known]) known++;
    cache.ids.length = known;
    let all = [];
    for (let at = start + known; at < end; at += POSITIONS_TOGETHER) {
      const some = ids.slice(at, Math.min(at + POSITIONS_TOGETHER, end));
      const wanted = Math.max(0, Math.min(some.length, at + some.length - first));
      const last = at + some.length === end;
      all = all.concat(this.network.read(cache, some, wanted, last ? observe : null));
    }
    all = all.map((logits) => logits.subarray(0, this.choices));
    if (all.every((logits) => logits.every(Number.isFinite))) return all;
    throw new Error("The model's logits are not finite (NaN or infinity): its training diverged, or its weights are damaged.");
  }

  // Yields [position, logits after it], some at a time, for the positions from `first` on.
  *score(ids, first, window) {
    for (let at = first; at < ids.length; ) {
      const start = this.windowStart(at, window);
      let end = Math.min(at + POSITIONS_TOGETHER, ids.length);
      while (this.windowStart(end - 1, window) !== start) end--;
      yield this.read(ids, start, end, at).map((logits, i) => [at + i, logits]);
      at = end;
    }
  }

  // Yields the logits after the text, which the caller makes longer by one id each time.
  *continue(ids, window) {
    let start = Math.max(0, ids.length - this.contextLength);
    while (true) {
      if (ids.length - start > this.contextLength) start = ids.length - this.kept(window);
      yield this.read(ids, start, ids.length)[0];
    }
  }

  // What each layer does at a position: its attention to the positions from `start` on, and the
  // logits if the layers after it were left out.
  explain(ids, position, window) {
    const start = this.windowStart(position, window);
    const layers = [];
    this.read(ids, start, position + 1, position, (_, x, attention) => layers.push({ x, attention }));
    return {
      start,
      layers: layers.map(({ x, attention }) => ({
        attention,
        logits: this.network.logits(x, this.cache)[0].subarray(0, this.choices),
      })),
    };
  }
}
