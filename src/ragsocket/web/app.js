/**
 * The page, put together: which conversation is shown, and what keys and other tabs do to it.
 *
 * @module
 */

import { Announcer } from "./announcer.js";
import { Composer } from "./composer.js";
import { showConnection } from "./connection.js";
import { ConversationView } from "./conversation.js";
import { Conversations } from "./conversations.js";
import { Documents } from "./documents.js";
import { at, el, plural } from "./dom.js";
import { saveJson, saveMarkdown } from "./export.js";
import { Panel } from "./panel.js";
import { Sources } from "./sources.js";
import { connect } from "./vendor/ragsocket.js";

/** How far from the end still counts as reading along, in pixels. */
const NEAR_END = 120;

const client = connect(new URL(".", location.href));
const announcer = new Announcer(at("announcer"));
const panel = new Panel();
const sources = new Sources(client, panel);
const documents = new Documents(client, panel, announcer, () => showEmpty());
const list = new Conversations(client, { deleted, renamed });
/** Other tabs of this browser, which are told what is asked here. */
const tabs = new BroadcastChannel("ragsocket");

const scroller = /** @type {HTMLElement} */ (at("scroller"));
const menu = /** @type {HTMLElement} */ (at("side"));
const wide = matchMedia("(min-width: 50rem)");

/** Those that were shown, by id; they go on while another is shown. @type {Map<string, ConversationView>} */
const views = new Map();
/** @type {ConversationView} */
let shown;

const composer = new Composer({
  ask,
  stop: () => shown.stop(),
  editLast: () => shown.turns.at(-1)?.edit(),
});

/** @param {string | null} id */
const newView = (id) =>
  new ConversationView(
    {
      client,
      sources,
      announcer,
      model: () => documents.model,
      changed: (view) => {
        if (view === shown) update();
        if (!view.running) refreshList();
      },
      asked: (view, response) => {
        if (view.id) views.set(view.id, view);
        if (view === shown && view.id) name(view.id);
        tabs.postMessage({ conversation: view.id, response });
        refreshList();
      },
      grew: (view) => {
        if (view === shown) readAlong();
      },
      refocus: () => composer.focus(),
    },
    id,
  );

/** @param {string} text */
function ask(text) {
  isNearEnd = true;
  if (!shown.element.isConnected) at("turns").replaceChildren(shown.element);
  shown.ask(text);
  readAlong();
}

/** Give what is shown its address, so that it can be opened again. @param {string} id */
const name = (id) => {
  if (location.hash.slice(1) !== id) history.replaceState(null, "", `#${id}`);
  list.current = id;
};

/** Show what the address names: a conversation, or a new one. */
const route = async () => {
  const id = /^#(conv_\w+)$/.exec(location.hash)?.[1] ?? null;
  if (shown && shown.id === id && (id || !shown.turns.length)) return;
  const view = (id && views.get(id)) || newView(id);
  if (id) views.set(id, view);
  shown = view;
  list.current = id;
  at("turns").replaceChildren(view.element);
  isNearEnd = true;
  update();
  closeMenu();
  composer.focus();
  try {
    await view.load();
  } catch (/** @type {any} */ error) {
    if (id) views.delete(id);
    if (view === shown) {
      missing(error);
      // What is asked now is asked in another.
      if (error.code === "conversation_not_found") shown = newView(null);
    }
  }
  if (view === shown) {
    update();
    scroller.scrollTop = scroller.scrollHeight;
  }
};

/** @param {{ code: string, message: string }} error */
const missing = ({ code, message }) =>
  at("turns").replaceChildren(
    el(
      "div",
      { class: "notice failed" },
      el("p", {}, code === "conversation_not_found" ? "This conversation is not there any more." : `It could not be read: ${message}`),
      code === "conversation_not_found"
        ? el("a", { class: "button", href: "#" }, "Begin a new one")
        : el("button", { class: "button", onclick: () => location.reload() }, "Try again"),
    ),
  );

/** Bring title, composer and empty page up to date. */
const update = () => {
  const { running, turns, id, name: title } = shown;
  at("title").replaceChildren(
    title
      ? el("bdi", {}, title.length > 90 ? `${title.slice(0, 90)}…` : title)
      : el("span", { class: "unseen" }, "New conversation"),
  );
  document.title = title ? `${title.slice(0, 60)} – ragsocket` : "ragsocket";
  composer.answering = Boolean(running);
  at("export").hidden = !id || !turns.length;
  showEmpty();
};

