// The viewer: one photo or video whole, at an address of its own (`?view=ID`).

import { ApiError, ask, hasFailed, path } from "./api.js";
import { stateIcon, stateText } from "./card.js";
import { dialog, toast } from "./dialogs.js";
import { el, icon, prefersStillness, set } from "./dom.js";
import { facts } from "./facts.js";
import { t } from "./texts.js";
import { placeholder } from "./thumbhash.js";
import { Zoom } from "./zoom.js";

const NAME = "view";
// Milliseconds after which the reader stays with an entry: an arrow that is held passes many.
const STAY_MS = 200;
const viewed = () => new URLSearchParams(location.search).get(NAME);

/** The page's address with that one open; null: with none. */
function addressOf(id, query = location.search) {
  const asked = new URLSearchParams(query);
  if (id === null) asked.delete(NAME);
  else asked.set(NAME, id);
  return location.pathname + (asked.size ? `?${asked}` : "");
}

/**
 * `loaded()` are the entries of the page in order, `more()` loads further ones if it `hasMore()`,
 * `retry(entry)` tries a failed one again, and `focus(id)` goes to its card if there is one.
 */
export class Viewer {
  constructor({ loaded, hasMore, more, retry, focus }) {
    Object.assign(this, { loaded, hasMore, more, retry, focus });
    this.element = null;
    this.entry = null;
  }

  /** Open it at a new place of the history, which Back leaves. */
  async open(entry) {
    // The one before may still be on its way out of the history.
    await this.left;
    history.pushState({ viewer: true }, "", addressOf(entry.id));
    this.show(entry);
  }

  /** Show what the address says. */
  async follow() {
    const id = viewed();
    if (id === (this.entry?.id ?? null)) return;
    if (id === null) return this.element.close();
    const entry = this.loaded().find((one) => one.id === id);
    if (entry) this.show(entry);
    else await this.find(id);
  }

  /** An event tells that it changed; the list tells only of its own entries. */
  async changed(id) {
    if (id === this.entry?.id) await this.find(id);
  }

  async find(id) {
    try {
      const found = await ask("GET", path("generations", id));
      if (viewed() === id) this.show(found, found);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      toast("failed", error.message);
      if (viewed() === id) history.replaceState(null, "", addressOf(null));
    }
  }

  /** An entry may have changed; does nothing if another one is shown. */
  update(entry) {
    if (entry.id === this.entry?.id && JSON.stringify(entry) !== JSON.stringify(this.entry)) this.show(entry);
  }

  /** Say whether there are others before and after it. */
  tell() {
    if (!this.element) return;
    const all = this.loaded();
    const place = all.findIndex((one) => one.id === this.entry.id);
    this.buttons[0].disabled = place <= 0;
    this.buttons[1].disabled = place < 0 || (place === all.length - 1 && !this.hasMore());
    if (document.activeElement.disabled) this.stage.focus();
  }

  // --- its parts

  build() {
    this.stage = el("div.lightbox-stage", { tabindex: "-1", autofocus: true, role: "group", "aria-labelledby": "dialog-title" });
    this.buttons = ["previous", "next"].map((way, place) =>
      el(`button.lightbox-step.${way}`, { type: "button", "aria-label": t(`action.${way}`), title: t(`action.${way}`) },
        icon(place ? "right" : "left")));
    this.buttons.forEach((button, place) => button.addEventListener("click", (event) => {
      this.go(place ? 1 : -1);
      // A click leaves the keys to what is shown, and not to the button.
      if (event.detail) this.stage.focus();
    }));
    this.media = el("div.lightbox-media");
    this.stage.append(this.media, ...this.buttons);
    this.panel = el("aside.lightbox-panel", { "aria-label": t("viewer.facts") });
    const button = (name, text, act) =>
      el("button.icon-button", { type: "button", "aria-label": text, title: text, onclick: act }, icon(name));
    this.download = el("a.icon-button", { download: true, "aria-label": t("viewer.download"), title: t("viewer.download"), target: "_blank" }, icon("download"));
    const head = [
      button("link", t("viewer.copy_link"), () => this.copyLink()),
      this.download,
      document.fullscreenEnabled ? button("expand", t("viewer.full_screen"), () => this.fullScreen()) : null,
    ];
    const body = el("div.lightbox-body", {}, this.stage, this.panel);
    this.element = dialog("lightbox", "", body, { onclose: () => this.closed(), head });
    this.heading = this.element.querySelector("h2");
    this.zoom = new Zoom(this.stage, { swipe: (step) => this.go(step) });
    // Of the page: a click beside the buttons leaves no part of the dialog with the focus.
    this.keys = new AbortController();
    addEventListener("keydown", (event) => this.key(event), { signal: this.keys.signal });
    this.title = document.title;
  }

