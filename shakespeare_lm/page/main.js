"use strict";
// The page: what is written, what the worker is asked, and what is shown.

const LONGEST = 20_000; // characters; more would make the page slow
const TYPING_PAUSE = 1000; // milliseconds after which typing is a new step to undo
const FIRST_TEXT = "\n";
const END_FIRST = 128; // characters
const GROWTH = 400; // characters that the page writes when it is opened
const GROWTH_PAUSE = 60; // milliseconds between them: slow enough to watch what comes next

const model = JSON.parse(byId("model").textContent);
const alphabet = new Alphabet(model.vocabulary);
const settings = new Settings(onSettings);
const textarea = byId("text");
const paper = byId("paper");
const view = new TextView(textarea, byId("backdrop"), alphabet);
const inside = new InsideView(byId("heads"), document.querySelector("#layers tbody"), alphabet, () => shadeOrColour());

let characters = []; // code points of the text
let likelihoods = []; // of each: null if nothing predicts it, undefined until it is read
let next = null; // logits of what follows the text
let chosen = -1; // place of a character
let earlier = []; // texts to go back to
let lastTyped = 0;
let growing = 0; // characters that are still to come by themselves
let busy = null; // what the worker does: "score", "complete" or "explain"
let unexplained = false;
let loaded = false; // the model; nothing is asked before
let hasUnknown = false; // characters
let totalsDue = false; // what was read since is not in the totals yet
let written = null; // the text before what the model wrote last; null if it was changed since
let cut = 0; // how many characters a text that was too long has lost

const worker = newWorker();
let task = 0;
let answer = () => {};

worker.onmessage = ({ data }) => {
  if (data.task !== task) return; // of a task that is over
  if (data.error) return showProblem(data.error);
  const theirs = answer;
  if (data.done) onIdle();
  theirs(data);
};

function newWorker() {
  const source = new Blob([byId("worker").textContent], { type: "text/javascript" });
  const started = new Worker(URL.createObjectURL(source));
  started.onerror = ({ message }) => showProblem(`The model stopped: ${message}`);
  return started;
}

// Starts a task, which ends the one before.
function ask(what, fields, onAnswer) {
  busy = what;
  answer = onAnswer;
  worker.postMessage({ do: what, task: ++task, ...fields });
  showStop();
}

function showStop() {
  byId("stop").disabled = busy !== "complete" && !growing;
}

function onIdle() {
  busy = null;
  showStop();
  if (totalsDue) showTotals();
  if (firstUnread() >= 0 || !next) score();
  else if (unexplained) choose(chosen);
}

function byId(id) {
  return document.getElementById(id);
}

function showProblem(message) {
  if (!byId("problem").hidden) return; // the first one is the cause
  byId("problem").textContent = message;
  byId("problem").hidden = false;
  byId("continue").disabled = true;
  endGrowth();
}

// --- the text

// Replaces the text; the likelihoods of the characters that stay in front stay too.
function setText(text, { undoable = true } = {}) {
  endGrowth();
  const all = Array.from(text.replace(/\r\n?/g, "\n"));
  cut = Math.max(0, all.length - LONGEST);
  written = null;
  if (undoable) remember();
  const before = characters;
  characters = cut ? all.slice(cut) : all;
  let same = 0;
  while (same < characters.length && characters[same] === before[same]) same++;
  likelihoods.length = same;
  likelihoods.length = characters.length; // undefined where it was not read
  inside.explained = null;
  // Assigning loses the caret, and what the browser itself could undo.
  const shown = characters.join("");
  if (textarea.value !== shown) textarea.value = shown;
  draw(same);
  choose(Math.min(chosen, characters.length - 1));
  score();
}

function remember() {
  earlier.push(characters.join(""));
  if (earlier.length > 100) earlier.shift();
  byId("undo").disabled = false;
}

function undo() {
  if (!earlier.length) return;
  lastTyped = 0;
  setText(earlier.pop(), { undoable: false });
  byId("undo").disabled = !earlier.length;
  choose(characters.length - 1);
}

function draw(from = 0) {
  view.show(characters);
  view.markedPlace = chosen;
  shadeOrColour(from);
  showTotals();
  companion?.read(characters);
}

// Adding up a long text for every few characters that were read would take longer than reading.
setInterval(() => totalsDue && showTotals(), 200);

function showTotals() {
  totalsDue = false;
  byId("total").textContent = totalOf(likelihoods);
  const unknown = [...new Set(characters.filter((one) => !alphabet.isKnown(one)))];
  const count = characters.filter((one) => !alphabet.isKnown(one)).length;
  const notes = [];
  if (count) notes.push(`${count} unknown to this model, which reads the text without: ${unknown.slice(0, 20).map(nameOf).join(", ")}${unknown.length > 20 ? ", …" : ""}`);
  if (cut) notes.push(`the first ${cut.toLocaleString("en")} characters were left out: the page holds ${LONGEST.toLocaleString("en")}`);
  byId("unknown").textContent = notes.join("; ");
  byId("unknown").hidden = !notes.length;
  hasUnknown = count > 0;
  showLegend();
}

function showLegend() {
  const head = byId("shade").checked && inside.explained ? inside.chosen : null;
  drawLegend(byId("legend"), { head, hasUnknown, hasChosen: characters.length > 0 });
}

