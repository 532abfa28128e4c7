// Adds photos and videos of people: chosen, or dropped on the page.

import { ApiError } from "./api.js";
import { toast } from "./dialogs.js";
import { byId, el, icon, say } from "./dom.js";
import { problemText, size, t } from "./texts.js";

const AT_ONCE = 2;
const KINDS = ["image/", "video/"];
// Of files whose kind the system does not know, such as Matroska, the server looks at the content.
const ACCEPTED = "image/*,video/*,.heic,.avif,.mkv,.webm,.mov";

const { maxBytes } = document.body.dataset;

/** Whether this reader may add files. */
export const mayAdd = Boolean(maxBytes);

/** Let people choose files; a promise of them, none if they change their mind. */
export function chooseFiles(accept = ACCEPTED) {
  return new Promise((done) => {
    const input = el("input", { type: "file", multiple: true, accept, hidden: true });
    const end = () => {
      input.remove();
      done([...input.files]);
    };
    input.addEventListener("change", end);
    input.addEventListener("cancel", end);
    document.body.append(input);
    input.click();
  });
}

/** The uploads of a page, with their progress; `added(generation)` is told of each. */
export class Uploads {
  constructor({ user, added }) {
    this.user = user;
    this.added = added;
    this.waiting = []; // files, each with its user
    this.running = new Map(); // bytes sent, by file
    this.count = 0;
    this.done = 0;
    this.bytes = 0;
    this.sent = 0;
    this.head = el("h2", { "aria-live": "polite" });
    this.close = el("button.icon-button", { type: "button", "aria-label": t("action.close"), title: t("action.close"), onclick: () => this.root.remove() }, icon("close"));
    this.bar = el("progress", { "aria-label": t("upload.progress") });
    this.detail = el("p.muted");
    this.faults = el("ul.faults", { "aria-label": t("upload.failures") });
    this.root = el("section.uploads", { "aria-label": t("upload.label") }, el("div.uploads-head", {}, this.head, this.close), this.bar, this.detail, this.faults);
    addEventListener("beforeunload", (event) => this.running.size && event.preventDefault());
  }

  /** Send the files; the promise is kept when none is left. */
  add(files) {
    // Its filters may be others by the time that a file is sent.
    this.owner = this.user();
    if (!this.running.size && !this.waiting.length) {
      Object.assign(this, { count: 0, done: 0, bytes: 0, sent: 0 });
      this.faults.replaceChildren();
    }
    for (const file of files) {
      const problem = problemOf(file);
      if (problem) {
        this.fault(file, problem);
        continue;
      }
      this.count += 1;
      this.bytes += file.size;
      this.waiting.push([file, this.owner]);
    }
    // What is outside of a modal dialog can be neither used nor heard.
    (document.querySelector("dialog[open]") ?? document.body).append(this.root);
    const lanes = Array.from({ length: AT_ONCE - this.running.size }, () => this.work());
    this.tell();
    return Promise.all(lanes);
  }

  async work() {
    while (this.waiting.length) {
      const [file, user] = this.waiting.shift();
      this.running.set(file, 0);
      this.tell();
      try {
        const generation = await send(file, user, (bytes) => {
          this.running.set(file, bytes);
          this.tell();
        });
        this.done += 1;
        await this.added(generation);
      } catch (error) {
        this.fault(file, error.message);
      }
      this.running.delete(file);
      this.sent += file.size;
      this.tell();
    }
    if (!this.running.size) this.end();
  }

  fault(file, problem) {
    this.faults.append(el("li", {}, el("strong", { dir: "auto" }, file.name), " ", problem));
  }

  end() {
    if (this.faults.children.length) return;
    this.root.remove();
    if (this.done) toast("done", t("upload.done", { count: this.done }));
  }

  tell() {
    const busy = this.running.size > 0;
    const sent = [...this.running.values()].reduce((sum, bytes) => sum + bytes, this.sent);
    this.bar.hidden = !busy;
    this.bar.max = this.bytes || 1;
    this.bar.value = Math.min(sent, this.bytes);
    this.close.hidden = busy;
    const values = { count: this.count, user: this.owner };
    say(this.head, busy ? t("upload.adding", values) : t("upload.failed"));
    const bytes = t("upload.sent", { sent: size(sent), all: size(this.bytes) });
    say(this.detail, busy ? bytes : t("upload.done", { count: this.done }));
  }
}

function problemOf(file) {
  if (file.size > Number(maxBytes)) return t("upload.too_large", { most: size(Number(maxBytes)) });
  const isKnown = !file.type || KINDS.some((kind) => file.type.startsWith(kind));
  return isKnown ? null : t("problem.unsupported_file");
}

/** With XMLHttpRequest: `fetch` tells no progress of what it sends. Throws ApiError. */
function send(file, user, progress) {
  const url = `/api/generations?${new URLSearchParams({ name: file.name, user_id: user })}`;
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => progress(event.loaded));
    request.addEventListener("error", () => failed(new ApiError(0, "offline", t("error.offline"))));
    request.addEventListener("load", () => {
      const { status, response } = request;
      if (status === 201) done(response);
      else failed(new ApiError(status, response?.error ?? "unknown", problemText(response?.error) ?? response?.message ?? t("error.offline")));
    });
    request.send(file);
  });
}

/** Let people add files by the page's button and by dropping them; returns what the button does. */
export function offerUploads(told) {
  const uploads = new Uploads(told);
  const choose = async () => uploads.add(await chooseFiles());
  if (mayAdd) {
    byId("add-files").addEventListener("click", choose);
    takeDrops(uploads);
  }
  return choose;
}

function takeDrops(uploads) {
  const hint = byId("drop");
  let depth = 0;
  const leave = () => {
    depth = 0;
    hint.hidden = true;
  };
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth += 1;
    hint.hidden = false;
  });
  addEventListener("dragleave", (event) => hasFiles(event) && --depth <= 0 && leave());
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    leave();
    try {
      uploads.add(await droppedFiles(event.dataTransfer));
    } catch {
      toast("failed", t("upload.unreadable"));
    }
  });
}

/** Also those in folders. */
async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map(filesOf))).flat();
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
  const reader = entry.createReader();
  const found = [];
  for (let part = null; part === null || part.length; ) {
    // Some at a time.
    part = await new Promise((done, failed) => reader.readEntries(done, failed));
    found.push(...part);
  }
  return (await Promise.all(found.map(filesOf))).flat();
}
