// The entries of a list of the API, in its order, kept true while they change: one request at a time.

import { ask } from "./api.js";

const PATH = "/api/generations";
const PAGE = 60;
// The most that the API gives at once.
const MOST = 200;
// Ids that are asked for at once: addresses of 8 KB are the most that usual proxies take.
const MOST_IDS = 100;
// A page of a rare status may be empty and not the last: at most as many are asked for in a row.
const EMPTY_PAGES = 10;
// Milliseconds from a change to its request, and at least as many from one request to the next.
const GATHER_MS = 150;
const REST_MS = 600;
// A busy server gets more rest: so many times as long as it took for its answer.
const REST_TIMES = 2;
const AGAIN_MS = 3000;

/** The reader's own day of that moment, as a number such as 20261130; 0: it is not known. */
function dayOf(moment) {
  const date = new Date(moment ?? NaN);
  return Number.isNaN(date.getTime()) ? 0 : (date.getFullYear() * 100 + date.getMonth() + 1) * 100 + date.getDate();
}

/** With its `day`, and without what no page shows: a hundred thousand of them must fit into memory. */
function kept({ path, ...entry }) {
  return { ...entry, day: dayOf(entry.updated_at) };
}

export class Entries {
  /** In the API's order. Replaced, not changed, if other than added to. */
  list = [];
  /** New ones that wait until `reveal`, by id. */
  held = new Map();
  /** Whether the last page has come. */
  complete = false;
  /** Whether a page is being loaded. */
  loading = false;
  #places = new Map(); // places in the list, by id
  #cursor = null;
  #query = {};
  #ended = new AbortController();
  #changed = new Set();
  #missed = false;
  #timer = null;
  #earliest = 0;
  #queue = Promise.resolve();
  #failing = false;

  /**
   * `shown(from, entries)`: the list changed from that place on, or if it is null, only the entries;
   * `told()`: what is said of it did; `failed(error)`; `holds()`: whether new ones are to wait;
   * `lastRead()`: the last entry in view, null if the first ones are.
   */
  constructor(page) {
    this.page = page;
  }

  get(id) {
    return this.list[this.place(id)];
  }

  /** Its place in the list, or undefined. */
  place(id) {
    return this.#places.get(id);
  }

  /** Whether nothing of the list is missing, as far as is known. */
  get isAll() {
    return this.complete && !this.held.size && !this.#missed;
  }

  /** Another list; the query as for the API. */
  restart(query) {
    this.#ended.abort();
    this.#ended = new AbortController();
    this.#queue = Promise.resolve();
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#query = query;
    this.#cursor = null;
    this.#changed.clear();
    this.#missed = false;
    this.complete = false;
    this.loading = false;
    this.held.clear();
    this.#replace([]);
  }

