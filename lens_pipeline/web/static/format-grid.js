// The formats of one film, order by order, as they are made.

import { hasFailed } from "./api.js";
import { announce } from "./dialogs.js";
import { el, icon, say, set } from "./dom.js";
import { holdText, progressText } from "./progress.js";
import { Fitted } from "./stills.js";
import { classText, duration, size, t } from "./texts.js";

const shapeText = (format) => format.replace("x", " × ");
const part = ({ start_seconds: start, end_seconds: end }) =>
  start === null && end === null ? "" : `${duration(start ?? 0)}–${end === null ? "" : duration(end)}`;

/** `38 of 40 ready · 2 failed`. */
export function countsText(formats) {
  const ready = formats.filter(({ status }) => status === "ready").length;
  const failed = formats.filter(hasFailed).length;
  const words = [ready === formats.length ? t("state.ready") : t("formats.ready_of", { ready, count: formats.length })];
  if (failed) words.push(t("formats.failed", { count: failed }));
  return words.join(" · ");
}

/** By format, and in the order of the film. */
const inOrder = (one, other) =>
  one.format.localeCompare(other.format) || (one.start_seconds ?? 0) - (other.start_seconds ?? 0) || one.scaled_id.localeCompare(other.scaled_id);

/** Lists of those with one order, newest first; those of none are one list. */
function byOrder(formats) {
  const orders = new Map();
  for (const format of formats) orders.set(format.order_id, [...(orders.get(format.order_id) ?? []), format]);
  return orders;
}

export class FormatGrid {
  constructor({ formats, film, stills }) {
    this.formats = formats;
    this.film = film;
    this.stills = stills;
    this.orders = new Map(); // by id
    this.empty = el("p.empty.small", {}, t("formats.empty"));
    this.list = el("div.orders");
    this.root = el("section.format-grid", { "aria-label": t("formats.made") }, this.empty, this.list);
    // Stills take time: only those that are looked at.
    this.sight = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        this.sight.unobserve(target);
        this.tile(target.dataset.id)?.seen();
      }
    });
  }

  tile(id) {
    for (const order of this.orders.values()) if (order.tiles.has(id)) return order.tiles.get(id);
    return null;
  }

  show(formats) {
    const before = this.orders;
    this.orders = new Map();
    for (const [id, own] of byOrder(formats)) {
      const order = before.get(id) ?? new Order(this, id);
      this.orders.set(id, order);
      order.show(own.toSorted(inOrder));
    }
    replace(this.list, [...this.orders.values()].map((order) => order.root));
    this.empty.hidden = this.orders.size > 0;
  }

  update(format) {
    this.tile(format.scaled_id)?.update(format);
  }

  /** Go to what was just ordered. */
  reveal(orderId) {
    const order = this.orders.get(orderId);
    order?.title.focus({ preventScroll: true });
    order?.root.scrollIntoView({ block: "nearest" });
    if (order) announce(t("formats.ordered", { count: order.tiles.size }));
  }
}

/** What is put in again would lose the focus, and its place. */
function replace(list, roots) {
  const isSame = roots.length === list.children.length && roots.every((root, place) => root === list.children[place]);
  if (!isSame) list.replaceChildren(...roots);
}

class Order {
  constructor(grid, id) {
    this.grid = grid;
    this.tiles = new Map(); // by id
    const button = (name, act) => el("button.icon-button", { type: "button", onclick: act }, icon(name));
    const own = () => [...this.tiles.values()].map(({ format }) => format);
    this.title = el("h3", { tabindex: "-1" });
    this.counts = el("p.muted");
    this.save = el("a.icon-button", { href: id && grid.formats.archive(id), download: true }, icon("download"));
    this.again = button("retry", () => grid.formats.retryOrder(own()));
    this.remove = button("trash", () => grid.formats.removeOrder(own(), this.title.textContent));
    this.list = el("ul.pieces");
    this.root = el(
      "section.order",
      {},
      el("div.order-head", {}, el("div.order-words", {}, this.title, this.counts), el("div.order-tools", {}, this.save, this.again, this.remove)),
      this.list,
    );
    this.id = id;
  }