  /** `detail`: all that the API tells of it, if it was asked for. */
  show(entry, detail = null) {
    const was = this.entry;
    this.entry = entry;
    if (!this.element) this.build();
    const isOther = was?.id !== entry.id;
    if (isOther) this.pixels = null;
    if (isOther || detail) this.detail = detail;
    const name = entry.title ?? `${t(`type.${entry.type}`)} · ${entry.user_id}`;
    this.heading.textContent = name;
    document.title = `${name} · ${this.title}`;
    set(this.download, { href: entry.file_url });
    this.download.hidden = entry.status !== "ready";
    this.tell();
    this.describe();
    clearTimeout(this.stay);
    this.stay = setTimeout(() => this.stayed(detail), isOther && was ? STAY_MS : 0);
    // A video that plays goes on when something about it changes.
    if (!isOther && was.status === entry.status && was.picture_url === entry.picture_url) return;
    this.release();
    this.media.replaceChildren(...this.content());
    this.preload();
  }

  content() {
    const { entry } = this;
    // Until the pipeline has looked at what the address leads to, no browser is sent there.
    if (entry.status !== "ready") {
      this.zoom.show(null);
      return [el("p.lightbox-note", { "data-failed": hasFailed(entry) }, stateIcon(entry), stateText(entry))];
    }
    return entry.type === "video" ? this.video() : this.photo();
  }

  video() {
    const { entry } = this;
    this.zoom.show(null);
    const video = el("video", {
      src: entry.playable_url ?? entry.file_url,
      poster: entry.picture_url,
      controls: true,
      playsinline: true,
      preload: "metadata",
      autoplay: !prefersStillness(),
      "aria-label": t("type.video"),
      tabindex: "0",
    });
    video.addEventListener("error", () => this.note("viewer.unplayable"));
    return [video];
  }

  /** The original, and meanwhile, or where the browser cannot show it, the preview. */
  photo() {
    const { entry } = this;
    const image = el("img", { src: entry.picture_url, alt: t("type.photo"), draggable: "false" });
    const hash = entry.thumbhash && placeholder(entry.thumbhash);
    // A transparent picture shows what is behind it, not its placeholder.
    if (hash) image.style.backgroundImage = `url("${hash}")`;
    image.addEventListener("load", () => (image.style.backgroundImage = ""));
    const { width, height } = entry.file?.width ? entry.file : entry;
    this.zoom.show(image, width, height);
    const original = (this.original = new Image());
    original.addEventListener("load", () => {
      if (this.original !== original) return;
      image.src = original.src;
      this.pixels = { width: original.naturalWidth, height: original.naturalHeight };
      this.zoom.measure(this.pixels.width, this.pixels.height);
      this.describe();
    });
    original.addEventListener("error", () => this.original === original && this.note("library.only_preview"));
    return [image];
  }

  /** What costs a request, or one of the few changes of address that browsers allow. */
  stayed(detail) {
    const { id, file_url: url } = this.entry;
    // With none in the address it is about to be closed.
    if (![id, null].includes(viewed())) history.replaceState(history.state, "", addressOf(id));
    if (this.original && !this.original.src) this.original.src = url;
    if (!detail) this.learn();
  }

  note(key) {
    this.media.append(el("p.lightbox-note.over", {}, icon("alert"), t(key)));
  }

