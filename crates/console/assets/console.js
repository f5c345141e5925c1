"use strict";
// Pages work without this: it puts what has changed in place of what is shown, and says so when it can't.
const main = document.querySelector("main[data-live]");
if (main) {
  const AGAIN = 10000;
  let events;
  let waiting;

  const stale = () => {
    if (!document.getElementById("stale")) {
      const note = document.createElement("p");
      note.id = "stale";
      note.className = "told";
      note.setAttribute("role", "status");
      note.textContent = `This page is not live: it shows how things were at ${new Date().toLocaleTimeString()} at the latest.`;
      document.querySelector("header").append(note);
    }
    clearTimeout(waiting);
    waiting = setTimeout(refresh, AGAIN);
  };

  // A click is over before what is clicked is replaced.
  let pressed = false;
  addEventListener("pointerdown", () => (pressed = true));
  for (const over of ["pointerup", "pointercancel", "blur"]) addEventListener(over, () => (pressed = false));
  /** The same link or button on a page that was made anew. */
  const name = (element) =>
    [element.tagName, element.getAttribute("href"), element.closest("form")?.getAttribute("action"), element.textContent].join(" ");

  // Nobody's typing is thrown away, wherever they are by now.
  const isTyped = () =>
    [...main.querySelectorAll("input, select")].some((field) => field === document.activeElement || (field.defaultValue ?? field.value) !== field.value);

  const refresh = async () => {
    if (isTyped()) return stale();
    try {
      const url = new URL(location.href);
      // What was done stands there already.
      url.searchParams.delete("told");
      const answer = await fetch(url);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.querySelector("main[data-live]");
      if (!answer.ok || answer.redirected || !fresh) return stale();
      if (pressed) return setTimeout(refresh, 200);
      if (isTyped()) return stale();
      // Whoever has just acted reads it to its end.
      const told = main.querySelectorAll(":scope > .told");
      const focused = main.contains(document.activeElement) && name(document.activeElement);
      main.replaceChildren(...told, ...fresh.childNodes);
      // Whoever works by keyboard stays where they were.
      if (focused) [...main.querySelectorAll("a, button")].find((element) => name(element) === focused)?.focus();
      main.dataset.seen = fresh.dataset.seen;
    } catch {
      return stale();
    }
    document.getElementById("stale")?.remove();
    if (events.readyState === EventSource.CLOSED) listen();
  };

  const listen = () => {
    const shown = new URLSearchParams({ of: main.dataset.live, seen: main.dataset.seen });
    events = new EventSource("/live?" + shown);
    events.addEventListener("changed", refresh);
    events.addEventListener("error", stale);
  };

  // A browser opens six connections to one host: pages that nobody looks at keep none.
  document.addEventListener("visibilitychange", () => (document.hidden ? events.close() : refresh()));
  listen();
}
// What stands behind the # of an address stays in the browser: `rekey run` hands its token over like that. On this machine only:
// elsewhere somebody's link would sign one in under another name.
const form = document.getElementById("sign-in");
if (form && location.hash.length > 1 && ["127.0.0.1", "localhost"].includes(location.hostname)) {
  form.elements.token.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname + location.search);
  form.submit();
}
