// The formats of films: renditions, all of a film or a part of it at another size.

import { ask, askByIds, hasFailed, path } from "./api.js";
import { confirm, dialog, toast } from "./dialogs.js";
import { byId, el, icon, say, set } from "./dom.js";
import { movingInTurn } from "./flip.js";
import { gather } from "./live.js";
import { holdText, progressText } from "./progress.js";
import { classText, duration, size, t } from "./texts.js";

const GATHER_MS = 300;
// Lines for which a card keeps room; more are scrolled to.
const MOST_LINES = 3;
const SIZES = [
  [1920, 1080],
  [1280, 720],
  [854, 480],
  [1080, 1920],
  [720, 1280],
  [1080, 1080],
];

const frame = ({ width, height }) => `${width} × ${height}`;
const part = ({ start_seconds: start, end_seconds: end }) =>
  start === null && end === null ? "" : `${duration(start ?? 0)}–${end === null ? "" : duration(end)}`;

/** Of all films of the page; those of a film are asked for when its card is seen. */
export class Formats {
  /** `listOf(masterId)`: the list in its card, if it has one. */
  constructor(listOf, tried) {
    this.listOf = listOf;
    this.tried = tried;
    this.changed = gather(GATHER_MS, (ids) => tried(() => this.load([...ids])));
    this.show(null);
  }

  show(project) {
    this.project = project;
    this.masters = new Map(); // of formats that are shown, by id
  }

  base(...parts) {
    return path("projects", this.project, "scaled-videos", ...parts);
  }

  async load(masterIds) {
    const { project } = this;
    const formats = await askByIds(this.base(), "scaled_videos", masterIds, "master_ids");
    if (project !== this.project) return;
    formats.forEach((format) => this.masters.set(format.scaled_id, format.master_id));
    const lists = masterIds.map((id) => [this.listOf(id), formats.filter((one) => one.master_id === id)]).filter(([list]) => list);
    // A list that grows or shrinks moves what is below it.
    const show = () => lists.forEach(([list, own]) => list.show(own));
    movingInTurn(byId("masters"), () => project === this.project && show(), lists.map(([list]) => list.add));
  }

  /** An event tells of a format without its film. */
  onStatus(id, seen) {
    const master = this.masters.get(id);
    (master ? [master] : seen).forEach(this.changed);
  }

  onProgress(event) {
    this.listOf(this.masters.get(event.id))?.progress(event);
  }

  retry(format) {
    return this.act("POST", format, "retry");
  }

  async remove(format, name) {
    const question = t("formats.delete_question", { format: frame(format), name });
    if (await confirm(question, t("formats.delete_warning"), t("masters.delete"))) await this.act("DELETE", format);
  }

  act(method, format, ...rest) {
    return this.tried(async () => {
      await ask(method, this.base(format.scaled_id, ...rest));
      this.changed(format.master_id);
    });
  }

  /** Ask in a dialog which format is wanted, and order it. */
  order(master) {
    const choice = el("select", { name: "size" }, ...SIZES.map((edges) => el("option", { value: edges.join() }, edges.join(" × "))));
    const seconds = (name, key, placeholder) =>
      el("label", {}, el("span", {}, t(key)), el("input", { name, placeholder, type: "number", min: "0", step: "any", inputmode: "decimal" }));
    const error = el("p.field-error", { role: "alert" });
    const form = el(
      "form.dialog-form",
      { novalidate: true },
      el("label", {}, el("span", {}, t("formats.size")), choice),
      el("div.pair", {}, seconds("start", "formats.start", 0), seconds("end", "formats.end", master.duration_seconds)),
      error,
      el("div.buttons", {}, el("button.primary", { type: "submit" }, t("formats.create"))),
    );
    const shown = dialog("ask", t("formats.add_to", { name: master.name }), form);
    form.addEventListener("input", () => say(error, ""));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const [width, height] = choice.value.split(",").map(Number);
      const { start, end } = form.elements;
      // Such a field seems empty to scripts.
      if ([start, end].some((field) => field.validity.badInput)) {
        say(error, t("formats.wrong_number"));
        return;
      }
      const at = (field) => (field.value === "" ? null : field.valueAsNumber);
      const body = { master_id: master.master_id, width, height, start_seconds: at(start), end_seconds: at(end) };
      if (body.end_seconds !== null && body.end_seconds <= (body.start_seconds ?? 0)) {
        say(error, t("formats.wrong_end"));
        return;
      }
      try {
        await ask("POST", this.base(), { body });
        shown.close();
        this.changed(master.master_id);
      } catch (problem) {
        say(error, problem.message);
      }
    });
  }
}

