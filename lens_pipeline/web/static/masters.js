// The masters of one project, and the editor of new ones.

import { ask, askByIds, hasFailed, path } from "./api.js";
import { confirm, dialog, toast } from "./dialogs.js";
import { byId, el, prefersStillness, say } from "./dom.js";
import { moving, movingInTurn } from "./flip.js";
import { Formats } from "./formats.js";
import { follow, gather } from "./live.js";
import { MasterCard, reasonTitle } from "./master-card.js";
import { MasterEditor } from "./master-editor.js";
import { Notifier } from "./notify.js";
import { newProject, offerVideos } from "./picker.js";
import { Shots } from "./shots.js";
import { t } from "./texts.js";
import { mayAdd } from "./upload.js";

const PAGE = 60;
const GATHER_MS = 400;
// Shots that come or become ready are other rows, of which this page hears nothing; milliseconds.
const SHOTS_MS = 10_000;
// How far from the window a card is still made whole.
const AHEAD = 600;

const [list, none, moreMasters, empty] = ["masters", "no-masters", "more-masters", "empty"].map(byId);
const form = byId("project");
const boundProject = document.body.dataset.project;
const { title } = document;

let project = null;
let home = boundProject || null; // of an address that names none
let cards = new Map(); // by id
let cursor = null;
let unfollow = () => {};

const base = (...parts) => path("projects", project, "master-videos", ...parts);
const shots = new Shots((ids) => cards.forEach((card) => card.shotsChanged(ids)), tried);
const formats = new Formats({ listOf: (id) => cards.get(id)?.formats, watch, tried });
const notifier = new Notifier(byId("notify"));
const editor = new MasterEditor({ create, isKnown: (name) => called(name).length > 0, shots });

/** The films on the page with this name, but for capitals. */
function called(name) {
  const plain = name.toLowerCase();
  return [...cards.values()].filter(({ master }) => master.name.toLowerCase() === plain);
}

// --- the list

const actions = { watch, retry, rename, remove, shots, formats };
const sight = new IntersectionObserver(
  (entries) =>
    entries.forEach(({ target, isIntersecting }) => {
      if (!isIntersecting) return;
      sight.unobserve(target);
      cards.get(target.dataset.id)?.seen();
    }),
  { rootMargin: `${AHEAD}px` },
);

function put(master, first) {
  const known = cards.get(master.master_id);
  if (known) {
    known.update(master);
    return;
  }
  const card = new MasterCard(master, actions);
  cards.set(master.master_id, card);
  sight.observe(card.root);
  if (first) list.prepend(card.root);
  else list.append(card.root);
}

function drop(id) {
  const card = cards.get(id);
  if (!card) return;
  cards.delete(id);
  movingInTurn(list, () => card.root.remove());
  tell();
}

function tell() {
  list.setAttribute("aria-busy", "false");
  none.hidden = cards.size > 0;
  none.replaceChildren(el("p", {}, el("strong", {}, t("masters.empty"))), el("p", {}, t("masters.empty_hint")));
  moreMasters.hidden = cursor === null;
}

async function load() {
  const mine = project;
  const page = await ask("GET", base(), { query: { cursor, limit: PAGE } });
  if (mine !== project) return;
  cursor = page.next_cursor;
  page.master_videos.forEach((master) => put(master, false));
  tell();
}

async function loadMore() {
  const last = list.lastElementChild;
  // Not seen to move to the new end.
  moreMasters.classList.add("unused");
  try {
    await load();
  } finally {
    moreMasters.classList.remove("unused");
  }
  last?.nextElementSibling?.querySelector("button:not([hidden], :disabled)")?.focus({ preventScroll: true });
}

/** Ask again for what is shown, and what came since. */
async function refresh() {
  const mine = project;
  const page = await ask("GET", base(), { query: { limit: PAGE } });
  if (mine !== project) return;
  const listed = new Set(page.master_videos.map((master) => master.master_id));
  page.master_videos.toReversed().forEach((master) => change(master));
  const unlisted = [...cards.keys()].filter((id) => !listed.has(id));
  // Those that are not in a whole list are gone; to ask for them would be an error.
  if (page.next_cursor === null) unlisted.forEach(drop);
  else await askFor(unlisted);
  tell();
}

