// Moves what makes room for something else smoothly to its new place.

import { prefersStillness } from "./dom.js";

const MS = 260;
const NAME = "moving";

/** Do `change` to the children of `list`; those that stay, and `others`, glide from where they were. */
export function moving(list, change, others = []) {
  if (prefersStillness()) {
    change();
    return;
  }
  const before = new Map(inView(list, others).map((child) => [child, child.getBoundingClientRect()]));
  change();
  for (const child of inView(list, others)) {
    const [was, is] = [before.get(child), child.getBoundingClientRect()];
    if (!was) continue;
    const [x, y] = [was.left - is.left, was.top - is.top];
    if (!x && !y) continue;
    child.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], {
      id: NAME,
      duration: MS,
      easing: "cubic-bezier(.2, .7, .2, 1)",
    });
  }
}

/** The same once nothing moves any more: for what happens by itself, maybe many times a second. */
export async function movingInTurn(list, change, others = []) {
  const ongoing = () => document.getAnimations().filter((one) => one.id === NAME);
  while (ongoing().length) {
    await Promise.allSettled(ongoing().map((one) => one.finished));
    // Until the end of it has been painted, too.
    await nextFrame();
    await nextFrame();
  }
  moving(list, change, others);
}

const nextFrame = () => new Promise((done) => requestAnimationFrame(done));

function inView(list, others) {
  return [...list.children, ...others].filter((child) => {
    const { top, bottom, height } = child.getBoundingClientRect();
    // What is hidden is nowhere, and comes from nowhere.
    return height > 0 && bottom > -innerHeight / 2 && top < innerHeight * 1.5;
  });
}
