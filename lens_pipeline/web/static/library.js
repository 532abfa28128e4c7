// The library: a grid of everybody's pictures, newest first, that fills and changes by itself.

import { ask, path } from "./api.js";
import { Card, isAwaited } from "./card.js";
import { announce, toast } from "./dialogs.js";
import { byId, el, prefersStillness, say } from "./dom.js";
import { Entries } from "./entries.js";
import { Grid } from "./grid.js";
import { follow } from "./live.js";
import { findPlace, keepPlace } from "./place.js";
import { Selection } from "./selection.js";
import { t } from "./texts.js";
import { mayAdd, offerUploads } from "./upload.js";
import { Viewer } from "./viewer.js";

// The events are of what is made from files; that there will be no file is only in its row.
const AWAITED_MS = 10000;
// The assets that are a generation's picture, by kind.
const PICTURES = { photo: "preview", video: "poster" };

const [more, empty, count, pill, skeleton] = ["more", "empty", "count", "new", "skeleton"].map(byId);
const form = byId("filters");
const FILTERS = [...form.elements].map((element) => element.name).filter(Boolean);
const boundUser = document.body.dataset.user;

let filters = {};
let isWaiting = true; // for the first page
let isStuck = false; // the next page failed: it is asked for by its button alone
let unfollow = () => {};

export const entries = new Entries({ shown, told, failed, holds, lastRead: () => grid.lastRead });
export const grid = new Grid(byId("grid"), {
  entries,
  end: byId("end"),
  card: (entry) => new Card(entry, { open, retry, onlyUser }),
  drawn: (card) => selection.drawn(card),
  ahead: () => isStuck || load(),
});

// --- showing entries

function shown(from, changed) {
  grid.show(from, changed);
  changed.forEach((entry) => viewer.update(entry));
}

/** New ones push the others aside, so they wait while somebody may be looking at those. */
function holds() {
  const isRead = scrollY > innerHeight / 2 || document.querySelector("dialog[open]") || prefersStillness();
  return Boolean(isRead && entries.list.length);
}

function told() {
  const shownCount = entries.list.length;
  const isFiltered = FILTERS.some((name) => filters[name] && !(name === "user_id" && boundUser));
  grid.root.setAttribute("aria-busy", String(isWaiting || entries.loading));
  form.querySelector("[type=reset]").classList.toggle("unused", !isFiltered);
  skeleton.hidden = !isWaiting || shownCount > 0;
  pill.hidden = entries.held.size === 0;
  if (!pill.hidden) say(pill, `↑ ${t("library.new", { count: entries.held.size })}`);
  more.hidden = isWaiting || entries.loading || entries.complete;
  empty.hidden = shownCount > 0 || !entries.complete;
  if (!empty.hidden) empty.replaceChildren(...(isFiltered ? noMatch() : noEntries()));
  if (shownCount) say(count, t(entries.isAll ? "library.all_shown" : "library.shown", { count: shownCount }));
  else say(count, isWaiting || entries.complete ? "" : t("library.looking"));
  selection.listed();
  viewer.tell();
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
  const [mine, from] = [filters, entries.list.length];
  // Its button is hidden meanwhile; whoever was on it goes on with what came.
  const goesOn = document.activeElement === more;
  const isLoaded = await entries.load();
  if (mine !== filters) return;
  isStuck = !isLoaded;
  isWaiting = false;
  told();
  if (goesOn) grid.focus(Math.min(from, entries.list.length - 1));
}

function failed(error) {
  isWaiting = false;
  told();
  if (entries.list.length) {
    toast("failed", error.message);
    return;
  }
  more.hidden = true;
  say(count, "");
  empty.hidden = false;
  empty.replaceChildren(
    el("h2", {}, t("error.list")),
    el("p", {}, error.message),
    el("button", { type: "button", onclick: restart }, t("action.reload")),
  );
}

setInterval(() => {
  // Without the server the page says so once, not each time.
  if (document.hidden || byId("connection").textContent) return;
  for (const entry of entries.list) if (isAwaited(entry)) entries.changed(entry.id);
  // Yesterday was today.
  grid.render();
}, AWAITED_MS);