async function askFor(ids) {
  const mine = project;
  const wanted = [...ids];
  const found = await askByIds(base(), "master_videos", wanted);
  if (mine !== project) return;
  const there = new Set(found.map((master) => master.master_id));
  wanted.filter((id) => !there.has(id)).forEach(drop);
  found.forEach(change);
  tell();
}

/** Show a master as it is now; tell of those that ended before our eyes. */
function change(master) {
  const before = cards.get(master.master_id)?.master.status;
  // A card that grows or shrinks moves its buttons and those below it.
  const mine = project;
  movingInTurn(list, () => {
    if (mine !== project || (before !== undefined && !cards.has(master.master_id))) return;
    const { root } = cards.get(master.master_id) ?? {};
    if (root) moving(root, () => put(master, true));
    else put(master, true);
  });
  if (before === undefined || before === master.status) return;
  const { master_id: id, name, status } = master;
  if (status === "ready") ended("done", id, t("masters.done", { name }), master.poster_url);
  if (hasFailed(master)) ended("failed", id, t("masters.failed", { name, reason: reasonTitle(master) }));
}

function ended(kind, id, words, picture = null) {
  toast(kind, words);
  notifier.tell(id, words, picture);
}

/** Do it, and tell if it cannot be done; whether it was. */
async function tried(action) {
  try {
    await action();
    return true;
  } catch (error) {
    toast("failed", error.message);
    return false;
  }
}

const changed = gather(GATHER_MS, (ids) => tried(() => askFor(ids)));
const maybeGone = gather(GATHER_MS, () => tried(refresh));

function onStatus(event) {
  if (event.kind === "scaled") formats.onStatus(event.id, seen());
  if (event.kind !== "master") return;
  if (event.status === "none") maybeGone(event.id);
  else changed(event.id);
}

function onProgress(event) {
  if (event.asset === "master_video") cards.get(event.id)?.progress(event);
  if (event.asset === "scaled_video") formats.onProgress(event);
}

/** Ids of the films whose cards have been seen. */
const seen = () => [...cards].filter(([, card]) => card.isSeen).map(([id]) => id);

setInterval(() => {
  // Who has lost the server is told so already.
  if (!project || document.visibilityState !== "visible" || byId("connection").textContent) return;
  const waiting = [...cards.values()].filter(({ master }) => master.waits || master.held_by).map(({ master }) => master.master_id);
  tried(async () => {
    await editor.refresh();
    await shots.refresh();
    if (waiting.length) await askFor(waiting);
  });
}, SHOTS_MS);

// --- what people do

async function create(name, shots) {
  const master = await ask("POST", base(), { body: { name, shots } });
  moving(list, () => put(master, true));
  tell();
  toast("note", t("masters.created", { name: master.name }));
  tellSameName(master);
  cards.get(master.master_id).root.scrollIntoView({ block: "nearest", behavior: prefersStillness() ? "auto" : "smooth" });
}

function watch(master) {
  const video = el("video", {
    src: master.video_url,
    poster: master.poster_url,
    controls: true,
    playsinline: true,
    autoplay: true,
    preload: "metadata",
    tabindex: "0",
    "aria-label": master.name,
  });
  const stage = el("div.stage", {}, video);
  if (master.width && master.height) stage.style.aspectRatio = `${master.width} / ${master.height}`;
  const stop = () => {
    video.pause();
    video.removeAttribute("src");
    video.load();
  };
  dialog("viewer", master.name, el("div.viewer-body", {}, stage), { onclose: stop });
  video.focus();
}

/** A name may be used twice; people are told. */
function tellSameName({ name, same_name: others = [] }) {
  if (others.length) toast("note", t("masters.same_name_as", { name, count: others.length }));
}

