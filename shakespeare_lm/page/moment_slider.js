"use strict";
// A slider through the training: the whole page is the model of that moment, and what it wrote last
// is written again.

const SAME_SEED = "0"; // without one of the reader's, so that only the model changes

if (model.history) {
  const slider = byId("moment");
  const steps = [model.history.step, ...model.history.moments.map(({ step }) => step)].reverse();
  const show = () => {
    byId("moment-step").textContent = steps[slider.value].toLocaleString("en");
    slider.setAttribute("aria-valuetext", `${steps[slider.value]} steps`);
  };
  slider.max = slider.value = steps.length - 1;
  slider.addEventListener("input", () => {
    show();
    const before = written;
    likelihoods = new Array(characters.length);
    ask("moment", { moment: slider.max - slider.value }, ({ done }) => {
      if (!done || before === null) return;
      setText(before, { undoable: false });
      complete(settings.seed ?? SAME_SEED);
    });
  });
  byId("moments").hidden = false;
  show();
}
