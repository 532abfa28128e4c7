// The grid: draws the rows near what is seen, and moves the focus among all of them.

import { el, prefersStillness, say, set } from "./dom.js";
import { bottom, cells, justify, rowAt, rowOf } from "./layout.js";
import { dayTitle } from "./texts.js";

// Of the page above and below what is seen, in heights of the window.
const AROUND = 0.75;
// More is asked for when as many pixels are left below what is seen.
const AHEAD = 900;
const GLIDE_MS = 260;
// Entries of which one is looked for that stays when others go.
const ANCHORS = 500;
const SPARE = 60;
// As the styles have them.
const isNarrow = matchMedia("(max-width: 560px)");
const hasLargeControls = matchMedia("(max-width: 560px), (pointer: coarse)");
const options = () => ({
  ...(isNarrow.matches ? { height: 175, gap: 8 } : { height: 220, gap: 14 }),
  caption: hasLargeControls.matches ? 44 : 34,
  heading: 44,
});

export class Grid {
  /** What is drawn, by id of the entry. */
  cards = new Map();
  #list = [];
  #rows = [];
  #layout = 0; // number of the rows' arrangement, by which a card knows whether it has its place
  #options = options();
  #spare = []; // cards that were drawn, for other entries
  #headings = new Map(); // by day
  #current = null; // id of the entry that Tab leads to
  #isPlanned = false;
  #gliding = null;

