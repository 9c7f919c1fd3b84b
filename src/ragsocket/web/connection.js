/**
 * How the connection stands, in words, with the seconds until the next try.
 *
 * @module
 */

import { el } from "./dom.js";

/** @import { Client } from "./vendor/ragsocket.js" */

/** Connecting shows only after a while: mostly it is done by then. */
const PATIENCE_MS = 700;

/**
 * Keep a line of status true for as long as the page lives.
 *
 * @param {Client} client
 * @param {HTMLElement} line empty and hidden while there is nothing to say
 * @param {(text: string) => void} say what a screen reader is told
 */
export const showConnection = (client, line, say) => {
  const words = el("span");
  const retry = el(
    "button",
    // The client waits no longer when the browser says that it is online.
    { type: "button", class: "link", onclick: () => window.dispatchEvent(new Event("online")) },
    "Try now",
  );
  line.append(words, retry);
  let timer = 0;
  let lost = false;

  /** @param {string} text @param {boolean} [canRetry] */
  const show = (text, canRetry = false) => {
    words.textContent = text;
    retry.hidden = !canRetry;
    line.hidden = !text;
  };

  const update = () => {
    clearTimeout(timer);
    const { state } = client;
    document.documentElement.dataset.connection = state.name;
    if (state.name === "ready") {
      if (lost) say("Connected again.");
      lost = false;
      show("");
    } else if (state.name === "closed") {
      show(`The server closed the connection (${state.code}). ${state.reason} Reload the page to try again.`);
    } else if (state.name === "offline") {
      const seconds = Math.max(0, Math.ceil((state.retryAt - Date.now()) / 1000));
      const where = navigator.onLine ? "No connection to the server." : "This device is offline.";
      if (!lost) say(`${where} Nothing is lost.`);
      lost = true;
      show(`${where} ${seconds ? `Next try in ${seconds} s.` : "Trying again…"}`, true);
      timer = window.setTimeout(update, 500);
    } else if (lost) {
      show("Connecting again…", true);
    } else {
      timer = window.setTimeout(() => show("Connecting…"), PATIENCE_MS);
    }
  };

  client.addEventListener("state", update);
  update();
};
