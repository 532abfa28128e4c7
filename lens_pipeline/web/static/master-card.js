// One master in the list.

import { dagster } from "./api.js";
import { el, icon, say, set } from "./dom.js";
import { agoElement, classText, duration, percent, setAgo, size, t } from "./texts.js";

const MOST_NAMED = 3;

/** Why it failed; which shot is at fault, only the server's own words say. */
export const reasonTitle = (master) => classText(master.error_class) ?? master.error ?? "";

/** Which shots are still to come; the server's own words if it is something else. */
function waitText({ waits, waits_for: shots }) {
  if (!shots.length) return t("masters.waits_for", { what: waits });
  const named = [...shots.slice(0, MOST_NAMED), ...(shots.length > MOST_NAMED ? ["…"] : [])];
  return t("masters.waits_for_shots", { count: shots.length, shots: named.join(", ") });
}

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
  constructor(master, { watch, retry, remove }) {
    const button = (name, key, act) =>
      el("button.primary", { type: "button", onclick: () => act(this.master) }, icon(name), t(key));
    this.poster = el("button.poster", { type: "button", onclick: () => watch(this.master) });
    this.badge = el("span.badge", { "aria-hidden": "true" }, icon("play"));
    this.name = el("h3");
    this.pill = el("p.status");
    this.facts = el("p.muted");
    this.bar = el("progress", { max: 100 });
    this.detail = el("p.detail");
    this.time = agoElement(null, "masters.updated");
    this.watch = button("play", "masters.watch", watch);
    this.download = el("a.button", {}, icon("download"), t("masters.download"));
    this.retry = button("retry", "action.retry", retry);
    this.remove = el("button.icon-button", { type: "button", title: t("masters.delete"), onclick: () => remove(this.master) }, icon("trash"));
    this.link = el("a.icon-button", { target: "_blank", rel: "noopener" }, icon("external"));
    this.root = el(
      "li.master",
      {},
      el("div.frame", {}, this.poster, this.badge),
      el(
        "div.master-body",
        {},
        el("div.master-head", {}, this.name, this.pill),
        el("p.muted", {}, this.time),
        // They grow to two lines, and push nothing that stays.
        this.facts,
        this.bar,
        this.detail,
      ),
      el("div.buttons", {}, this.watch, this.download, this.retry, this.remove, this.link),
    );
    this.update(master);
  }

  update(master) {
    this.master = master;
    const { name, status } = master;
    const failed = status === "failed" || status === "dead";
    const ready = status === "ready";
    set(this.root, { "data-id": master.master_id });
    say(this.name, name);
    set(this.name, { title: name, dir: "auto" });
    if (this.root.dataset.status !== status) {
      const mark = status === "processing" ? el("span.spinner") : icon(ready ? "check" : failed ? "alert" : "clock");
      const pill = el("p.status", {}, mark, t(`state.${status}`));
      this.pill.replaceWith(pill);
      this.pill = pill;
      // In another place than before, so that it is another one.
      const detail = el("p.detail");
      this.detail.replaceWith(detail);
      this.detail = detail;
    }
    set(this.root, { "data-status": status });
    say(this.facts, facts(master));
    this.show(master.poster_url);
    this.poster.disabled = !ready;
    this.badge.hidden = !ready;
    this.watch.hidden = !ready;
    this.download.hidden = !ready;
    this.retry.hidden = !failed;
    set(this.download, { href: master.download_url, download: true });
    set(this.poster, { "aria-label": t("masters.watch_named", { name }) });
    set(this.watch, { "aria-label": t("masters.watch_named", { name }) });
    set(this.download, { "aria-label": t("masters.download_named", { name }) });
    set(this.retry, { "aria-label": t("masters.retry_named", { name }) });
    set(this.remove, { "aria-label": t("masters.delete_named", { name }) });
    const href = dagster(master.dagster_path);
    set(this.link, { href, title: t("action.dagster"), "aria-label": t("masters.dagster_named", { name }) });
    this.link.hidden = href === null;
    setAgo(this.time, touched(master));
    this.bar.hidden = status !== "processing";
    set(this.bar, { "aria-label": name });
    if (status === "processing") this.progress(master.percent, master.progress);
    else this.explain(failed, master);
  }

  /** How far its run is. */
  progress(done, text) {
    if (this.master.status !== "processing") return;
    const known = done !== null && done !== undefined;
    // Without a value the bar says that it is not known how long it takes.
    set(this.bar, { value: known ? done : null });
    // The server's words begin with the same number.
    const stage = (text ?? "").replace(/^\d+ %:?\s*/, "");
    const words = [known && t("masters.progress", { percent: percent(done) }), stage];
    say(this.detail, words.filter(Boolean).join(" · "));
    this.detail.hidden = false;
  }

  explain(failed, master) {
    const why = [reasonTitle(master), master.error].filter(Boolean);
    let words = "";
    if (failed) words = [...new Set(why)].join(": ");
    else if (master.waits) words = waitText(master);
    say(this.detail, words);
    set(this.detail, { title: failed ? master.error : master.waits });
    this.detail.hidden = !words;
  }

  show(url) {
    if (url === this.shown) return;
    this.shown = url;
    const picture = url && el("img", { alt: "", decoding: "async", draggable: "false" });
    if (picture) {
      picture.addEventListener("load", () => picture.classList.add("loaded"));
      picture.src = url;
    }
    this.poster.replaceChildren(picture || icon("film"));
  }
}