  /**
   * `root`: an empty list; `end`: what comes below it; `entries`: Entries; `card(entry)` makes a
   * card, with `entry`, `root`, `update(entry)`, `place(box)`, `reach(isReached)`, `focus()` and
   * `close()`, after which it may be another entry's; `drawn(card)` is called when one is drawn or
   * changed, `ahead()` when the last entries come near.
   */
  constructor(root, { end, entries, card, drawn = () => {}, ahead = () => {} }) {
    Object.assign(this, { root, end, entries, card, drawn, ahead });
    addEventListener("scroll", () => this.#plan(), { passive: true });
    new ResizeObserver(() => this.#resize()).observe(root);
    this.#resize();
    root.addEventListener("keydown", (event) => this.#key(event));
    root.addEventListener("focusin", (event) => this.#reach(idOf(event.target)));
  }

  /** The last entry in view, if the grid was scrolled. */
  get lastRead() {
    const { bottom: y } = this.#seen();
    if (!this.#isScrolled) return null;
    return this.#list[this.#rows[rowAt(this.#rows, y, this.#options)].end - 1];
  }

  /**
   * The list is another one from place `from` on (null: no entry has moved), and of the `changed`
   * entries the cards are brought up to date. What was scrolled to stays where it is.
   */
  show(from, changed) {
    const id = idOf(document.activeElement);
    const isLost = id !== null && this.cards.has(id) && this.entries.place(id) === undefined;
    const lost = isLost ? this.#list.findIndex((entry) => entry.id === id) : -1;
    if (from !== null) {
      const isInView = from < (this.#rows.at(-1)?.end ?? 0);
      this.#lay(from, isInView);
    }
    for (const entry of changed) {
      const card = this.cards.get(entry.id);
      if (!card) continue;
      card.update(entry);
      this.drawn(card);
    }
    this.render();
    if (isLost) this.focus(Math.min(lost, this.#list.length - 1));
  }

  /** Focus the entry at that place, wherever it is. */
  focus(place) {
    const entry = this.#list[place];
    if (!entry) return;
    const row = this.#rows[rowOf(this.#rows, place)];
    const { top, bottom: end, above } = this.#seen();
    const [first, last] = [row.top - above - this.#options.heading, row.top + row.height + this.#options.caption];
    if (first < top) scrollBy({ top: first - top, behavior: "instant" });
    else if (last > end) scrollBy({ top: last - end, behavior: "instant" });
    this.#reach(entry.id);
    this.render();
    this.cards.get(entry.id).focus();
  }

  /** The place of the entry that has the focus, or -1. */
  get focused() {
    const id = this.root.contains(document.activeElement) ? idOf(document.activeElement) : null;
    return (id === null ? null : this.entries.place(id)) ?? -1;
  }

  render() {
    this.#isPlanned = false;
    const { top, bottom: end, above } = this.#seen();
    const around = innerHeight * AROUND;
    const wanted = [];
    const visible = this.#rows.slice(
      rowAt(this.#rows, top - around, this.#options),
      rowAt(this.#rows, end + around, this.#options) + 1,
    );
    this.#keepReach(visible, this.#rows[rowAt(this.#rows, top + above, this.#options)]);
    // The focus stays where it is, however far that is scrolled away.
    const focused = this.focused;
    const drawn = focused < 0 ? visible : [...new Set([...visible, this.#rows[rowOf(this.#rows, focused)]])];
    drawn.sort((one, other) => one.first - other.first);
    for (const row of drawn) {
      if (row.day !== null) wanted.push(this.#heading(row));
      const boxes = cells(this.#list, row, this.#options);
      boxes.forEach((box, index) => wanted.push(this.#cardAt(row.first + index, row, box)));
    }
    this.#arrange(wanted);
    if (this.#list.length && end + AHEAD > bottom(this.#rows, this.#options)) this.ahead();
  }

  #cardAt(place, row, { left, width }) {
    const entry = this.#list[place];
    let card = this.cards.get(entry.id);
    if (!card) {
      card = this.#spare.pop();
      if (card) card.update(entry);
      else card = this.card(entry);
      this.cards.set(entry.id, card);
      card.layout = null;
      card.root.classList.toggle("fresh", this.#gliding !== null);
      card.reach(entry.id === this.#current);
      this.drawn(card);
    }
    if (card.layout !== this.#layout) {
      card.layout = this.#layout;
      card.place({ left, top: row.top, width, height: row.height });
      set(card.root, { "aria-posinset": place + 1, "aria-setsize": this.entries.complete ? this.#list.length : -1 });
    }
    return card.root;
  }

  #heading(row) {
    let heading = this.#headings.get(row.day);
    if (!heading) this.#headings.set(row.day, (heading = el("li.day", { "data-day": row.day }, el("h2"))));
    say(heading.firstChild, dayTitle(row.day));
    heading.style.transform = `translateY(${row.top - this.#options.heading}px)`;
    return heading;
  }

  /** Make these the children, in this order, without a move of those that stay. */
  #arrange(wanted) {
    const stays = new Set(wanted);
    for (const child of [...this.root.children]) {
      if (stays.has(child)) continue;
      const id = child.dataset.id;
      if (id) {
        const card = this.cards.get(id);
        card.close();
        this.cards.delete(id);
        if (this.#spare.length < SPARE) this.#spare.push(card);
      } else {
        this.#headings.delete(Number(child.dataset.day));
      }
      child.remove();
    }
    let next = this.root.firstElementChild;
    for (const child of wanted) {
      if (child === next) next = next.nextElementSibling;
      else this.root.insertBefore(child, next);
    }
  }

  // --- where things are

  /** What of the grid is seen, in its own pixels; `above`: the height that lies behind the page's head. */
  #seen() {
    const above = document.querySelector(".top")?.offsetHeight ?? 0;
    const { top } = this.root.getBoundingClientRect();
    return { top: -top, bottom: innerHeight - top, above };
  }

  get #isScrolled() {
    const { top, above } = this.#seen();
    return top + above > 0 && this.#rows.length > 0;
  }

  /** The first entry in view that is still listed, `{ id, top }`, if the grid was scrolled. */
  #anchor() {
    if (!this.#isScrolled) return null;
    const { top, above } = this.#seen();
    const { first } = this.#rows[rowAt(this.#rows, top + above, this.#options)];
    const found = this.#list.slice(first, first + ANCHORS).find(({ id }) => this.entries.place(id) !== undefined);
    return found ? { id: found.id, top: this.#rows[rowOf(this.#rows, this.#list.indexOf(found))].top } : null;
  }

  /** `rows`: those whose beginnings are to stay. */
  #lay(from, isInView, rows = this.#rows.slice(rowOf(this.#rows, from))) {
    const anchor = this.#anchor();
    if (!anchor && isInView) this.#glide();
    this.#layout += 1;
    const began = new Set(rows.map(({ first }) => this.#list[first].id));
    this.#list = this.entries.list;
    this.#rows = justify(this.#list, this.#options, from, this.#rows, ({ id }) => began.has(id));
    const height = bottom(this.#rows, this.#options);
    this.root.style.height = `${height}px`;
    this.end.style.transform = `translateY(${height}px)`;
    if (!anchor) return;
    const row = this.#rows[rowOf(this.#rows, this.entries.place(anchor.id))];
    if (row.top !== anchor.top) scrollBy({ top: row.top - anchor.top, behavior: "instant" });
  }

  #resize() {
    const width = this.root.clientWidth;
    if (width === this.#options.width) return;
    this.#options = { ...options(), width };
    this.#lay(0, false, []);
    this.render();
  }

  #plan() {
    if (this.#isPlanned) return;
    this.#isPlanned = true;
    requestAnimationFrame(() => this.render());
  }

  /** For a moment, what moves does so smoothly. */
  #glide() {
    if (prefersStillness()) return;
    clearTimeout(this.#gliding);
    this.root.parentElement.classList.add("glides");
    this.#gliding = setTimeout(() => {
      this.root.parentElement.classList.remove("glides");
      this.#gliding = null;
    }, GLIDE_MS);
  }

  // --- the focus

  #reach(id) {
    if (!id || id === this.#current) return;
    this.cards.get(this.#current)?.reach(false);
    this.#current = id;
    this.cards.get(id)?.reach(true);
  }

  /** Tab leads to what is in view, unless the focus is elsewhere in the grid. */
  #keepReach(drawn, seen) {
    if (this.cards.has(this.#current) && this.root.contains(document.activeElement)) return;
    const place = this.entries.place(this.#current);
    if (drawn.length && place >= drawn[0].first && place < drawn.at(-1).end) return;
    if (seen) this.#reach(this.#list[seen.first].id);
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const id = idOf(event.target);
    const place = id === null ? undefined : this.entries.place(id);
    const next = place === undefined ? null : this.#step(event.key, place);
    if (next === null) return;
    event.preventDefault();
    this.focus(next);
  }

  /** The place that the key leads to from this one; null: it is no key of the grid. */
  #step(key, place) {
    const last = this.#list.length - 1;
    const row = rowOf(this.#rows, place);
    const rows = Math.max(1, Math.floor(innerHeight / (this.#options.height + this.#options.caption)) - 1);
    const steps = {
      ArrowLeft: () => Math.max(0, place - 1),
      ArrowRight: () => Math.min(last, place + 1),
      ArrowUp: () => this.#beside(place, row - 1),
      ArrowDown: () => this.#beside(place, row + 1),
      PageUp: () => this.#beside(place, Math.max(0, row - rows)),
      PageDown: () => this.#beside(place, Math.min(this.#rows.length - 1, row + rows)),
      Home: () => 0,
      End: () => last,
    };
    return Object.hasOwn(steps, key) ? steps[key]() : null;
  }

  /** The place in another row that is nearest to this one; this one if there is no such row. */
  #beside(place, index) {
    const row = this.#rows[index];
    if (!row) return place;
    const own = this.#rows[rowOf(this.#rows, place)];
    const middle = ({ left, width }) => left + width / 2;
    const from = middle(cells(this.#list, own, this.#options)[place - own.first]);
    const distances = cells(this.#list, row, this.#options).map((cell) => Math.abs(middle(cell) - from));
    return row.first + distances.indexOf(Math.min(...distances));
  }
}

const idOf = (element) => element.closest("[data-id]")?.dataset.id ?? null;
