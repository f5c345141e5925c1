// Eleven things are broken at once. A person who has never seen Rekey notices each, knows why, and settles it, by following only what
// is shown: with the pages alone, and in another world with the terminal alone.
//
//     node eleven.mjs REKEY SCREENSHOTS

import { mkdirSync } from "node:fs";
import { World, expect, play, until } from "./world.mjs";

const [rekey, screenshots] = process.argv.slice(2);
mkdirSync(screenshots, { recursive: true });

const BROKEN = ["refused", "awaiting", "shrinking", "fought", "strange", "missed", "archived", "login"];

/** Links an Item for each business that something will happen to, and breaks all of it. */
async function broken(world) {
  const items = {};
  for (const business of BROKEN) {
    await world.control("businesses", { external_id: business, at_layer: true });
    const accounts = [
      { name: "Checking", mask: `1${BROKEN.indexOf(business)}01` },
      { name: "Savings", mask: `1${BROKEN.indexOf(business)}02` },
    ];
    const linked = await world.control("items", { business, announce: "push", accounts });
    items[business] = JSON.parse(linked).item_id;
  }
  const stands = async (business) => (await world.api(`/v1/businesses/${business}`)).verdict?.state;
  for (const business of BROKEN) await until(`${business} is right`, async () => (await stands(business)) === "converged");
  const state = JSON.parse(await world.control("state", undefined, "GET"));
  const accountsOf = (business) => state.items.find((item) => item.item_id === items[business]).accounts.map((a) => a.account_id);

  // 1: one account refuses to mint.
  const [refused] = accountsOf("refused");
  await world.control(`accounts/${refused}/refuse`);
  await world.control(`items/${items.refused}/rotate?announce=database`);
  // 2: an Item awaits its token: neither the platform nor its database says which.
  await world.control(`items/${items.awaiting}/rotate?announce=silent`);
  // 3: the shrink guard holds a list: where one of its accounts belongs was lost, and its bank's Plaid can't be asked just now.
  const about = items.shrinking;
  await world.control("faults", { call: "/accounts/get", about, do: "answer", status: 500, error_type: "API_ERROR", error_code: "INTERNAL_SERVER_ERROR" });
  world.sql(`UPDATE accounts SET business_id = NULL WHERE account_id = '${accountsOf("shrinking")[0]}'`);
  // 5: somebody else writes into a list between our PUT and our look at it.
  const puts = JSON.parse(await world.control("state", undefined, "GET")).counts.puts;
  await world.control("faults", { call: "PUT /v1/businesses/{id}", about: "fought", do: "hang_after" });
  await world.control(`items/${items.fought}/rotate?announce=database`);
  await world.control(`items/${items.fought}/webhook?code=DEFAULT_UPDATE`);
  await until("the list is sent", async () => JSON.parse(await world.control("state", undefined, "GET")).counts.puts > puts);
  await world.control("businesses/fought/foreign-token");
  await world.heal("PUT /v1/businesses/{id}");
  // 6: a token that nobody here knows.
  await world.control("businesses/strange/foreign-token");
  // 7: something signed that is no webhook.
  await world.control("webhook", "[\"no webhook\"]");
  // 8: a webhook that never comes.
  await world.control(`items/${items.missed}/lose-webhook?code=SYNC_UPDATES_AVAILABLE`);
  // 9: a business is archived at Layer.
  await world.control("businesses/archived/archive");
  // 11: a customer must log in again.
  await world.control(`items/${items.login}/require-login`);
  for (const [business, state] of [
    ["refused", "partly"],
    ["awaiting", "awaiting_token"],
    ["shrinking", "held"],
    ["fought", "held"],
    ["strange", "held"],
    ["archived", "parked"],
    ["login", "waiting_for_user"],
  ]) {
    await until(`${business} is ${state}`, async () => (await stands(business)) === state);
  }
  await until("the webhook is missed", async () => (await world.api("/v1/status")).missed_webhooks === 1);
  await until("the letter is dead", async () => (await world.api("/v1/dead-letters")).data.length === 1);
  // 4 and 10: Layer refuses everybody, and so does Plaid, for a wrong credential.
  await world.control("faults", { call: "layer", do: "answer", status: 403, error_type: "Forbidden", error_code: "Forbidden" });
  await world.control("faults", { call: "plaid", do: "answer", status: 400, error_type: "INVALID_INPUT", error_code: "INVALID_API_KEYS" });
  await until("both are paused", async () => (await world.api("/v1/pauses")).length === 2);
  /** Accounts that Layer shows. */
  const listed = async (business) => {
    const { accounts } = await world.api(`/v1/businesses/${business}/explain`);
    return accounts.filter((account) => account.at_layer.some((row) => row.status === "active")).length;
  };
  return { items, refused, stands, listed };
}

