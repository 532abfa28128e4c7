// The editor of a new master: shots of the project, in the order in which they are chosen.

import { ask, path } from "./api.js";
import { announce, toast } from "./dialogs.js";
import { byId, el, icon, say } from "./dom.js";
import { moving, movingInTurn } from "./flip.js";
import { nameOf, picture, reasonOf } from "./shots.js";
import { duration, t } from "./texts.js";

const PAGE = 60;
// Of a shot's places in the film, so many are written on its tile.
const MOST_NUMBERS = 3;

export class MasterEditor {
  /**
   * `create(name, shots)` makes a master; what it throws is told beside the form. `isKnown(name)`:
   * whether another one is called so. `shots` hears of every asset.
   */
  constructor({ create, isKnown, shots }) {
    this.create = create;
    this.isKnown = isKnown;
    this.shots = shots;
    this.project = null;
    this.assets = new Map(); // by id
    this.tiles = new Map(); // by id
    this.chosen = []; // {asset, item} in order; an asset may be there more than once
    this.cursor = null;
    this.dragged = null;
    this.grid = byId("assets");
    this.panel = this.grid.closest(".panel");
    this.timeline = byId("timeline");
    this.form = byId("create");
    this.more = byId("more-assets");
    this.error = byId("create-error");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.form.addEventListener("input", () => this.edited());
    this.more.addEventListener("click", () => this.load());
    byId("clear").addEventListener("click", () => {
      this.empty();
      this.edited();
      this.grid.querySelector("button:not([aria-disabled=true])")?.focus();
    });
    this.timeline.addEventListener("dragover", (event) => this.dragOver(event));
    this.timeline.addEventListener("drop", (event) => event.preventDefault());
  }

  show(project) {
    this.project = project;
    this.assets.clear();
    this.tiles.clear();
    this.cursor = null;
    this.grid.replaceChildren();
    this.grid.setAttribute("aria-busy", "true");
    this.empty();
    return this.load();
  }

  async load() {
    const { project } = this;
    const none = byId("no-assets");
    try {
      const page = await ask("GET", path("projects", project, "assets"), { query: { cursor: this.cursor, limit: PAGE } });
      if (project !== this.project) return;
      this.cursor = page.next_cursor;
      this.shots.put(page.assets);
      // More rows of them push what is below.
      moving(this.panel, () => page.assets.forEach((asset) => this.offer(asset)), [byId("masters").parentElement]);
      none.hidden = this.assets.size > 0;
      const hint = byId("add-videos") ? [el("p", {}, t("masters.no_assets_hint"))] : [];
      none.replaceChildren(el("p", {}, el("strong", {}, t("masters.no_assets"))), ...hint);
    } catch (error) {
      if (project !== this.project) return;
      none.hidden = false;
      none.replaceChildren(
        el("p", {}, el("strong", {}, t("error.list"))),
        el("p", {}, error.message),
        el("button", { type: "button", onclick: () => this.load() }, t("action.reload")),
      );
    }
    this.grid.setAttribute("aria-busy", "false");
    this.more.hidden = this.cursor === null;
  }

  /** Show what came since, and what became of those that were not ready. */
  async refresh() {
    const { project } = this;
    const page = await ask("GET", path("projects", project, "assets"), { query: { limit: PAGE } });
    if (project !== this.project) return;
    const as = (asset) => JSON.stringify(asset);
    const news = page.assets.filter((asset) => as(asset) !== as(this.assets.get(asset.asset_id)));
    if (!news.length) return;
    this.shots.put(news);
    const show = () => news.toReversed().forEach((asset) => this.offer(asset, true));
    movingInTurn(this.panel, () => {
      if (project !== this.project) return;
      moving(this.grid, show);
      byId("no-assets").hidden = true;
    }, [byId("masters").parentElement]);
  }

  // --- the shots there are

  /** Show an asset in its place; one that has none yet comes `first`, or last. */
  offer(asset, first = false) {
    this.assets.set(asset.asset_id, asset);
    const numbers = el("span.numbers");
    const reason = reasonOf(asset);
    const unusable = asset.problem !== null;
    const note = unusable ? t("masters.unusable") : reason && t("masters.waits_short");
    const tile = el(
      "button.asset",
      {
        type: "button",
        title: reason ?? nameOf(asset),
        // Not `disabled`: its reason could not be reached by keyboard then.
        "aria-disabled": unusable ? "true" : null,
        onclick: () => (unusable ? toast("failed", `${nameOf(asset)}: ${reason}`) : this.add(asset)),
      },
      picture(asset),
      el("span.asset-name", { dir: "auto" }, nameOf(asset)),
      note && el("span.note", {}, note),
      numbers,
    );
    const before = this.tiles.get(asset.asset_id);
    const hadFocus = before?.tile === document.activeElement;
    const item = el("li", {}, tile);
    this.tiles.set(asset.asset_id, { item, tile, numbers });
    if (before) before.item.replaceWith(item);
    else if (first) this.grid.prepend(item);
    else this.grid.append(item);
    if (hadFocus) tile.focus();
    this.number();
  }

  // --- the film

