/** Uses the example page as a person would: `node page.mjs page.html URL`. */

import { browse } from "./browser.mjs";

const [page, server] = process.argv.slice(2);

await browse(async (tab, site) => {
  await tab.goto(`${site}/examples/${page}?server=${encodeURIComponent(server)}`);
  await tab.getByLabel("Question").fill("When are dogs allowed in the huts?");
  await tab.getByRole("button", { name: "Ask" }).click();
  const sources = tab.locator("#sources");
  await sources.filter({ hasText: /\w/ }).waitFor();
  const shown = await Promise.all(
    ["#answer", "#sources", "#state"].map((one) => tab.locator(one).textContent()),
  );
  const [answer, named, state] = shown;
  process.stdout.write(JSON.stringify({ answer, sources: named, state }) + "\n");
});
