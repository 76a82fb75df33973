// Charts are drawn from the tables beside them, with one cursor for all; a new table is drawn into the same chart.
// Without this script the lines of the page itself are there.
(() => {
  const section = document.querySelector("#charts");
  const live = document.querySelector("#live");
  if (!section || typeof uPlot === "undefined") return;
  const HEIGHT = 158;
  const LINES = 6;
  const zone = document.querySelector("[data-zone]")?.dataset.zone || "UTC";
  const language = document.documentElement.lang || "en";
  const long = Number(section.dataset.seconds) > 2 * 86400;
  const clock = new Intl.DateTimeFormat(language, { timeZone: zone, hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const day = new Intl.DateTimeFormat(language, { timeZone: zone, month: "2-digit", day: "2-digit" });
  const moment = new Intl.DateTimeFormat(language, {
    timeZone: zone, month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", hourCycle: "h23",
  });
  const plots = new Map();
  let drawnAt = Date.now();
  let asking = false;

  // A canvas knows nothing of light-dark(): only the computed colour of an element is one that it can draw.
  const colourOf = (name) => {
    const probe = document.createElement("i");
    probe.className = name;
    section.append(probe);
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color;
  };
  const readColours = () => ({
    lines: Array.from({ length: LINES }, (_, place) => colourOf(`line-${place}`)),
    ink: colourOf("plot-ink"),
    grid: colourOf("plot-grid"),
  });

  const readNumber = (text) => {
    const number = Number.parseFloat(text.replaceAll(",", ""));
    return Number.isNaN(number) ? null : number;
  };
  const readTable = (figure) => {
    const heads = [...figure.querySelectorAll(".chart-table thead th")].slice(1);
    const rows = [...figure.querySelectorAll(".chart-table tbody tr")].reverse();
    const times = rows.map((row) => Date.parse(row.querySelector("time").dateTime) / 1000);
    const columns = heads.map((_, place) => rows.map((row) => readNumber(row.cells[place + 1].textContent)));
    const names = heads.map((head) => head.textContent.trim());
    return { names, colours: heads.map((head) => Number(head.dataset.colour)), data: [times, ...columns] };
  };

  const build = (figure, colours) => {
    const host = figure.querySelector("[data-plot]");
    const table = readTable(figure);
    const places = Number(figure.dataset.places);
    const format = new Intl.NumberFormat(language, { maximumFractionDigits: places });
    const most = Number(figure.dataset.most) || null;
    const axis = { stroke: colours.ink, grid: { stroke: colours.grid, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const series = table.names.map((label, place) => ({
      label,
      stroke: colours.lines[table.colours[place] % LINES],
      width: 1.75,
      points: { size: 4 },
      value: (_, value) => (value === null || value === undefined ? "–" : format.format(value)),
    }));
    host.replaceChildren();
    const plot = new uPlot(
      {
        width: Math.max(120, host.clientWidth),
        height: HEIGHT,
        padding: [6, 8, 0, 0],
        cursor: { sync: { key: "charts" }, drag: { x: false, y: false }, points: { size: 6 } },
        legend: { live: true },
        scales: { y: { range: (_, low, high) => [0, most ?? Math.max(high * 1.08, high > 0 && places ? 0 : places ? 1 : 4)] } },
        axes: [
          { ...axis, size: 26, gap: 4, space: 60, values: (_, splits) => splits.map((at) => (long ? day : clock).format(at * 1000)) },
          { ...axis, size: 54, gap: 4, values: (_, splits) => splits.map((value) => format.format(value)) },
        ],
        series: [{ label: host.dataset.plot, value: (_, at) => (at ? moment.format(at * 1000) : "–") }, ...series],
      },
      table.data,
      host,
    );
    plots.set(figure.id, { plot, key: table.names.join("\n") });
  };

  const drawAll = () => {
    const colours = readColours();
    for (const { plot } of plots.values()) plot.destroy();
    plots.clear();
    for (const figure of section.querySelectorAll("figure[id]")) build(figure, colours);
    section.dataset.drawn = String(Number(section.dataset.drawn || 0) + 1);
  };

  const refresh = async () => {
    if (asking) return;
    asking = true;
    try {
      const answer = await fetch(section.dataset.address, { headers: { Accept: "text/html" } });
      if (!answer.ok || answer.redirected) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      let colours = null;
      for (const figure of section.querySelectorAll("figure[id]")) {
        const table = figure.querySelector(".chart-table table");
        const fresh = page.getElementById(figure.id)?.querySelector(".chart-table table");
        if (!table || !fresh || table.contains(document.activeElement)) continue;
        if (table.innerHTML === fresh.innerHTML) continue;
        table.replaceChildren(...document.importNode(fresh, true).childNodes);
        const read = readTable(figure);
        const told = figure.querySelector("[data-empty]");
        if (told) told.hidden = read.data.slice(1).some((values) => values.some((value) => value !== null));
        const known = plots.get(figure.id);
        if (known && known.key === read.names.join("\n")) known.plot.setData(read.data);
        else {
          colours ??= readColours();
          known?.plot.destroy();
          build(figure, colours);
        }
      }
      drawnAt = Date.now();
      section.dataset.refreshed = String(Number(section.dataset.refreshed || 0) + 1);
    } catch {
      // The live bar says that the server does not answer.
    } finally {
      asking = false;
    }
  };

  drawAll();
  // With the page's own polling: a paused page does not ask, and the charts rest with it.
  document.addEventListener("htmx:after:request", (event) => {
    if (event.target === live && Date.now() - drawnAt > Number(section.dataset.everyMs)) refresh();
  });
  new MutationObserver(drawAll).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let width = section.clientWidth;
  new ResizeObserver(() => {
    if (section.clientWidth === width) return;
    width = section.clientWidth;
    for (const { plot } of plots.values()) {
      plot.setSize({ width: Math.max(120, plot.root.parentElement.clientWidth), height: HEIGHT });
    }
  }).observe(section);
})();
