// Drives one browser by Puppeteer: a call a line on standard input, its outcome a line on standard output.
// The first argument is where puppeteer-core is, the second the options to launch the browser with.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [library, options] = process.argv.slice(2);
const { default: puppeteer } = await import(pathToFileURL(library));
const browser = await puppeteer.launch(JSON.parse(options));
const visitors = new Map();

const calls = {
  // A visitor is a context with cookies of its own, and one page.
  async enter(name) {
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    page.setDefaultTimeout(120_000);
    visitors.set(name, { context, page });
    return null;
  },

  async leave(name) {
    const { context } = visitors.get(name);
    visitors.delete(name);
    await context.close();
    return null;
  },

  async goto(name, url) {
    const { page } = visitors.get(name);
    await page.goto(url);
    return page.evaluate(() => document.body.innerText);
  },

  // Calls a function of the page's own script, and waits for what it promises.
  async call(name, function_, ...given) {
    const { page } = visitors.get(name);
    return (await page.evaluate((called, given) => window[called](...given), function_, given)) ?? null;
  },

  // The same where it takes the page elsewhere; returns what is then to be read.
  async follow(name, function_, ...given) {
    const { page } = visitors.get(name);
    const arrived = page.waitForNavigation();
    await Promise.all([arrived, page.evaluate((called, given) => void window[called](...given), function_, given)]);
    return page.evaluate(() => document.body.innerText);
  },
};

process.stdout.on("error", () => process.exit(1));
process.stdout.write(`${JSON.stringify({ value: await browser.version() })}\n`);
for await (const line of createInterface({ input: process.stdin })) {
  const [called, ...given] = JSON.parse(line);
  let outcome;
  try {
    outcome = { value: await calls[called](...given) };
  } catch (error) {
    outcome = { error: `${called}(${given.join(", ")}): ${error.stack}` };
  }
  process.stdout.write(`${JSON.stringify(outcome)}\n`);
}
await browser.close();
