// What the pages do beyond links and forms: live regions (htmx polls them), copy buttons. Nothing here is needed to read.
(() => {
  const ANNOUNCE_EVERY_MS = 20000;
  const live = document.querySelector("#live");
  const bar = document.querySelector("#livebar");

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      // Off HTTPS there is no clipboard: select the text, so that one key press copies it.
      getSelection().selectAllChildren(source);
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => {
      button.textContent = label;
    }, 2500);
  });

  if (!live || !bar) return;
  const asOf = bar.querySelector("[data-as-of]");
  const word = bar.querySelector("[data-live-word]");
  const pause = bar.querySelector("[data-pause]");
  const announcer = document.querySelector("#announcer");
  let paused = false;
  let announcedAt = 0;
  let failures = 0;

  const isFinal = () => live.querySelector("[data-final]") !== null;
  const show = () => {
    const state = isFinal() ? "final" : paused ? "paused" : failures ? "stale" : "live";
    bar.dataset.state = state;
    word.textContent = { final: "As of", paused: "Paused", stale: "No answer since", live: "Live" }[state];
    pause.hidden = state === "final";
    pause.textContent = paused ? "Resume" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
  };
  const selecting = () => {
    const selection = getSelection();
    return !selection.isCollapsed && live.contains(selection.anchorNode);
  };
  const announce = () => {
    const text = live.querySelector("[data-summary]")?.dataset.summary ?? "";
    if (!announcer || announcer.textContent === text || Date.now() - announcedAt < ANNOUNCE_EVERY_MS) return;
    announcer.textContent = text;
    announcedAt = Date.now();
  };

  pause.addEventListener("click", () => {
    paused = !paused;
    show();
  });
  document.addEventListener("htmx:before:request", (event) => {
    if (event.target !== live) return;
    if (paused || document.hidden || selecting() || isFinal()) event.preventDefault();
  });
  document.addEventListener("htmx:after:request", (event) => {
    if (event.target !== live) return;
    const { response } = event.detail.ctx;
    failures = response.status < 400 ? 0 : failures + 1;
    if (failures === 0) {
      asOf.textContent = response.headers.get("X-As-Of") ?? asOf.textContent;
      live.dataset.updates = String(Number(live.dataset.updates) + 1);
    }
    show();
  });
  document.addEventListener("htmx:after:swap", () => {
    announce();
    show();
  });
  document.addEventListener("htmx:error", (event) => {
    if (event.target !== live) return;
    failures += 1;
    show();
  });
  show();
})();
