"use strict";
// The text: a textarea, and behind it the same text with a background for each character.

// From how many bits of surprise a character gets which colour; 3 bits are a probability of 1/8.
const SURPRISE = [
  [8, "surprise-4"],
  [5, "surprise-3"],
  [3, "surprise-2"],
  [1, "surprise-1"],
];
const MOST_OPAQUE = 0.5; // of the shading by attention: more would make the text hard to read

function surpriseClass(likelihood) {
  if (!likelihood) return "";
  const bits = bitsOf(likelihood);
  return SURPRISE.find(([least]) => bits >= least)?.[1] ?? "";
}

class TextView {
  constructor(textarea, backdrop, alphabet) {
    this.textarea = textarea;
    this.backdrop = backdrop;
    this.alphabet = alphabet;
    this.spans = []; // one per cluster
    this.clusters = []; // {text, first, end}: places of its characters
    this.spanAt = []; // by place
    this.end = document.createElement("span");
    this.end.textContent = "\u200b"; // gives a last empty line its height
    this.backdrop.append(this.end);
  }

  // Shows the characters; what did not change keeps its element.
  show(characters) {
    const clusters = clustersOf(characters);
    let same = 0;
    while (same < this.clusters.length && clusters[same]?.text === this.clusters[same].text) same++;
    this.spans.splice(same).forEach((span) => span.remove());
    this.spanAt.length = clusters[same]?.first ?? characters.length;
    const fresh = document.createDocumentFragment();
    for (const cluster of clusters.slice(same)) {
      const span = document.createElement("span");
      span.textContent = cluster.text;
      this.spans.push(span);
      for (let place = cluster.first; place < cluster.end; place++) this.spanAt[place] = span;
      fresh.append(span);
    }
    this.end.before(fresh);
    this.clusters = clusters;
  }

  // Colours the characters at some places by surprise; a cluster by its most surprising character.
  colour(characters, likelihoods, from = 0, to = Infinity) {
    for (let i = this.indexOf(from); i < this.clusters.length && this.clusters[i].first < to; i++) {
      const { first, end, text } = this.clusters[i];
      const unknown = characters.slice(first, end).some((one) => !this.alphabet.isKnown(one));
      const classes = Array.from(likelihoods.slice(first, end), surpriseClass).sort();
      const newline = text === "\n" ? "newline" : "";
      const all = [unknown ? "unknown" : classes.at(-1) ?? "", newline].filter(Boolean).join(" ");
      if (this.spans[i].className !== all) this.spans[i].className = all;
      if (this.spans[i].style.backgroundColor) this.spans[i].style.backgroundColor = "";
    }
    this.mark(this.markedPlace);
  }

  // The first cluster that ends after a place, found by halving.
  indexOf(place) {
    let [low, high] = [0, this.clusters.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.clusters[middle].end > place) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  // Shades by weights from 0 to 1 instead, a Map from places.
  shade(weights) {
    this.spans.forEach((span) => {
      span.classList.remove(...SURPRISE.map(([, name]) => name));
      span.style.backgroundColor = "";
    });
    const largest = Math.max(...weights.values());
    for (const [place, weight] of weights) {
      const alpha = (MOST_OPAQUE * Math.sqrt(weight / largest)).toFixed(3);
      const span = this.spanAt[place];
      if (span) span.style.backgroundColor = `rgba(var(--attention), ${alpha})`;
    }
  }

  mark(place) {
    this.markedPlace = place;
    this.marked?.classList.remove("chosen");
    this.marked = this.spanAt[place];
    this.marked?.classList.add("chosen");
  }

  // The place of the character at a point of the window, or -1.
  placeAt(x, y) {
    const span = document.elementsFromPoint(x, y).find((element) => element.parentNode === this.backdrop);
    const index = this.spans.indexOf(span);
    return index < 0 ? -1 : this.clusters[index].first;
  }
}

// What readers see as one character: a letter with its accents, an emoji with its modifiers.
function clustersOf(characters) {
  const text = characters.join("");
  let place = 0;
  const cluster = (part) => {
    const first = place;
    place += Array.from(part).length;
    return { text: part, first, end: place };
  };
  // Most texts are plain, and need no search.
  if (/^[\n\x20-\x7e]*$/.test(text)) return characters.map(cluster);
  const segments = new Intl.Segmenter(undefined, { granularity: "grapheme" }).segment(text);
  return Array.from(segments, ({ segment }) => cluster(segment));
}

// Names what the text shows now, and nothing else. head: {layer, head} if it is shaded by attention.
function drawLegend(element, { head, hasUnknown, hasChosen }) {
  const surprises = SURPRISE.map(([least, name]) => [name, `${least}+`]).reverse();
  const title = head ? `Attention of layer ${head.layer + 1}, head ${head.head + 1}:` : "Surprise:";
  const colours = head ? [["", "less"], ["attention", "more"]] : [["", "below 1 bit"], ...surprises];
  const marks = [[hasUnknown, "unknown"], [hasChosen, "chosen"]].filter(([isShown]) => isShown);
  const entries = [...colours, ...marks.map(([, name]) => [name, name])];
  const shown = title + entries;
  if (element.dataset.shown === shown) return; // it is read out when it changes
  element.dataset.shown = shown;
  const spans = entries.map(([name, label]) => {
    const span = document.createElement("span");
    span.className = name;
    span.textContent = label;
    return span;
  });
  element.replaceChildren(title, ...spans);
}
