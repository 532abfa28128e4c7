// One picture of the library's grid.

import { dagster, hasFailed } from "./api.js";
import { HoverClip } from "./clip.js";
import { el, icon, say, set } from "./dom.js";
import { adviceText, agoElement, classText, duration, setAgo, t } from "./texts.js";
import { placeholder } from "./thumbhash.js";

const PLACEHOLDER_MS = 40;

// What sites write where nothing more is to come.
const GIVEN_UP = new Set(["fail", "failed", "failure", "error", "cancelled", "canceled"]);

const isUnfinished = (entry) => entry.status === "none" && entry.file_url === null;
const wasGivenUp = (entry) => isUnfinished(entry) && GIVEN_UP.has(entry.generation_status.toLowerCase());

/** Whether its file is still to come. */
export const isAwaited = (entry) => isUnfinished(entry) && !wasGivenUp(entry);

/** What the state is called: one that waits for its generation is not ours to hurry. */
export function stateText(entry) {
  if (wasGivenUp(entry)) return t("state.not_generated");
  return t(isUnfinished(entry) ? "state.generating" : `state.${entry.status}`);
}

/** The icon for what has no picture. */
export const stateIcon = (entry) => icon(hasFailed(entry) || wasGivenUp(entry) ? "alert" : "clock");

/** Why it failed, in the reader's language if we have words for it. */
export const reasonTitle = (entry) => classText(entry.error_class) ?? entry.error ?? entry.error_class ?? "";

/** A card that `update` keeps true; its parts stay, so that focus and pictures do. */
export class Card {
  constructor(entry, { open, retry, onlyUser }) {
    this.picture = null;
    this.shown = null;
    this.broken = null; // address of a picture that could not be loaded
    this.isReached = false;
    this.width = 240;
    this.opener = el("button.opener", { type: "button", onclick: () => open(this.entry) });
    this.tryAgain = () => retry(this.entry);
    this.state = el("div.state");
    this.length = el("span");
    this.badge = el("span.badge", { "aria-hidden": "true" }, icon("play"), this.length);
    this.name = el("span.card-title", { dir: "auto", "aria-hidden": "true" });
    this.frame = el("div.frame", {}, this.opener, this.name, this.badge, this.state);
    this.clip = new HoverClip(this.opener, () => this.entry.clip_url);
    this.user = el("button.user", { type: "button", onclick: () => onlyUser(this.entry.user_id) });
    this.time = agoElement(entry.updated_at);
    this.link = el("a.icon-button", { target: "_blank", rel: "noopener" }, icon("external"));
    this.root = el("li.card", {}, this.frame, el("div.caption", {}, this.user, this.link, this.time));
    this.update(entry);
  }

  update(entry) {
    this.entry = entry;
    const state = stateText(entry);
    set(this.root, { "data-id": entry.id, "data-status": entry.status });
    const type = t(`type.${entry.type}`);
    const length = entry.duration ? duration(entry.duration) : "";
    const label = t("library.open", { type, user: entry.user_id, state });
    set(this.opener, { "aria-label": [entry.title, label, length].filter(Boolean).join(", ") });
    say(this.name, entry.title ?? "");
    say(this.length, length);
    this.tell(state, hasFailed(entry) ? reasonTitle(entry) : "");
    this.badge.hidden = entry.type !== "video" || entry.status !== "ready";
    say(this.user, entry.user_id);
    set(this.user, { title: t("filter.only_user", { user: entry.user_id }) });
    set(this.user, { "aria-label": t("filter.only_user", { user: entry.user_id }) });
    setAgo(this.time, entry.updated_at);
    const href = dagster(entry.dagster_path);
    set(this.link, { href, title: t("action.dagster"), "aria-label": `${t("action.dagster")}: ${entry.id}` });
    this.link.hidden = href === null;
    this.show(entry.picture_url);
    this.reach(this.isReached);
  }

  /** The box of its picture in the grid, in pixels; the caption is below. */
  place({ left, top, width, height }) {
    const { style } = this.root;
    style.transform = `translate(${left}px, ${top}px)`;
    style.setProperty("--w", `${width}px`);
    style.setProperty("--h", `${height}px`);
    this.width = width;
    if (this.picture?.srcset) this.picture.sizes = `${width}px`;
  }

  /** Whether Tab leads to its controls: to those of one card of the grid. */
  reach(isReached) {
    this.isReached = isReached;
    for (const control of this.root.querySelectorAll("a, button, input")) control.tabIndex = isReached ? 0 : -1;
  }

  focus() {
    this.opener.focus({ preventScroll: true });
  }

  /** It leaves the page, and loads nothing more. */
  close() {
    this.clip.stop();
    for (const source of ["srcset", "src"]) this.picture?.removeAttribute(source);
    this.show(null);
  }

  /** Say how it stands in place of its picture, by new elements: the old ones would jump. */
  tell(state, reason) {
    const { status, error, error_class, picture_url: url } = this.entry;
    const isGone = status === "ready" && url !== null && url === this.broken;
    const said = isGone ? url : status === "ready" ? "" : `${state}\n${reason}\n${error}`;
    if (this.said === said) return;
    this.said = said;
    const failed = hasFailed(this.entry);
    const mark = el("span.mark", {}, status === "processing" ? el("span.spinner") : stateIcon(this.entry));
    const words = isGone ? [el("span.mark", {}, icon("alert")), el("span", {}, t("library.picture_gone"))] : [
      el("div.standing", {}, mark, el("span", {}, state)),
      failed && el("p.reason", {}, reason),
      failed && error && error !== reason && el("p.own-words", { title: error }, error),
      failed && error_class && el("p.advice", {}, adviceText(error_class)),
      failed && el("button.retry", { type: "button", onclick: this.tryAgain }, icon("retry"), t("action.retry")),
    ];
    this.state.replaceChildren(...(said ? words.filter(Boolean) : []));
    this.state.hidden = !said;
  }

  /** The button that was pressed goes away; who pressed it goes on from the card. */
  retried() {
    if (this.state.contains(document.activeElement)) this.opener.focus();
  }

  show(url) {
    if (url === this.shown) return;
    this.shown = url;
    this.broken = null;
    this.picture?.remove();
    this.picture = null;
    clearTimeout(this.waiting);
    this.frame.style.backgroundImage = "";
    if (!url) return;
    const { width, height, thumbhash } = this.entry;
    // Not for what only flies by, or has its picture at once.
    this.waiting = setTimeout(() => {
      const hash = thumbhash && placeholder(thumbhash);
      if (hash) this.frame.style.backgroundImage = `url("${hash}")`;
    }, PLACEHOLDER_MS);
    const picture = el("img", { alt: "", decoding: "async", width, height, draggable: "false" });
    picture.addEventListener("load", () => {
      if (picture !== this.picture) return;
      picture.classList.add("loaded");
      // A transparent picture shows the page behind it, not its placeholder.
      clearTimeout(this.waiting);
      this.frame.style.backgroundImage = "";
    });
    picture.addEventListener("error", () => {
      if (picture !== this.picture) return;
      this.broken = url;
      this.update(this.entry);
    });
    const sizes = this.entry.sizes?.map((size) => `${size.url} ${size.width}w`);
    if (sizes?.length) {
      picture.srcset = [...sizes, `${url} ${width}w`].join(", ");
      picture.sizes = `${this.width}px`;
    }
    picture.src = url;
    this.picture = picture;
    this.opener.append(picture);
  }
}
