// A world to walk through: that of `rekey run`, a real Chromium, and the sandbox's switches. Nothing but 127.0.0.1 is asked.

import { spawn, spawnSync } from "node:child_process";
import { chromium } from "playwright-core";

const faults = [];

/** Notes a fault and goes on: one run tells all of them. */
export function expect(holds, what) {
  if (!holds) {
    faults.push(what);
    console.error(`FAIL  ${what}`);
  }
}

/** Waits on a condition, and says what was waited for. */
export async function until(what, holds) {
  const deadline = Date.now() + 40_000;
  for (;;) {
    const held = await holds();
    if (held) return held;
    if (Date.now() > deadline) throw new Error(`in vain: ${what}`);
    await new Promise((again) => setTimeout(again, 100));
  }
}

/** The demonstration, and a browser. */
export class World {
  /** Starts the demonstration; returns once it has said where its console and its sandbox are. */
  static async start(rekey) {
    const child = spawn(rekey, ["run"], { stdio: ["ignore", "pipe", "inherit"] });
    let told = "";
    for await (const chunk of child.stdout) {
      told += chunk;
      const console_ = told.match(/(http:\/\/127\.0\.0\.1:\d+)\/sign-in#(\S+)/);
      const sandbox = told.match(/sandbox\s+(http:\/\/127\.0\.0\.1:\d+)\/control\/state/);
      const token_file = told.match(/REKEY_ADMIN__TOKEN_FILE=(\S+)\/admin-token\s/);
      if (console_ && sandbox && token_file) {
        const world = new World();
        const [base, token, directory] = [console_[1], console_[2], token_file[1]];
        Object.assign(world, { rekey, child, base, token, directory, sandbox: sandbox[1] });
        world.browser = await chromium.launch({
          executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
          // As root there is no sandbox; the pages are ours.
          args: process.getuid() === 0 ? ["--no-sandbox"] : [],
        });
        return world;
      }
    }
    throw new Error(`rekey run ended before it said where its console is:\n${told}`);
  }

  async stop() {
    await this.browser.close();
    this.child.kill("SIGTERM");
  }

  async open(options) {
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    page.on("console", (message) => expect(message.type() !== "error", `${page.url()}: ${message.text()}`));
    page.on("pageerror", (error) => expect(false, `${page.url()}: ${error.message}`));
    return { context, page };
  }

  /** Signs in by the address that `rekey run` prints. */
  async signedIn(options) {
    const { context, page } = await this.open(options);
    await page.goto(`${this.base}/sign-in#${this.token}`);
    await page.waitForURL(`${this.base}/`);
    expect(!page.url().includes(this.token), "the token stays in the address");
    return { context, page };
  }

  /** A switch of the sandbox. */
  async control(path, body, method = "POST") {
    const raw = typeof body === "string";
    const answer = await fetch(`${this.sandbox}/control/${path}`, {
      method,
      headers: { "content-type": raw ? "text/plain" : "application/json" },
      ...(method === "GET" ? {} : { body: raw ? body : JSON.stringify(body ?? {}) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${text}`);
    return text;
  }

  /** Ends the faults that were ordered of a call. */
  heal(call) {
    return this.control(`faults?call=${encodeURIComponent(call)}`, undefined, "DELETE");
  }

  /** Changes the store past Rekey, as a fault of its database would. */
  sql(text) {
    const change = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1],timeout=20); n=c.execute(sys.argv[2]).rowcount; c.commit(); print(n)";
    const ended = spawnSync("python3", ["-c", change, `${this.directory}/rekey.sqlite`, text], { encoding: "utf8" });
    expect(ended.stdout.trim() === "1", `${text} changes a row: ${ended.stdout}${ended.stderr}`);
  }

  /** What the admin API says. */
  async api(path) {
    const answer = await fetch(this.base + path, { headers: { authorization: `Bearer ${this.token}` } });
    return answer.json();
  }

  /** A command, as somebody types it: what it prints, and how it ends. */
  command(line, input) {
    const words = line.match(/'[^']*'|\S+/g).map((word) => word.replaceAll("'", ""));
    expect(words[0] === "rekey", `${line} is a command of rekey's`);
    const env = { ...process.env, REKEY_ADMIN__URL: this.base, REKEY_ADMIN__TOKEN: this.token };
    const ended = spawnSync(this.rekey, words.slice(1), { env, input, encoding: "utf8" });
    return { text: ended.stdout + ended.stderr, code: ended.status };
  }
}

/** Plays the stories one after another; the process ends with how they went. */
export async function play(stories) {
  for (const [name, story] of stories) {
    try {
      await story();
      console.log(`ok    ${name}`);
    } catch (error) {
      // Where it stood is in the first lines of the stack that are of this folder.
      const at = error.stack?.split("\n").filter((line) => line.includes(".mjs")).slice(0, 2).join(" ");
      expect(false, `${name}: ${error.message} ${at}`);
    }
  }
  if (faults.length > 0) {
    console.error(`tests/pages: ${faults.length} faults`);
    process.exitCode = 1;
  }
}