  show(formats) {
    const before = this.tiles;
    const names = [...new Set(formats.map(({ format }) => format))];
    this.tiles = new Map(formats.map((format) => [format.scaled_id, before.get(format.scaled_id) ?? new Tile(this.grid)]));
    for (const format of formats) {
      const alike = formats.filter((one) => one.format === format.format);
      const number = alike.length > 1 ? String(alike.indexOf(format) + 1).padStart(2, "0") : "";
      this.tiles.get(format.scaled_id).update(format, number);
    }
    const words = [names.map(shapeText).join(", "), formats[0].fill && t(`formats.fill_${formats[0].fill}`)];
    say(this.title, this.id ? words.filter(Boolean).join(" · ") : t("formats.single"));
    this.tell(formats);
    replace(this.list, [...this.tiles.values()].map((tile) => tile.root));
    for (const [name, element] of Object.entries({ save: this.save, again: this.again, remove: this.remove })) {
      const words = t(`formats.${name}_all`, { name: this.title.textContent });
      set(element, { title: words, "aria-label": words });
    }
    set(this.list, { "aria-label": this.title.textContent });
  }

  tell(formats) {
    say(this.counts, [t("formats.videos", { count: formats.length }), countsText(formats)].join(" · "));
    this.remove.hidden = !this.id;
    // They keep their room.
    this.save.classList.toggle("unused", !this.id || !formats.some(({ status }) => status === "ready"));
    this.again.classList.toggle("unused", !this.id || !formats.some(hasFailed));
  }
}

class Tile {
  constructor(grid) {
    this.grid = grid;
    const button = (name, act) => el("button.icon-button", { type: "button", onclick: act }, icon(name));
    this.fitted = new Fitted();
    this.play = el("button.piece-play", { type: "button", onclick: () => this.watch() }, this.fitted.root, el("span.badge", { "aria-hidden": "true" }, icon("play")));
    this.label = el("b");
    this.part = el("span.muted");
    this.state = el("p.piece-state");
    this.bar = el("progress", { max: 100 });
    this.save = el("a.icon-button", {}, icon("download"));
    this.again = button("retry", () => grid.formats.retry(this.format));
    this.remove = button("trash", () => grid.formats.remove(this.format, this.name));
    this.root = el(
      "li.piece",
      {},
      this.play,
      el("p.piece-name", {}, this.label, " ", this.part),
      this.state,
      this.bar,
      el("div.piece-tools", {}, this.save, this.again, this.remove),
    );
    this.url = null;
  }

  get name() {
    return [this.grid.film().name, this.format.format.replace(":", "x"), this.number].filter(Boolean).join(" ");
  }

  watch() {
    const { format, grid, name } = this;
    grid.formats.watch({ ...format, name, poster_url: this.url });
  }

  /** Its picture: the frame that it begins with. */
  async seen() {
    this.isSeen = true;
    const { start_seconds: start, status } = this.format;
    this.url = start === null ? this.grid.film().poster_url : await this.grid.stills.at(start);
    this.url ??= this.grid.film().poster_url;
    if (status) this.draw();
  }

  draw() {
    const { width, height, fill, focus } = this.format;
    const film = this.grid.film();
    const own = film.width && film.height ? film.width / film.height : width / height;
    this.fitted.show({ url: this.url, shape: width / height, film: own, fill, focus });
  }

  update(format, number = this.number) {
    const isNew = !this.format;
    this.format = format;
    this.number = number;
    set(this.root, { "data-id": format.scaled_id, "data-status": format.status });
    if (isNew) this.grid.sight.observe(this.root);
    const { name } = this;
    const ready = Boolean(format.video_url);
    say(this.label, [shapeText(format.format), number].filter(Boolean).join(" · "));
    say(this.part, part(format));
    const named = (element, key) => set(element, { "aria-label": t(key, { name }), title: t(key, { name }) });
    named(this.play, "masters.watch_named");
    named(this.save, "masters.download_named");
    named(this.again, "masters.retry_named");
    named(this.remove, "masters.delete_named");
    set(this.save, { href: format.video_url, download: `${name}.mp4` });
    this.play.disabled = !ready;
    this.save.hidden = !ready;
    this.again.hidden = !hasFailed(format);
    this.bar.classList.toggle("unused", format.status !== "processing" || Boolean(format.held_by));
    set(this.bar, { "aria-label": name, value: format.percent });
    this.tell();
    this.draw();
  }

  tell() {
    const { format } = this;
    const failed = hasFailed(format);
    let words = [format.duration_seconds && duration(format.duration_seconds), format.bytes && size(format.bytes)];
    if (failed) words = [classText(format.error_class) ?? format.error];
    else if (format.held_by === "input") words = [t("formats.waits")];
    else if (format.status === "none" || format.held_by) words = [holdText(format)];
    else if (format.status === "processing") words = [progressText(format)];
    say(this.state, words.filter(Boolean).join(" · "));
    set(this.state, { title: failed ? format.error : this.state.textContent });
  }
}
