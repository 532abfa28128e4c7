// The formats of films: renditions, all of a film or a part of it in another shape, by orders.

import { ask, askByIds, path } from "./api.js";
import { confirm, dialog, toast } from "./dialogs.js";
import { byId, el, icon, say, set } from "./dom.js";
import { movingInTurn } from "./flip.js";
import { FormatForm } from "./format-form.js";
import { FormatGrid, countsText } from "./format-grid.js";
import { gather } from "./live.js";
import { Stills } from "./stills.js";
import { t } from "./texts.js";

const GATHER_MS = 300;

const isUnder = ({ status }) => status !== "ready" && status !== "dead";

/** Of all films of the page; those of a film are asked for when its card is seen. */
export class Formats {
  /** `listOf(masterId)`: what its card shows, if it has one. */
  constructor({ listOf, watch, tried }) {
    this.listOf = listOf;
    this.watch = watch;
    this.tried = tried;
    this.changed = gather(GATHER_MS, (ids) => tried(() => this.load([...ids])));
    this.stirred = gather(GATHER_MS, (ids) => tried(() => this.refresh([...ids])));
    this.show(null);
  }

  show(project) {
    this.project = project;
    this.known = new Map(); // by id
    this.opened?.element.close();
    this.opened = null;
  }

  base(...parts) {
    return path("projects", this.project, ...parts);
  }

  /** Newest first, as they are listed. */
  of(masterId) {
    return [...this.known.values()].filter((format) => format.master_id === masterId);
  }

  async load(masterIds) {
    const { project } = this;
    const formats = await askByIds(this.base("scaled-videos"), "scaled_videos", masterIds, "master_ids");
    if (project !== this.project) return;
    const were = new Map(masterIds.map((id) => [id, this.of(id)]));
    were.forEach((own) => own.forEach((format) => this.known.delete(format.scaled_id)));
    this.put(formats, were);
  }

  /** Ask again for some that are known. */
  async refresh(ids) {
    const { project } = this;
    const formats = await askByIds(this.base("scaled-videos"), "scaled_videos", ids);
    if (project !== this.project) return;
    const masters = new Set(ids.map((id) => this.known.get(id)?.master_id).filter(Boolean));
    const were = new Map([...masters].map((id) => [id, this.of(id)]));
    const found = new Set(formats.map((format) => format.scaled_id));
    ids.filter((id) => !found.has(id)).forEach((id) => this.known.delete(id));
    this.put(formats, were);
  }

  put(formats, were) {
    const { project } = this;
    formats.forEach((format) => this.known.set(format.scaled_id, format));
    const lists = [...were.keys()].map((id) => [this.listOf(id), this.of(id)]).filter(([list]) => list);
    // A line that appears moves what is below it.
    const show = () => lists.forEach(([list, own]) => list.show(own));
    movingInTurn(byId("masters"), () => project === this.project && show());
    for (const [id, before] of were) {
      this.tell(id, before);
      if (this.opened?.id === id) this.opened.show();
    }
  }

  /** A person is told of an order that has ended. */
  tell(masterId, before) {
    const now = this.of(masterId);
    const under = new Set(before.filter(isUnder).map((format) => format.order_id));
    now.filter(isUnder).forEach((format) => under.delete(format.order_id));
    for (const order of under) {
      const own = now.filter((format) => format.order_id === order);
      if (own.length) toast("done", t("formats.done", { name: this.listOf(masterId)?.master.name ?? "", counts: countsText(own) }));
    }
  }

  /** An event tells of a format without its film. */
  onStatus(id, seen) {
    if (this.known.has(id)) this.stirred(id);
    else seen.forEach(this.changed);
  }

  /** One event tells of a run, which makes many at once. */
  onProgress({ run_id: run, percent, stage, seconds_left }) {
    for (const [id, format] of this.known) {
      if (format.status !== "processing" || format.run_id !== run) continue;
      this.known.set(id, { ...format, percent, stage, seconds_left, held_by: null });
      if (this.opened?.id === format.master_id) this.opened.grid.update(this.known.get(id));
    }
  }

  // --- what people do

  retry(format) {
    return this.act("POST", format, "scaled-videos", format.scaled_id, "retry");
  }

  /** The failed ones of an order, in one run. */
  retryOrder([format]) {
    return this.act("POST", format, "scale-jobs", format.order_id, "retry");
  }

  /** `name`: of what is deleted. */
  remove(format, name) {
    return this.drop([format], name, "scaled-videos", format.scaled_id);
  }

  removeOrder(formats, name) {
    return this.drop(formats, name, "scale-jobs", formats[0].order_id);
  }

  async drop(formats, name, ...place) {
    const question = t("formats.delete_question", { name });
    const isSure = await confirm(question, t("formats.delete_warning", { count: formats.length }), t("masters.delete"));
    if (isSure) await this.act("DELETE", formats[0], ...place);
  }

  act(method, { master_id: master }, ...place) {
    return this.tried(async () => {
      await ask(method, this.base(...place));
      this.changed(master);
    });
  }

  archive(orderId) {
    return `${this.base("archive")}?${new URLSearchParams({ order_ids: orderId })}`;
  }

  /** Show a film's formats in a dialog, where more are ordered. */
  open(list) {
    const { master_id: id, video_url: url, name } = list.master;
    const film = () => list.master;
    const stills = new Stills(url);
    const grid = new FormatGrid({ formats: this, film, stills });
    const form = new FormatForm(film, async (body) => {
      const { scaled_videos: made } = await ask("POST", this.base("master-videos", id, "renditions"), { body });
      await this.load([id]);
      grid.reveal(made[0]?.order_id);
    });
    const end = () => {
      this.opened = null;
      stills.end();
    };
    const element = dialog("formats", t("formats.of", { name }), el("div.formats-body", {}, form.root, grid.root), { onclose: end });
    this.opened = { id, element, grid, show: () => grid.show(this.of(id)), film: () => form.update() };
    this.opened.show();
    this.changed(id);
  }
}

/** What the card of one film says of its formats. */
export class FormatList {
  constructor(formats) {
    this.formats = formats;
    this.own = [];
    this.line = el("p.formats-line", { hidden: true });
    this.button = el("button.add-format", { type: "button", onclick: () => formats.open(this) }, icon("crop"), t("formats.open"));
  }

  /** Room for the line before they are there. */
  update(master) {
    this.master = master;
    set(this.button, { "aria-label": t("formats.open_named", { name: master.name }) });
    if (this.formats.opened?.id === master.master_id) this.formats.opened.film();
    this.tell(this.own.length || master.renditions);
  }

  show(formats) {
    this.own = formats;
    this.tell(formats.length);
  }

  tell(count) {
    this.line.hidden = !count;
    const words = [t("formats.videos", { count }), this.own.length && countsText(this.own)];
    say(this.line, words.filter(Boolean).join(" · "));
  }
}
