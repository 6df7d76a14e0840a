// A model that `export --to onnx` wrote -> text, by any onnxruntime for JavaScript (`ort`).

// Yields the characters that follow a text, without end. `model` is the JSON file beside the ONNX
// file; temperature 0 takes the most probable character.
export async function* complete(ort, session, model, text, temperature = 0.8, random = Math.random) {
  const { vocabulary, context_length, past_shape } = model;
  const ids = Array.from(text, (character) => vocabulary.indexOf(character));
  if (ids.includes(-1)) throw new Error(`the model does not know ${Array.from(text)[ids.indexOf(-1)]}`);
  const nothing = new ort.Tensor("float32", [], past_shape);
  let [past, start] = [nothing, Math.max(0, ids.length - context_length)];
  for (;;) {
    const window = ids.slice(start).map(BigInt);
    const feeds = { ids: new ort.Tensor("int64", window, [1, window.length]), past_key_values: past };
    const { logits, present_key_values } = await session.run(feeds);
    const last = logits.data.slice(-logits.dims[2]).slice(0, vocabulary.length); // all but the padding symbol
    ids.push(sample(last, temperature, random));
    yield vocabulary[ids.at(-1)];
    past = present_key_values; // which is not read again
    if (ids.length - start > context_length) {
      // A full window is restarted with its newer half.
      [past, start] = [nothing, ids.length - Math.max(1, context_length >> 1)];
    }
  }
}

// The largest sum with Gumbel noise is a sample from the softmax.
function sample(logits, temperature, random) {
  const sums = logits.map((logit) => logit - temperature * Math.log(-Math.log(random())));
  return sums.indexOf(Math.max(...sums));
}
