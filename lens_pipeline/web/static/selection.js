// What people have chosen in the grid, in the order of their choice. What can be done with it:
// `selection-bar.js`.

import { announce } from "./dialogs.js";
import { el, prefersStillness, set } from "./dom.js";
import { SelectionBar } from "./selection-bar.js";
import { t } from "./texts.js";

const LONG_PRESS_MS = 500;
// Pixels that a finger may move while it presses.
const STILL = 10;
const TYPED = "input:not([type=checkbox]), select, textarea, [contenteditable]";

export class Selection {
  #chosen = new Map(); // entries by id, in order
  #places = new Map(); // in that order, by id
  #anchor = null; // id from which a range goes on
  #press = null;
  #leaving = new Set(); // ids of what is about to be deleted

  /**
   * `root`: of the cards; `list()`: all loaded entries in order; `cards()`: those that are drawn;
   * `changed(id)`: the page asks for that entry again.
   */
  constructor(root, { list, cards, changed }) {
    Object.assign(this, { root, list, cards });
    this.bar = new SelectionBar(this, changed);
    root.addEventListener("click", (event) => this.#click(event), true);
    root.addEventListener("keydown", (event) => this.#cardKey(event), true);
    root.addEventListener("pointerdown", (event) => this.#down(event));
    for (const name of ["pointerup", "pointercancel", "pointermove"]) {
      root.addEventListener(name, (event) => this.#release(event));
    }
    root.addEventListener("contextmenu", (event) => this.#press && event.preventDefault());
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  get entries() {
    return [...this.#chosen.values()];
  }

  get size() {
    return this.#chosen.size;
  }

  /** A card was drawn, or its entry changed. */
  drawn(card) {
    if (!card.check) {
      card.check = el("input.check", { type: "checkbox", tabindex: card.isReached ? 0 : -1 });
      card.frame.append(card.check);
    }
    const { id } = card.entry;
    if (this.#chosen.has(id)) this.#chosen.set(id, card.entry);
    this.#mark(card);
  }

  /** The list changed; what it no longer holds may come again when it is scrolled to. */
  listed() {
    for (const entry of this.size ? this.list() : []) {
      if (this.#chosen.has(entry.id)) this.#chosen.set(entry.id, entry);
    }
    this.bar.tell();
  }

  clear() {
    if (this.size && this.bar.hasFocus) this.focus();
    this.#chosen.clear();
    this.#anchor = null;
    this.#told();
  }

  choose(entries) {
    for (const entry of entries) this.#chosen.set(entry.id, entry);
    this.#told();
  }

  /** Show that these entries, or none, are about to be deleted. */
  leave(ids) {
    this.#leaving = new Set(ids);
    this.#told();
  }

  /** Go on in the grid. */
  focus() {
    (this.root.querySelector('.opener[tabindex="0"]') ?? this.root.querySelector(".opener"))?.focus({ preventScroll: true });
  }

  #toggle(id, isRange) {
    const list = this.list();
    const at = list.findIndex((entry) => entry.id === id);
    const from = isRange ? list.findIndex((entry) => entry.id === this.#anchor) : -1;
    if (at < 0) return;
    this.#anchor = id;
    if (from >= 0) {
      const range = list.slice(Math.min(at, from), Math.max(at, from) + 1);
      this.choose(from > at ? range.reverse() : range);
    } else {
      if (!this.#chosen.delete(id)) this.#chosen.set(id, list[at]);
      this.#told();
    }
    announce(t("selection.count", { count: this.size }));
  }

  #told() {
    this.root.classList.toggle("selects", this.size > 0);
    this.#places = new Map([...this.#chosen.keys()].map((id, index) => [id, index + 1]));
    for (const card of this.cards()) this.#mark(card);
    this.bar.tell();
  }

  #mark(card) {
    const { id, type, user_id: user } = card.entry;
    const place = this.#places.get(id) ?? null;
    card.root.classList.toggle("selected", place !== null);
    card.root.classList.toggle("leaving", this.#leaving.has(id));
    if (!card.check) return;
    card.check.checked = place !== null;
    set(card.check, { "aria-label": t("selection.select", { type: t(`type.${type}`), user }), "data-place": place });
  }

  // --- mouse, finger, keyboard

  #click(event) {
    const id = idOf(event.target);
    if (!id || event.button) return;
    const isCheck = event.target.classList.contains("check");
    const isCard = event.target.closest(".opener");
    const isMeant = isCheck || (isCard && (this.size || event.shiftKey || event.ctrlKey || event.metaKey));
    const isPressed = this.#press?.done && isCard;
    if (!isMeant && !isPressed) return;
    event.stopPropagation();
    event.preventDefault();
    // The finger that pressed long has chosen it already.
    if (isPressed) this.#press = null;
    // A box that is set within its own click is set back after it.
    else if (isCheck) setTimeout(() => this.#toggle(id, event.shiftKey));
    else this.#toggle(id, event.shiftKey);
  }

  #down(event) {
    this.#release(null);
    this.#press = null;
    const id = idOf(event.target);
    if (event.pointerType !== "touch" || !id || !event.target.closest(".frame")) return;
    const press = { x: event.clientX, y: event.clientY, done: false };
    press.timer = setTimeout(() => {
      press.done = true;
      if (!prefersStillness()) navigator.vibrate?.(15);
      this.#toggle(id, false);
    }, LONG_PRESS_MS);
    this.#press = press;
  }

  #release(event) {
    const press = this.#press;
    if (!press) return;
    const isStill = event?.type === "pointermove" && Math.hypot(event.clientX - press.x, event.clientY - press.y) < STILL;
    if (!isStill) clearTimeout(press.timer);
  }

  #cardKey(event) {
    const id = idOf(event.target);
    const isKey = event.key === " " || letterOf(event) === "x";
    const isFree = event.target.matches(".opener, .check") && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (!id || !isKey || !isFree) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) this.#toggle(id, event.shiftKey);
  }

  #key(event) {
    // A field, a dialog and a sheet take the key for themselves.
    if (event.defaultPrevented || event.target.closest(TYPED)) return;
    if (document.querySelector("dialog[open], :popover-open")) return;
    if (event.key === "Escape" && !event.repeat) this.bar.escape();
    const isAll = letterOf(event) === "a" && (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey;
    if (!isAll) return;
    event.preventDefault();
    this.choose(this.list());
    announce(t("selection.count", { count: this.size }));
  }
}

/** The Latin letter of a key, also where the keyboard writes another alphabet. */
const letterOf = ({ key, code }) => (/^[a-z]$/i.test(key) ? key : code.replace("Key", "")).toLowerCase();

const idOf = (element) => element.closest("[data-id]")?.dataset.id ?? null;
