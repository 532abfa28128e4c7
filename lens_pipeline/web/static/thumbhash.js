// Decodes a ThumbHash (https://github.com/evanw/thumbhash) to a small blurred picture.

const EDGE = 32;
const FREQUENCIES = 7;
// Of a long list, only those near what is seen are needed.
const MOST_CACHED = 500;
const cache = new Map();
const canvas = document.createElement("canvas");

/** A `data:` URL of the picture that a base64 hash describes; null if it is none. */
export function placeholder(base64) {
  if (cache.size > MOST_CACHED) cache.clear();
  if (!cache.has(base64)) cache.set(base64, draw(base64));
  return cache.get(base64);
}

function draw(base64) {
  let hash;
  try {
    hash = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  } catch {
    return null;
  }
  if (hash.length < 5) return null;
  const { width, height, rgba } = decode(hash);
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  return canvas.toDataURL();
}

/** Width, height and pixels; the longer side is 32. */
export function decode(hash) {
  const header24 = hash[0] | (hash[1] << 8) | (hash[2] << 16);
  const header16 = hash[3] | (hash[4] << 8);
  const hasAlpha = Boolean(header24 >> 23);
  const isLandscape = Boolean(header16 >> 15);
  const limit = hasAlpha ? 5 : 7;
  const columns = Math.max(3, isLandscape ? limit : header16 & 7);
  const rows = Math.max(3, isLandscape ? header16 & 7 : limit);
  const ratio = (isLandscape ? limit : header16 & 7) / (isLandscape ? header16 & 7 || 1 : limit);

  let nibble = hasAlpha ? 12 : 10;
  const next = () => {
    const value = (hash[nibble >> 1] ?? 0) >> ((nibble & 1) << 2);
    nibble += 1;
    return (value & 15) / 7.5 - 1;
  };
  const channel = (nx, ny, constant, scale) => {
    const terms = [[0, 0, constant]];
    for (let y = 0; y < ny; y++) {
      for (let x = y ? 0 : 1; x * ny < nx * (ny - y); x++) terms.push([x, y, next() * scale]);
    }
    return terms;
  };
  const luma = channel(columns, rows, (header24 & 63) / 63, ((header24 >> 18) & 31) / 31);
  // Colours are given 1.25 times as strongly, since quantization weakens them.
  const yellow = channel(3, 3, ((header24 >> 6) & 63) / 31.5 - 1, (((header16 >> 3) & 63) / 63) * 1.25);
  const red = channel(3, 3, ((header24 >> 12) & 63) / 31.5 - 1, (((header16 >> 9) & 63) / 63) * 1.25);
  const alpha = hasAlpha ? channel(5, 5, (hash[5] & 15) / 15, (hash[5] >> 4) / 15) : [[0, 0, 1]];

  const width = Math.max(1, Math.round(ratio > 1 ? EDGE : EDGE * ratio));
  const height = Math.max(1, Math.round(ratio > 1 ? EDGE / ratio : EDGE));
  const across = cosines(width);
  const down = cosines(height);
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let y = 0, place = 0; y < height; y++) {
    const [lumas, yellows, reds, alphas] = [luma, yellow, red, alpha].map((terms) => alongRow(terms, down, y));
    for (let x = 0; x < width; x++, place += 4) {
      const l = at(lumas, across, x);
      const b = l - (2 / 3) * at(yellows, across, x);
      const q = at(reds, across, x);
      const r = (3 * l - b + q) / 2;
      rgba[place] = 255 * r;
      rgba[place + 1] = 255 * (r - q);
      rgba[place + 2] = 255 * b;
      rgba[place + 3] = 255 * at(alphas, across, x);
    }
  }
  return { width, height, rgba };
}

/** What the terms come to in row `y`, by horizontal frequency; each varying one counts twice. */
function alongRow(terms, down, y) {
  const sums = new Float64Array(FREQUENCIES);
  for (const [cx, cy, value] of terms) sums[cx] += value * down[cy][y] * (cx || cy ? 2 : 1);
  return sums;
}

function at(sums, across, x) {
  let sum = 0;
  for (let k = 0; k < FREQUENCIES; k++) sum += sums[k] * across[k][x];
  return sum;
}

/** cos(π / size · k · (i + ½)) for the frequencies k that a hash may have. */
function cosines(size) {
  return Array.from({ length: FREQUENCIES }, (_, k) =>
    Array.from({ length: size }, (_, i) => Math.cos((Math.PI / size) * k * (i + 0.5))),
  );
}
