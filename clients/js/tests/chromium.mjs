/** Plays one scenario in Chromium: `node chromium.mjs NAME URL JSON`, with the lines of play.mjs. */

import { createInterface } from "node:readline";
import { browse } from "./browser.mjs";

const [name, url, about] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (line) => void process.stdout.write(JSON.stringify(line) + "\n");

await browse(async (tab, site) => {
  await tab.exposeFunction("say", say);
  await tab.exposeFunction("heard", async () => void (await lines.next()));
  await tab.goto(site);
  const played = await tab.evaluate(
    async ([name, url, about]) => {
      const { play } = await import("/tests/scenarios.js");
      return play(name, url, about, { say: window.say, heard: window.heard });
    },
    [name, url, JSON.parse(about)],
  );
  say(played);
});
process.stdin.destroy();
