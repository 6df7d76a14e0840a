"use strict";
// Lists of characters with their probabilities, each a button.

// rows: {character, probability, own, excluded}; onChoose gets the character.
function drawBars(list, rows, onChoose) {
  list.replaceChildren(
    ...rows.map(({ character, probability, own, excluded }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = `${excluded ? "excluded" : ""} ${own ? "own" : ""}`.trim();
      const bar = document.createElement("span");
      bar.className = "bar";
      bar.style.width = `${100 * probability}%`;
      button.append(bar, key(nameOf(character)), excluded ? "excluded" : percent(probability));
      button.addEventListener("click", () => onChoose(character));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
}

function key(text) {
  const element = document.createElement("kbd");
  element.textContent = text;
  return element;
}

const NEXT_SHOWN = 10;

// The likeliest next characters, with the probabilities that the settings leave them.
function nextRows(logits, alphabet, options) {
  const probabilities = nextProbabilities(logits, {
    ...options,
    temperature: options.temperature || 1e-6,
  });
  return likeliestFirst(logits)
    .slice(0, NEXT_SHOWN)
    .map((id) => ({
      character: alphabet.characters[id],
      probability: probabilities[id],
      excluded: probabilities[id] === 0,
    }));
}

// "‘h’: 23 %, rank 2, 2.1 bits."
function describe(character, likelihood, isKnown) {
  const name = `‘${nameOf(character)}’`;
  if (!isKnown) return `${name} is unknown to this model, which reads the text without it.`;
  if (likelihood === null) return `${name} is the first character: nothing predicts it.`;
  if (likelihood === undefined) return `${name} has not been read yet.`;
  return `${name}: probability ${percent(likelihood.probability)}, rank ${likelihood.rank}, ${bitsOf(likelihood).toFixed(1)} bits.`;
}
