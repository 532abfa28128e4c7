// Where each entry of the grid stands: rows of whole pictures that fill the width, under a heading
// for each day. Nothing here touches the page.

// Width over height. A narrower picture has no room for its caption: it gets margins.
const NARROWEST = 0.5;
// What has no picture yet is square.
const UNKNOWN = 1;
// Rows as much lower or higher than wished are taken to leave those below as they are.
const [LOWEST, HIGHEST] = [0.65, 1.35];
// The last row of a day is stretched if it is nearly full, and ends early otherwise.
const NEARLY_FULL = 1.15;

export function ratio({ width, height }) {
  return width && height ? Math.max(NARROWEST, width / height) : UNKNOWN;
}

/**
 * The rows of `entries`, as `{ day, top, height, first, end }` in pixels: `first` to `end` are the
 * places of its entries, `height` is that of the pictures, `day` that of the heading above, if any.
 *
 * Rows before the entry at `from`, where the entries have not changed, are taken from `before`; one
 * begins with an entry that `began` one, where that is well possible.
 */
export function justify(entries, options, from = 0, before = [], began = () => false) {
  const { caption, gap, heading } = options;
  // What joins the last row of a day may change it.
  const kept = from > 0 ? rowOf(before, from - 1) : 0;
  const rows = before.slice(0, kept);
  let first = rows.at(-1)?.end ?? 0;
  let last = entries.length - 1;
  while (last > first && !began(entries[last])) last -= 1;
  let top = bottom(rows, options);
  while (first < entries.length) {
    const { day } = entries[first];
    const isFirst = entries[first - 1]?.day !== day;
    if (isFirst) top += heading;
    const { end, height } = rowFrom(entries, first, options, first < last ? began : null);
    rows.push({ day: isFirst ? day : null, top, height: Math.round(height), first, end });
    first = end;
    top += Math.round(height) + caption + gap;
  }
  return rows;
}

/** `end` and `height` of the row that begins at `first`; `began` is null if none below did. */
function rowFrom(entries, first, { width, height, gap }, began) {
  const { day } = entries[first];
  let sum = 0;
  let filled = Infinity;
  let full = null;
  for (let place = first; entries[place]?.day === day; place++) {
    const without = filled;
    const count = place - first + 1;
    sum += ratio(entries[place]);
    filled = (width - gap * (count - 1)) / sum;
    if (!full && filled <= height) {
      // With this one it is lower than wished, without it higher; the nearer is taken.
      full = height / filled <= without / height ? { end: place + 1, height: filled } : { end: place, height: without };
    }
    // The longest row soonest comes to an end where one was.
    if (full && filled < height * LOWEST) return began && place > full.end ? { end: place, height: without } : full;
    const next = entries[place + 1];
    if (next?.day === day && began?.(next) && filled <= height * HIGHEST) return { end: place + 1, height: filled };
    if (next?.day !== day) return full ?? { end: place + 1, height: filled < height * NEARLY_FULL ? filled : height };
  }
  return full;
}

/** The height of all rows. */
export function bottom(rows, { caption, gap }) {
  const last = rows.at(-1);
  return last ? last.top + last.height + caption + gap : 0;
}

/** `{ left, width }` of each entry of the row. */
export function cells(entries, row, { width, gap }) {
  const found = [];
  let edge = 0;
  for (let place = row.first; place < row.end; place++) {
    const end = Math.min(width, edge + ratio(entries[place]) * row.height);
    const left = Math.round(edge);
    // The rounded height of a full row leaves a pixel or two at its end.
    const isLast = place === row.end - 1 && width - end < row.end - row.first + 1;
    found.push({ left, width: (isLast ? width : Math.round(end)) - left });
    edge = end + gap;
  }
  return found;
}

/** The row that has the entry at `place`; the last one beyond all. */
export const rowOf = (rows, place) => search(rows, (row) => row.end > place);

/** The first row that ends below `y`; the last one beyond all. */
export const rowAt = (rows, y, { caption }) => search(rows, (row) => row.top + row.height + caption > y);

function search(rows, isFound) {
  let [low, high] = [0, Math.max(0, rows.length - 1)];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isFound(rows[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}
