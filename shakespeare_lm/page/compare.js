"use strict";
// Another model that reads the same text, and can continue it.

class Companion {
  constructor(model, weights) {
    this.alphabet = new Alphabet(model.vocabulary);
    this.view = new TextView(null, byId("beside-text"), this.alphabet);
    this.worker = newWorker();
    this.worker.onmessage = ({ data }) => data.task === this.task && this.onAnswer(data);
    [this.characters, this.likelihoods, this.places, this.task] = [[], [], [], -1];
    this.ask("load", { ...model, weights });
    byId("beside-name").textContent = model.name;
    byId("beside-continue").addEventListener("click", () => this.complete());
    byId("window").addEventListener("input", () => {
      this.characters = [];
      this.read(characters);
    });
    byId("compare").hidden = false;
  }

  ask(what, fields) {
    this.busy = true;
    this.worker.postMessage({ do: what, task: ++this.task, ...fields });
  }

  // Reads what is new in the text; while it reads already, what was appended waits.
  read(text) {
    let same = 0;
    while (same < text.length && text[same] === this.characters[same]) same++;
    const isLonger = same === this.characters.length && this.task >= 0;
    this.characters = text.slice();
    this.likelihoods.length = same;
    this.likelihoods.length = text.length;
    this.view.show(text);
    this.view.colour(text, this.likelihoods, same);
    if (!this.busy || !isLonger) this.score();
  }

  encoded() {
    const { places, ids } = this.alphabet.encode(this.characters);
    return { places, ids: ids.length ? ids : [this.alphabet.ids.get(FIRST_TEXT) ?? 0] };
  }

  score() {
    const { places, ids } = this.encoded();
    if (places.length) this.likelihoods[places[0]] = null;
    const first = places.findIndex((place) => this.likelihoods[place] === undefined);
    this.places = places;
    this.ask("score", { ids, first: first < 0 ? ids.length : first, window: settings.window });
  }

  complete() {
    if (!loaded || !this.task) return;
    remember();
    const { count, seed, window } = settings;
    this.ask("complete", { ids: this.encoded().ids, count, seed, window, options: settings.options() });
  }

  onAnswer({ error, done, from, likelihoods: read, made, next }) {
    if (error) return showProblem(error);
    if (made?.length) append(made.map((id) => this.alphabet.characters[id]), made.map(() => undefined));
    else read?.forEach((one, i) => (this.likelihoods[this.places[from + i]] = one));
    if (next) drawBars(byId("beside-next"), nextRows(next, this.alphabet, settings.options()), (one) => take(one));
    if (!done) return;
    this.busy = false;
    this.view.colour(this.characters, this.likelihoods);
    byId("beside-total").textContent = totalOf(this.likelihoods);
    if (this.characters.some((one, place) => this.likelihoods[place] === undefined && this.alphabet.isKnown(one))) this.score();
    if (done === "complete") score();
  }
}

const companion = model.beside && new Companion(model.beside, byId("beside").textContent);
