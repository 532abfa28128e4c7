// What happens in the pipeline, as it happens.

import { byId, say } from "./dom.js";
import { t } from "./texts.js";

// Milliseconds until a stream that the server ended with an error is opened again.
const AGAIN_MS = 3000;
// A page that nobody looks at gives its connection back after so many milliseconds: a browser
// opens no more than six to one server.
const HIDDEN_MS = 20_000;
// Without a stream for so many milliseconds, people are told.
const TELL_MS = 1500;

/**
 * Follow the events of the query; returns the function that ends that.
 *
 * `reset` is called when the page may have missed something, the start apart; `opened` once, when
 * the stream is there or is not to be expected soon. While `stays()`, it is followed unseen as well.
 */
export function follow(query, { status, progress = () => {}, reset, opened = () => {}, stays = () => false }) {
  const url = new URL("/api/events", location.origin);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  let source = null;
  let timer = null;
  let hidden = null;
  let telling = null;
  let ended = false;
  let missed = false;
  let first = setTimeout(start, TELL_MS);

  function start() {
    if (first === null) return;
    clearTimeout(first);
    first = null;
    opened();
  }

  function open() {
    clearTimeout(timer);
    timer = null;
    source = new EventSource(url);
    source.addEventListener("open", () => {
      clearTimeout(telling);
      telling = null;
      say(byId("connection"), "");
      if (missed) reset();
      missed = false;
      start();
    });
    source.addEventListener("error", () => {
      telling ??= setTimeout(() => say(byId("connection"), t("live.lost")), TELL_MS);
      // The browser itself comes back from a broken connection, and names the last event it had.
      if (source.readyState !== EventSource.CLOSED) return;
      missed ||= first === null;
      timer ??= setTimeout(open, AGAIN_MS);
    });
    source.addEventListener("status", (event) => status(JSON.parse(event.data)));
    source.addEventListener("progress", (event) => progress(JSON.parse(event.data)));
    source.addEventListener("reset", () => reset());
  }

  function pause() {
    source?.close();
    clearTimeout(timer);
    clearTimeout(telling);
    timer = null;
    telling = null;
    source = null;
  }

  function visibility() {
    clearTimeout(hidden);
    if (document.visibilityState === "hidden") {
      hidden = setTimeout(() => {
        if (stays()) return;
        missed = true;
        pause();
      }, HIDDEN_MS);
    } else if (source === null && !ended) {
      open();
    }
  }

  document.addEventListener("visibilitychange", visibility);
  open();
  return () => {
    ended = true;
    clearTimeout(first);
    clearTimeout(hidden);
    pause();
    document.removeEventListener("visibilitychange", visibility);
  };
}

/** Collects what changed and hands it on in one go, `ms` after the first of it. */
export function gather(ms, act) {
  let waiting = new Set();
  return (item) => {
    if (!waiting.size) {
      setTimeout(() => {
        const items = waiting;
        waiting = new Set();
        act(items);
      }, ms);
    }
    waiting.add(item);
  };
}
