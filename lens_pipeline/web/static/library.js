// The library: a grid of everybody's pictures, newest first, that fills and changes by itself.

import { ask, path } from "./api.js";
import { Card, isAwaited } from "./card.js";
import { announce, toast } from "./dialogs.js";
import { byId, el, prefersStillness, say } from "./dom.js";
import { movingInTurn } from "./flip.js";
import { follow, gather } from "./live.js";
import { t } from "./texts.js";
import { mayAdd, offerUploads } from "./upload.js";
import { Viewer } from "./viewer.js";

const PAGE = 60;
// The most that the API gives at once.
const MOST = 200;
// A page of a rare status may be empty and not the last: so many are asked for by themselves.
const EMPTY_PAGES = 10;
const GATHER_MS = 150;
// The events are of what is made from files; that there will be no file is only in its row.
const AWAITED_MS = 10000;
// Up to so many changed entries are asked for one by one, more of them by the page.
const ONE_BY_ONE = 6;
const FILTERS = ["q", "user_id", "type", "status"];

const [grid, more, empty, count, pill, end] = ["grid", "more", "empty", "count", "new", "end"].map(byId);
const form = byId("filters");
const boundUser = document.body.dataset.user;

const cards = new Map(); // by id
const held = new Map(); // entries not shown yet, by id
let filters = {};
let cursor = null;
let loading = null; // AbortController of the page that is being loaded
let complete = false;
let unfollow = () => {};

/** Exactly, as the API compares them; a `Date` knows no less than a millisecond. */
function microseconds(moment) {
  const beyond = /\.\d{3}(\d{3})/.exec(moment ?? "")?.[1] ?? 0;
  return new Date(moment).getTime() * 1000 + Number(beyond);
}

/** Newest first, as the API orders them. */
function older(one, other) {
  const order = (entry) => [microseconds(entry.updated_at), entry.id];
  const [a, b] = [order(one), order(other)];
  return a[0] !== b[0] ? a[0] < b[0] : a[1] < b[1];
}

/** The cards in the order they are seen in. */
const shown = () => [...grid.children].map((root) => cards.get(root.dataset.id)).filter(Boolean);

const hasWords = (entry, words) => [entry.id, entry.title].some((text) => text?.toLowerCase().includes(words.toLowerCase()));

const matches = (entry) =>
  (!filters.q || hasWords(entry, filters.q)) &&
  (!filters.user_id || entry.user_id === filters.user_id) &&
  (!filters.type || entry.type === filters.type) &&
  (!filters.status || entry.status === filters.status);

// --- showing entries

function place(entry) {
  const card = new Card(entry, { open, retry, onlyUser });
  cards.set(entry.id, card);
  return card;
}

function change(entry) {
  cards.get(entry.id).update(entry);
}

function append(entries) {
  const added = entries.filter((entry) => !cards.has(entry.id));
  entries.filter((entry) => cards.has(entry.id)).forEach(change);
  grid.append(...added.map((entry) => place(entry).root));
}

function insert(entries) {
  const all = shown();
  for (const entry of entries) {
    const next = all.find((card) => older(card.entry, entry));
    if (!next && !complete) continue; // belongs to a page that is not loaded yet
    const card = place(entry);
    card.root.classList.add("fresh");
    grid.insertBefore(card.root, next ? next.root : null);
    all.splice(next ? all.indexOf(next) : all.length, 0, card);
  }
  tell();
}

/** New ones push the others aside, so they wait while somebody may be looking at those. */
function hold(entries) {
  for (const entry of entries) held.set(entry.id, entry);
  const busy = scrollY > innerHeight / 2 || document.querySelector("dialog[open]") || prefersStillness();
  if (busy && cards.size) tell();
  else reveal();
}

async function reveal() {
  const show = () => {
    const entries = [...held.values()].sort((one, other) => (older(one, other) ? -1 : 1));
    held.clear();
    insert(entries);
  };
  await movingInTurn(grid, show, [end]);
}

function drop(id) {
  held.delete(id);
  const card = cards.get(id);
  if (!card) return;
  cards.delete(id);
  movingInTurn(grid, () => {
    card.root.remove();
    tell();
  }, [end]);
}

