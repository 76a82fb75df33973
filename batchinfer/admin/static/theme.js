// Runs before the first paint, so a chosen theme never flashes the other one. Without a choice the system decides.
(() => {
  const THEMES = ["system", "light", "dark"];
  const root = document.documentElement;
  const stored = () => {
    try {
      return localStorage.getItem("batchinfer-theme") || "system";
    } catch {
      return "system";
    }
  };
  const apply = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  let theme = THEMES.includes(stored()) ? stored() : "system";
  apply(theme);
  root.classList.add("js");

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.querySelector("[data-theme-button]");
    if (!button) return;
    const label = button.querySelector("[data-theme-label]");
    const show = () => {
      label.textContent = button.dataset.words.split("|")[THEMES.indexOf(theme)];
      button.dataset.themeButton = theme;
    };
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      try {
        localStorage.setItem("batchinfer-theme", theme);
      } catch {
        // Storage may be forbidden; the choice then holds for this page only.
      }
      apply(theme);
      show();
    });
    show();
  });
})();