function onStatus({ kind, asset, id, status, run_id, updated_at }) {
  if (!(kind in PICTURES)) return;
  const entry = entries.get(id);
  const isPicture = asset === PICTURES[kind];
  if (!entry) viewer.changed(id);
  // All that changes then is in the event.
  if (entry && isPicture && status === "processing" && entry.file_url) {
    entries.change({ ...entry, status, picture_url: null, error: null, error_class: null, run_id });
  } else if (entry ? isPicture || status !== "processing" : isPicture && mayMatch(kind, status)) {
    entries.changed(id, updated_at);
  }
}

/** The API knows it better. */
const mayMatch = (type, status) =>
  (!filters.type || filters.type === type) && (!filters.status || filters.status === status);

// --- what people do

const viewer = new Viewer({
  loaded: () => entries.list,
  hasMore: () => !entries.complete,
  more: load,
  retry,
  // The page stays where it is if the dialog has given the focus back to that card already.
  focus: (id) => entries.place(id) === grid.focused || grid.focus(entries.place(id)),
});
const open = (entry) => viewer.open(entry);

async function retry(entry) {
  try {
    await ask("POST", path("generations", entry.id, "retry"));
    announce(t("library.retried"));
    grid.cards.get(entry.id)?.retried();
    entries.changed(entry.id);
  } catch (error) {
    toast("failed", error.message);
  }
}

function onlyUser(user) {
  form.elements.user_id.value = user;
  applyForm();
}

// --- filters, which are in the address

/** Fill in the form; returns the filters. */
function readAddress() {
  const query = new URLSearchParams(location.search);
  for (const name of FILTERS) form.elements[name].value = query.get(name) ?? "";
  // A value that the form does not know is no filter.
  const read = Object.fromEntries(FILTERS.map((name) => [name, form.elements[name].value]));
  if (boundUser) read.user_id = boundUser;
  return read;
}

/** As the API wants them: a day is of the reader's own place. */
function query() {
  const [year, month, day] = filters.before.split("-");
  return { ...filters, before: filters.before && new Date(year, month - 1, Number(day) + 1).toISOString() };
}

function applyForm() {
  // While the year of a day is typed, the day is of the year 2, 20 and 202.
  if (!form.checkValidity()) return;
  const address = new URLSearchParams();
  for (const name of FILTERS) {
    const value = form.elements[name].value.trim();
    if (value && !(name === "user_id" && boundUser)) address.set(name, value);
  }
  const search = address.size ? `?${address}` : "";
  if (search === location.search) return;
  keepPlace(entries.list.length);
  history.pushState(null, "", location.pathname + search);
  restart();
}

async function arrive() {
  await load();
  await findPlace(() => entries.list.length, load);
}

function restart() {
  unfollow();
  selection.clear();
  isWaiting = true;
  isStuck = false;
  filters = readAddress();
  empty.hidden = true;
  scrollTo({ top: 0, behavior: "instant" });
  entries.restart(query());
  unfollow = follow(
    { user_id: filters.user_id },
    { status: onStatus, reset: () => entries.missed(), opened: arrive },
  );
}

more.addEventListener("click", load);
pill.addEventListener("click", async () => {
  scrollTo({ top: 0, behavior: "instant" });
  await entries.reveal();
  grid.focus(0);
});
form.elements.user_id.addEventListener("focus", () => {
  const users = [...new Set(entries.list.map((entry) => entry.user_id))].sort();
  byId("users").replaceChildren(...users.map((value) => el("option", { value })));
});
form.addEventListener("change", applyForm);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  applyForm();
});
form.addEventListener("reset", () => setTimeout(applyForm));
const selection = new Selection(grid.root, {
  list: () => entries.list,
  cards: () => grid.cards.values(),
  changed: (id) => entries.changed(id),
});

addEventListener("pagehide", () => keepPlace(entries.list.length));
addEventListener("popstate", () => {
  if (JSON.stringify(readAddress()) !== JSON.stringify(filters)) restart();
  viewer.follow();
});
const addFiles = offerUploads({
  user: () => filters.user_id || "me",
  added: (entry) => entries.changed(entry.id, entry.updated_at),
});
restart();
viewer.follow();
