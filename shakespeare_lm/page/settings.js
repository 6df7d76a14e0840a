"use strict";
// The controls for sampling, and links that restore them with the text.

const FIELDS = ["temperature", "top_k", "top_p", "min_p", "seed", "window", "count"];

class Settings {
  constructor(onChange) {
    this.controls = Object.fromEntries(FIELDS.map((name) => [name, document.getElementById(name)]));
    for (const control of Object.values(this.controls)) {
      control.addEventListener("input", () => {
        this.showValues();
        onChange(control);
      });
    }
    this.showValues();
  }

  showValues() {
    for (const output of document.querySelectorAll(".settings output")) {
      const { value, max, min } = this.controls[output.htmlFor.value];
      const off = { top_k: max, top_p: max, min_p: min }[output.htmlFor.value];
      output.textContent = value === off ? "off" : value;
    }
  }

  // As sampling.js takes them.
  options() {
    const { temperature, top_k, top_p, min_p } = this.controls;
    return {
      greedy: false,
      temperature: Number(temperature.value),
      top_k: top_k.value === top_k.max ? null : Number(top_k.value),
      top_p: top_p.value === top_p.max ? null : Number(top_p.value),
      min_p: min_p.value === min_p.min ? null : Number(min_p.value),
    };
  }

  get seed() {
    const value = this.controls.seed.value.trim();
    return /^-?\d+$/.test(value) ? BigInt(value).toString() : null;
  }

  get window() {
    return this.controls.window.value;
  }

  get count() {
    const { value, max } = this.controls.count;
    return Math.min(Number(max), Math.max(1, Math.floor(Number(value)) || 1));
  }

  fragment(text) {
    const values = FIELDS.map((name) => [name, this.controls[name].value]);
    return new URLSearchParams([["text", text], ...values]).toString();
  }

  // Sets the controls from a fragment, and returns its text; values out of range are put right by
  // the controls themselves.
  restore(fragment) {
    const values = new URLSearchParams(fragment);
    for (const name of FIELDS) {
      if (values.has(name)) this.controls[name].value = values.get(name);
    }
    if (!this.controls.window.value) this.controls.window.value = "stride";
    this.showValues();
    return values.get("text");
  }
}
