"use strict";
// A seed -> the random numbers that Python's random.Random(text) gives, so that a seed makes the
// same text in this page and in Python. A Mersenne Twister (Matsumoto & Nishimura 1998, MT19937),
// started with the text and its SHA-512 (FIPS 180-4).

const STATE_SIZE = 624;

class PythonRandom {
  constructor(text) {
    const bytes = new TextEncoder().encode(text);
    this.state = seededByArray(wordsOf([...bytes, ...sha512(bytes)]));
    this.next = STATE_SIZE;
  }

  // A number from 0 to 1, excluding 1, with 53 random bits.
  uniform() {
    const [high, low] = [this.word() >>> 5, this.word() >>> 6];
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  word() {
    if (this.next === STATE_SIZE) this.twist();
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  twist() {
    const { state } = this;
    for (let i = 0; i < STATE_SIZE; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % STATE_SIZE] & 0x7fffffff);
      state[i] = state[(i + 397) % STATE_SIZE] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }
}

function seededByWord(seed) {
  const state = new Uint32Array(STATE_SIZE);
  state[0] = seed;
  for (let i = 1; i < STATE_SIZE; i++) {
    state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  }
  return state;
}

function seededByArray(words) {
  const state = seededByWord(19650218);
  let i = 1;
  const mix = (factor, added) => {
    const before = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = (state[i] ^ Math.imul(before, factor)) + added;
    if (++i === STATE_SIZE) {
      state[0] = state[STATE_SIZE - 1];
      i = 1;
    }
  };
  for (let k = 0; k < Math.max(STATE_SIZE, words.length); k++) {
    const j = k % words.length;
    mix(1664525, words[j] + j);
  }
  for (let k = 1; k < STATE_SIZE; k++) mix(1566083941, -i);
  state[0] = 0x80000000;
  return state;
}

// The bytes are one big-endian number; returns its words, the lowest first.
function wordsOf(bytes) {
  const words = [];
  for (let end = bytes.length; end > 0; end -= 4) {
    words.push(bytes.slice(Math.max(0, end - 4), end).reduce((word, byte) => word * 256 + byte, 0));
  }
  return words;
}

// BigInts are slow, and quick enough for a seed.
function sha512(bytes) {
  const bits = BigInt(8 * bytes.length);
  const padding = (239 - (bytes.length % 128)) % 128;
  const length = Array.from({ length: 16 }, (_, i) => Number((bits >> BigInt(8 * (15 - i))) & 255n));
  const message = [...bytes, 0x80, ...new Array(padding).fill(0), ...length];
  const constants = primes(80).map((prime) => fractionOfRoot(prime, 3n));
  let hash = primes(8).map((prime) => fractionOfRoot(prime, 2n));
  for (let start = 0; start < message.length; start += 128) {
    hash = compress(hash, message.slice(start, start + 128), constants);
  }
  return hash.flatMap((word) => Array.from({ length: 8 }, (_, i) => Number((word >> BigInt(56 - 8 * i)) & 255n)));
}

function compress(hash, block, constants) {
  const right = (x, n) => BigInt.asUintN(64, (x >> n) | (x << (64n - n)));
  const words = Array.from({ length: 16 }, (_, i) =>
    block.slice(8 * i, 8 * i + 8).reduce((word, byte) => (word << 8n) | BigInt(byte), 0n),
  );
  for (let i = 16; i < 80; i++) {
    const [x, y] = [words[i - 15], words[i - 2]];
    const small = right(x, 1n) ^ right(x, 8n) ^ (x >> 7n);
    const large = right(y, 19n) ^ right(y, 61n) ^ (y >> 6n);
    words.push(BigInt.asUintN(64, words[i - 16] + small + words[i - 7] + large));
  }
  let [a, b, c, d, e, f, g, h] = hash;
  for (let i = 0; i < 80; i++) {
    const mixed = right(e, 14n) ^ right(e, 18n) ^ right(e, 41n);
    const first = h + mixed + ((e & f) ^ (~e & g)) + constants[i] + words[i];
    const second = (right(a, 28n) ^ right(a, 34n) ^ right(a, 39n)) + ((a & b) ^ (a & c) ^ (b & c));
    [h, g, f, e] = [g, f, e, BigInt.asUintN(64, d + first)];
    [d, c, b, a] = [c, b, a, BigInt.asUintN(64, first + second)];
  }
  return [a, b, c, d, e, f, g, h].map((value, i) => BigInt.asUintN(64, value + hash[i]));
}

function primes(count) {
  const found = [];
  for (let n = 2; found.length < count; n++) if (found.every((prime) => n % prime)) found.push(n);
  return found;
}

// The first 64 bits of the fraction of the square or cube root.
function fractionOfRoot(number, power) {
  const scaled = BigInt(number) << (64n * power);
  let root = 0n;
  for (let bit = 1n << 68n; bit; bit >>= 1n) if ((root + bit) ** power <= scaled) root += bit;
  return BigInt.asUintN(64, root);
}
