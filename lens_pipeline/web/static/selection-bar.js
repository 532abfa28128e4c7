// The bar below the grid: how many are chosen, and what can be done with them.

import { ask, hasFailed, path } from "./api.js";
import { announce, dialog, toast } from "./dialogs.js";
import { byId, el, icon, say } from "./dom.js";
import { addToProject } from "./project-dialog.js";
import { t } from "./texts.js";

const ARCHIVE = "/api/generations/archive";
// In one request; the API takes 200.
const RETRIED_AT_ONCE = 100;
const UNDO_SECONDS = 10;
// Of one kind of failure: one is retried on its card.
const SEVERAL = 2;

export class SelectionBar {
  #isBusy = false;
  #undo = null; // ends the countdown
  #dismissed = 0; // failures that nobody wants to retry

  constructor(selection, changed) {
    this.selection = selection;
    this.changed = changed;
    const { user, deletion } = document.body.dataset;
    this.count = el("p.count");
    this.clear = this.#button("close", "selection.clear", () => selection.clear(), "icon-button");
    this.retry = this.#button("retry", "selection.retry", () => this.#retry(selection.entries));
    this.download = this.#button("download", "selection.download", () => this.#download());
    this.add = this.#button("film", "selection.add", () => this.#add());
    this.delete = this.#button("trash", "selection.delete", () => this.#delete(), "danger");
    // A token of a user covers no project.
    this.add.hidden = Boolean(user);
    this.delete.hidden = !deletion;
    this.actions = [this.retry, this.download, this.add, this.delete];
    this.root = el("div.selection-bar", { role: "toolbar", "aria-label": t("selection.label"), tabindex: "-1", hidden: true });
    byId("content").append(this.root);
  }

