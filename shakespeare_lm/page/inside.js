"use strict";
// Inside the network: attention of every head, and what each layer would say.

const STRIP = 48; // positions that a head's strip shows

class InsideView {
  constructor(heads, layers, alphabet, onHead) {
    this.heads = heads;
    this.layers = layers;
    this.alphabet = alphabet;
    this.onHead = onHead;
    this.chosen = null; // {layer, head}
    this.explained = null;
    this.buttons = new Map();
    heads.addEventListener("keydown", (event) => this.moveByKey(event));
  }

  show(explained) {
    this.explained = explained;
    if (!this.buttons.size) this.addButtons(explained.layers);
    explained.layers.forEach(({ attention }, layer) => {
      attention.forEach((weights, head) => drawStrip(this.canvas(layer, head), weights));
    });
    this.layers.replaceChildren(...explained.layers.map((one, layer) => this.layerRow(one, layer)));
  }

  // Attention of the chosen head: [position in the window's text, weight].
  attention() {
    if (!this.explained || !this.chosen) return [];
    const weights = this.explained.layers[this.chosen.layer].attention[this.chosen.head];
    return Array.from(weights, (weight, i) => [this.explained.start + i, weight]);
  }

  addButtons(layers) {
    layers.forEach(({ attention }, layer) =>
      attention.forEach((_, head) => {
        const button = document.createElement("button");
        button.type = "button";
        button.setAttribute("role", "radio");
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [STRIP, 1];
        button.append(`Layer ${layer + 1}, head ${head + 1}`, canvas);
        button.addEventListener("click", () => this.choose(layer, head));
        this.heads.append(button);
        this.buttons.set(`${layer},${head}`, button);
      }),
    );
    this.choose(layers.length - 1, 0);
  }

  canvas(layer, head) {
    return this.buttons.get(`${layer},${head}`).querySelector("canvas");
  }

  choose(layer, head) {
    this.chosen = { layer, head };
    for (const [name, button] of this.buttons) {
      const checked = name === `${layer},${head}`;
      button.setAttribute("aria-checked", checked);
      button.tabIndex = checked ? 0 : -1;
    }
    this.onHead();
  }

  // A group of radio buttons is moved in by arrow keys.
  moveByKey(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !this.chosen) return;
    event.preventDefault();
    const names = [...this.buttons.keys()];
    const at = names.indexOf(`${this.chosen.layer},${this.chosen.head}`);
    const name = names[(at + step + names.length) % names.length];
    this.choose(...name.split(",").map(Number));
    this.buttons.get(name).focus();
  }

  layerRow({ likeliest }, layer) {
    const row = document.createElement("tr");
    const number = document.createElement("th");
    number.scope = "row";
    number.textContent = String(layer + 1);
    const cell = document.createElement("td");
    for (const [id, probability] of likeliest.slice(0, 4)) {
      const span = document.createElement("span");
      span.append(key(nameOf(this.alphabet.characters[id])), ` ${percent(probability)}`);
      cell.append(span);
    }
    row.append(number, cell);
    return row;
  }
}

// The newest position is on the right.
function drawStrip(canvas, weights) {
  const context = canvas.getContext("2d");
  const colour = getComputedStyle(canvas).getPropertyValue("--attention");
  context.clearRect(0, 0, STRIP, 1);
  const newest = weights.subarray(Math.max(0, weights.length - STRIP));
  const largest = Math.max(...newest);
  newest.forEach((weight, i) => {
    context.fillStyle = `rgba(${colour}, ${Math.sqrt(weight / largest)})`;
    context.fillRect(STRIP - newest.length + i, 0, 1, 1);
  });
}
