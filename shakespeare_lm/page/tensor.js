"use strict";
// The arithmetic of the transformer: vectors and matrices as Float32Arrays, in plain loops.

// Multiplies `count` vectors, one after the other in x, by a linear layer. Four rows at a time use
// what was read of x four times, and need not wait for each other; two vectors at a time use the
// weights twice.
function matrixProduct(x, count, { weight, bias }) {
  const { rows, columns, values } = weight;
  const y = new Float32Array(count * rows);
  const whole = rows - (rows % 4);
  let i = 0;
  for (; i + 2 <= count; i += 2) fourRowsTwice(values, x, i * columns, columns, y, i * rows, rows, whole);
  for (; i < count; i++) fourRows(values, x, i * columns, columns, y, i * rows, whole);
  for (i = 0; i < count; i++) {
    for (let row = whole; row < rows; row++) {
      y[i * rows + row] = dot(values, row * columns, x, i * columns, columns);
    }
    if (bias) add(y.subarray(i * rows, (i + 1) * rows), bias);
  }
  return y;
}

function fourRows(values, x, from, columns, y, to, whole) {
  for (let row = 0; row < whole; row += 4) {
    let w = row * columns;
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    for (let i = from; i < from + columns; i++, w++) {
      const one = x[i];
      a += values[w] * one;
      b += values[w + columns] * one;
      c += values[w + 2 * columns] * one;
      d += values[w + 3 * columns] * one;
    }
    y[to + row] = a;
    y[to + row + 1] = b;
    y[to + row + 2] = c;
    y[to + row + 3] = d;
  }
}

function fourRowsTwice(values, x, from, columns, y, to, rows, whole) {
  for (let row = 0; row < whole; row += 4) {
    let w = row * columns;
    let a = 0, b = 0, c = 0, d = 0;
    let e = 0, f = 0, g = 0, h = 0;
    for (let i = from; i < from + columns; i++, w++) {
      const one = x[i];
      const two = x[i + columns];
      a += values[w] * one;
      e += values[w] * two;
      b += values[w + columns] * one;
      f += values[w + columns] * two;
      c += values[w + 2 * columns] * one;
      g += values[w + 2 * columns] * two;
      d += values[w + 3 * columns] * one;
      h += values[w + 3 * columns] * two;
    }
    const at = to + row;
    y[at] = a;
    y[at + 1] = b;
    y[at + 2] = c;
    y[at + 3] = d;
    y[at + rows] = e;
    y[at + rows + 1] = f;
    y[at + rows + 2] = g;
    y[at + rows + 3] = h;
  }
}

// The dot product of two slices.
function dot(x, i, y, j, length) {
  let sum = 0;
  for (const end = i + length; i < end; i++, j++) sum += x[i] * y[j];
  return sum;
}

function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

function sum(x, y) {
  const z = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) z[i] = x[i] + y[i];
  return z;
}

// Softmax of x * scale, in place; the largest value is subtracted first, so that nothing overflows.
function softmax(x, scale) {
  let largest = -Infinity;
  for (const value of x) largest = Math.max(largest, value);
  let total = 0;
  for (let i = 0; i < x.length; i++) {
    x[i] = Math.exp(scale * (x[i] - largest));
    total += x[i];
  }
  for (let i = 0; i < x.length; i++) x[i] /= total;
}

// Each vector gets mean 0 and variance 1, then the learned weight and bias.
function layerNorm(x, { weight, bias }) {
  const width = weight.length;
  const y = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    let mean = 0;
    for (let i = 0; i < width; i++) mean += x[start + i] / width;
    let variance = 0;
    for (let i = 0; i < width; i++) variance += (x[start + i] - mean) ** 2 / width;
    const factor = 1 / Math.sqrt(variance + 1e-5);
    for (let i = 0; i < width; i++) {
      y[start + i] = (x[start + i] - mean) * factor * weight[i] + (bias ? bias[i] : 0);
    }
  }
  return y;
}

function relu(x) {
  return Math.max(0, x);
}

// x times the probability that a standard normal number is below x.
function gelu(x) {
  return 0.5 * x * (1 + erf(x / Math.SQRT2));
}

// Abramowitz & Stegun 7.1.26, to 1.5e-7.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series =
    t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  const positive = 1 - series * Math.exp(-x * x);
  return x < 0 ? -positive : positive;
}