  #button(name, key, act, kind = "quiet") {
    const text = kind === "icon-button" ? null : el("span", {}, t(key));
    return el(`button.${kind}`, { type: "button", onclick: act, "aria-label": t(key), title: t(key) }, icon(name), text);
  }

  /** Show how it stands. */
  tell() {
    if (this.#isBusy) return;
    const { entries, size } = this.selection;
    const failed = entries.filter(hasFailed);
    const all = size ? [] : this.selection.list().filter(hasFailed);
    const isOffered = all.length >= SEVERAL && all.length > this.#dismissed;
    const isHidden = !size && !isOffered;
    if (isHidden && this.hasFocus) this.selection.focus();
    this.root.hidden = isHidden;
    this.root.classList.toggle("offer", isOffered);
    if (size) {
      say(this.count, t("selection.count", { count: size }));
      this.retry.hidden = !failed.length;
      this.download.disabled = !entries.some((entry) => entry.file_url);
      this.add.disabled = !entries.some(isVideo);
      this.#show(this.clear, this.count, ...this.actions);
    } else if (isOffered) {
      say(this.count, t("selection.failed", { count: all.length }));
      const retry = this.#button("retry", "selection.retry_all", () => this.#retry(all));
      const dismiss = this.#button("close", "action.close", () => this.#dismiss(all.length), "icon-button");
      if (this.root.firstChild !== this.count) this.#show(this.count, retry, dismiss);
    }
  }

  get hasFocus() {
    return this.root.contains(document.activeElement);
  }

  /** The key Escape: undoes, else clears. */
  escape() {
    if (this.#undo) this.#undo();
    else if (!this.#isBusy && this.selection.size) this.selection.clear();
  }

  #dismiss(count) {
    this.#dismissed = count;
    this.tell();
  }

  /** Without a change to what is there already, which would lose the focus. */
  #show(...children) {
    const shown = [...this.root.children];
    if (shown.length === children.length && shown.every((one, place) => one === children[place])) return;
    const hadFocus = this.hasFocus;
    this.root.replaceChildren(...children);
    if (hadFocus) (this.root.querySelector("button:not([hidden], :disabled)") ?? this.root).focus();
  }

  /** Do something to all of `entries`, and say how far it is; `act` returns what failed. */
  async #working(key, entries, act) {
    this.#isBusy = true;
    const bar = el("progress", { max: entries.length, value: 0, "aria-label": t(key) });
    const text = el("p", { role: "status" }, t(key));
    this.root.hidden = false;
    this.#show(text, bar);
    const failed = await act((done) => (bar.value = done));
    this.#isBusy = false;
    this.tell();
    if (failed.length) report(failed);
    return failed;
  }

  async #retry(entries) {
    const wanted = entries.filter(hasFailed);
    let retried = 0;
    await this.#working("selection.retrying", wanted, async (progress) => {
      const failed = [];
      for (let start = 0; start < wanted.length; start += RETRIED_AT_ONCE) {
        const some = wanted.slice(start, start + RETRIED_AT_ONCE);
        try {
          const ids = some.map((entry) => entry.id);
          const answer = await ask("POST", path("generations", "retry"), { body: { ids } });
          retried += answer.retried.length;
          for (const id of answer.not_failed) failed.push([id, t("problem.not_failed")]);
          for (const id of answer.not_found) failed.push([id, t("problem.not_found")]);
        } catch (error) {
          for (const { id } of some) failed.push([id, error.message]);
        }
        for (const { id } of some) this.changed(id);
        progress(start + some.length);
      }
      return failed;
    });
    if (retried) toast("done", t("selection.retried", { count: retried }));
    this.selection.clear();
  }

  /** By a form, whose answer a browser saves as it comes. */
  #download() {
    const ids = this.selection.entries.map((entry) => entry.id).join(",");
    const form = el("form", { method: "post", action: ARCHIVE, hidden: true }, el("input", { name: "ids", value: ids }));
    document.body.append(form);
    form.submit();
    form.remove();
    announce(t("selection.downloading"));
  }

  async #add() {
    const videos = this.selection.entries.filter(isVideo);
    const others = this.selection.size - videos.length;
    const wanted = await addToProject(videos.length, others);
    if (!wanted) return;
    let made = null;
    const failed = await this.#working("selection.adding", videos, async (progress) => {
      const { failed: some, master } = await wanted.add(videos, progress);
      made = master;
      return some;
    });
    if (failed.length === videos.length) return;
    const key = made ? "selection.film_made" : "selection.added";
    toast("done", t(key, { count: videos.length - failed.length, project: wanted.project, name: wanted.name }));
    this.selection.clear();
  }

  /** After a while in which it can be undone; a page that is closed meanwhile deletes nothing. */
  async #delete() {
    const { entries } = this.selection;
    this.#isBusy = true;
    this.selection.leave(entries.map((entry) => entry.id));
    const isMeant = await this.#countdown(entries.length);
    if (!isMeant) {
      this.#isBusy = false;
      this.selection.leave([]);
      this.tell();
      announce(t("selection.undone"));
      return;
    }
    const failed = await this.#working("selection.deleting", entries, async (progress) => {
      const kept = [];
      for (const [place, { id }] of entries.entries()) {
        try {
          await ask("DELETE", path("generations", id));
        } catch (error) {
          if (error.status !== 404) kept.push([id, error.message]);
        }
        this.changed(id);
        progress(place + 1);
      }
      return kept;
    });
    const count = entries.length - failed.length;
    if (count) toast("note", t("selection.deleted", { count }));
    this.selection.leave([]);
    this.selection.clear();
  }

  #countdown(count) {
    const undo = el("button.primary", { type: "button" }, t("selection.undo"));
    const left = el("span.left", { "aria-hidden": "true" });
    this.#show(el("p", {}, t("selection.to_delete", { count })), left, undo);
    announce(t("selection.to_delete_soon", { count, seconds: UNDO_SECONDS }));
    undo.focus();
    return new Promise((resolve) => {
      const until = performance.now() + UNDO_SECONDS * 1000;
      const end = (isMeant) => {
        clearInterval(timer);
        this.#undo = null;
        resolve(isMeant);
      };
      const tick = () => {
        const seconds = Math.ceil((until - performance.now()) / 1000);
        say(left, t("selection.seconds", { count: Math.max(0, seconds) }));
        if (seconds <= 0) end(true);
      };
      const timer = setInterval(tick, 250);
      this.#undo = () => end(false);
      undo.addEventListener("click", () => end(false));
      tick();
    });
  }
}

const isVideo = (entry) => entry.type === "video";

/** What could not be done, one by one, as `[id, reason]`. */
function report(failed) {
  const rows = failed.map(([id, reason]) => el("li", {}, el("code", {}, id), " ", reason));
  const title = t("selection.not_done", { count: failed.length });
  dialog("report", title, el("ul.report-body", { tabindex: "0", "aria-label": title }, ...rows));
}
