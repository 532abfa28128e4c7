// Small helpers to build elements. Text goes in as text, never as HTML: names and errors are
// strangers' words.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `el("a.big", {href: "/"}, "text", otherElement)`; `onclick` and the like listen. */
export function el(selector, attributes = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  set(element, attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set attributes; null and false remove them. */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === null || value === undefined || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : value);
  }
}

/** A symbol of `icons.svg`, which the page has in it; for the eye alone. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export const byId = (id) => document.getElementById(id);

/** Change what an element says, only if it says something else: readers announce each change. */
export function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

export const prefersStillness = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
