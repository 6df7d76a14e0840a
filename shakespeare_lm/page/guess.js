"use strict";
// "Guess the next character": the reader against the model, on a passage that neither has seen.

const SHOWN_AT_FIRST = 80; // characters

class Game {
  // read(ids, first, onLikelihoods): how likely the model finds each id from the first one on.
  constructor(passage, alphabet, read) {
    this.passage = Array.from(passage).filter((one) => alphabet.isKnown(one));
    Object.assign(this, { alphabet, read, likelihoods: [] });
    byId("game").hidden = this.passage.length < 2 * SHOWN_AT_FIRST;
    const guess = byId("guess");
    guess.addEventListener("input", (event) => event.isComposing || this.guess(guess.value));
    guess.addEventListener("compositionend", () => this.guess(guess.value));
    guess.addEventListener("keydown", (event) => event.key === "Enter" && !event.isComposing && this.guess("\n"));
    byId("sure").addEventListener("input", () => this.showSure());
    byId("again").addEventListener("click", () => this.restart());
    this.restart();
  }

  restart() {
    this.pending = ""; // what was typed while the model read
    this.bits = []; // of each guess: {yours, models}
    byId("passage").textContent = this.passage.slice(0, SHOWN_AT_FIRST).join("");
    byId("answer").textContent = "What comes next?";
    byId("score").textContent = "";
    this.showSure();
  }

  showSure() {
    document.querySelector('output[for="sure"]').textContent = `${byId("sure").value} %`;
  }

  get place() {
    return SHOWN_AT_FIRST + this.bits.length;
  }

  guess(typed) {
    byId("guess").value = "";
    const [character] = typed;
    if (!character || this.place === this.passage.length) return;
    if (!this.alphabet.isKnown(character)) {
      byId("answer").textContent = `‘${nameOf(character)}’ is unknown to this model: guess another character.`;
    } else if (this.likelihoods[this.place]) this.count(character, this.likelihoods[this.place]);
    else this.ask(character);
  }

  // The model reads the passage at the first guess, and again if something came between.
  ask(character) {
    const first = this.place;
    this.pending += character;
    this.read(this.alphabet.encode(this.passage).ids, first, ({ from, likelihoods }) => {
      likelihoods?.forEach((one, i) => (this.likelihoods[from + i] = one));
      if (from !== first) return;
      const typed = this.pending;
      this.pending = "";
      for (const one of typed) this.guess(one);
    });
  }

  count(character, likelihood) {
    const truth = this.passage[this.place];
    const sure = Number(byId("sure").value) / 100;
    const others = this.alphabet.characters.length - 1;
    const probability = character === truth ? sure : (1 - sure) / others;
    this.bits.push({ yours: bitsOf({ probability }), models: bitsOf(likelihood) });
    const shown = document.createElement("span");
    shown.className = surpriseClass({ probability });
    shown.textContent = truth;
    byId("passage").append(shown);
    this.showScore(character, truth, likelihood);
  }

  showScore(character, truth, likelihood) {
    const { yours, models } = this.bits.at(-1);
    const verdict = character === truth ? "Right" : `Not ‘${nameOf(character)}’`;
    byId("answer").textContent = `${verdict}: it was ‘${nameOf(truth)}’. You pay ${yours.toFixed(1)} bits; the model, which gave it ${percent(likelihood.probability)}, ${models.toFixed(1)}.`;
    const mean = (who) => (this.bits.reduce((sum, one) => sum + one[who], 0) / this.bits.length).toFixed(2);
    const over = this.place === this.passage.length ? " The passage is over." : "";
    byId("score").textContent = `Bits per character after ${this.bits.length}: you ${mean("yours")}, the model ${mean("models")}.${over}`;
  }
}
