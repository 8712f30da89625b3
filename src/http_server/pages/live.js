// Renews what the page shows, every few seconds while somebody looks at it. Everything works without it.
"use strict";
(() => {
  const EVERY = 3000;
  const button = document.getElementById("live");
  const stale = document.getElementById("stale");
  let paused = false;
  let failures = 0;

  const say = (words) => {
    stale.textContent = words;
    stale.hidden = words === "";
  };

  // What somebody has opened, is typing into or has selected stays as it is.
  const isInUse = (section) => {
    const active = document.activeElement;
    const typing = active && section.contains(active) && active.matches("input, select, textarea, summary");
    const selection = document.getSelection();
    const selected = selection && !selection.isCollapsed && section.contains(selection.anchorNode);
    return typing || selected || section.querySelector("details[open]") !== null;
  };

  const renew = (fresh) => {
    for (const section of document.querySelectorAll("[data-part]")) {
      const next = fresh.querySelector(`[data-part="${section.dataset.part}"]`);
      if (!next || next.innerHTML === section.innerHTML || isInUse(section)) continue;
      const active = section.contains(document.activeElement) ? document.activeElement.id : "";
      section.replaceChildren(...next.childNodes);
      if (active) document.getElementById(active)?.focus();
    }
  };

  const look = async () => {
    if (paused || document.hidden) return;
    try {
      const headers = { "x-live": "1" };
      const answer = await fetch(location.href, { headers, credentials: "same-origin", redirect: "error" });
      if (answer.status === 401) {
        paused = true;
        button.hidden = true;
        return say("Your session has ended: load the page again to sign in.");
      }
      if (!answer.ok) throw new Error(String(answer.status));
      renew(new DOMParser().parseFromString(await answer.text(), "text/html"));
      failures = 0;
      say("");
    } catch {
      failures += 1;
      if (failures > 1) say("The worker does not answer; what you see is not of now.");
    }
  };

  const next = async () => {
    await look();
    setTimeout(next, EVERY);
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Go on" : "Pause";
    button.setAttribute("aria-label", paused ? "Go on with live updates" : "Pause live updates");
    if (!paused) look();
  });
  button.setAttribute("aria-label", "Pause live updates");
  document.addEventListener("visibilitychange", look);
  setTimeout(next, EVERY);
})();
