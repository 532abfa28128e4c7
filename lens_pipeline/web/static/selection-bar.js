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
    this.retryAll = this.#button("retry", "selection.retry_all", () => this.#retry(selection.list()));
    this.dismiss = this.#button("close", "action.close", () => this.#dismiss(), "icon-button");
    this.box = null; // anew for each kind of content, so that nothing in it moves
    this.root = el("div.selection-bar", { hidden: true });
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
    const count = size ? 0 : this.#failures;
    const isOffered = count >= SEVERAL && count > this.#dismissed;
    const isHidden = !size && !isOffered;
    if (isHidden && this.hasFocus) this.selection.focus();
    this.root.hidden = isHidden;
    if (size) {
      say(this.count, t("selection.count", { count: size }));
      this.retry.hidden = !failed.length;
      this.download.disabled = !entries.some((entry) => entry.file_url);
      this.add.disabled = !entries.some(isVideo);
      this.#show("choice", this.clear, this.count, ...this.actions);
    } else if (isOffered) {
      say(this.count, t("selection.failed", { count }));
      this.#show("offer", this.count, this.retryAll, this.dismiss);
    }
  }

  get #failures() {
    return this.selection.list().filter(hasFailed).length;
  }

  get hasFocus() {
    return this.root.contains(document.activeElement);
  }

  /** The key Escape: undoes, else clears. */
  escape() {
    if (this.#undo) this.#undo();
    else if (!this.#isBusy && this.selection.size) this.selection.clear();
  }

  #dismiss() {
    this.#dismissed = this.#failures;
    this.tell();
  }

  /** Without a change to what is there already, which would lose the focus. */
  #show(kind, ...children) {
    if (this.box?.firstChild === children[0]) return;
    const hadFocus = this.hasFocus;
    this.box = el(`div.${kind}`, { role: "toolbar", "aria-label": t("selection.label"), tabindex: "-1" }, ...children);
    this.root.replaceChildren(this.box);
    if (hadFocus) (this.box.querySelector("button:not([hidden], :disabled)") ?? this.box).focus();
  }

  /** Do something to all of `entries`, and say how far it is; `act` returns what failed. */
  async #working(key, entries, act) {
    this.#isBusy = true;
    const bar = el("progress", { max: entries.length, value: 0, "aria-label": t(key) });
    const text = el("p", { role: "status" }, t(key));
    this.root.hidden = false;
    this.#show("work", text, bar);
    const failed = await act((done) => (bar.value = done));
    this.#isBusy = false;
    this.tell();
    return failed;
  }

  /** Tell what could not be done, one by one, as `[id, reason]`; last, so that the focus comes back from there. */
  #report(failed) {
    if (!failed.length) return;
    const rows = failed.map(([id, reason]) => el("li", {}, el("code", {}, id), " ", reason));
    const title = t("selection.not_done", { count: failed.length });
    const onclose = () => document.activeElement === document.body && this.selection.focus();
    dialog("report", title, el("ul.report-body", { tabindex: "0", "aria-label": title }, ...rows), { onclose });
  }

  async #retry(entries) {
    const wanted = entries.filter(hasFailed);
    let retried = 0;
    const refused = await this.#working("selection.retrying", wanted, async (progress) => {
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
    this.#report(refused);
  }

  /** By a form, whose answer a browser saves as it comes; a refusal leaves this page as it is. */
  #download() {
    const ids = this.selection.entries.map((entry) => entry.id).join(",");
    const form = el("form", { method: "post", action: ARCHIVE, target: "_blank", hidden: true }, el("input", { name: "ids", value: ids }));
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
    let made = {};
    const failed = await this.#working("selection.adding", videos, async (progress) => {
      made = await wanted.add(videos, progress);
      return made.failed;
    });
    const count = videos.length - failed.length;
    if (count) {
      const key = made.master ? "selection.film_made" : "selection.added";
      toast("done", t(key, { count, project: wanted.project, name: wanted.name }));
      this.selection.clear();
    }
    this.#report(made.problem ? [made.problem] : failed);
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
    this.#report(failed);
  }

  #countdown(count) {
    // A key that is still held down after "Delete" does not mean this.
    const onkeydown = (event) => event.repeat && event.preventDefault();
    const undo = el("button.primary", { type: "button", onkeydown }, t("selection.undo"));
    const left = el("span.left", { "aria-hidden": "true" });
    const stays = t("selection.added_stay");
    this.#show("countdown", el("p", {}, t("selection.to_delete", { count }), el("small", {}, stays)), left, undo);
    announce(`${t("selection.to_delete_soon", { count, seconds: UNDO_SECONDS })}. ${stays}`);
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
