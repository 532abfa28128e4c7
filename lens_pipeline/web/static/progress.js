// How far something is, in the reader's words: the server gives numbers and names of stages.

import { language, percent, t } from "./texts.js";

const unit = (value, name) =>
  new Intl.NumberFormat(language, { style: "unit", unit: name, unitDisplay: "short", maximumFractionDigits: 0 }).format(value);

/** `about 2 min left`: no more exact than an estimate is. */
function timeLeft(seconds) {
  const minutes = Math.round(seconds / 60);
  let time = unit(Math.max(10, Math.ceil(seconds / 10) * 10), "second");
  if (minutes >= 60) time = `${unit(Math.floor(minutes / 60), "hour")} ${unit(minutes % 60, "minute")}`;
  else if (seconds > 50) time = unit(Math.max(1, minutes), "minute");
  return t("progress.left", { time });
}

/** `Encoding shots · 42 % · about 2 min left`. */
export function progressText({ percent: done, stage, seconds_left: left }) {
  const words = [
    stage ? t(`stage.${stage}`) : t("stage.begun"),
    done !== null && percent(done),
    left !== null && timeLeft(left),
  ];
  return words.filter(Boolean).join(" · ");
}

/** Why it has not begun. */
export function holdText({ held_by: hold, queue_place: place }) {
  if (hold === "queue") return place === 1 ? t("hold.next") : t("hold.queue", { place });
  return t(`hold.${hold ?? "soon"}`);
}
