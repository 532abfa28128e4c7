// Where on a long page its reader was, kept with the page's place in the history.

// What was further down is not found again: that would take seconds.
const MOST = 1000;

// The browser would scroll before there is anything to scroll to.
history.scrollRestoration = "manual";

/** Before the page is left; `count` entries are loaded. */
export function keepPlace(count) {
  history.replaceState({ ...history.state, count, top: scrollY }, "");
}

/** Back to where it was left, if it was; `count()` entries are loaded, `more()` loads further ones. */
export async function findPlace(count, more) {
  const { count: wanted = 0, top = 0 } = history.state ?? {};
  let before = -1;
  while (before < count() && count() < Math.min(wanted, MOST)) {
    before = count();
    await more();
  }
  // Its reader may be elsewhere by now.
  if (top && scrollY === 0) scrollTo({ top, behavior: "instant" });
}
