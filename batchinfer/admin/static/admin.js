// What the pages do beyond links and forms: live regions (htmx fetches them), questions in a dialog, copy buttons, the
// time zone. Nothing here is needed to read or to act.
(() => {
  const ANNOUNCE_EVERY_MS = 20000;
  const EVERY = "batchinfer-every";
  const live = document.querySelector("#live");
  const bar = document.querySelector("#livebar");

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = button.dataset.copied || "Copied";
    } catch {
      // Off HTTPS there is no clipboard: select the text, so that one key press copies it.
      getSelection().selectAllChildren(source);
      button.textContent = button.dataset.selected || "Selected: press Ctrl+C";
    }
    setTimeout(() => {
      button.textContent = label;
    }, 2500);
  });

  // A link to a question opens it here; the form in it is sent like any other. What goes wrong follows the link.
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-dialog]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    try {
      const answer = await fetch(link.href, { headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const form = page.querySelector("form.confirm");
      if (!answer.ok || answer.redirected || !form) throw new Error("no question");
      const dialog = document.createElement("dialog");
      const title = document.createElement("h2");
      title.textContent = form.getAttribute("aria-label");
      dialog.setAttribute("aria-label", title.textContent);
      dialog.append(title, document.importNode(form, true));
      dialog.addEventListener("close", () => {
        dialog.remove();
        if (link.isConnected) link.focus();
      });
      dialog.addEventListener("click", (press) => {
        if (press.target !== dialog && !press.target.closest("[data-close]")) return;
        press.preventDefault();
        dialog.close();
      });
      document.body.append(dialog);
      dialog.showModal();
    } catch {
      location.assign(link.href);
    }
  });

  const zone = document.querySelector("[data-zone-button]");
  const here = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  if (zone) {
    zone.hidden = here === "UTC" && zone.dataset.zone === "UTC";
    zone.addEventListener("click", () => {
      const wanted = zone.dataset.zone === "UTC" ? here : "UTC";
      document.cookie = `batchinfer_zone=${wanted}; path=/admin; max-age=31536000; samesite=lax`;
      location.reload();
    });
  }

  if (!live || !bar) return;
  const words = JSON.parse(bar.dataset.words);
  const asOf = bar.querySelector("[data-as-of]");
  const word = bar.querySelector("[data-live-word]");
  const pause = bar.querySelector("[data-pause]");
  const every = bar.querySelector("[data-every]");
  const announcer = document.querySelector("#announcer");
  let paused = false;
  let announcedAt = 0;
  let failures = 0;

  try {
    every.value = localStorage.getItem(EVERY) || live.dataset.every;
  } catch {
    every.value = live.dataset.every;
  }
  if (!every.value) every.value = live.dataset.every;
  every.addEventListener("change", () => {
    try {
      localStorage.setItem(EVERY, every.value);
    } catch {
      // Storage may be forbidden; the choice then holds for this page only.
    }
  });

  const isFinal = () => live.querySelector("[data-final]") !== null;
  const show = () => {
    const state = isFinal() ? "final" : paused ? "paused" : failures ? "stale" : "live";
    bar.dataset.state = state;
    word.textContent = words[state];
    pause.hidden = state === "final";
    every.parentElement.hidden = state === "final";
    pause.textContent = paused ? words.resume : words.pause;
    pause.setAttribute("aria-pressed", String(paused));
  };
  const selecting = () => {
    const selection = getSelection();
    return !selection.isCollapsed && live.contains(selection.anchorNode);
  };
  // Nothing moves under somebody's hand: rows that are ticked, a field that is being filled in, an open question.
  const busy = () =>
    document.querySelector("dialog[open]") !== null ||
    live.querySelector("input[type=checkbox]:checked, [data-still]") !== null ||
    live.querySelector("input:focus, select:focus, textarea:focus") !== null;
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
    if (paused || document.hidden || selecting() || busy() || isFinal()) event.preventDefault();
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
  const look = () => {
    live.dispatchEvent(new CustomEvent("look"));
    setTimeout(look, Number(every.value) * 1000);
  };
  setTimeout(look, Number(every.value) * 1000);
  show();
})();