/** The formats of one film. */
export class FormatList {
  constructor({ watch, formats }) {
    this.watch = watch;
    this.formats = formats;
    this.rows = new Map(); // by id
    this.list = el("ul.formats", { hidden: true });
    this.add = el("button.add-format", { type: "button", onclick: () => formats.order(this.master) }, icon("plus"), t("formats.add"));
  }

  /** Room for as many as there are, before they are there. */
  update(master) {
    this.master = master;
    set(this.list, { "aria-label": t("formats.of", { name: master.name }) });
    set(this.add, { "aria-label": t("formats.add_to", { name: master.name }) });
    this.list.style.setProperty("--lines", String(Math.min(MOST_LINES, master.renditions)));
    this.list.hidden = !master.renditions && !this.rows.size;
  }

  show(formats) {
    const before = this.rows;
    this.rows = new Map(formats.map((format) => [format.scaled_id, before.get(format.scaled_id) ?? new FormatRow(this)]));
    for (const format of formats) {
      const row = this.rows.get(format.scaled_id);
      if (row.format && row.format.status !== format.status && format.status === "ready") {
        toast("done", t("formats.done", { format: frame(format), name: this.master.name }));
      }
      row.update(format);
    }
    this.list.style.setProperty("--lines", String(Math.min(MOST_LINES, formats.length)));
    this.list.hidden = !formats.length;
    const roots = [...this.rows.values()].map((row) => row.root);
    // A row that is put in again loses the focus, and the list its place.
    const isSame = roots.length === this.list.children.length && roots.every((root, place) => root === this.list.children[place]);
    if (!isSame) this.list.replaceChildren(...roots);
  }

  progress(event) {
    this.rows.get(event.id)?.progress(event);
  }
}

class FormatRow {
  constructor(list) {
    this.list = list;
    const button = (name, act) => el("button.icon-button", { type: "button", onclick: () => act(this.format) }, icon(name));
    this.label = el("span.format-size");
    this.state = el("span.format-state");
    this.play = button("play", (format) => list.watch({ ...format, name: `${list.master.name} · ${frame(format)}`, poster_url: list.master.poster_url }));
    this.save = el("a.icon-button", {}, icon("download"));
    this.again = button("retry", (format) => list.formats.retry(format));
    this.remove = button("trash", (format) => list.formats.remove(format, list.master.name));
    this.root = el("li.format", {}, this.label, this.state, this.play, this.save, this.again, this.remove);
  }

  update(format) {
    this.format = format;
    set(this.root, { "data-id": format.scaled_id, "data-status": format.status });
    say(this.label, [frame(format), part(format)].filter(Boolean).join(" · "));
    const name = `${this.list.master.name}, ${this.label.textContent}`;
    const named = (element, key) => set(element, { "aria-label": t(key, { name }), title: t(key, { name }) });
    named(this.play, "masters.watch_named");
    named(this.save, "masters.download_named");
    named(this.again, "masters.retry_named");
    named(this.remove, "masters.delete_named");
    set(this.save, { href: format.video_url, download: `${this.list.master.name} ${format.width}x${format.height}.mp4` });
    this.play.hidden = this.save.hidden = !format.video_url;
    this.again.hidden = !hasFailed(format);
    this.tell();
  }

  progress({ percent, stage, seconds_left }) {
    if (this.format.status !== "processing") return;
    this.format = { ...this.format, percent, stage, seconds_left, held_by: null };
    this.tell();
  }

  tell() {
    const { format } = this;
    const failed = hasFailed(format);
    let words = [t("state.ready"), format.duration_seconds && duration(format.duration_seconds), format.bytes && size(format.bytes)];
    if (failed) words = [classText(format.error_class) ?? format.error];
    else if (format.held_by === "input") words = [t("formats.waits")];
    else if (format.status === "none" || format.held_by) words = [holdText(format)];
    else if (format.status === "processing") words = [progressText(format)];
    say(this.state, words.filter(Boolean).join(" · "));
    set(this.state, { title: failed ? format.error : null });
  }
}
