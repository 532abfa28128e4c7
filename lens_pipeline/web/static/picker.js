// Chooses videos of the library as shots of a project, and names new projects.

import { ApiError, ask, hasFailed, isId, path } from "./api.js";
import { dialog, toast } from "./dialogs.js";
import { el, icon, say } from "./dom.js";
import { assets } from "./project-dialog.js";
import { duration, t } from "./texts.js";
import { placeholder } from "./thumbhash.js";
import { chooseFiles, mayAdd, Uploads } from "./upload.js";

const PAGE = 60;
// Milliseconds: after the last letter of a search, and between looks for posters that are to come.
const TYPED_MS = 250;
const LOOK_MS = 1500;

let shown = null; // the picker that is open
// Of the page: an upload may outlive the picker in which it began.
const uploads = new Uploads({ user: () => "me", added: (video) => shown?.came(video) });

/** Let people choose videos, and make them shots of the project. Throws ApiError. */
export async function offerVideos(project, added) {
  const chosen = await new Picker(await assets(project)).chosen;
  for (const video of chosen) {
    try {
      await ask("POST", path("projects", project, "assets"), { body: { generation_id: video.id } });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      toast("failed", `${nameOf(video)}: ${error.message}`);
    }
  }
  if (chosen.length) await added();
}

const nameOf = (video) => video.title ?? video.id;

/** A dialog; `taken` has the ids of the generations that are in the project already. */
class Picker {
  constructor(taken) {
    this.taken = taken;
    this.tiles = new Map(); // by id
    this.ids = new Set(); // chosen, in order
    this.cursor = null;
    this.asked = null;
    this.search = el("input", { type: "search", maxlength: "200", autocomplete: "off", spellcheck: "false", placeholder: t("filter.search_hint"), "aria-label": t("filter.search"), oninput: () => this.typed() });
    this.grid = el("ul.pick-grid", { "aria-label": t("picker.videos") });
    this.none = el("p.muted", { role: "status" });
    this.more = el("button.quiet", { type: "button", hidden: true, onclick: () => this.load() }, t("action.more"));
    this.add = el("button.primary", { type: "button", disabled: true }, t("picker.add_none"));
    const files = mayAdd ? el("button", { type: "button", onclick: () => this.upload() }, t("upload.choose")) : null;
    const body = el("div.pick-body", {}, el("div.pick-head", {}, this.search, files), el("div.pick-list", {}, this.grid, this.none, this.more), el("div.pick-foot", {}, this.add));
    shown = this;
    this.chosen = new Promise((done) => {
      let ids = [];
      const element = dialog("picker", t("picker.title"), body, {
        onclose: () => {
          clearInterval(this.timer);
          shown = null;
          if (uploads.running.size) document.body.append(uploads.root);
          done(ids.map((id) => this.tiles.get(id).video));
        },
      });
      this.add.addEventListener("click", () => {
        ids = [...this.ids];
        element.close();
      });
      if (uploads.running.size) element.append(uploads.root);
    });
    this.timer = setInterval(() => this.look(), LOOK_MS);
    this.search.focus();
    this.restart();
  }