function totalOf(all) {
  const read = all.filter(Boolean);
  if (!read.length) return "";
  const bits = read.reduce((sum, one) => sum + bitsOf(one), 0);
  const count = read.length.toLocaleString("en");
  return `${(bits / read.length).toFixed(3)} bits per character; ${bits.toFixed(1)} bits for ${count} characters.`;
}

// --- what the worker is asked

// An empty text is continued as a new line is.
function encoded() {
  const { places, ids } = alphabet.encode(characters);
  if (ids.length) return { places, ids };
  return { places, ids: alphabet.encode([FIRST_TEXT]).ids.concat(0).slice(0, 1) };
}

// The place of the first known character that has not been read; -1 if there is none.
function firstUnread() {
  return characters.findIndex((one, place) => likelihoods[place] === undefined && alphabet.isKnown(one));
}

// Reads what has not been read, and what follows. Of a long text, the end is read first: it is what
// one sees, and it decides what comes next; when it is read, `onIdle` comes here again for the rest.
function score() {
  if (!loaded) return;
  const { places, ids } = encoded();
  if (places.length) likelihoods[places[0]] = null;
  const isRead = (place) => likelihoods[place] !== undefined;
  const unreadEnd = places.findLastIndex(isRead) + 1;
  let first = Math.max(unreadEnd, ids.length - END_FIRST);
  if (unreadEnd === places.length) first = (places.findIndex((place) => !isRead(place)) + 1 || ids.length + 1) - 1;
  else next = null;
  ask("score", { ids, first, window: settings.window }, (data) => {
    if (data.likelihoods) {
      data.likelihoods.forEach((one, i) => (likelihoods[places[data.from + i]] = one));
      const last = places[data.from + data.likelihoods.length - 1] ?? -1;
      shadeOrColour(places[data.from] ?? characters.length, last + 1);
      totalsDue = true;
    }
    if (data.next) showNext(data.next);
  });
  unexplained = chosen >= 0;
}

function complete(seed = settings.seed) {
  if (!loaded) return;
  endGrowth();
  lastTyped = 0;
  remember();
  written = characters.join("");
  make(settings.count, seed);
}

function make(count, seed = null) {
  const { ids } = encoded();
  const { window } = settings;
  ask("complete", { ids, count, seed, window, options: settings.options() }, (data) => {
    if (data.made?.length) append(data.made.map((id) => alphabet.characters[id]), data.likelihoods);
    if (data.next) showNext(data.next);
  });
  next = null;
}

// Writes one character after another until the reader does something with the text.
function grow() {
  if (!growing) return showStop();
  if (!busy && growing--) make(1);
  setTimeout(grow, GROWTH_PAUSE);
}

function endGrowth() {
  growing = 0;
  showStop();
}

function append(made, theirs) {
  const first = characters.length;
  characters.push(...made);
  likelihoods.push(...theirs);
  if (characters.length > LONGEST) trim();
  const atEnd = paper.scrollTop + paper.clientHeight >= paper.scrollHeight - 40;
  textarea.value = characters.join("");
  chosen = characters.length - 1;
  draw(first);
  if (atEnd) paper.scrollTop = paper.scrollHeight;
  unexplained = true;
}

// Drops the beginning, and some more, so that this is not needed for every character.
function trim() {
  const extra = characters.length - LONGEST + 1000;
  characters.splice(0, extra);
  likelihoods.splice(0, extra);
  likelihoods[0] ??= null;
  cut += extra;
}

// What was made stays; the worker reads on from there.
function stop() {
  endGrowth();
  if (busy === "complete") score();
}

// Appends one character, to the text or to its beginning up to a place.
function take(character, place = characters.length) {
  lastTyped = 0;
  setText(characters.slice(0, place).join("") + character);
  choose(characters.length - 1);
}

function explain() {
  unexplained = false;
  const { places, ids } = alphabet.encode(characters);
  const position = places.indexOf(chosen);
  if (position < 0 || byId("inside").hidden) return;
  ask("explain", { ids, position, window: settings.window }, (data) => {
    if (!data.explained) return;
    inside.show(data.explained);
    shadeOrColour();
  });
}

// --- what is shown

function showNext(logits) {
  next = logits;
  drawBars(byId("next"), nextRows(next, alphabet, settings.options()), (one) => take(one));
}

function onSettings(control) {
  if (control.id === "window") {
    likelihoods = new Array(characters.length);
    score();
  } else if (next) showNext(next);
}

function choose(place) {
  chosen = place;
  view.mark(place);
  if (place < 0) {
    byId("chosen").textContent = "Point at a character, tap it, or go to it with the arrow keys.";
    byId("instead").replaceChildren();
    byId("instead-title").hidden = true;
    return;
  }
  const known = alphabet.isKnown(characters[place]);
  const likelihood = likelihoods[place];
  byId("chosen").textContent = describe(characters[place], likelihood, known);
  const rows = (likelihood?.likeliest ?? []).map(([id, probability]) => ({
    character: alphabet.characters[id],
    probability,
    own: alphabet.characters[id] === characters[place],
  }));
  byId("instead-title").hidden = !rows.length;
  drawBars(byId("instead"), rows, (one) => take(one, place));
  if (busy) unexplained = true;
  else explain();
}

function shadeOrColour(from = 0, to = Infinity) {
  showLegend();
  if (!byId("shade").checked || !inside.explained) return view.colour(characters, likelihoods, from, to);
  const { places } = alphabet.encode(characters);
  view.shade(new Map(inside.attention().map(([position, weight]) => [places[position], weight])));
}
