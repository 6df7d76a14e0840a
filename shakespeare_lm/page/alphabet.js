"use strict";
// Characters and ids, and how a character is shown by itself. A character is a code point.

class Alphabet {
  constructor(vocabulary) {
    // A text area makes line ends of carriage returns, so they are written with their symbol.
    this.characters = Array.from(vocabulary.replace("\r", "\u240d"));
    this.ids = new Map(this.characters.map((character, id) => [character, id]));
  }

  isKnown(character) {
    return this.ids.has(character);
  }

  // The characters that the model can read, as ids, and where in the text each of them is.
  encode(characters) {
    const places = [];
    characters.forEach((character, place) => this.isKnown(character) && places.push(place));
    return { places, ids: places.map((place) => this.ids.get(characters[place])) };
  }
}

const NAMES = new Map([
  ["\n", "↵ line end"],
  [" ", "␣ space"],
  ["\t", "⇥ tab"],
  ["\u00a0", "no-break space"],
]);

// A name for what cannot be seen alone: spaces, control and combining characters.
function nameOf(character) {
  if (NAMES.has(character)) return NAMES.get(character);
  const code = `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  if (/^\p{M}$/u.test(character)) return `◌${character} ${code}`;
  return /^[\p{C}\p{Z}]$/u.test(character) ? code : character;
}

function percent(probability) {
  if (probability >= 0.1) return `${(100 * probability).toFixed(0)} %`;
  if (probability >= 0.001) return `${(100 * probability).toFixed(1)} %`;
  return probability > 0 ? "< 0.1 %" : "0 %";
}

function bitsOf({ probability }) {
  return -Math.log2(Math.max(probability, Number.MIN_VALUE));
}
