// The dialog that shows one photo or video whole.

import { dagster } from "./api.js";
import { hasFailed, reasonTitle, stateIcon, stateText } from "./card.js";
import { dialog } from "./dialogs.js";
import { el, icon, prefersStillness } from "./dom.js";
import { adviceText, inFull, t } from "./texts.js";
import { placeholder } from "./thumbhash.js";

/**
 * Show the entry; `neighbour(entry, step)` is the one before (-1) or after it (1), null at the end;
 * `retry(entry)` tries a failed one again. Returns `update(entry)`, which does nothing if another
 * one is shown.
 */
export function view(entry, { neighbour, retry }) {
  const body = el("div.viewer-body");
  const [back, on] = ["previous", "next"].map((way, place) =>
    el("button.icon-button", {
      type: "button",
      "aria-label": t(`action.${way}`),
      title: t(`action.${way}`),
      onclick: () => go(place ? 1 : -1),
    }, icon(place ? "right" : "left")),
  );
  const element = dialog("viewer", "", body, { onclose: () => stop(body), head: [back, on] });
  const heading = element.querySelector("h2");
  let shown = null;

  function show(next) {
    // A video that plays goes on when something about it changes.
    const same = shown?.id === next.id && shown.status === next.status && shown.picture_url === next.picture_url;
    shown = next;
    heading.textContent = `${t(`type.${next.type}`)} · ${next.user_id}`;
    back.disabled = !neighbour(next, -1);
    on.disabled = !neighbour(next, 1);
    if (same) return;
    stop(body);
    body.replaceChildren(media(next), facts(next, retry));
  }

  function go(step) {
    const next = neighbour(shown, step);
    if (next) show(next);
  }

  element.addEventListener("keydown", (event) => {
    // The arrows move within a video that has the focus.
    if (event.target instanceof HTMLMediaElement || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "ArrowRight") go(1);
  });
  show(entry);
  return (changed) => {
    if (element.isConnected && changed.id === shown.id) show(changed);
  };
}

/** Videos hold a connection until they are told to let it go. */
function stop(body) {
  const video = body.querySelector("video");
  if (!video) return;
  video.pause();
  video.removeAttribute("src");
  video.load();
}

function media(entry) {
  const stage = el("div.stage");
  if (entry.width && entry.height) stage.style.aspectRatio = `${entry.width} / ${entry.height}`;
  const hash = entry.thumbhash && placeholder(entry.thumbhash);
  if (hash) stage.style.backgroundImage = `url("${hash}")`;
  // Until somebody has looked at what the address leads to, no browser is sent there.
  if (entry.status !== "ready") {
    stage.classList.toggle("failed", hasFailed(entry));
    stage.append(el("p.stage-note", {}, stateIcon(entry), stateText(entry)));
  } else if (entry.type === "video") {
    stage.append(
      el("video", {
        src: entry.file_url,
        poster: entry.picture_url,
        controls: true,
        playsinline: true,
        preload: "metadata",
        autoplay: !prefersStillness(),
        "aria-label": t("type.video"),
        tabindex: "0",
      }),
    );
  } else {
    stage.append(photo(entry, stage));
  }
  return stage;
}

/** The original, and meanwhile, or where the browser cannot show it, the preview. */
function photo(entry, stage) {
  const image = el("img", { src: entry.picture_url, alt: t("type.photo"), width: entry.width, height: entry.height });
  const original = new Image();
  original.addEventListener("load", () => {
    stage.style.backgroundImage = "";
    image.src = original.src;
  });
  original.addEventListener("error", () => {
    stage.append(el("p.stage-note.over", {}, icon("alert"), t("library.only_preview")));
  });
  original.src = entry.file_url;
  return image;
}

function facts(entry, retry) {
  const rows = [
    [t("filter.status"), stateText(entry)],
    [t("library.created"), entry.created_at && inFull(entry.created_at)],
    [t("library.retry_at"), entry.retry_at && inFull(entry.retry_at)],
    [t("library.id"), entry.id],
  ];
  const list = el("dl.facts", {}, ...rows.filter(([, value]) => value).map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  const links = el("div.buttons");
  if (hasFailed(entry)) {
    links.append(el("button.primary", { type: "button", onclick: () => retry(entry) }, icon("retry"), t("action.retry")));
  }
  if (entry.file_url && entry.status === "ready") {
    links.append(el("a.button", { href: entry.file_url, target: "_blank", rel: "noopener" }, t("action.original")));
  }
  const href = dagster(entry.dagster_path);
  if (href) links.append(el("a.button", { href, target: "_blank", rel: "noopener" }, t("action.dagster"), icon("external")));
  return el("div.viewer-foot", {}, hasFailed(entry) ? why(entry) : null, list, links);
}

function why(entry) {
  const title = reasonTitle(entry);
  const block = el("div.why", {}, el("strong", {}, title));
  if (entry.error && entry.error !== title) block.append(el("p", {}, entry.error));
  if (entry.error_class) block.append(el("p", {}, adviceText(entry.error_class)));
  if (entry.attempts) block.append(el("p.muted", {}, t("library.attempts", { count: entry.attempts })));
  return block;
}
