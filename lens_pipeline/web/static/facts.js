// What is known of a photo or video, beside it in the viewer.

import { dagster, hasFailed } from "./api.js";
import { reasonTitle, stateText } from "./card.js";
import { el, icon } from "./dom.js";
import { adviceText, duration, inFull, size, t } from "./texts.js";

// Of content types, where capital letters are not enough.
const FORMATS = { quicktime: "QuickTime", webm: "WebM", webp: "WebP", matroska: "Matroska", tiff: "TIFF" };

/** Of an entry, which may be a `GenerationDetail` or less. */
export function facts(entry, retry) {
  return el("div.lightbox-facts", {}, hasFailed(entry) ? why(entry, retry) : null, list(entry), results(entry), links(entry));
}

function why(entry, retry) {
  const title = reasonTitle(entry);
  const attempts = entry.all_attempts ?? entry.attempts;
  return el(
    "div.why",
    {},
    el("strong", {}, title),
    entry.error && entry.error !== title ? el("p", {}, entry.error) : null,
    entry.error_class ? el("p", {}, adviceText(entry.error_class)) : null,
    attempts ? el("p.muted", {}, t("library.attempts", { count: attempts })) : null,
    el("button.primary", { type: "button", onclick: () => retry(entry) }, icon("retry"), t("action.retry")),
  );
}

function list(entry) {
  const { file = {}, finished_at, ready_at, created_at, retry_at, digital_source_type, c2pa } = entry;
  const rows = [
    ["filter.status", entry.status !== "ready" && stateText(entry)],
    ["library.retry_at", retry_at && inFull(retry_at)],
    ["filter.user", entry.user_id],
    ["viewer.dimensions", file.width && `${file.width} × ${file.height}`],
    ["viewer.length", file.duration_seconds && duration(file.duration_seconds)],
    ["viewer.size", file.bytes && size(file.bytes)],
    ["viewer.format", file.content_type && format(file.content_type)],
    ["viewer.provenance", digital_source_type && t(`provenance.${digital_source_type}`)],
    ["viewer.credentials", c2pa && credentials(c2pa)],
    ["library.created", created_at && inFull(created_at)],
    ["viewer.finished", finished_at && inFull(finished_at)],
    ["viewer.made", ready_at && inFull(ready_at)],
    ["library.id", entry.id],
  ];
  return el("dl", {}, ...rows.filter(([, value]) => value).map(([name, value]) =>
    el("div", {}, el("dt", {}, t(name)), el("dd", {}, value))));
}

/** `video/x-matroska` → `Matroska`. */
function format(contentType) {
  const name = contentType.split("/")[1].split(";")[0].replace(/^x-/, "");
  return FORMATS[name] ?? name.toUpperCase();
}

/** C2PA's: whether they hold, what wrote them, and who signed that. */
function credentials({ state, generator, signer }) {
  return [t(`credentials.${state}`), generator, signer].filter(Boolean).join(" · ");
}

/** The further results of its task. */
function results({ extra_files: files }) {
  if (!files?.length) return null;
  const link = ({ n, file_url, content_type, bytes, error }) => {
    const about = [content_type && format(content_type), bytes && size(bytes)].filter(Boolean).join(", ");
    const name = t("viewer.result", { n: String(n) });
    if (error) return el("li", {}, `${name}: ${error}`);
    return el("li", {}, el("a", { href: file_url, target: "_blank", rel: "noopener" }, name), about ? ` · ${about}` : "");
  };
  return el("section", {}, el("h3", {}, t("viewer.results")), el("ul", {}, ...files.map(link)));
}

function links(entry) {
  const href = dagster(entry.dagster_path);
  if (!href) return null;
  return el("a.button", { href, target: "_blank", rel: "noopener" }, t("action.dagster"), icon("external"));
}