const showEmpty = () => {
  const isEmpty = shown && shown.isLoaded && !shown.turns.length;
  at("empty").hidden = !isEmpty;
  document.body.classList.toggle("is-empty", Boolean(isEmpty));
  const { questions, count, isReading, isThere } = documents.store;
  at("empty-about").textContent = isReading && !count
    ? "The documents are being read. You can ask as soon as that is done."
    : !isThere
      ? "Ask a question to begin."
      : count
        ? `Answers come from ${plural(count, "document")}, and every one names its sources.`
        : "There are no documents yet. Drop some here, or add them below.";
  const suggested = at("samples");
  if (suggested.childElementCount === questions.length) return;
  suggested.replaceChildren(
    ...questions.map((question) =>
      el("li", {}, el("button", { type: "button", class: "sample", dir: "auto", onclick: () => {
        ask(question);
        composer.focus();
      } }, question)),
    ),
  );
};

/** @param {string} id */
function deleted(id) {
  views.get(id)?.forget();
  views.delete(id);
  tabs.postMessage({ deleted: id });
  if (location.hash.slice(1) === id) location.hash = "";
}

/** @param {string} id @param {string} title */
function renamed(id, title) {
  const view = views.get(id);
  if (view) view.title = title;
  update();
  tabs.postMessage({ renamed: id, title });
}

/** Show what was asked elsewhere, and the title as it is now. */
const catchUp = async () => {
  await shown.refresh().catch(() => {});
  update();
};

let listTimer = 0;
const refreshList = () => {
  clearTimeout(listTimer);
  listTimer = window.setTimeout(async () => {
    await list.refresh();
    await catchUp();
  }, 150);
};

// Reading along: what is written stays in sight for those who are at the end.

let isNearEnd = true;
const readAlong = () => {
  if (isNearEnd) scroller.scrollTop = scroller.scrollHeight;
};
const look = () => {
  isNearEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END;
  at("to-end").hidden = isNearEnd;
};
scroller.addEventListener("scroll", look, { passive: true });
// What is shown, and how much of it, changes without scrolling, too.
new ResizeObserver(() => {
  if (shown?.running) readAlong();
  look();
}).observe(at("turns"));
at("to-end").addEventListener("click", () => {
  isNearEnd = true;
  scroller.scrollTo({ top: scroller.scrollHeight });
});

// The list lies over the page where there is no room beside it.

const closeMenu = () => {
  if (menu.popover) menu.hidePopover();
};
const fitMenu = () => {
  menu.popover = wide.matches ? null : "auto";
};
wide.addEventListener("change", fitMenu);
fitMenu();

at("new").addEventListener("click", (/** @type {Event} */ event) => {
  event.preventDefault();
  if (location.hash) location.hash = "";
  else route();
});
at("skip").addEventListener("click", (/** @type {Event} */ event) => {
  // The address names the conversation, and no place in the page.
  event.preventDefault();
  at("question").focus();
});
at("add").addEventListener("click", () => documents.choose());
at("save-markdown").addEventListener("click", () => saveMarkdown(shown));
at("save-json").addEventListener("click", () => saveJson(shown, client).catch(() => announcer.say("It could not be read.")));
at("export-menu").addEventListener("click", () => at("export-menu").hidePopover());

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog:modal")) {
    if (!sources.hide()) shown.stop();
  } else if (event.key === "k" && (event.metaKey || event.ctrlKey)) {
    event.preventDefault();
    if (menu.popover) menu.showPopover();
    at("search").focus();
  }
});

tabs.addEventListener("message", ({ data }) => {
  if (data.deleted) {
    const view = views.get(data.deleted);
    view?.forget();
    views.delete(data.deleted);
    if (view === shown) location.hash = "";
  } else if (data.renamed) {
    const view = views.get(data.renamed);
    if (view) view.title = data.title;
    update();
  } else views.get(data.conversation)?.follow(data.response).catch(() => {});
  refreshList();
});
// What other devices did is seen on coming back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  refreshList();
});

showConnection(client, at("connection"), (text) => announcer.say(text));
client.addEventListener("state", () => {
  if (client.state.name !== "ready") return;
  documents.refresh();
  refreshList();
});
addEventListener("hashchange", route);
await route();
