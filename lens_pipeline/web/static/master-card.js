// One master in the list.

import { dagster, hasFailed } from "./api.js";
import { el, icon, say, set } from "./dom.js";
import { FormatList } from "./formats.js";
import { holdText, progressText } from "./progress.js";
import { AwaitedShots, FilmStrip, nameOf } from "./shots.js";
import { adviceText, agoElement, classText, duration, inFull, setAgo, size, t } from "./texts.js";

const MOST_NAMED = 3;
// Shots that have a line of their own.
const MOST_AWAITED = 4;

/** Why it failed; which shot is at fault, only the server's own words say. */
export const reasonTitle = (master) => classText(master.error_class) ?? master.error ?? "";

/** When something last happened to it. */
const touched = (master) =>
  [master.updated_at, master.ready_at, master.created_at].filter(Boolean).reduce((a, b) => (new Date(a) > new Date(b) ? a : b), "");

const facts = (master) =>
  [
    t("masters.shots", { count: master.shots.length }),
    master.duration_seconds !== null && duration(master.duration_seconds),
    master.width && `${master.width} × ${master.height}`,
    master.bytes && size(master.bytes),
    master.method && t(`method.${master.method}`),
  ]
    .filter(Boolean)
    .join(" · ");

export class MasterCard {
  constructor(master, { watch, retry, rename, remove, shots, formats }) {
    const button = (name, key, act) =>
      el("button.primary", { type: "button", onclick: () => act(this.master) }, icon(name), t(key));
    const quiet = (name, key, act) =>
      el("button.icon-button", { type: "button", title: t(key), onclick: () => act(this.master) }, icon(name));
    this.shots = shots;
    this.poster = el("button.poster", { type: "button", onclick: () => watch(this.master) });
    this.badge = el("span.badge", { "aria-hidden": "true" }, icon("play"));
    this.name = el("h3");
    this.rename = quiet("pencil", "masters.rename", rename);
    this.pill = el("p.status");
    this.facts = el("p.muted");
    this.bar = el("progress", { max: 100 });
    this.detail = el("p.detail");
    this.time = agoElement(null, "masters.updated");
    this.watch = button("play", "masters.watch", watch);
    this.download = el("a.button", {}, icon("download"), t("masters.download"));
    this.retry = button("retry", "action.retry", retry);
    this.remove = quiet("trash", "masters.delete", remove);
    this.link = el("a.icon-button", { target: "_blank", rel: "noopener" }, icon("external"));
    this.strip = new FilmStrip(shots);
    this.awaited = new AwaitedShots(shots);
    this.formats = new FormatList(formats);
    this.root = el(
      "li.master",
      {},
      el("div.frame", {}, this.poster, this.badge),
      el(
        "div.master-body",
        {},
        el("div.master-head", {}, this.name, this.rename, this.pill),
        el("p.muted", {}, this.time),
        // They grow to two lines, and push nothing that stays.
        this.facts,
        this.bar,
        this.detail,
      ),
      el("div.master-shots", {}, this.strip.root, this.awaited.root),
      el("div.buttons", {}, this.watch, this.download, this.retry),
      // What is always there, in a place of its own.
      el("div.tools", {}, this.formats.button, this.remove, this.link),
      this.formats.line,
    );
    this.update(master);
  }

  /** Somebody may see it: what costs a request is asked for now. */
  seen() {
    if (this.isSeen) return;
    this.isSeen = true;
    this.strip.fill();
    this.awaited.show();
    this.show();
    if (this.master.renditions) this.formats.formats.changed(this.master.master_id);
  }

  shotsChanged(ids) {
    if (!this.isSeen) return;
    this.strip.changed(ids);
    this.awaited.show();
    this.show();
    if (this.master.waits_for.some((id) => ids.has(id))) this.explain();
  }

