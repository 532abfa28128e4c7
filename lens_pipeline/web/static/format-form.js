// The order of a film's formats: which, how they are filled, and which parts of the film.

import { el, icon, say, set } from "./dom.js";
import { Fitted, cropped } from "./stills.js";
import { duration, t } from "./texts.js";

const NAMES = ["16:9", "9:16", "1:1", "4:5"];
const FILLS = ["blur", "black", "crop"];
const CENTRE = [0.5, 0.5];
// The same shape, but for rounded edges.
const SAME = 0.01;
// The film's own shape is not known before it is ready.
const USUAL = 16 / 9;

const shapeOf = (name) => name.split(/[:x]/).map(Number).reduce((width, height) => width / height);
const isSame = (one, other) => Math.abs(one / other - 1) < SAME;

function field(name, key, attributes = {}) {
  const input = el("input", { name, type: "number", min: "0", step: "any", inputmode: "decimal", ...attributes });
  return el("label", {}, el("span", {}, t(key)), input);
}

/** Of fragments, in seconds; a short film has shorter ones. */
function usualLength(film) {
  const tenths = (seconds) => Math.floor(10 * seconds) / 10;
  return film ? [tenths(Math.min(15, film / 2)), tenths(Math.min(30, film))] : [15, 30];
}

/** A choice that is a picture with words: a checkbox or a radio button. */
function choice(type, name, value, words, picture, checked = false) {
  return el("label.choice", {}, el("input", { type, name, value, checked }), picture, el("b", {}, words));
}

/** Where a crop looks: a click in the picture, or two sliders. */
class Focus {
  constructor(changed) {
    this.frame = el("span.focus-frame");
    this.image = el("img", { alt: "", draggable: "false" });
    this.picture = el("span.focus-picture", { onpointerdown: (event) => this.begin(event), onpointermove: (event) => this.move(event) }, this.image, this.frame);
    const slider = (key) => el("input", { type: "range", min: "0", max: "100", value: "50", "aria-label": t(key), oninput: changed });
    this.sliders = [slider("formats.focus_x"), slider("formats.focus_y")];
    this.changed = changed;
    this.root = el("div.focus", {}, el("p.muted", {}, t("formats.focus_hint")), this.picture, ...this.sliders);
  }

  get value() {
    return this.sliders.map((slider) => slider.valueAsNumber / 100);
  }

  begin(event) {
    event.preventDefault();
    this.picture.setPointerCapture(event.pointerId);
    this.move(event);
  }

  move({ pointerId, clientX, clientY }) {
    if (!this.picture.hasPointerCapture(pointerId)) return;
    const { left, top, width, height } = this.picture.getBoundingClientRect();
    const places = [(clientX - left) / width, (clientY - top) / height];
    places.forEach((place, axis) => (this.sliders[axis].value = String(Math.round(100 * place))));
    this.changed();
  }

  show(url, film, shape) {
    if (this.image.getAttribute("src") !== url) this.image.src = url;
    this.image.style.aspectRatio = String(film);
    const box = cropped(film, shape, this.value);
    ["left", "top", "width", "height"].forEach((edge, place) => (this.frame.style[edge] = `${100 * box[place]}%`));
    // Only along the edge that is cut off.
    this.sliders.forEach((slider, axis) => (slider.hidden = box[2 + axis] === 1));
  }
}

export class FormatForm {
  /** `order(body)` sends it, and returns whether that was done; `film()` is the master as it is now. */
  constructor(film, order) {
    this.film = film;
    this.order = order;
    this.pictures = new Map(FILLS.map((fill) => [fill, new Fitted()]));
    this.focus = new Focus(() => this.update());
    this.own = el("div.pair", {}, field("width", "formats.width", { step: 1 }), field("height", "formats.height", { step: 1 }));
    this.same = el("p.field-note");
    this.fills = el("fieldset", {}, el("legend", {}, t("formats.fill")), this.fillChoices(), this.same, this.focus.root);
    const [shortest, longest] = usualLength(film().duration_seconds);
    this.fragments = el(
      "div.fragments",
      {},
      field("count", "formats.count", { value: 10, min: 1, max: 100, step: 1 }),
      field("shortest", "formats.shortest", { value: shortest }),
      field("longest", "formats.longest", { value: longest }),
    );
    this.part = el("div.pair", {}, field("start", "formats.start", { placeholder: 0 }), field("end", "formats.end"));
    this.summary = el("p.summary", { role: "status" });
    this.error = el("p.field-error", { role: "alert" });
    this.submit = el("button.primary", { type: "submit" }, icon("film"), el("span", {}, t("formats.create")));
    this.root = el(
      "form.format-form",
      { novalidate: true, "aria-label": t("formats.new"), oninput: () => this.changed(), onsubmit: (event) => this.send(event) },
      el("fieldset", {}, el("legend", {}, t("formats.choose")), this.nameChoices(), this.own, this.enlarge()),
      this.fills,
      el("fieldset", {}, el("legend", {}, t("formats.parts")), this.kindChoices(), this.part, this.fragments),
      this.summary,
      this.error,
      el("div.buttons", {}, this.submit),
    );
    this.update();
  }

  nameChoices() {
    const shape = (name) => {
      const drawn = el("span.fit-shape", { "data-wide": shapeOf(name) >= 1 });
      drawn.style.aspectRatio = String(shapeOf(name));
      return el("span.fit.drawn", {}, drawn);
    };
    const own = choice("checkbox", "format", "own", t("formats.own"), el("span.fit.drawn", {}, icon("plus")));
    return el("div.choices", {}, ...NAMES.map((name) => choice("checkbox", "format", name, name, shape(name), name === "9:16")), own);
  }

