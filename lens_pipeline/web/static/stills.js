// Pictures of a film: single frames, and how one looks in another shape.

import { el, set } from "./dom.js";

// Of a still, in pixels.
const EDGE = 320;
// Behind a cut the first frame may still be of the shot before.
const LATER_SECONDS = 0.1;

/** Frames of one film, taken in turn by one player: a browser opens six connections at the most. */
export class Stills {
  constructor(url) {
    this.url = url;
    this.known = new Map(); // promises by second
    this.turn = Promise.resolve();
  }

  /** The address of the film's picture at that second; null: there is none. */
  at(second) {
    if (!this.url) return Promise.resolve(null);
    if (!this.known.has(second)) {
      this.turn = this.turn.then(() => this.take(second)).catch(() => null);
      this.known.set(second, this.turn);
    }
    return this.known.get(second);
  }

  async take(second) {
    this.video ??= await opened(this.url);
    const { video } = this;
    video.currentTime = Math.min(second + LATER_SECONDS, video.duration);
    await heard(video, "seeked");
    const scale = EDGE / Math.max(video.videoWidth, video.videoHeight);
    const canvas = el("canvas", { width: Math.round(video.videoWidth * scale), height: Math.round(video.videoHeight * scale) });
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/webp", 0.8);
  }

  end() {
    this.url = null;
    this.video?.removeAttribute("src");
    this.video?.load();
  }
}

async function opened(url) {
  const video = el("video", { preload: "auto", playsinline: true });
  video.muted = true;
  const isOpen = heard(video, "loadeddata");
  video.src = url;
  await isOpen;
  return video;
}

function heard(video, name) {
  return new Promise((resolve, reject) => {
    const once = { once: true };
    video.addEventListener(name, resolve, once);
    for (const end of ["error", "emptied"]) video.addEventListener(end, () => reject(new Error(end)), once);
  });
}

/** The part of a film's width and height that a crop to `shape` keeps: [left, top, width, height], 0 to 1. */
export function cropped(film, shape, [x, y]) {
  const [width, height] = [Math.min(1, shape / film), Math.min(1, film / shape)];
  const from = (at, edge) => Math.min(Math.max(at - edge / 2, 0), 1 - edge);
  return [from(x, width), from(y, height), width, height];
}

/** A film's picture in another shape (width over height), filled as renditions are. */
export class Fitted {
  constructor() {
    const image = (name) => el(`img.${name}`, { alt: "", decoding: "async", draggable: "false" });
    this.back = image("back");
    this.front = image("front");
    this.shape = el("span.fit-shape", {}, this.back, this.front);
    this.root = el("span.fit", {}, this.shape);
  }

  /** `film`: its own shape, which counts for a crop. */
  show({ url, shape, film, fill, focus }) {
    set(this.shape, { "data-fill": fill ?? "black", "data-wide": shape >= 1 });
    this.shape.style.aspectRatio = String(shape);
    for (const image of [this.back, this.front]) {
      image.hidden = !url || (image === this.back && fill !== "blur");
      if (url && image.getAttribute("src") !== url) image.src = url;
    }
    const [left, top, width, height] = cropped(film, shape, focus ?? [0.5, 0.5]);
    const at = (from, edge) => `${edge < 1 ? (100 * from) / (1 - edge) : 50}%`;
    this.front.style.objectPosition = `${at(left, width)} ${at(top, height)}`;
  }
}
