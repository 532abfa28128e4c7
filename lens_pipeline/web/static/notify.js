// Tells of finished films beside the page, to those who ask for it by a button.

import { toast } from "./dialogs.js";
import { set } from "./dom.js";
import { t } from "./texts.js";

const KEY = "lens.notify";

export class Notifier {
  /** The button is shown only where the browser has notifications: on HTTPS and on this machine. */
  constructor(button) {
    this.button = button;
    button.hidden = !("Notification" in window) || !isSecureContext;
    button.addEventListener("click", () => this.toggle());
    this.show();
  }

  get on() {
    return !this.button.hidden && Notification.permission === "granted" && localStorage.getItem(KEY) === "on";
  }

  async toggle() {
    if (this.on) {
      localStorage.removeItem(KEY);
    } else if ((await Notification.requestPermission()) === "granted") {
      localStorage.setItem(KEY, "on");
    } else {
      toast("failed", t("notify.denied"));
    }
    this.show();
  }

  show() {
    set(this.button, { "aria-pressed": String(this.on) });
  }

  /** Only while nobody looks at the page: who does sees it there. */
  tell(id, words, picture) {
    if (!this.on || document.visibilityState === "visible") return;
    try {
      const shown = new Notification(words, { tag: id, icon: picture ?? undefined });
      shown.addEventListener("click", () => {
        window.focus();
        shown.close();
      });
    } catch (error) {
      // Phones have them only in service workers.
      if (!(error instanceof TypeError)) throw error;
    }
  }
}
