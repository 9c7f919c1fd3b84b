/** Plays one scenario in Node: `node play.mjs NAME URL JSON`, and talks to the test by lines. */

import { createInterface } from "node:readline";
import WebSocket from "ws";
import { play } from "./scenarios.js";

const [name, url, about] = process.argv.slice(2);
const { options, ...rest } = JSON.parse(about);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const heard = () => lines.next();
const { origin, token, ...more } = options ?? {};
const Socket = globalThis.WebSocket ?? WebSocket;
/** As a browser on another page. */
class Elsewhere extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { origin });
  }
}
const chosen = {
  WebSocket: origin ? Elsewhere : Socket,
  token: Array.isArray(token) ? () => token.shift() : token,
  ...more,
};
say(await play(name, url, { options: chosen, ...rest }, { say, heard }));
process.stdin.destroy();