  typed() {
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.restart(), TYPED_MS);
  }

  restart() {
    this.asked?.abort();
    this.cursor = null;
    // Those that are chosen stay in view.
    for (const [id, { item }] of this.tiles) {
      if (this.ids.has(id)) continue;
      item.remove();
      this.tiles.delete(id);
    }
    return this.load();
  }

  async load() {
    const mine = (this.asked = new AbortController());
    this.grid.setAttribute("aria-busy", "true");
    try {
      const query = { type: "video", q: this.search.value.trim(), cursor: this.cursor, limit: PAGE };
      const page = await ask("GET", "/api/generations", { query, signal: mine.signal });
      this.cursor = page.next_cursor;
      for (const video of page.generations) this.show(video);
      say(this.none, this.tiles.size ? "" : t(query.q ? "library.no_match" : "picker.empty"));
    } catch (error) {
      if (error.name === "AbortError") return;
      say(this.none, error.message);
    }
    this.grid.setAttribute("aria-busy", "false");
    this.more.hidden = this.cursor === null;
  }

  /** Ask again for those whose poster is still to come. */
  async look() {
    const awaits = ([, { video }]) => !video.picture_url && video.file_url && !hasFailed(video);
    // The last ones were added last.
    const ids = [...this.tiles].filter(awaits).map(([id]) => id).slice(-PAGE);
    if (!ids.length || document.hidden || this.looking) return;
    this.looking = true;
    try {
      const page = await ask("GET", "/api/generations", { query: { ids: ids.join() } });
      page.generations.forEach((video) => this.show(video));
    } catch (error) {
      say(this.none, error.message);
    }
    this.looking = false;
  }

  show(video, first = false) {
    const known = this.tiles.get(video.id);
    const isTaken = this.taken.has(video.id);
    const box = known?.box ?? el("input", { type: "checkbox", disabled: isTaken, onchange: () => this.choose(video.id, box.checked) });
    const note = isTaken ? t("picker.taken") : video.duration ? duration(video.duration) : null;
    const content = [poster(video), el("span.asset-name", { dir: "auto" }, nameOf(video)), note && el("span.note", {}, note)].filter(Boolean);
    if (known) {
      // The box stays: it may have the focus.
      while (box.nextSibling) box.nextSibling.remove();
      box.after(...content);
      known.video = video;
      return;
    }
    const label = el("label.pick", { title: video.id }, box, ...content);
    const item = el("li", {}, label);
    this.tiles.set(video.id, { item, label, box, video });
    if (first) this.grid.prepend(item);
    else this.grid.append(item);
  }

  choose(id, isChosen) {
    if (isChosen) this.ids.add(id);
    else this.ids.delete(id);
    this.add.disabled = this.ids.size === 0;
    const count = this.ids.size;
    say(this.add, count ? t("picker.add", { count }) : t("picker.add_none"));
  }

  async upload() {
    const files = await chooseFiles("video/*,.mkv,.webm,.mov");
    if (files.length) await uploads.add(files);
  }

  /** A new one is what was wanted. */
  came(video) {
    if (video.type !== "video") return;
    this.show(video, true);
    this.tiles.get(video.id).box.checked = true;
    this.choose(video.id, true);
    say(this.none, "");
  }
}

function poster(video) {
  const box = el("span.asset-poster");
  const hash = video.thumbhash && placeholder(video.thumbhash);
  if (hash) box.style.backgroundImage = `url("${hash}")`;
  if (video.picture_url) box.append(el("img", { src: video.picture_url, alt: "", loading: "lazy", decoding: "async" }));
  else box.append(icon("film"));
  return box;
}

/** The id of a new project, or null; `known`: those there are. */
export function newProject(known) {
  let number = 1;
  while (known.includes(`project-${number}`)) number += 1;
  return new Promise((done) => {
    let id = null;
    const field = el("input", { name: "id", value: `project-${number}`, maxlength: "128", autocomplete: "off", spellcheck: "false", "aria-describedby": "project-rule" });
    const rule = el("p.muted", { id: "project-rule" }, t("picker.project_rule"));
    const form = el("form.new-project", { novalidate: true }, el("label", {}, el("span", {}, t("picker.project_name")), field), rule, el("div.buttons", {}, el("button.primary", { type: "submit" }, t("picker.project_create"))));
    const element = dialog("confirm", t("picker.project_new"), form, { onclose: () => done(id) });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const wanted = field.value.trim().replace(/\s+/g, "-");
      if (!isId(wanted) || wanted.includes("..")) {
        field.setAttribute("aria-invalid", "true");
        rule.className = "field-error";
        rule.setAttribute("role", "alert");
        field.focus();
        return;
      }
      id = wanted;
      element.close();
    });
    field.select();
  });
}