  /** The next page; whether it came, or none is left. */
  async load() {
    if (this.loading || this.complete) return true;
    let isLoaded = true;
    this.loading = true;
    this.page.told();
    await this.#inTurn(async () => {
      for (let tries = 0; tries < EMPTY_PAGES && !this.complete; tries++) {
        if (tries) await this.#rest();
        const limit = this.list.length < MOST ? PAGE : MOST;
        const page = await this.#ask({ cursor: this.#cursor, limit });
        this.#cursor = page.next_cursor;
        this.complete = page.next_cursor === null;
        if (page.generations.length) {
          this.#append(page.generations);
          break;
        }
      }
      this.loading = false;
      this.page.told();
    }, (error) => {
      isLoaded = this.loading = false;
      this.page.failed(error);
    });
    return isLoaded;
  }

  /** An event tells that the entry changed; `at`: the time of its row, by which it is in the list. */
  changed(id, at = null) {
    const last = this.list.at(-1);
    const isBeyond = !at || (last && !this.complete && new Date(at) < new Date(last.updated_at));
    if (isBeyond && !this.get(id) && !this.held.has(id)) return;
    this.#changed.add(id);
    this.#plan(GATHER_MS);
  }

  /** Anything may have changed. */
  missed() {
    this.#missed = true;
    this.#plan(0);
  }

  /** What is known to have changed of an entry, without a request. */
  change(entry) {
    this.#put([entry]);
  }

  /** Bring what is shown up to date, and show the new ones. */
  async reveal() {
    this.#missed = true;
    clearTimeout(this.#timer);
    await this.#turn();
  }

  #plan(ms) {
    this.#timer ??= setTimeout(() => this.#turn(), Math.max(ms, this.#earliest - performance.now()));
  }

  async #turn() {
    const began = performance.now();
    let rest = 0;
    await this.#inTurn(
      async () => {
        const ids = [...this.#changed];
        const isUnknown = (id) => this.#places.get(id) === undefined;
        if (this.#missed || (ids.some(isUnknown) && !this.page.holds())) await this.#refresh();
        else if (ids.length) await this.#update(ids.slice(0, MOST_IDS));
        this.#failing = false;
      },
      (error) => {
        rest = AGAIN_MS;
        this.#missed = true;
        // It is told once, and tried until it works.
        if (!this.#failing) this.page.failed(error);
        this.#failing = true;
      },
    );
    const now = performance.now();
    this.#earliest = now + Math.max(rest, REST_MS, REST_TIMES * (now - began));
    this.#timer = null;
    if (this.#missed || this.#changed.size) this.#plan(0);
  }

  /** From the start to what is read; what is beyond comes again when it is scrolled to. */
  async #refresh() {
    // What changes meanwhile is asked for once more.
    this.#changed.clear();
    this.#missed = false;
    const limit = Math.min(MOST, this.list.length + PAGE);
    const read = this.page.lastRead();
    const found = new Map();
    let cursor = null;
    let isBelow = false;
    for (let empty = 0, isEnough = false; !isEnough && empty < EMPTY_PAGES; ) {
      if (cursor !== null) await this.#rest();
      const page = await this.#ask({ cursor, limit });
      for (const entry of page.generations) found.set(entry.id, kept(entry));
      cursor = page.next_cursor;
      const last = page.generations.at(-1);
      empty = last ? 0 : empty + 1;
      isBelow = !read || found.has(read.id) || (last && new Date(last.updated_at) < new Date(read.updated_at));
      isEnough = cursor === null || (found.size > 0 && isBelow);
    }
    this.held.clear();
    if (cursor !== null && !isBelow) {
      // Of a rare status nothing came for so long: what was below stays for its reader.
      const rest = this.list.slice(1 + this.list.findLastIndex(({ id }) => found.has(id)));
      this.#replace([...found.values(), ...rest]);
      return;
    }
    this.#cursor = cursor;
    this.complete = cursor === null;
    this.#replace([...found.values()]);
  }

  async #update(ids) {
    for (const id of ids) this.#changed.delete(id);
    // A card that no longer has the status of the filter stays until the next refresh.
    const page = await this.#ask({ status: null, ids: ids.join(",") });
    const found = new Map(page.generations.map((entry) => [entry.id, kept(entry)]));
    const gone = ids.filter((id) => !found.has(id));
    for (const id of gone) this.held.delete(id);
    const isKnown = (entry) => this.#places.has(entry.id);
    const known = [...found.values()].filter(isKnown);
    // It has another place now.
    if (known.some((entry) => entry.updated_at !== this.get(entry.id).updated_at)) this.#missed = true;
    this.#put(known);
    const { status } = this.#query;
    for (const entry of found.values()) {
      if (!isKnown(entry) && (!status || entry.status === status)) this.held.set(entry.id, entry);
    }
    if (this.held.size && !this.page.holds()) this.#missed = true;
    if (gone.some((id) => this.#places.has(id))) {
      this.#replace(this.list.filter((entry) => !gone.includes(entry.id)));
    }
    this.page.told();
  }

  #ask(more) {
    return ask("GET", PATH, { query: { ...this.#query, ...more }, signal: this.#ended.signal });
  }

  /** Between the pages of one turn. Throws AbortError if the list is another one by then. */
  async #rest() {
    const { signal } = this.#ended;
    await new Promise((done) => setTimeout(done, REST_MS));
    signal.throwIfAborted();
  }

  /** Nothing else is asked for meanwhile. */
  #inTurn(act, failed) {
    const { signal } = this.#ended;
    const acts = async () => {
      if (signal.aborted) return;
      try {
        await act();
      } catch (error) {
        if (error.name !== "AbortError") failed(error);
      }
    };
    return (this.#queue = this.#queue.then(acts));
  }

  #append(entries) {
    const from = this.list.length;
    for (const entry of entries.map(kept)) {
      if (this.#places.has(entry.id)) continue;
      this.#places.set(entry.id, this.list.length);
      this.list.push(entry);
    }
    this.page.shown(from, []);
  }

  #put(entries) {
    let from = null;
    for (const entry of entries) {
      const place = this.#places.get(entry.id);
      const before = this.list[place];
      if (!before) continue;
      this.list[place] = entry;
      const moves = before.width !== entry.width || before.height !== entry.height || before.day !== entry.day;
      if (moves) from = Math.min(from ?? place, place);
    }
    if (entries.length) this.page.shown(from, entries);
  }

  #replace(list) {
    this.list = list;
    this.#places = new Map(list.map((entry, place) => [entry.id, place]));
    this.page.shown(0, list);
    this.page.told();
  }
}
