// A picture of a job, as large as the window or as it is, in a dialog; without a script the link shows it alone.
(() => {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-zoom]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    const [closeText, wholeText, fitText] = link.dataset.zoom.split("|");
    const small = link.querySelector("img");
    const dialog = document.createElement("dialog");
    dialog.className = "zoom";
    dialog.setAttribute("aria-label", small.alt);
    const row = document.createElement("p");
    row.className = "row";
    const size = document.createElement("button");
    const close = document.createElement("button");
    size.type = close.type = "button";
    size.textContent = wholeText;
    close.textContent = closeText;
    row.append(size, close);
    const frame = document.createElement("div");
    frame.className = "frame";
    frame.tabIndex = 0;
    const image = document.createElement("img");
    image.src = link.href;
    image.alt = small.alt;
    frame.append(image);
    dialog.append(row, frame);
    size.addEventListener("click", () => {
      const whole = dialog.classList.toggle("whole");
      size.textContent = whole ? fitText : wholeText;
    });
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (press) => {
      if (press.target === dialog) dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (link.isConnected) link.focus();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
})();
