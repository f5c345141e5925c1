"use strict";
// Pages work without this: it puts what has changed in place of what is shown.
const main = document.querySelector("main[data-live]");
if (main) {
  const shown = new URLSearchParams({ of: main.dataset.live, seen: main.dataset.seen });
  const events = new EventSource("/live?" + shown);
  events.addEventListener("changed", async () => {
    // Nobody's typing is thrown away.
    if (main.contains(document.activeElement) && document.activeElement.matches("input, select")) return;
    const answer = await fetch(location.href);
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("main");
    if (fresh) main.replaceChildren(...fresh.childNodes);
  });
}
// What stands behind the # of an address stays in the browser: `rekey run` hands its token over like that.
const form = document.getElementById("sign-in");
if (form && location.hash.length > 1) {
  form.elements.token.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname + location.search);
  form.submit();
}
