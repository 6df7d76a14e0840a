"use strict";
// Packed weights -> Float32Arrays, as packing.py wrote them.

// A matrix is packed in 8 bits per weight: weight = scale of its row * integer from -127 to 127.
class Matrix {
  constructor(rows, columns, values) {
    this.rows = rows;
    this.columns = columns;
    this.values = values; // row after row
  }

  row(number) {
    return this.values.subarray(number * this.columns, (number + 1) * this.columns);
  }
}

// Returns a Map from names to Matrix, to Float32Array for vectors, or to integers.
function unpackWeights(base64, manifest) {
  const view = new DataView(checkedBytes(base64, manifest).buffer);
  return new Map(manifest.tensors.map((tensor) => [tensor.name, unpack(view, tensor)]));
}

function checkedBytes(base64, manifest) {
  const bytes = bytesOf(base64);
  if (bytes.length === manifest.bytes && crc32(bytes) === manifest.crc32) return bytes;
  throw new Error("The weights in this page are damaged. Make or download the page again.");
}

function unpack(view, { shape, start, integer_bytes }) {
  if (integer_bytes) return integers(view, start, shape[0], integer_bytes);
  if (shape.length === 1) return floats(view, start, shape[0]);
  const [rows, columns] = shape;
  const scales = floats(view, start, rows);
  const steps = new Int8Array(view.buffer, start + 4 * rows, rows * columns);
  const values = new Float32Array(rows * columns);
  for (let row = 0, i = 0; row < rows; row++) {
    for (const end = i + columns; i < end; i++) values[i] = scales[row] * steps[i];
  }
  return new Matrix(rows, columns, values);
}

function floats(view, start, count) {
  return Float32Array.from({ length: count }, (_, i) => view.getFloat32(start + 4 * i, true));
}

function integers(view, start, count, bytes) {
  if (bytes === 1) return new Uint8Array(view.buffer, start, count);
  return Uint32Array.from({ length: count }, (_, i) => view.getUint32(start + 4 * i, true));
}

function bytesOf(base64) {
  let binary = "";
  try {
    binary = atob(base64);
  } catch {
    // Not base64: an empty block, which has the wrong length.
  }
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// The checksum of zlib and PNG.
function crc32(bytes) {
  const table = new Uint32Array(256).map((_, byte) => {
    let value = byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
    return value;
  });
  let crc = 0xffffffff;
  for (const byte of bytes) crc = table[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
