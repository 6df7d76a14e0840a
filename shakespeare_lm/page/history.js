"use strict";
// The model at earlier moments of its training, as history.py packed it: deflated, each moment as its
// difference to the one after it.

class Moments {
  constructor(config, weights, base64, manifest) {
    [this.config, this.weights, this.manifest] = [config, weights, manifest];
    this.bytes = manifest && inflated(checkedBytes(base64, manifest));
  }

  // Returns a promise of the network of a moment: 0 is the last one, and 1 the one before it.
  async network(moment = 0) {
    let [weights, start] = [this.weights, 0];
    for (const { bytes, tensors } of (this.manifest?.moments ?? []).slice(0, moment)) {
      weights = changed(weights, (await this.bytes).slice(start, start + bytes), tensors);
      start += bytes;
    }
    return buildNetwork(this.config, weights);
  }
}

function changed(weights, bytes, tensors) {
  const view = new DataView(bytes.buffer);
  const changes = tensors.map((tensor) => {
    const [after, change] = [weights.get(tensor.name), unpack(view, tensor)];
    if (!(after instanceof Matrix)) return [tensor.name, sum(after, change)];
    return [tensor.name, new Matrix(after.rows, after.columns, sum(after.values, change.values))];
  });
  return new Map([...weights, ...changes]);
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