async function withThePagesAlone() {
  const world = await World.start(rekey);
  try {
    const { items, refused, stands, listed } = await broken(world);
    const { context, page } = await world.signedIn();
    // What a refusal is shown with is an error to the browser.
    page.removeAllListeners("console");
    const seen = (name) => page.screenshot({ path: `${screenshots}/eleven-${name}.png` });
    const shows = async (text, what) => expect(await page.getByText(text).first().isVisible(), what);
    const needs = () => page.getByRole("link", { name: "Needs a person" }).click();
    const press = (name) => page.getByRole("button", { name, exact: true }).click();

    await page.locator("h1.bad").waitFor();
    await seen("00-status");
    await needs();
    await page.screenshot({ path: `${screenshots}/eleven-01-needs-a-person.png`, fullPage: true });
    // 4 and 10: whoever refuses everybody stands first, with why. Mended at its place, it goes on by itself; or at once.
    await page.getByRole("link", { name: /plaid is paused: .*INVALID_API_KEYS/ }).click();
    await shows(/layer is paused/, "the other one as well");
    await seen("04-10-providers");
    const probe = (provider, patience) =>
      page.getByRole("region", { name: provider }).getByRole("button", { name: "Probe now" }).click({ timeout: patience });
    const probed = async () => (await world.api("/v1/audit")).data.filter((act) => act.action === "provider.probe").length;
    await probe("layer");
    await until("the probe of a provider that still refuses stands in the audit trail", async () => (await probed()) === 1);
    await world.heal("layer");
    await world.heal("plaid");
    for (const provider of ["layer", "plaid"]) {
      await page.goto(world.base);
      // A probe that was due may be quicker: then the button is gone, or the page is of a moment before.
      await probe(provider, 2_000).catch(() => {});
    }
    await until("nobody is paused", async () => (await world.api("/v1/pauses")).length === 0);

    // 1
    await needs();
    await page.getByRole("heading", { name: /ITEM_NOT_SUPPORTED/ }).waitFor();
    await page.getByRole("link", { name: `item ${items.refused}` }).click();
    await shows(/ITEM_NOT_SUPPORTED/, "why the account has no token");
    await seen("01-refused");
    await world.control(`accounts/${refused}/accept`);
    await press("Look now");
    await until("refused is right", async () => (await stands("refused")) === "converged");

    // 2
    await needs();
    await page.getByRole("link", { name: "awaiting_token" }).first().click();
    await page.getByRole("link", { name: "awaiting", exact: true }).click();
    await page.getByRole("link", { name: items.awaiting }).first().click();
    await shows(/awaiting_token/, "that its token is unknown");
    await seen("02-awaiting");
    await page.getByLabel("Access token", { exact: true }).fill(await world.control(`items/${items.awaiting}/token`, undefined, "GET"));
    await press("Give its access token");
    await shows("Plaid proved the token", "that it was the right one");
    await until("awaiting is right", async () => (await stands("awaiting")) === "converged");

    // 3
    await needs();
    await page.getByRole("heading", { name: /shrink_guard/ }).waitFor();
    await page.getByRole("link", { name: "business shrinking" }).click();
    await shows(/nobody proved gone/, "what the guard objects to");
    await seen("03-shrinking");
    await press("Release");
    await until("the list is sent", async () => (await listed("shrinking")) === 1);
    await world.heal("/accounts/get");
    await until("shrinking is right", async () => (await stands("shrinking")) === "converged");

    // 5. With the next sweep its stranger is one that nobody knows, and what happened tells the rest.
    await needs();
    await page.getByRole("link", { name: "business fought" }).click();
    await shows(/somebody else changed the list/, "who is to be found");
    await seen("05-fought");
    await press("Release");
    await shows("Released", "that it goes on");
    // 6
    for (const business of ["fought", "strange"]) {
      await until(`${business} shows a stranger`, async () => (await world.api(`/v1/businesses/${business}/explain`)).strangers.length === 1);
      await page.goto(`${world.base}/businesses/${business}`);
      await page.getByRole("heading", { name: "At Layer, and unknown here" }).waitFor();
      await seen(business === "strange" ? "06-strange" : "05-fought-again");
      await page.getByRole("link", { name: "remove" }).click();
      await shows(/removed by an operator's word/, "what would be sent");
      await seen("06-preview");
      await page.getByLabel(/Reason/).fill("nobody's");
      await press("Do it");
      await until(`${business} is right`, async () => (await stands(business)) === "converged");
    }

    // 7
    await needs();
    await page.getByRole("link", { name: /nobody could read/ }).click();
    await shows(/not a JSON object/, "why nobody could read it");
    await seen("07-dead-letter");
    await page.getByRole("button", { name: /Dismiss/ }).click();
    await shows("it is off the list", "that it is");

    // 8
    await needs();
    await page.getByRole("link", { name: /last webhook never came/ }).click();
    await page.getByRole("link", { name: items.missed }).first().click();
    await shows(/it never came/, "which one");
    await seen("08-missed");
    await press("Acknowledge the missed webhook");
    await shows("off the list of missed webhooks", "that it is");

    // 9
    await needs();
    await page.getByRole("heading", { name: /business_unknown_to_layer/ }).waitFor();
    await page.getByRole("link", { name: "business archived" }).click();
    await shows(/unarchive it there/, "what to do at Layer");
    await seen("09-archived");
    await world.control("businesses/archived/unarchive");
    await press("Release");
    await until("archived is right", async () => (await stands("archived")) === "converged");

    // 11: only the customer can.
    await needs();
    await page.getByRole("link", { name: "waiting_for_user" }).first().click();
    await page.getByRole("link", { name: "login", exact: true }).click();
    await shows(/update mode/, "that the customer logs in by Link's update mode");
    await seen("11-login");
    await world.control(`items/${items.login}/repair`);
    await page.goto(world.base);
    await page.locator("h1.good").waitFor();
    await seen("12-all-right");
    await context.close();
  } finally {
    await world.stop();
  }
}

async function withTheTerminalAlone() {
  const world = await World.start(rekey);
  try {
    const { items, refused, stands, listed } = await broken(world);
    const told = (line, ...parts) => {
      const { text, code } = world.command(line);
      expect(code === 0, `${line} ends with ${code}: ${text}`);
      for (const part of parts) expect(text.includes(part), `${line} tells ${JSON.stringify(part)}: ${text}`);
      return text;
    };
    /** A command that the text itself names. */
    const named = (text, pattern) => {
      const found = text.match(pattern);
      expect(found, `${pattern} is named: ${text}`);
      return found?.[0] ?? "rekey status";
    };
    const settles = (business) => until(`${business} is right`, async () => (await stands(business)) === "converged");

    // 4, 10
    const status = told("rekey status", "not right", "paused: layer, plaid", "INVALID_API_KEYS");
    expect(status.split("\n").length <= 14, `status fits into a glance: ${status}`);
    told("rekey pauses", "INVALID_API_KEYS", "next probe");
    await world.heal("layer");
    await world.heal("plaid");
    for (const provider of ["layer", "plaid"]) world.command(`rekey provider probe ${provider}`);
    await until("nobody is paused", async () => told("rekey pauses").includes("no provider is paused"));
    const parked = told("rekey parked list", "shrink_guard", "fought", "unknown_tokens", "business_unknown_to_layer");
    // 1
    expect(parked.includes(items.refused), `the refused Item waits: ${parked}`);
    const explained = told(`rekey explain ${items.refused}`, "ITEM_NOT_SUPPORTED");
    await world.control(`accounts/${refused}/accept`);
    told(named(explained, /rekey item sync \S+/));
    await settles("refused");
    // 2
    const awaiting = told("rekey item list --state awaiting_token", items.awaiting);
    expect(!awaiting.includes(items.refused), "a filter filters");
    const put = named(told(`rekey explain ${items.awaiting}`), /rekey item put \S+ --token-file -/);
    const token = await world.control(`items/${items.awaiting}/token`, undefined, "GET");
    expect(world.command(put, token).code === 0, put);
    await settles("awaiting");
    // 3
    const shrinking = told("rekey explain shrinking", "nobody proved gone", "removed");
    const release = named(shrinking, /rekey parked release business shrinking/);
    told(`${release} --dry-run`, "nothing was done");
    told(release);
    await until("the list is sent", async () => (await listed("shrinking")) === 1);
    await world.heal("/accounts/get");
    await settles("shrinking");
    // 5
    told(named(told("rekey explain fought", "somebody else"), /rekey parked release business fought/));
    // 6
    for (const business of ["fought", "strange"]) {
      await until(`${business} shows a stranger`, async () => (await world.api(`/v1/businesses/${business}/explain`)).strangers.length === 1);
      const token = named(told(`rekey explain ${business}`, "unknown here"), /token (fp\S+)/).split(" ")[1];
      told(`rekey business token ${business} ${token} remove --dry-run`, "discarded");
      told(`rekey business token ${business} ${token} remove --reason 'nobody’s'`);
      await settles(business);
    }
    // 7 and 8 are named by the status, with the commands that list them.
    const left = told("rekey status", "could read", "never came");
    const letter = told(named(left, /rekey dead-letters list/), "not a JSON object").split("\n")[1].split(/\s+/)[0];
    told(`rekey dead-letters dismiss ${letter}`);
    told(named(left, /rekey item missed/), items.missed, "SYNC_UPDATES_AVAILABLE");
    told(`rekey item acknowledge ${items.missed}`);
    // 9
    const archived = told("rekey explain archived", "unarchive it there");
    await world.control("businesses/archived/unarchive");
    told(named(archived, /rekey parked release business archived/));
    await settles("archived");
    // 11
    told("rekey business list --state waiting_for_user", "login");
    told("rekey explain login", "update mode");
    await world.control(`items/${items.login}/repair`);
    await settles("login");
    await until("all is right", async () => told("rekey status").includes("every business's list is right"));
    // What was done is known.
    told("rekey audit --since 10min", "parked.release", "business.token", "dead_letter.dismiss", "item.acknowledge", "provider.probe");
  } finally {
    await world.stop();
  }
}

await play([
  ["eleven things are settled with the pages alone", withThePagesAlone],
  ["and with the terminal alone", withTheTerminalAlone],
]);