/** Ask for another name in a dialog. */
function rename(master) {
  const field = el("input", { name: "name", maxlength: "200", autocomplete: "off", value: master.name });
  const note = el("p.field-note", { role: "status" });
  const error = el("p.field-error", { role: "alert" });
  const save = el("button.primary", { type: "submit" }, t("masters.rename_save"));
  const form = el(
    "form.dialog-form",
    { novalidate: true },
    el("label", {}, el("span", {}, t("masters.name")), field),
    note,
    error,
    el("div.buttons", {}, save),
  );
  const shown = dialog("ask", t("masters.rename_named", { name: master.name }), form);
  const wanted = () => field.value.trim();
  form.addEventListener("input", () => {
    say(error, "");
    const others = called(wanted()).filter((card) => card.master.master_id !== master.master_id);
    say(note, others.length ? t("masters.same_name") : "");
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!wanted()) {
      say(error, t("masters.needs_name"));
      return;
    }
    try {
      const renamed = await ask("PATCH", base(master.master_id), { body: { name: wanted() } });
      shown.close();
      change(renamed);
      tellSameName(renamed);
    } catch (problem) {
      say(error, problem.message);
    }
  });
  field.select();
}

function retry(master) {
  return tried(async () => {
    await ask("POST", base(master.master_id, "retry"));
    changed(master.master_id);
  });
}

async function remove(master) {
  const { name } = master;
  if (!(await confirm(t("masters.delete_question", { name }), t("masters.delete_warning"), t("masters.delete")))) return;
  const gone = await tried(() => ask("DELETE", base(master.master_id)));
  if (!gone) return;
  const root = cards.get(master.master_id)?.root;
  const next = root?.nextElementSibling ?? root?.previousElementSibling;
  drop(master.master_id);
  toast("note", t("masters.deleted", { name }));
  // The button that had the focus is gone.
  (next?.querySelector("button:not([hidden], :disabled)") ?? byId("list-title")).focus();
}

// --- which project

function show(id) {
  unfollow();
  project = id;
  cards = new Map();
  shots.show(id);
  formats.show(id);
  sight.disconnect();
  cursor = null;
  list.replaceChildren();
  form.elements.project.value = id ?? "";
  document.title = [id, title].filter(Boolean).join(" · ");
  byId("master-editor").hidden = true;
  empty.hidden = Boolean(id);
  if (!id) {
    const button = el("button.primary", { type: "button", onclick: beginProject }, t("picker.project_new"));
    empty.replaceChildren(el("h2", {}, t("masters.no_project")), el("p", {}, t("masters.no_project_hint")), el("div.begin", {}, ...(mayAdd ? [button] : [])));
    return;
  }
  list.setAttribute("aria-busy", "true");
  // As a whole, so that what comes first is not pushed about by what comes next.
  editor.show(id).then(() => (byId("master-editor").hidden = id !== project));
  unfollow = follow(
    { project_id: id },
    { status: onStatus, progress: onProgress, reset: () => tried(refresh), opened: begin, stays: () => notifier.on },
  );
}

/** The first page; what keeps it from being shown is said in its place. */
async function begin() {
  const mine = project;
  try {
    await load();
  } catch (error) {
    if (mine !== project) return;
    none.hidden = false;
    none.replaceChildren(
      el("p", {}, el("strong", {}, t("error.list"))),
      el("p", {}, error.message),
      el("button", { type: "button", onclick: () => show(project) }, t("action.reload")),
    );
  }
}

const inAddress = () => new URLSearchParams(location.search).get("project");

async function start() {
  if (boundProject) {
    show(boundProject);
    return;
  }
  await tried(async () => {
    const { projects } = await ask("GET", "/api/projects");
    byId("projects").replaceChildren(...projects.map((value) => el("option", { value })));
    home = projects[0] ?? null;
    show(inAddress() || home);
  }) || show(inAddress());
}

function open(wanted) {
  if (!wanted || wanted === project) return;
  history.pushState(null, "", `?${new URLSearchParams({ project: wanted })}`);
  show(wanted);
}

const beginProject = async () => open(await newProject([...byId("projects").options].map(({ value }) => value)));

form.addEventListener("submit", (event) => {
  event.preventDefault();
  open(form.elements.project.value.trim());
});
byId("new-project")?.addEventListener("click", beginProject);
byId("add-videos")?.addEventListener("click", () => tried(() => offerVideos(project, () => editor.refresh())));
addEventListener("popstate", () => show(inAddress() || home));
moreMasters.addEventListener("click", () => tried(loadMore));
byId("list-title").tabIndex = -1;
start();