  fillChoices() {
    const one = (fill) => choice("radio", "fill", fill, t(`formats.fill_${fill}`), this.pictures.get(fill).root, fill === "blur");
    return el("div.choices", {}, ...FILLS.map(one));
  }

  kindChoices() {
    const one = (kind, checked) => el("label.line", {}, el("input", { type: "radio", name: "kind", value: kind, checked }), t(`formats.kind_${kind}`));
    return el("div.lines", {}, one("whole", true), one("fragments", false));
  }

  enlarge() {
    return el("label.line", {}, el("input", { type: "checkbox", name: "enlarge" }), t("formats.enlarge"));
  }

  // --- what is chosen

  get fields() {
    return this.root.elements;
  }

  get fill() {
    return this.fields.fill.value;
  }

  get isCut() {
    return this.fields.kind.value === "fragments";
  }

  /** With a size of one's own as `WxH`. */
  get formats() {
    const chosen = [...this.fields.format].filter((one) => one.checked).map((one) => one.value);
    const { width, height } = this.fields;
    return chosen.map((name) => (name === "own" ? `${width.value}x${height.value}` : name));
  }

  /** What is wrong with it, in words; null: nothing that can be known here. */
  get problem() {
    const { start, end, count, shortest, longest } = this.fields;
    const { formats } = this;
    if (!formats.length) return t("formats.none");
    if (formats.some((name) => !/^(\d+:\d+|\d+x\d+)$/.test(name))) return t("formats.wrong_size");
    const numbers = [start, end, ...(this.isCut ? [count, shortest, longest] : [])];
    // Such a field seems empty to scripts.
    if (numbers.some((one) => one.validity.badInput)) return t("formats.wrong_number");
    if (end.value !== "" && end.valueAsNumber <= (start.valueAsNumber || 0)) return t("formats.wrong_end");
    if (!this.isCut) return null;
    if (!count.validity.valid || !count.value) return t("formats.wrong_count");
    if (!(shortest.valueAsNumber > 0 && shortest.valueAsNumber <= longest.valueAsNumber)) return t("formats.wrong_length");
    const film = this.film().duration_seconds ?? Infinity;
    const part = Math.min(end.valueAsNumber || film, film) - (start.valueAsNumber || 0);
    return longest.valueAsNumber > part ? t("problem.outside_film") : null;
  }

  get body() {
    const { start, end, count, shortest, longest, enlarge } = this.fields;
    const at = (one) => (one.value === "" ? null : one.valueAsNumber);
    return {
      formats: this.formats,
      fill: this.fill,
      enlarge: enlarge.checked,
      ...(this.fill === "crop" ? { focus: this.focus.value } : {}),
      ...(start.value === "" ? {} : { start: at(start) }),
      ...(end.value === "" ? {} : { end: at(end) }),
      ...(this.isCut ? { count: at(count), length: [at(shortest), at(longest)] } : {}),
    };
  }

  // --- what is shown

  changed() {
    say(this.error, "");
    this.update();
  }

  /** Show what would be made; also as the film itself becomes ready. */
  update() {
    const { poster_url: url, width, height, duration_seconds: seconds } = this.film();
    const film = width && height ? width / height : USUAL;
    const names = this.formats.filter((name) => shapeOf(name) > 0 && shapeOf(name) < Infinity);
    const same = width ? names.filter((name) => isSame(shapeOf(name), film)) : [];
    const isNeeded = !names.length || same.length < names.length;
    const shape = shapeOf(names.find((name) => !same.includes(name)) ?? names[0] ?? "16:9");
    for (const [fill, picture] of this.pictures) picture.show({ url, shape, film, fill, focus: fill === "crop" ? this.focus.value : CENTRE });
    say(this.same, same.length ? t("formats.same_shape", { formats: same.join(", ") }) : "");
    this.focus.root.hidden = this.fill !== "crop" || !url || !isNeeded;
    if (!this.focus.root.hidden) this.focus.show(url, film, shape);
    this.own.hidden = ![...this.fields.format].at(-1).checked;
    this.fragments.hidden = !this.isCut;
    set(this.fields.end, { placeholder: seconds === null ? null : Math.round(10 * seconds) / 10 });
    say(this.summary, this.problem ?? this.words());
    set(this.summary, { "data-wrong": this.problem !== null });
  }

  /** `40 videos: 4 formats × 10 fragments of 15 to 30 s`. */
  words() {
    const formats = this.formats.length;
    const { start, end, count, shortest, longest } = this.fields;
    const parts = [t("formats.kinds", { count: formats })];
    if (this.isCut) parts.push(t("formats.fragments", { count: count.valueAsNumber }));
    const words = [`${t("formats.videos", { count: formats * (this.isCut ? count.valueAsNumber : 1) })}: ${parts.join(" × ")}`];
    if (this.isCut) words.push(t("formats.each", { from: shortest.valueAsNumber, to: longest.valueAsNumber }));
    if (start.value || end.value) words.push(`${duration(start.valueAsNumber || 0)}–${end.value ? duration(end.valueAsNumber) : ""}`);
    if (this.film().status !== "ready") words.push(t("formats.begin_later"));
    return words.join(" · ");
  }

  async send(event) {
    event.preventDefault();
    if (this.submit.disabled) return;
    say(this.error, this.problem ?? "");
    if (this.problem) return;
    this.submit.disabled = true;
    try {
      // The same for each attempt at one order, so that none is made twice.
      const sent = JSON.stringify(this.body);
      if (sent !== this.sent) Object.assign(this, { sent, orderId: newId() });
      await this.order({ order_id: this.orderId, ...this.body });
      this.sent = null;
    } catch (problem) {
      say(this.error, problem.message);
    } finally {
      this.submit.disabled = false;
    }
  }
}

function newId() {
  // `crypto.randomUUID` is for HTTPS alone.
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
