"use strict";
// Runs the model beside the page, so that the page never freezes. Each message is one task; a new
// task ends the one before. What is posted back carries the number of its task.

const ALTERNATIVES = 10;
// Text is handed over about 60 times a second.
const MILLISECONDS_TOGETHER = 16;

let reader = null;
let moments = null;
let choices = 0;
let newestTask = 0;

const TASKS = { load, moment: loadMoment, score, complete, explain };

onmessage = async ({ data }) => {
  newestTask = data.task;
  const post = (message) => postMessage({ task: data.task, ...message });
  try {
    await TASKS[data.do](data, post, () => newestTask !== data.task);
    post({ done: data.do });
  } catch (error) {
    post({ error: error.message });
  }
};

async function load(model) {
  const weights = unpackWeights(model.weights, model.manifest);
  moments = new Moments(model.config, weights, model.earlier, model.history);
  choices = model.choices;
  await loadMoment({ moment: 0 });
}

async function loadMoment({ moment }) {
  reader = new Reader(await moments.network(moment), choices);
}

// Posts how likely each id from `first` on is, and in the end the logits of what comes next.
async function score({ ids, first, window }, post, isOver) {
  // What follows the id before the first one predicts the first one.
  for (const some of reader.score(ids, Math.max(0, first - 1), window)) {
    const likelihoods = some.filter(([at]) => at + 1 < ids.length);
    post({ from: some[0][0] + 1, likelihoods: likelihoods.map(([at, logits]) => likelihood(logits, ids[at + 1])) });
    await messages();
    if (isOver()) return;
  }
  post({ next: reader.continue(ids, window).next().value.slice() });
}

// Posts the ids that follow, with how likely each was, and in the end the logits of what comes next.
async function complete({ ids, count, options, seed, window }, post, isOver) {
  const random = seed === null ? Math : new PythonRandom(`completion ${seed}`);
  const uniform = seed === null ? () => random.random() : () => random.uniform();
  const text = Array.from(ids);
  let [made, likelihoods, since] = [[], [], performance.now()];
  let left = count;
  for (const logits of reader.continue(text, window)) {
    if (left-- === 0 || isOver()) {
      post({ made, likelihoods, next: logits.slice() });
      return;
    }
    const id = nextId(logits, options, uniform);
    text.push(id);
    made.push(id);
    likelihoods.push(likelihood(logits, id));
    if (performance.now() - since > MILLISECONDS_TOGETHER) {
      post({ made, likelihoods });
      [made, likelihoods] = [[], []];
      await messages();
      since = performance.now();
    }
  }
}

function explain({ ids, position, window }, post) {
  if (!reader.network.blocks) return;
  const { start, layers } = reader.explain(ids, position, window);
  const shown = layers.map(({ attention, logits }) => ({ attention, likeliest: likelihood(logits, 0).likeliest }));
  post({ explained: { start, layers: shown } });
}

// The probability and rank of an id, and the likeliest ids with their probabilities.
function likelihood(logits, id) {
  const probabilities = Float32Array.from(logits);
  softmax(probabilities, 1);
  const order = likeliestFirst(logits);
  return {
    probability: probabilities[id],
    rank: order.indexOf(id) + 1,
    likeliest: order.slice(0, ALTERNATIVES).map((other) => [other, probabilities[other]]),
  };
}

// Lets messages in that have arrived meanwhile.
function messages() {
  return new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      resolve();
    };
    channel.port2.postMessage(null);
  });
}