  update(master) {
    this.master = master;
    const { name, status } = master;
    const ready = status === "ready";
    const failed = hasFailed(master);
    set(this.root, { "data-id": master.master_id });
    say(this.name, name);
    set(this.name, { title: name, dir: "auto" });
    // Whose run has not begun waits.
    const state = master.held_by ? "none" : status;
    if (this.state !== state || this.root.dataset.status !== status) {
      this.state = state;
      const mark = state === "processing" ? el("span.spinner") : icon(ready ? "check" : failed ? "alert" : "clock");
      const pill = el("p.status", { "data-state": state }, mark, t(`state.${state}`));
      this.pill.replaceWith(pill);
      this.pill = pill;
      // In another place than before, so that it is another one.
      const detail = el("p.detail");
      this.detail.replaceWith(detail);
      this.detail = detail;
    }
    set(this.root, { "data-status": status });
    say(this.facts, facts(master));
    this.show();
    this.poster.disabled = !ready;
    this.badge.hidden = !ready;
    this.watch.hidden = !ready;
    this.download.hidden = !ready;
    this.retry.hidden = !failed;
    set(this.download, { href: master.download_url, download: true });
    const named = { poster: "watch", watch: "watch", download: "download", retry: "retry", rename: "rename", remove: "delete" };
    for (const [part, key] of Object.entries(named)) set(this[part], { "aria-label": t(`masters.${key}_named`, { name }) });
    const href = dagster(master.dagster_path);
    set(this.link, { href, title: t("action.dagster"), "aria-label": t("masters.dagster_named", { name }) });
    this.link.hidden = href === null;
    setAgo(this.time, touched(master));
    this.bar.hidden = status !== "processing";
    this.bar.classList.toggle("unused", Boolean(master.held_by));
    set(this.bar, { "aria-label": name });
    this.strip.update(master);
    this.awaited.update(master, MOST_AWAITED);
    this.formats.update(master);
    this.explain();
  }

  /** How far its run is: as the list says it, or an event. */
  progress({ percent, stage, seconds_left }) {
    if (this.master.status !== "processing") return;
    const held = this.master.held_by;
    const master = { ...this.master, percent, stage, seconds_left, held_by: null, queue_place: null };
    if (held) {
      this.update(master);
    } else {
      this.master = master;
      this.explain();
    }
  }

  explain() {
    const { master } = this;
    const failed = hasFailed(master);
    let words = "";
    if (failed) words = this.failure();
    else if (master.status === "processing") words = master.held_by ? holdText(master) : progressText(master);
    else if (master.waits) words = this.waitText();
    else if (master.status === "none") words = holdText(master);
    // Without a value the bar says that it is not known how long it takes.
    if (master.status === "processing") set(this.bar, { value: master.percent });
    say(this.detail, words);
    set(this.detail, { title: failed ? master.error : master.waits });
    this.detail.hidden = !words;
  }

  failure() {
    const { master } = this;
    const why = [...new Set([reasonTitle(master), master.error].filter(Boolean))].join(": ");
    const words = [why, adviceText(master.error_class)].filter(Boolean).join(". ");
    return master.retry_at ? `${words} · ${t("library.retry_at")}: ${inFull(master.retry_at)}` : words;
  }

  /** Which shots are still to come; the server's own words if it is something else. */
  waitText() {
    const { waits, waits_for: ids } = this.master;
    if (!ids.length) return t("masters.waits_for", { what: waits });
    const named = ids.slice(0, MOST_NAMED).map((id) => nameOf(this.isSeen ? this.shots.get(id) : null, id));
    if (ids.length > MOST_NAMED) named.push("…");
    return t("masters.waits_for_shots", { count: ids.length, shots: named.join(", ") });
  }

  /** Its poster, or that of its first shot until it has one. */
  show() {
    const { poster_url: own, shots } = this.master;
    const url = own ?? (this.isSeen ? this.shots.get(shots[0])?.poster_url : null);
    set(this.poster, { "data-own": own !== null });
    if (url === this.shown) return;
    this.shown = url;
    const image = url && el("img", { alt: "", decoding: "async", loading: "lazy", draggable: "false" });
    if (image) {
      image.addEventListener("load", () => image.classList.add("loaded"));
      image.src = url;
    }
    this.poster.replaceChildren(image || icon("film"));
  }
}
