// Zoom and pan of a picture in its stage, and swipes over the stage.

// CSS pixels for one of the picture: an icon is not blown up, and zoom ends where nothing is gained.
const MOST_ENLARGED = 2;
// Longer than this times its width, a picture is a strip: it starts at its top, as wide as fits.
const STRIP = 5;
const KEY_FACTOR = 1.5;
const KEY_PAN = 80;
const WHEEL_RATE = 0.002;
// Trackpads tell a pinch as a wheel with Ctrl, in small steps.
const PINCH_RATE = 0.01;
const LINE_PIXELS = 16;
const TAP_MS = 500;
const TAP_PIXELS = 12;
const SWIPE_PIXELS = 50;

/** `swipe(step)` is called for a swipe to the one before (-1) or after (1) by touch. */
export class Zoom {
  constructor(stage, { swipe }) {
    this.stage = stage;
    this.swipe = swipe;
    this.picture = null;
    this.pointers = new Map();
    this.tap = null;
    this.size = new ResizeObserver(() => this.fit());
    this.size.observe(stage);
    const on = (name, act, options) => stage.addEventListener(name, act.bind(this), options);
    on("pointerdown", this.down);
    on("pointermove", this.move);
    on("pointerup", this.up);
    on("pointercancel", this.cancel);
    on("wheel", this.wheel, { passive: false });
  }

  /** From now on with `picture`, of that many pixels; null: there is nothing to zoom. */
  show(picture, width = 1, height = 1) {
    this.picture = picture;
    this.pixels = { width, height };
    this.scale = null;
    this.pointers.clear();
    this.drag(0);
    this.fit();
  }

  /** The same picture turned out to have that many pixels. */
  measure(width, height) {
    this.pixels = { width, height };
    this.fit();
  }

  close() {
    this.size.disconnect();
  }

  fit() {
    if (!this.picture) return this.apply();
    const { width, height } = this.pixels;
    const [across, down] = [this.stage.clientWidth / width, this.stage.clientHeight / height];
    this.base = Math.min(across, down, MOST_ENLARGED);
    const isStrip = Math.max(width / height, height / width) > STRIP;
    const start = isStrip ? Math.max(1, Math.min(Math.max(across, down), 1) / this.base) : 1;
    this.deepest = Math.max(MOST_ENLARGED / this.base, 2);
    this.picture.style.width = `${width * this.base}px`;
    this.picture.style.height = `${height * this.base}px`;
    if (this.scale === null || this.scale === this.start) {
      this.scale = start;
      // The beginning of a strip.
      [this.x, this.y] = isStrip ? [Infinity, Infinity] : [0, 0];
    }
    this.start = start;
    this.apply();
  }

  /** How far the picture can be moved from the middle. */
  room() {
    if (!this.picture) return { x: 0, y: 0 };
    const beyond = (pixels, stage) => Math.max(0, (pixels * this.base * this.scale - stage) / 2);
    return {
      x: beyond(this.pixels.width, this.stage.clientWidth),
      y: beyond(this.pixels.height, this.stage.clientHeight),
    };
  }

  apply() {
    const room = this.room();
    // Where nothing can be moved, a finger scrolls the page or swipes.
    this.stage.style.touchAction = room.x || room.y ? "none" : "pan-y";
    this.stage.classList.toggle("movable", room.x > 0 || room.y > 0);
    if (!this.picture) return;
    const within = (value, most) => Math.min(most, Math.max(-most, value));
    [this.x, this.y] = [within(this.x, room.x), within(this.y, room.y)];
    this.picture.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.picture.classList.toggle("pixels", this.base * this.scale > MOST_ENLARGED);
  }

  pan(x, y) {
    this.x += x;
    this.y += y;
    this.apply();
  }

  /** Zoom to `scale`; the point at that distance from the middle of the stage stays where it is. */
  to(scale, x = 0, y = 0) {
    if (!this.picture) return;
    const next = Math.min(this.deepest, Math.max(1, scale));
    this.x = x - ((x - this.x) * next) / this.scale;
    this.y = y - ((y - this.y) * next) / this.scale;
    this.scale = next;
    this.apply();
  }

  /** Zoom in to the pixels of the file, or out again. */
  toggle(x, y) {
    if (this.scale !== this.start) return this.reset();
    this.to(Math.max(2 * this.start, 1 / this.base), x, y);
  }

  reset() {
    this.scale = null;
    this.fit();
  }

