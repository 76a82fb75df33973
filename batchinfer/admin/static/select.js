// Rows of the list of jobs: ticked one by one, with Shift a range, or all of the page; how many are; the question in a
// dialog. Without this the boxes and the form work all the same.
(() => {
  const form = document.querySelector("#bulk");
  if (!form) return;
  const reach = form.querySelector("[data-reach]");
  const told = form.querySelector("[data-selected]");
  let last = null;

  const boxes = () => [...document.querySelectorAll("input[form=bulk][name=job]")];
  const show = () => {
    const all = boxes();
    const ticked = all.filter((box) => box.checked).length;
    const head = document.querySelector("[data-tick-all]");
    if (head) {
      head.checked = ticked > 0 && ticked === all.length;
      head.indeterminate = ticked > 0 && ticked < all.length;
    }
    told.textContent = ticked === 1 ? told.dataset.one : ticked ? told.dataset.many.replace("{n}", ticked) : "";
    for (const button of form.querySelectorAll("button[name=verb]")) button.disabled = !ticked && reach.value !== "all";
  };

  document.addEventListener("click", (event) => {
    const box = event.target;
    if (box.matches?.("[data-tick-all]")) {
      for (const one of boxes()) one.checked = box.checked;
      show();
      return;
    }
    if (!box.matches?.("input[form=bulk][name=job]")) return;
    const all = boxes();
    const from = event.shiftKey && last ? all.findIndex((one) => one.value === last) : -1;
    const to = all.indexOf(box);
    if (from >= 0) for (const one of all.slice(Math.min(from, to), Math.max(from, to) + 1)) one.checked = box.checked;
    last = box.value;
    show();
  });
  reach.addEventListener("change", show);
  document.addEventListener("htmx:after:swap", show);
  window.addEventListener("pageshow", show);

  // The question is a page; as a link to it, it opens in a dialog like any other.
  form.addEventListener("submit", (event) => {
    if (!event.submitter) return;
    event.preventDefault();
    const given = new URLSearchParams(new FormData(form, event.submitter));
    if (reach.value === "all") given.delete("job");
    const link = document.createElement("a");
    link.href = `${form.action}?${given}`;
    link.dataset.dialog = "";
    link.hidden = true;
    form.append(link);
    link.click();
    link.remove();
  });
  show();
})();
