/** Opens Chromium, and serves this package's files on a port of their own, as any web site would. */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { chromium } from "playwright-core";

const root = new URL("..", import.meta.url);
const blank = `<!doctype html><script type="importmap">
  {"imports": {"ragsocket": "/ragsocket.js"}}
</script>`;

/** Do something with a tab of a browser, which is closed afterwards, and the site's address. */
export const browse = async (work) => {
  const site = createServer(async ({ url }, answer) => {
    const { pathname } = new URL(url, root);
    const type = pathname.endsWith(".js") ? "text/javascript" : "text/html";
    try {
      const body = url === "/" ? blank : await readFile(new URL(`.${pathname}`, root));
      answer.writeHead(200, { "content-type": type }).end(body);
    } catch {
      answer.writeHead(404).end();
    }
  });
  await new Promise((done) => site.listen(0, "127.0.0.1", done));
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--no-sandbox"],
  });
  try {
    const tab = await browser.newPage();
    tab.on("pageerror", (error) => process.stderr.write(`${error}\n`));
    await work(tab, `http://127.0.0.1:${site.address().port}`);
  } finally {
    await browser.close();
    site.close();
  }
};