function tell() {
  const nothing = cards.size === 0;
  const filtered = FILTERS.some((name) => filters[name] && !(name === "user_id" && boundUser));
  const busy = loading !== null || grid.querySelector(".skeleton") !== null;
  grid.setAttribute("aria-busy", String(busy));
  // Laid out without the end, which then comes anew further up or down. Between two paints alone
  // it would be seen to jump there.
  if (busy) end.getBoundingClientRect();
  form.querySelector("[type=reset]").classList.toggle("unused", !filtered);
  pill.hidden = held.size === 0;
  if (held.size) say(pill, `↑ ${t("library.new", { count: held.size })}`);
  more.hidden = complete || loading !== null;
  viewer.tell();
  empty.hidden = !nothing || !complete;
  if (!empty.hidden) {
    empty.replaceChildren(...(filtered ? noMatch() : noEntries()));
  }
  if (!nothing) say(count, t(complete ? "library.all_shown" : "library.shown", { count: cards.size }));
  else say(count, complete || loading ? "" : t("library.looking"));
  byId("users").replaceChildren(
    ...[...new Set([...cards.values()].map((card) => card.entry.user_id))]
      .sort()
      .map((value) => el("option", { value })),
  );
}

const noMatch = () => [
  el("h2", {}, t("library.no_match")),
  el("button", { type: "button", onclick: () => form.reset() }, t("filter.clear_all")),
];

const noEntries = () => [el("h2", {}, t("library.empty")), el("p", {}, t("library.empty_hint")), ...(mayAdd ? begin() : [])];

const begin = () => [
  el("p", {}, t("library.empty_add")),
  el("div.begin", {}, el("button.primary", { type: "button", onclick: addFiles }, t("upload.choose"))),
  howToAdd(),
];

/** For whoever runs all of it. */
const howToAdd = () => el("p.try", {}, t("library.empty_try"), el("code", {}, "lens add photo.jpg video.mp4"));

// --- loading

async function load() {
  if (loading || complete) return;
  const mine = (loading = new AbortController());
  const last = grid.lastElementChild;
  // Its button is hidden meanwhile; whoever was on it goes on with what came.
  const goesOn = document.activeElement === more;
  tell();
  try {
    for (let tries = 0; tries < EMPTY_PAGES; tries++) {
      const query = { ...filters, cursor, limit: PAGE };
      const page = await ask("GET", "/api/generations", { query, signal: mine.signal });
      cursor = page.next_cursor;
      complete = cursor === null;
      grid.querySelectorAll(".skeleton").forEach((one) => one.remove());
      append(page.generations);
      if (complete || page.generations.length) break;
    }
    loading = null;
    // Shows the end again, and if that is still in view it is seen to come into it.
    tell();
    if (goesOn) (last?.nextElementSibling ?? last)?.querySelector(".opener")?.focus();
  } catch (error) {
    if (error.name === "AbortError") return;
    loading = null;
    failed(error);
  }
}

function failed(error) {
  grid.querySelectorAll(".skeleton").forEach((one) => one.remove());
  tell();
  more.hidden = cards.size === 0;
  if (cards.size) {
    toast("failed", error.message);
    return;
  }
  complete = false;
  say(count, "");
  empty.hidden = false;
  empty.replaceChildren(
    el("h2", {}, t("error.list")),
    el("p", {}, error.message),
    el("button", { type: "button", onclick: restart }, t("action.reload")),
  );
}

/** Bring what is shown up to date, and show what came since. */
async function refresh() {
  if (loading) return;
  const limit = Math.min(MOST, Math.max(PAGE, cards.size));
  const page = await ask("GET", "/api/generations", { query: { ...filters, limit } });
  const listed = new Set(page.generations.map((entry) => entry.id));
  const last = page.generations.at(-1);
  take(page.generations);
  const gone = [...cards.values()].filter(
    ({ entry }) => !listed.has(entry.id) && (page.next_cursor === null || (last && older(last, entry))),
  );
  // Without a filter by what may change, those are gone; to ask for them would be an error.
  if (!filters.status) gone.forEach(({ entry }) => drop(entry.id));
  const unsure = gone.map(({ entry }) => entry.id).filter((id) => cards.has(id));
  const beyond = [...cards.keys()].filter((id) => !listed.has(id));
  await askFor(new Set([...unsure, ...beyond].slice(0, MOST)));
}

