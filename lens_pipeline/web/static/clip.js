// The short clip that a video shows while it is pointed at or focused.

import { el, prefersStillness } from "./dom.js";

// Who only passes by loads nothing.
const DELAY_MS = 350;

export class HoverClip {
  #timer = null;
  #video = null;

  /** In `button`, over its picture; `url()`: where it is, null if there is none. */
  constructor(button, url) {
    this.button = button;
    this.url = url;
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && this.#plan());
    button.addEventListener("focus", () => button.matches(":focus-visible") && this.#plan());
    for (const event of ["pointerleave", "blur", "click"]) button.addEventListener(event, () => this.stop());
  }

  /** A video holds its connection until it has no address. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (!this.#video) return;
    this.#video.pause();
    this.#video.removeAttribute("src");
    this.#video.load();
    this.#video.remove();
    this.#video = null;
  }

  #plan() {
    if (prefersStillness() || !this.url() || this.#video) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#play(), DELAY_MS);
  }

  #play() {
    const video = el("video.clip", { src: this.url(), loop: true, playsinline: true, "aria-hidden": "true", tabindex: "-1" });
    video.muted = true;
    video.addEventListener("playing", () => video.classList.add("loaded"));
    video.addEventListener("error", () => this.#video === video && this.stop());
    this.#video = video;
    this.button.append(video);
    // It may be stopped before it has begun.
    video.play().catch(() => {});
  }
}