  add(asset) {
    const item = el("li.shot", { draggable: "true" });
    const entry = { asset, item };
    const shot = nameOf(asset);
    const button = (name, key, act) =>
      el("button.icon-button", { type: "button", "data-act": name, "aria-label": t(key, { shot }), title: t(key, { shot }), onclick: act }, icon(name));
    item.append(
      el("span.place"),
      picture(asset),
      el("span.asset-name", { dir: "auto" }, shot),
      el(
        "span.shot-buttons",
        {},
        button("left", "masters.earlier", () => this.move(entry, -1)),
        button("right", "masters.later", () => this.move(entry, 1)),
        button("close", "masters.remove", () => this.remove(entry)),
      ),
    );
    item.addEventListener("dragstart", (event) => {
      this.dragged = entry;
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", shot);
      // After the browser has taken its picture of it.
      requestAnimationFrame(() => item.classList.add("dragged"));
    });
    item.addEventListener("dragend", () => {
      item.classList.remove("dragged");
      this.dragged = null;
    });
    this.chosen.push(entry);
    this.timeline.append(item);
    // Not into view: whoever goes on choosing must not be taken away from the shelf.
    this.timeline.scrollTop = this.timeline.scrollHeight;
    announce(t("masters.added", { shot, place: this.chosen.length }));
    this.edited();
  }

  move(entry, step) {
    const from = this.chosen.indexOf(entry);
    const to = from + step;
    if (to < 0 || to >= this.chosen.length) return;
    const focused = document.activeElement?.dataset.act;
    this.put(entry, to);
    announce(t("masters.moved", { shot: nameOf(entry.asset), place: to + 1, count: this.chosen.length }));
    // At an end the arrow that was used is of no more use.
    const wanted = [focused, "left", "right"].map((act) => act && entry.item.querySelector(`[data-act=${act}]:not(:disabled)`));
    wanted.find(Boolean)?.focus();
  }

  put(entry, to) {
    this.chosen.splice(this.chosen.indexOf(entry), 1);
    this.chosen.splice(to, 0, entry);
    moving(this.timeline, () => this.timeline.insertBefore(entry.item, this.chosen[to + 1]?.item ?? null));
    this.edited();
  }

  remove(entry) {
    const place = this.chosen.indexOf(entry);
    this.chosen.splice(place, 1);
    moving(this.timeline, () => entry.item.remove());
    announce(t("masters.removed", { shot: nameOf(entry.asset) }));
    this.edited();
    const next = this.chosen[Math.min(place, this.chosen.length - 1)];
    (next?.item.querySelector("[data-act=close]") ?? this.tiles.get(entry.asset.asset_id)?.tile)?.focus();
  }

  empty() {
    this.chosen = [];
    this.timeline.replaceChildren();
    this.complain("");
    this.number();
  }

  dragOver(event) {
    if (!this.dragged) return;
    event.preventDefault();
    const over = this.chosen.findIndex(({ item }) => item.contains(event.target));
    const from = this.chosen.indexOf(this.dragged);
    if (over === -1 || over === from) return;
    const { left, width } = this.chosen[over].item.getBoundingClientRect();
    // Only beyond its middle, or the two would change places to and fro.
    const beyond = event.clientX > left + width / 2;
    if (over > from === beyond) this.put(this.dragged, over);
  }

  /** Keep the numbers true, of the film's shots and on the tiles of those in it. */
  number() {
    this.chosen.forEach(({ item }, index) => {
      say(item.querySelector(".place"), String(index + 1));
      item.querySelector("[data-act=left]").disabled = index === 0;
      item.querySelector("[data-act=right]").disabled = index === this.chosen.length - 1;
    });
    for (const [id, { tile, numbers }] of this.tiles) {
      const places = this.chosen.flatMap(({ asset }, index) => (asset.asset_id === id ? [index + 1] : []));
      const seen = places.length > MOST_NUMBERS ? [...places.slice(0, MOST_NUMBERS - 1), "…"] : places;
      numbers.replaceChildren(...seen.map((place) => el("b", { "aria-hidden": "true" }, String(place))));
      const used = places.length ? `, ${t("masters.used_at", { places: places.join(", ") })}` : "";
      const asset = this.assets.get(id);
      const reason = reasonOf(asset);
      tile.setAttribute("aria-label", t("masters.add", { shot: nameOf(asset) }) + used + (reason ? `. ${reason}` : ""));
    }
    byId("timeline-empty").hidden = this.chosen.length > 0;
    byId("clear").hidden = this.chosen.length === 0;
    const seconds = this.chosen.reduce((sum, { asset }) => sum + (asset.duration_seconds ?? NaN), 0);
    const words = [t("masters.shots", { count: this.chosen.length }), seconds && duration(seconds)];
    say(byId("timeline-count"), this.chosen.length ? words.filter(Boolean).join(" · ") : "");
  }

  // --- making it

  /** What was said of the form before it was changed is of no more use. */
  edited() {
    const name = this.form.elements.name.value.trim();
    this.complain("");
    say(byId("create-note"), name && this.isKnown(name) ? t("masters.same_name") : "");
    this.number();
  }

  complain(text) {
    say(this.error, text);
    const field = this.form.elements.name;
    if (text) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }

  async submit() {
    const field = this.form.elements.name;
    const name = field.value.trim();
    if (!this.chosen.length) {
      say(this.error, t("masters.needs_shots"));
      return;
    }
    if (!name) {
      this.complain(t("masters.needs_name"));
      field.focus();
      return;
    }
    const button = this.form.querySelector("[type=submit]");
    button.disabled = true;
    try {
      await this.create(name, this.chosen.map(({ asset }) => asset.asset_id));
      field.value = "";
      this.edited();
      // So long after the click that to whoever looks on it happens by itself.
      moving(this.form, () => this.empty(), [byId("timeline-title"), byId("masters").parentElement]);
    } catch (error) {
      say(this.error, error.message);
    } finally {
      button.disabled = false;
    }
  }
}
