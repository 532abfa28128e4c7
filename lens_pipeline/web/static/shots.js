// The assets of a project by id, asked for when they are first needed, and films as strips of them.

import { askByIds, isId, path } from "./api.js";
import { el, icon, set } from "./dom.js";
import { gather } from "./live.js";
import { duration, t } from "./texts.js";
import { placeholder } from "./thumbhash.js";

const GATHER_MS = 60;

/** What people call a shot. */
export const nameOf = (asset, id = asset?.asset_id) => asset?.title || id;

/** Why it cannot be used now, for people; null: it can. */
export function reasonOf(asset) {
  if (asset === null) return t("shot.gone");
  if (asset.problem) return t(`shot.${asset.problem_code ?? "unusable"}`);
  return asset.waits ? t("shot.waits", { status: asset.generation_status ?? "" }) : null;
}

/** The asset's poster in its box, with its length; a drawing if there is none. */
export function picture(asset) {
  const box = el("span.asset-poster");
  const hash = asset?.thumbhash && placeholder(asset.thumbhash);
  if (hash) box.style.backgroundImage = `url("${hash}")`;
  if (asset?.poster_url) {
    box.append(el("img", { src: asset.poster_url, alt: "", loading: "lazy", decoding: "async", draggable: "false" }));
  } else {
    box.append(icon("film"));
  }
  if (asset?.duration_seconds) box.append(el("span.length", {}, duration(asset.duration_seconds)));
  return box;
}

export class Shots {
  /** `changed(ids)` is called when something else is known of them. */
  constructor(changed, tried) {
    this.changed = changed;
    this.want = gather(GATHER_MS, (ids) => tried(() => this.load([...ids])));
    this.show(null);
  }

  show(project) {
    this.project = project;
    this.known = new Map(); // by id; null: there is none
    this.wanted = new Set();
  }

  /** Undefined: not known yet. */
  get(id) {
    if (!this.known.has(id) && !this.wanted.has(id)) {
      this.wanted.add(id);
      this.want(id);
    }
    return this.known.get(id);
  }

  put(assets) {
    assets.forEach((asset) => this.known.set(asset.asset_id, asset));
    this.changed(new Set(assets.map((asset) => asset.asset_id)));
  }

  /** Ask again for those that were not ready. */
  refresh() {
    return this.load([...this.wanted].filter((id) => !this.known.has(id) || this.known.get(id)?.waits));
  }

  async load(ids) {
    const { project } = this;
    if (!ids.length) return;
    // Other programs may have written anything into a film's list of shots.
    const assets = await askByIds(path("projects", project, "assets"), "assets", ids.filter(isId));
    if (project !== this.project) return;
    const found = new Set(assets.map((asset) => asset.asset_id));
    ids.filter((id) => !found.has(id)).forEach((id) => this.known.set(id, null));
    this.put(assets);
    this.changed(new Set(ids));
  }
}

/** The shots of a film in order. Its tiles are made by `fill`, as soon as somebody may see them. */
export class FilmStrip {
  constructor(shots) {
    this.shots = shots;
    this.ids = [];
    this.tiles = [];
    this.root = el("ol.strip", { tabindex: "0" });
  }

  update(master) {
    set(this.root, { "aria-label": t("masters.shots_of", { name: master.name }) });
    const same = this.ids.join() === master.shots.join();
    this.ids = master.shots;
    this.faulty = new Set(master.faulty_shots);
    if (!this.tiles.length) return;
    if (same) this.changed(new Set(this.ids));
    else this.fill();
  }

  fill() {
    this.tiles = this.ids.map((id, index) => this.tile(id, index));
    this.root.replaceChildren(...this.tiles);
  }

  changed(ids) {
    this.ids.forEach((id, index) => {
      if (!this.tiles.length || !ids.has(id)) return;
      const tile = this.tile(id, index);
      if (tile.isEqualNode(this.tiles[index])) return;
      this.tiles[index].replaceWith(tile);
      this.tiles[index] = tile;
    });
  }

  tile(id, index) {
    const asset = this.shots.get(id);
    const name = nameOf(asset, id);
    const reason = this.faulty.has(id) ? t("shot.faulty") : asset === undefined ? null : reasonOf(asset);
    const waits = reason && asset?.waits && !this.faulty.has(id);
    const tile = el(
      "li.strip-shot",
      { title: [name, reason].filter(Boolean).join(": "), "data-state": reason ? (waits ? "waits" : "fault") : null },
      picture(asset),
      el("span.strip-name", {}, el("b", {}, String(index + 1)), " ", el("span", { dir: "auto" }, name)),
      reason && el("span.hidden-text", {}, reason),
    );
    if (reason) tile.firstChild.append(el("span.mark", {}, icon(waits ? "clock" : "alert")));
    return tile;
  }
}

/** The shots that a film waits for, a line each; their number is known before their reasons. */
export class AwaitedShots {
  constructor(shots) {
    this.shots = shots;
    this.root = el("ul.awaited");
  }

  update(master, most) {
    set(this.root, { "aria-label": t("masters.awaited", { name: master.name }) });
    this.ids = [...master.waits_for];
    this.rest = this.ids.splice(most).length;
    this.show();
  }

  show() {
    this.root.hidden = !this.ids.length;
    const lines = this.ids.map((id) => {
      const asset = this.shots.get(id);
      const reason = (asset !== undefined && reasonOf(asset)) || t("masters.waits_short");
      return el("li", { title: asset?.problem ?? asset?.waits ?? null }, el("strong", { dir: "auto" }, nameOf(asset, id)), " ", reason);
    });
    if (this.rest) lines.push(el("li", {}, t("masters.more_shots", { count: this.rest })));
    if (lines.length !== this.root.children.length || lines.some((line, place) => !line.isEqualNode(this.root.children[place]))) {
      this.root.replaceChildren(...lines);
    }
  }
}
