// Dialogs, toasts and announcements.

import { byId, el, icon } from "./dom.js";
import { movingInTurn } from "./flip.js";
import { t } from "./texts.js";

const TOAST_MS = 7000;
// What stands above every page; uploads are there while they run.
const CARRIED = "#connection, #toasts, #announcer, .uploads";
const FOCUSABLE = "a[href], button:not([disabled]), input, select, video[controls], [tabindex='0']";
// One dialog may open another.
let opened = 0;

/**
 * Show a modal dialog; Esc, the cross and a click beside it close it. `onclose` is called then.
 * Returns it, with `body` as its content.
 */
export function dialog(kind, title, body, { onclose = () => {}, head = [] } = {}) {
  const id = `dialog-title-${++opened}`;
  const heading = el("h2", { id }, title);
  const close = el("button.icon-button", { type: "button", "aria-label": t("action.close"), title: t("action.close") }, icon("close"));
  const element = el(
    `dialog.${kind}`,
    { "aria-labelledby": id },
    el("div.dialog-head", {}, heading, ...head, close),
    body,
  );
  close.addEventListener("click", () => element.close());
  element.addEventListener("click", (event) => {
    if (event.target === element) element.close();
  });
  element.addEventListener("keydown", (event) => keepFocus(event, element));
  element.addEventListener("close", () => {
    carry();
    element.remove();
    onclose();
  });
  document.body.append(element);
  element.showModal();
  carry();
  return element;
}

/** Ask before something that cannot be undone; whether to do it. */
export function confirm(question, warning, action) {
  return new Promise((resolve) => {
    let sure = false;
    const no = el("button", { type: "button", autofocus: true }, t("action.cancel"));
    const yes = el("button.danger", { type: "button" }, action);
    const body = el("div.confirm-body", {}, el("p", {}, warning), el("div.buttons", {}, no, yes));
    const element = dialog("confirm", question, body, { onclose: () => resolve(sure) });
    no.addEventListener("click", () => element.close());
    yes.addEventListener("click", () => {
      sure = true;
      element.close();
    });
    no.focus();
  });
}

/** Tell of something for a while; `kind` is done, failed or note. */
export function toast(kind, text) {
  const cross = el("button.icon-button", { type: "button", "aria-label": t("action.close") }, icon("close"));
  const names = { done: "check", failed: "alert", note: "clock" };
  const element = el("div.toast", { "data-kind": kind }, icon(names[kind]), el("p", {}, text), cross);
  const toasts = byId("toasts");
  const end = () => movingInTurn(toasts, () => element.remove());
  let timer = setTimeout(end, TOAST_MS);
  // Nobody has to hurry: what is pointed at or focused stays.
  for (const event of ["pointerenter", "focusin"]) element.addEventListener(event, () => clearTimeout(timer));
  for (const event of ["pointerleave", "focusout"]) {
    element.addEventListener(event, () => (timer = setTimeout(end, TOAST_MS)));
  }
  cross.addEventListener("click", end);
  carry();
  movingInTurn(toasts, () => toasts.append(element));
}

/** Tell only those who listen to the page. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Put what is told where it is seen: what is outside of a modal dialog can be neither used nor heard. */
function carry() {
  // Over a video in full screen nothing is seen.
  const full = document.querySelector(":fullscreen:not(video)");
  const place = full ?? [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  // What is put where it is would start its animations again.
  place.append(...[...document.querySelectorAll(CARRIED)].filter((one) => one.parentElement !== place));
}

document.addEventListener("fullscreenchange", carry);

function keepFocus(event, element) {
  if (event.key !== "Tab") return;
  const inside = [...element.querySelectorAll(FOCUSABLE)].filter((one) => one.checkVisibility());
  const [first, last] = [inside[0], inside.at(-1)];
  const leaving = event.shiftKey ? first : last;
  if (document.activeElement === leaving || !element.contains(document.activeElement)) {
    event.preventDefault();
    (event.shiftKey ? last : first).focus();
  }
}