  /** Whether the key was for the picture. */
  key(key) {
    if (!this.picture) return false;
    const room = this.room();
    const steps = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (key === "+" || key === "=") this.to(this.scale * KEY_FACTOR);
    else if (key === "-" || key === "_") this.to(this.scale / KEY_FACTOR);
    else if (key === "0") this.reset();
    else if (steps[key] && (steps[key][0] ? room.x : room.y)) this.pan(...steps[key].map((one) => one * KEY_PAN));
    else return false;
    return true;
  }

  wheel(event) {
    if (!this.picture) return;
    event.preventDefault();
    const pixels = event.deltaMode ? LINE_PIXELS : 1;
    const [x, y] = [event.deltaX * pixels, event.deltaY * pixels];
    // A strip is read by the wheel.
    if (this.start > 1 && !event.ctrlKey) {
      const { x: across, y: down } = this.room();
      return down ? this.pan(-x, -y) : this.pan(across ? -x - y : 0, 0);
    }
    const rate = event.ctrlKey ? PINCH_RATE : WHEEL_RATE;
    this.to(this.scale * Math.exp(-y * rate), ...this.fromMiddle(event));
  }

  // --- fingers and the mouse

  down(event) {
    if (event.button !== 0 || event.target.closest("button, a")) return;
    if (event.target instanceof HTMLVideoElement && !isOverPicture(event)) return;
    this.pointers.set(event.pointerId, place(event));
    this.moved = { x: 0, y: 0, pinched: this.pointers.size > 1 };
    if (!this.picture) return;
    this.stage.setPointerCapture(event.pointerId);
    this.stage.classList.add("held");
  }

  move(event) {
    const was = this.pointers.get(event.pointerId);
    if (!was) return;
    const is = place(event);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, is);
    const [x, y] = [is.x - was.x, is.y - was.y];
    if (other) return this.pinch(was, is, other);
    this.moved.x += x;
    this.moved.y += y;
    const room = this.room();
    if (room.x || room.y) this.pan(x, y);
    if (this.swipes(event)) this.drag(this.moved.x);
  }

  pinch(was, is, other) {
    const apart = (one) => Math.hypot(one.x - other.x, one.y - other.y);
    const middle = (one) => ({ clientX: (one.x + other.x) / 2, clientY: (one.y + other.y) / 2 });
    const [before, after] = [this.fromMiddle(middle(was)), this.fromMiddle(middle(is))];
    this.to((this.scale * apart(is)) / Math.max(1, apart(was)), ...before);
    this.pan(after[0] - before[0], after[1] - before[1]);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    this.stage.classList.toggle("held", this.pointers.size > 0);
    const { x, y, pinched } = this.moved;
    if (this.pointers.size || pinched) return;
    const swiped = this.swipes(event) && Math.abs(x) > Math.max(SWIPE_PIXELS, 2 * Math.abs(y));
    this.drag(0);
    if (swiped) this.swipe(x < 0 ? 1 : -1);
    else if (Math.hypot(x, y) < TAP_PIXELS) this.tapped(event);
  }

  cancel(event) {
    this.pointers.delete(event.pointerId);
    this.stage.classList.toggle("held", this.pointers.size > 0);
    this.drag(0);
  }

  /** Two quick ones at the same place, by any pointer. */
  tapped(event) {
    if (!this.picture) return;
    const last = this.tap;
    this.tap = { at: event.timeStamp, ...place(event) };
    if (!last || event.timeStamp - last.at > TAP_MS) return;
    if (Math.hypot(event.clientX - last.x, event.clientY - last.y) > 2 * TAP_PIXELS) return;
    this.tap = null;
    this.toggle(...this.fromMiddle(event));
  }

  /** Whether this pointer's way to the side leads to another picture. */
  swipes(event) {
    return event.pointerType !== "mouse" && !this.moved.pinched && !this.room().x;
  }

  /** What is shown follows the finger. */
  drag(x) {
    this.stage.style.setProperty("--dragged", `${x}px`);
  }

  fromMiddle({ clientX, clientY }) {
    const { left, top, width, height } = this.stage.getBoundingClientRect();
    return [clientX - left - width / 2, clientY - top - height / 2];
  }
}

const place = ({ clientX, clientY }) => ({ x: clientX, y: clientY });

// The height of a browser's controls, at the bottom of a video.
const CONTROLS_PIXELS = 80;

function isOverPicture(event) {
  return event.clientY < event.target.getBoundingClientRect().bottom - CONTROLS_PIXELS;
}