  /** Videos hold a connection until they are told to let it go. */
  release() {
    const video = this.media.querySelector("video");
    if (video) {
      video.pause();
      video.removeAttribute("src");
      video.load();
    }
    const { original } = this;
    this.original = null;
    if (original) original.src = "";
  }

  /** The pictures of its neighbours alone: originals are large. */
  preload() {
    const all = this.loaded();
    const place = all.findIndex((one) => one.id === this.entry.id);
    const urls = place < 0 ? [] : [all[place - 1], all[place + 1]].map((one) => one?.picture_url).filter(Boolean);
    this.preloaded = urls.map((url) => Object.assign(new Image(), { src: url }));
  }

  describe() {
    const held = this.panel.contains(document.activeElement);
    const known = { ...this.detail, ...this.entry };
    // Of older originals they were not recorded.
    if (known.file && !known.file.width) known.file = { ...known.file, ...this.pixels };
    this.panel.replaceChildren(facts(known, this.retry));
    if (held) this.stage.focus();
  }

  /** What only the entry's own address tells. */
  async learn() {
    const { id } = this.entry;
    try {
      const detail = await ask("GET", path("generations", id));
      if (this.entry?.id !== id) return;
      this.detail = detail;
      this.describe();
    } catch (error) {
      // The page says itself that it has lost the server, or that the entry is gone.
      if (!(error instanceof ApiError)) throw error;
    }
  }

  // --- what people do

  /** Show the one that is so many places on; Infinity: the last. */
  async go(step) {
    const { id } = this.entry;
    const place = () => this.loaded().findIndex((one) => one.id === id);
    if (place() < 0) return;
    if (step === 1 && place() === this.loaded().length - 1) await this.more();
    const all = this.loaded();
    const next = all[Math.max(0, Math.min(all.length - 1, place() + step))];
    if (this.entry?.id !== id || !next || next.id === id) return;
    this.show(next);
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (this.act(event)) event.preventDefault();
  }

  /** Whether the key was one of the viewer's. */
  act({ key, code, target, repeat }) {
    const video = this.media.querySelector("video");
    if (key === " ") {
      // Other buttons do what they say.
      if (!video || (target.closest("button, a") && !this.buttons.includes(target))) return false;
      // What keeps it from playing, its own events tell.
      if (!repeat) video.paused ? video.play().catch(() => {}) : video.pause();
      return true;
    }
    // By the place of the key: it has another letter in other alphabets.
    if (code === "KeyF") this.fullScreen();
    // The arrows move within a video that has the focus.
    else if (target === video) return false;
    else if (this.zoom.key(key)) return true;
    else if (key === "ArrowLeft") this.go(-1);
    else if (key === "ArrowRight") this.go(1);
    else if (key === "Home") this.go(-Infinity);
    else if (key === "End") this.go(Infinity);
    else return false;
    return true;
  }

  fullScreen() {
    const change = document.fullscreenElement ? document.exitFullscreen() : this.stage.requestFullscreen?.();
    // The browser may refuse; it looks as before then.
    change?.catch(() => {});
  }

  async copyLink() {
    const isCopied = await copy(location.origin + addressOf(this.entry.id, ""), this.element);
    toast(isCopied ? "done" : "failed", t(isCopied ? "viewer.copied" : "viewer.not_copied"));
  }

  closed() {
    const { id } = this.entry;
    clearTimeout(this.stay);
    this.release();
    this.zoom.close();
    this.keys.abort();
    document.title = this.title;
    this.element = this.entry = this.preloaded = null;
    // The page goes on from what was seen last, and not from what was opened.
    if (viewed() === null) return this.focus(id);
    if (!history.state?.viewer) {
      // It was opened by its address: there is nothing to go back to.
      history.replaceState(null, "", addressOf(null));
      return this.focus(id);
    }
    this.left = new Promise((done) => addEventListener("popstate", done, { once: true })).then(() => this.focus(id));
    history.back();
  }
}

/** Whether it could be done. */
async function copy(text, within) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  // Pages without TLS have no clipboard.
  const field = el("textarea", {}, text);
  within.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  return isCopied;
}