function take(entries) {
  entries.forEach((entry) => viewer.update(entry));
  entries.filter((entry) => cards.has(entry.id)).forEach(change);
  const fresh = entries.filter((entry) => !cards.has(entry.id) && matches(entry));
  if (fresh.length) hold(fresh);
}

async function askFor(ids) {
  for (const id of ids) {
    try {
      take([await ask("GET", path("generations", id))]);
    } catch (error) {
      if (error.status !== 404) throw error;
      drop(id);
    }
  }
}

const changed = gather(GATHER_MS, async (ids) => {
  try {
    if (ids.size <= ONE_BY_ONE) await askFor(ids);
    else await refresh();
  } catch (error) {
    toast("failed", error.message);
  }
});

async function reload() {
  try {
    await refresh();
  } catch (error) {
    toast("failed", error.message);
  }
}

setInterval(() => {
  // Without the server the page says so once, not each time.
  if (document.hidden || byId("connection").textContent) return;
  for (const { entry } of cards.values()) if (isAwaited(entry)) changed(entry.id);
}, AWAITED_MS);

const maybeGone = gather(GATHER_MS, reload);

function onStatus(event) {
  if (event.kind !== "photo" && event.kind !== "video") return;
  const card = cards.get(event.id);
  // All that changes then is in the event.
  if (card && event.status === "processing" && card.entry.file_url) {
    take([{ ...card.entry, status: event.status, picture_url: null, error: null, error_class: null, run_id: event.run_id }]);
  } else if (event.status !== "none") {
    changed(event.id);
  } else if (card || filters.status === "none") {
    maybeGone(event.id);
  }
}

// --- what people do

const viewer = new Viewer({
  loaded: () => shown().map((card) => card.entry),
  hasMore: () => !complete,
  more: load,
  retry,
  focus: (id) => cards.get(id)?.opener.focus(),
});
const open = (entry) => viewer.open(entry);

async function retry(entry) {
  try {
    await ask("POST", path("generations", entry.id, "retry"));
    announce(t("library.retried"));
    cards.get(entry.id)?.retried();
    changed(entry.id);
  } catch (error) {
    toast("failed", error.message);
  }
}

function onlyUser(user) {
  form.elements.user_id.value = user;
  applyForm();
}

// --- filters, which are in the address

function readAddress() {
  const query = new URLSearchParams(location.search);
  filters = Object.fromEntries(FILTERS.map((name) => [name, query.get(name) ?? ""]));
  if (boundUser) filters.user_id = boundUser;
  for (const name of FILTERS) form.elements[name].value = filters[name];
  // A value that the form does not know is no filter.
  for (const name of ["type", "status"]) filters[name] = form.elements[name].value ||= "";
}

function applyForm() {
  const query = new URLSearchParams();
  for (const name of FILTERS) {
    const value = form.elements[name].value.trim();
    if (value && !(name === "user_id" && boundUser)) query.set(name, value);
  }
  const search = query.size ? `?${query}` : "";
  if (search === location.search) return;
  history.pushState(null, "", location.pathname + search);
  restart();
}

function restart() {
  unfollow();
  loading?.abort();
  loading = null;
  cards.clear();
  held.clear();
  cursor = null;
  complete = false;
  readAddress();
  empty.hidden = true;
  grid.replaceChildren(...Array.from({ length: 12 }, () => el("li.card.skeleton", { "aria-hidden": "true" }, el("div.frame"), el("div.caption"))));
  tell();
  unfollow = follow(
    { user_id: filters.user_id },
    { status: onStatus, reset: reload, opened: load },
  );
}

const AHEAD = 900;
new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && cards.size && load(), {
  rootMargin: `${AHEAD}px`,
}).observe(end);

more.addEventListener("click", load);
pill.addEventListener("click", async () => {
  scrollTo({ top: 0, behavior: prefersStillness() ? "auto" : "smooth" });
  await reveal();
  grid.querySelector(".opener")?.focus({ preventScroll: true });
});
form.addEventListener("change", applyForm);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  applyForm();
});
form.addEventListener("reset", () => setTimeout(applyForm));
addEventListener("popstate", () => {
  const before = JSON.stringify(filters);
  readAddress();
  if (JSON.stringify(filters) !== before) restart();
  viewer.follow();
});
const addFiles = offerUploads({ user: () => filters.user_id || "me", added: (entry) => take([entry]) });
restart();
viewer.follow();
