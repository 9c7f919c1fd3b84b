/**
 * A conversation as a file: Markdown for people, JSON for programs.
 *
 * @module
 */

import { save } from "./dom.js";

/**
 * @import { Client } from "./vendor/ragsocket.js"
 * @import { ConversationView } from "./conversation.js"
 */

/** @param {string} name */
const fileName = (name) => name.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation";

/** @param {ConversationView} view */
export const asMarkdown = ({ name, turns }) =>
  [
    `# ${name}`,
    ...turns.flatMap(({ question, text, sources }) => [
      question
        .split("\n")
        .map((line) => `> ${line}`)
        .join("\n"),
      text,
      sources
        .map(({ filename, attributes: { place } }, at) => `${at + 1}. ${filename}${place ? `, ${place}` : ""}`)
        .join("\n"),
    ]),
  ]
    .filter(Boolean)
    .join("\n\n") + "\n";

/** Save a conversation as Markdown. @param {ConversationView} view */
export const saveMarkdown = (view) =>
  save(`${fileName(view.name)}.md`, new Blob([asMarkdown(view)], { type: "text/markdown" }));

/**
 * Save a conversation as JSON, as the server tells it, sources included.
 *
 * @param {ConversationView} view
 * @param {Client} client
 */
export const saveJson = async (view, client) => {
  const conversation = await client.request(`conversations/${view.id}`);
  const items = [];
  for (let after = "", more = true; more;) {
    const path = `conversations/${view.id}/items?order=asc&limit=100&include=file_search_call.results${after}`;
    const part = await client.request(path);
    items.push(...part.data);
    more = part.has_more;
    after = `&after=${part.last_id}`;
  }
  const text = JSON.stringify({ conversation, items }, null, 2);
  save(`${fileName(view.name)}.json`, new Blob([text], { type: "application/json" }));
};
