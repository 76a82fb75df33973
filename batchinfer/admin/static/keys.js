// The keyboard, for every page. `data-key="r"` on a link, button or field makes that key press it (a field: go to it),
// `data-key-text` is what the help says of it, else its own words. In lists of `data-row`: j and k move, o opens
// (`data-open`, else the row's first link), x ticks. Nothing happens while somebody types, nor with Ctrl, Alt or Cmd.
(() => {
  const OFF = "batchinfer-keys-off";
  const holder = document.querySelector("#keys");
  if (!holder) return;
  const words = JSON.parse(holder.dataset.words);
  let off = false;
  try {
    off = localStorage.getItem(OFF) === "yes";
  } catch {
    // Storage may be forbidden: keys are then on.
  }

  const seen = (element) => element.getClientRects().length > 0 && !element.disabled;
  const find = (selector, scope) => [...scope.querySelectorAll(selector)].filter(seen);
  const list = () => find("[data-row]", document);
  const here = () => document.activeElement?.closest?.("[data-row]") ?? null;
  const opener = (row) => row.querySelector("[data-open]") ?? row.querySelector("a[href]:not([tabindex='-1'])");
  const ticker = (row) => row.querySelector("input[type=checkbox]");
  const search = () => find("[data-search]", document)[0];
  const typing = (element) =>
    element?.isContentEditable || element?.matches?.("textarea, select, input:not([type=checkbox], [type=radio], [type=button], [type=submit])");

  const move = (step) => {
    const rows = list();
    const at = rows.indexOf(here());
    const row = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step];
    if (!row) return;
    opener(row)?.focus();
    row.scrollIntoView({ block: "nearest" });
  };
  const press = (element) => {
    if (typing(element)) element.focus();
    else element.click();
  };

  // What can be pressed here: pairs of a key and what it does, in the order in which the help lists them.
  const present = () => {
    const lines = [];
    const rows = list();
    if (search()) lines.push(["/", words.search]);
    if (rows.length) lines.push(["j", words.down], ["k", words.up], ["o", words.open]);
    if (rows.some(ticker)) lines.push(["x", words.select]);
    const known = new Set(lines.map(([key]) => key));
    for (const element of find("[data-key]", document)) {
      const { key, keyText } = element.dataset;
      if (known.has(key)) continue;
      known.add(key);
      lines.push([key, keyText || element.getAttribute("aria-label") || element.textContent.trim()]);
    }
    return [...lines, ["?", words.help]];
  };
  const help = () => {
    const dialog = document.createElement("dialog");
    dialog.className = "keys";
    const make = (name, text, parent) => {
      const element = document.createElement(name);
      element.textContent = text;
      parent.append(element);
      return element;
    };
    make("h2", words.title, dialog);
    dialog.setAttribute("aria-label", words.title);
    const table = make("dl", "", dialog);
    for (const [key, text] of present()) {
      const line = make("div", "", table);
      make("kbd", key, make("dt", "", line));
      make("dd", text, line);
    }
    const label = make("label", "", dialog);
    const box = make("input", "", label);
    box.type = "checkbox";
    box.checked = !off;
    make("span", words.on, label);
    box.addEventListener("change", () => {
      off = !box.checked;
      try {
        localStorage.setItem(OFF, off ? "yes" : "no");
      } catch {
        // It then holds for this page only.
      }
    });
    const close = make("button", words.close, dialog);
    close.type = "button";
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target === close) dialog.close();
    });
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
    close.focus();
  };
  document.querySelector("[data-keys-button]")?.addEventListener("click", help);

  // Answers whether the key meant something here.
  const act = (key) => {
    const open = document.querySelector("dialog[open]");
    const row = open ? null : here();
    const keyed = `[data-key="${CSS.escape(key)}"]`;
    const wanted = (row && find(keyed, row)[0]) || find(keyed, open ?? document)[0];
    if (wanted) return press(wanted), true;
    if (open) return false;
    if (key === "?") return help(), true;
    if (key === "/" && search()) return search().focus(), search().select?.(), true;
    if ((key === "j" || key === "k") && list().length) return move(key === "j" ? 1 : -1), true;
    if (!row) return false;
    // Enter presses links and buttons by itself; on a ticked box it would send the form.
    const opens = key === "o" || (key === "Enter" && document.activeElement.matches("input"));
    if (opens && opener(row)) return opener(row).click(), true;
    if (key === "x" && ticker(row)) return ticker(row).click(), true;
    return false;
  };
  document.addEventListener("keydown", (event) => {
    if (off || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (typing(event.target)) return;
    if (act(event.key)) event.preventDefault();
  });
})();
