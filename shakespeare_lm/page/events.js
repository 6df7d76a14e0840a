"use strict";
// What the reader does: typing, pointing, buttons, and the start of the page.

textarea.addEventListener("input", () => {
  const now = Date.now();
  setText(textarea.value, { undoable: now - lastTyped > TYPING_PAUSE });
  lastTyped = now;
  chooseAtCaret();
});

// A browser takes minutes to lay out a million short lines: they are cut before.
textarea.addEventListener("beforeinput", (event) => {
  if (!(event.data?.length > LONGEST)) return;
  event.preventDefault();
  const { value, selectionStart, selectionEnd } = textarea;
  setText(value.slice(0, selectionStart) + event.data + value.slice(selectionEnd));
  choose(characters.length - 1);
});

for (const begun of ["pointerdown", "keydown"]) textarea.addEventListener(begun, endGrowth);
textarea.addEventListener("keyup", chooseAtCaret);
textarea.addEventListener("click", (event) => {
  const place = view.placeAt(event.clientX, event.clientY);
  if (place >= 0) choose(place);
  else chooseAtCaret();
});

// The character before the caret.
function chooseAtCaret() {
  const before = Array.from(textarea.value.slice(0, textarea.selectionStart)).length;
  const place = Math.min(Math.max(0, before - 1), characters.length - 1);
  if (place !== chosen) choose(place);
}

const tip = byId("tip");

textarea.addEventListener("pointermove", (event) => {
  const place = event.pointerType === "mouse" ? view.placeAt(event.clientX, event.clientY) : -1;
  tip.hidden = place < 0;
  if (place < 0) return;
  const likelihood = likelihoods[place];
  const others = (likelihood?.likeliest ?? []).map(([id, p]) => `${nameOf(alphabet.characters[id])} ${percent(p)}`);
  tip.textContent = describe(characters[place], likelihood, alphabet.isKnown(characters[place]));
  if (others.length) tip.append(document.createElement("br"), others.join("   "));
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(event.clientX, room))}px`;
  tip.style.top = `${event.clientY + 20}px`;
});
textarea.addEventListener("pointerleave", () => (tip.hidden = true));

byId("continue").addEventListener("click", () => complete());
byId("stop").addEventListener("click", stop);
byId("undo").addEventListener("click", undo);
byId("shade").addEventListener("change", () => shadeOrColour());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "F2") toggleLarge();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) complete();
});

byId("save-text").addEventListener("click", () => saveFile("text.txt", characters.join(""), "text/plain"));
byId("save-svg").addEventListener("click", () => saveFile("text.svg", picture(), "image/svg+xml"));
byId("save-png").addEventListener("click", async () => saveFile("text.png", await pngOf(picture()), "image/png"));

function picture() {
  return pictureOf(view.clusters, likelihoods, `${model.name}. ${byId("total").textContent}`);
}

byId("link").addEventListener("click", async () => {
  history.replaceState(null, "", `#${settings.fragment(characters.join(""))}`);
  let where = "The address bar holds the link.";
  try {
    await navigator.clipboard.writeText(location.href);
    where = "Copied; the address bar holds the link too.";
  } catch {
    // Browsers keep the clipboard from some pages.
  }
  byId("link-status").textContent = where;
});

// Texts that the model made while it learned.
if (model.samples.length) {
  const slider = byId("sample");
  slider.max = model.samples.length - 1;
  slider.value = slider.max;
  const show = () => {
    const [step, text] = model.samples[slider.value];
    byId("sample-step").textContent = step.toLocaleString("en");
    byId("sample-text").textContent = text.trim();
    slider.setAttribute("aria-valuetext", `${step} steps`);
  };
  slider.addEventListener("input", show);
  byId("samples").hidden = false;
  show();
}

// Type that the last row of a class can read.
function toggleLarge() {
  byId("large").ariaPressed = document.documentElement.classList.toggle("large");
}
byId("large").addEventListener("click", toggleLarge);

const game = new Game(model.passage, alphabet, (ids, first, onAnswer) => {
  endGrowth();
  if (loaded) ask("score", { ids, first, window: settings.window }, onAnswer);
});
byId("inside").hidden = model.config.network === "bigram";
ask("load", { ...model, weights: byId("weights").textContent, earlier: byId("earlier").textContent }, (data) => {
  if (!data.done) return;
  loaded = true;
  textarea.readOnly = false;
  byId("continue").disabled = false;
  const given = settings.restore(kept() ?? location.hash.slice(1));
  setText(given ?? model.prompt, { undoable: false });
  choose(characters.length - 1);
  if (given !== null) return;
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return complete();
  remember();
  growing = GROWTH;
  grow();
});
// What is on the page is kept for when this tab loads it again.
addEventListener("pagehide", () => loaded && kept(settings.fragment(characters.join(""))));

// Keeps a fragment, or returns the one that was kept under this address; null if there is none.
function kept(fragment) {
  try {
    return fragment ? sessionStorage.setItem(location.href, fragment) : sessionStorage.getItem(location.href);
  } catch {
    return null; // Some browsers keep storage from pages, or have no room.
  }
}
addEventListener("hashchange", () => {
  const text = settings.restore(location.hash.slice(1));
  if (text === null) return;
  likelihoods = []; // the window may be another one
  setText(text);
});
