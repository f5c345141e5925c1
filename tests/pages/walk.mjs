// Walks the console's pages in a real Chromium, as a person would: `make test-pages`.
//
//     node walk.mjs REKEY SCREENSHOTS     the program, and the folder for what was seen

import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { World, expect, play, until } from "./world.mjs";

const [rekey, screenshots] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

async function everyPageIsAccessible() {
  const looks = [
    ["light", { colorScheme: "light" }],
    ["dark", { colorScheme: "dark" }],
    ["narrow", { colorScheme: "light", viewport: { width: 390, height: 800 } }],
  ];
  for (const [look, options] of looks) {
    // axe puts a script into the page, which the page's own policy would refuse.
    const { context, page } = await world.signedIn({ ...options, bypassCSP: true });
    const item = await page.goto(`${world.base}/items`).then(() => page.locator("td a").first().getAttribute("href"));
    const pages = ["/", "/needs", "/businesses", "/businesses/acme", item, "/flow", "/audit", "/search?q=nobody", "/acts/hold/business/acme", "/providers/layer/pause", "/sign-in"];
    for (const path of pages) {
      await page.goto(world.base + path);
      await page.evaluate(axe);
      const violations = await page.evaluate(async () => (await axe.run()).violations.map((v) => `${v.id}: ${v.help}`));
      expect(violations.length === 0, `${path} (${look}): ${violations.join("; ")}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
      expect(!wide, `${path} (${look}) is wider than the screen`);
      const name = path === "/" ? "status" : path.split(/[/?]/)[1];
      await page.screenshot({ path: `${screenshots}/${name}${path === "/businesses/acme" ? "-one" : ""}-${look}.png`, fullPage: true });
    }
    await context.close();
  }
}

async function itWorksWithoutAScript() {
  const { context, page } = await world.open({ javaScriptEnabled: false });
  await page.goto(`${world.base}/businesses/acme`);
  await page.getByLabel("Admin token").fill("rekey_wrong");
  // The browser tells of the refusal as an error of its own.
  page.removeAllListeners("console");
  await page.getByRole("button", { name: "Sign in" }).click();
  expect(await page.getByRole("alert").isVisible(), "a wrong token is refused with words");
  await page.getByLabel("Admin token").fill(world.token);
  await page.getByRole("button", { name: "Sign in" }).click();
  expect(page.url() === `${world.base}/businesses/acme`, `signed in, one is where one wanted to be: ${page.url()}`);
  await page.getByLabel("Reason, for the audit trail").fill("a customer called");
  await page.getByRole("button", { name: "Look now" }).click();
  expect(await page.getByText("It is due now").isVisible(), "an act tells what it did");
  await page.getByRole("link", { name: "Audit" }).click();
  expect(await page.getByText("a customer called").first().isVisible(), "the reason stands in the audit trail");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.goto(`${world.base}/audit`);
  expect(page.url().includes("/sign-in"), "signed out is signed out");
  await context.close();
}

/** By live reads, and for whoever has no script as well. */
async function aPlanIsMadeFromThePage() {
  for (const [look, options] of [["light", {}], ["narrow", { viewport: { width: 390, height: 800 } }]]) {
    const { context, page } = await world.signedIn({ ...options, bypassCSP: true });
    await page.goto(`${world.base}/businesses/acme`);
    await page.getByRole("button", { name: "Plan with live reads" }).click();
    expect(await page.getByRole("heading", { name: "Plan of acme" }).isVisible(), "the plan has a page");
    expect(await page.getByText("Nothing was changed").isVisible(), "and says what it did not do");
    expect(await page.getByText("It is the one that Layer has").isVisible(), "and what would be sent");
    await page.evaluate(axe);
    const violations = await page.evaluate(async () => (await axe.run()).violations.map((v) => `${v.id}: ${v.help}`));
    expect(violations.length === 0, `the plan (${look}): ${violations.join("; ")}`);
    await page.screenshot({ path: `${screenshots}/plan-${look}.png`, fullPage: true });
    await context.close();
  }
}

async function theKeyboardIsEnough() {
  const { context, page } = await world.signedIn();
  await page.keyboard.press("Tab");
  expect(await page.getByText("Skip to the content").isVisible(), "the first Tab offers to skip the menu");
  await page.keyboard.press("Enter");
  expect((await page.evaluate(() => document.activeElement.id)) === "main", "and does");
  await page.getByLabel("Find").focus();
  await page.keyboard.type("acme");
  await page.keyboard.press("Enter");
  await page.waitForURL(`${world.base}/businesses/acme`);
  await context.close();
}

/** Without a reload: the page is open, and nobody touches it. */
async function aRotationIsWatchedHealing() {
  const { context, page } = await world.signedIn();
  await page.goto(`${world.base}/items`);
  const path = await page.locator("td a").first().getAttribute("href");
  await page.goto(world.base + path);
  const proved = page.getByRole("cell", { name: "a new access token was proved and taken" });
  const before = await proved.count();
  let loads = 0;
  page.on("load", () => (loads += 1));
  await world.control(`items/${decodeURIComponent(path.split("/").pop())}/rotate?announce=database`);
  await proved.nth(before).waitFor();
  expect(loads === 0, "the page was loaded again");
  await context.close();
}

async function aCustomerWhoMustLogInIsFoundFromTheFirstPage() {
  const { context, page } = await world.signedIn();
  await page.goto(`${world.base}/items`);
  const path = await page.locator("td a").first().getAttribute("href");
  const item = decodeURIComponent(path.split("/").pop());
  await world.control(`items/${item}/require-login`);
  await page.goto(world.base);
  const bad = page.locator("h1.bad");
  await bad.waitFor();
  await page.screenshot({ path: `${screenshots}/status-bad.png` });
  await page.getByRole("link", { name: /waiting_for_user|partly/ }).first().click();
  await page.locator("td a").first().click();
  await page.getByRole("heading", { name: "What helps" }).waitFor();
  expect(await page.getByText(`rekey item sync ${item}`).isVisible(), "what helps is a command with the Item's id");
  await page.screenshot({ path: `${screenshots}/business-bad.png` });
  await world.control(`items/${item}/repair`);
  await context.close();
}

/** Counted first, then watched. */
async function aCauseIsReleasedAsAWhole() {
  for (const business of ["one", "two"]) {
    await world.control("businesses", { external_id: business, at_layer: true });
    await world.control(`businesses/${business}/foreign-token`);
    await world.control("items", { business, announce: "push", accounts: [{ name: "Checking", mask: "4242" }] });
    await until(`${business} is held`, async () => (await world.api(`/v1/businesses/${business}`)).verdict?.state === "held");
  }
  const { context, page } = await world.signedIn({ viewport: { width: 390, height: 800 }, bypassCSP: true });
  await page.goto(`${world.base}/needs`);
  await page.locator("section", { hasText: "unknown_tokens" }).getByRole("link", { name: "Release all of them" }).click();
  expect(await page.getByText("Releases 2 rows that are kept for unknown_tokens").isVisible(), "they are counted first");
  await page.getByRole("button", { name: "Release all" }).click();
  await page.getByText("Ordered: this page shows how far it is").waitFor();
  // The page shows it by itself.
  await page.getByText("done: 2 of 2 rows released").waitFor();
  expect(await page.getByText("Ordered: this page shows how far it is").isVisible(), "what was done is told until one leaves");
  await page.evaluate(axe);
  const violations = await page.evaluate(async () => (await axe.run()).violations.map((v) => `${v.id}: ${v.help}`));
  expect(violations.length === 0, `a batch: ${violations.join("; ")}`);
  await page.screenshot({ path: `${screenshots}/batch-narrow.png`, fullPage: true });
  // One that another console works on, for a long time.
  world.sql(
    "INSERT INTO batches (id, code, ordered_by, ordered_from, ordered_at, seen_at, state, meant, taken_until, moved_at) VALUES " +
      "('019b0000-0000-7000-8000-000000000000', 'shrink_guard', 'ops', '127.0.0.1', 0, 0, 'running', 5, 9000000000000, 0)",
  );
  await page.getByText("under way: 0 of 5 rows released").waitFor();
  await page.getByRole("button", { name: "Cancel the release of shrink_guard" }).focus();
  world.sql("UPDATE batches SET released = 1 WHERE state = 'running'");
  await page.getByText("under way: 1 of 5 rows released").waitFor();
  const focused = await page.evaluate(() => document.activeElement.getAttribute("aria-label"));
  expect(focused === "Cancel the release of shrink_guard", "whoever works by keyboard stays where they were");
  await page.screenshot({ path: `${screenshots}/batch-under-way.png`, fullPage: true });
  await page.keyboard.press("Enter");
  await page.getByText("Cancelled: no further row is released").waitFor();
  expect(await page.getByText("cancelled: 1 of 5 rows released").isVisible(), "how far it had come is told");
  await page.goto(`${world.base}/needs?told=release_all`);
  expect(!(await page.getByText("Ordered: this page").isVisible()), "an address that somebody typed claims nothing");
  await context.close();
}

const world = await World.start(rekey);
mkdirSync(screenshots, { recursive: true });
try {
  const stories = [
    everyPageIsAccessible,
    itWorksWithoutAScript,
    aPlanIsMadeFromThePage,
    theKeyboardIsEnough,
    aRotationIsWatchedHealing,
    aCustomerWhoMustLogInIsFoundFromTheFirstPage,
    aCauseIsReleasedAsAWhole,
  ];
  await play(stories.map((story) => [story.name, story]));
} finally {
  await world.stop();
}
