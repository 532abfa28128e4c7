// The page's language: its texts, which the server put into the page, numbers and times.

import { el } from "./dom.js";

export const language = document.documentElement.lang;

const texts = JSON.parse(document.getElementById("texts").textContent);
const plurals = new Intl.PluralRules(language);
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" });
const days = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const absolute = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
const percents = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 });
const numbers = new Intl.NumberFormat(language);

// Seconds between updates of "1 min ago".
const TICK = 5;
// From how many seconds on each unit is used, and how long it is.
const UNITS = [
  [86400 * 365, "year"],
  [86400 * 30, "month"],
  [86400 * 7, "week"],
  [86400, "day"],
  [3600, "hour"],
  [60, "minute"],
];

/** The text of that key, with its values; `count` also chooses the plural form. */
export function t(key, values = {}) {
  let text = texts[key];
  if (text === undefined) throw new Error(`no text ${key}`);
  if (typeof text !== "string") text = text[plurals.select(values.count)];
  return text.replace(/\{(\w+)\}/g, (_, name) =>
    typeof values[name] === "number" ? numbers.format(values[name]) : String(values[name]),
  );
}

const ofClass = (family, name) => name && (texts[`${family}.${name}`] ?? t(`${family}.Unforeseen`));

/** What an error class means; null without one. */
export const classText = (name) => ofClass("class", name) || null;

/** What a person can do about an error of that class; null without one. */
export const adviceText = (name) => ofClass("advice", name) || null;

/** What an error code of the API means, if it has a text. */
export const problemText = (code) => texts[`problem.${code}`] ?? null;

export const percent = (value) => percents.format(value / 100);

/** "1 min ago"; a moment to come, which only a wrong clock makes, is now. */
export function ago(moment) {
  const seconds = Math.max(0, (Date.now() - new Date(moment)) / 1000);
  for (const [length, unit] of UNITS) {
    if (seconds >= length) return relative.format(-Math.floor(seconds / length), unit);
  }
  return relative.format(0, "second");
}

export const inFull = (moment) => absolute.format(new Date(moment));

/** "Today" or "Monday, 30 November" of a day such as 20261130; 0, which is no day: nothing. */
export function dayTitle(day) {
  if (!day) return "";
  const date = new Date(Math.floor(day / 10000), Math.floor(day / 100) % 100 - 1, day % 100);
  const midnight = new Date().setHours(0, 0, 0, 0);
  const ago = Math.round((midnight - date) / 86_400_000);
  const style = { weekday: "long", day: "numeric", month: "long" };
  if (date.getFullYear() !== new Date().getFullYear()) style.year = "numeric";
  const words = ago === 0 || ago === 1 ? days.format(-ago, "day") : date.toLocaleDateString(language, style);
  return words.charAt(0).toLocaleUpperCase(language) + words.slice(1);
}

/** `1:05`, or `1:02:05` from an hour on. */
export function duration(seconds) {
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (!parts[0]) parts.shift();
  return parts.map((part, place) => (place ? String(part).padStart(2, "0") : part)).join(":");
}

/** `12 MB`. */
export function size(bytes) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(bytes, 1)) / 3));
  const value = bytes / 1000 ** power;
  return new Intl.NumberFormat(language, {
    style: "unit",
    unit: units[power],
    unitDisplay: "short",
    maximumFractionDigits: value < 10 && power ? 1 : 0,
  }).format(value);
}

/** A `<time>` that goes on saying how long ago it was, within the words of `key` if given. */
export function agoElement(moment, key = null) {
  const element = el("time", { "data-ago": key ?? "" });
  setAgo(element, moment);
  return element;
}

export function setAgo(element, moment) {
  element.hidden = !moment;
  if (!moment) return;
  element.dateTime = moment;
  element.title = inFull(moment);
  tick(element);
}

function tick(element) {
  const key = element.dataset.ago;
  const words = ago(element.dateTime);
  const text = key ? t(key, { ago: words }) : words;
  if (element.textContent !== text) element.textContent = text;
}

setInterval(() => {
  for (const element of document.querySelectorAll("time[data-ago]")) {
    if (element.dateTime) tick(element);
  }
}, TICK * 1000);
