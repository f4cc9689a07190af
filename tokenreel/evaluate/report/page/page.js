"use strict";
document.documentElement.classList.add("scripted");

/* A table that is wider than the page says that it scrolls. */
(() => {
  const tables = [...document.querySelectorAll(".wide > .scroll")];
  const look = () => tables.forEach((region) => {
    region.parentElement.classList.toggle("overflows", region.scrollWidth > region.clientWidth + 1);
  });
  addEventListener("resize", look);
  look();
})();

/* All scores: sort by a column, filter by words and by choice. */
(() => {
  const table = document.getElementById("score-table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const form = document.querySelector("form.controls");
  const search = document.getElementById("filter");
  const choices = [...form.querySelectorAll("select")];
  const shown = document.getElementById("shown");
  const keyOf = (row, column, kind) => {
    const cell = row.cells[column];
    if (kind !== "number") return cell.textContent;
    const text = cell.dataset.key ?? cell.textContent;
    return text === "" || Number.isNaN(Number(text)) ? null : Number(text);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en"));
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? order : "none"));
      const sign = order === "ascending" ? 1 : -1;
      const keyed = rows.map((row, place) => [keyOf(row, column, head.dataset.kind), place, row]);
      keyed.sort((a, b) => {
        if (a[0] === null || b[0] === null) return (a[0] === null) - (b[0] === null) || a[1] - b[1];
        return sign * compare(a[0], b[0]) || a[1] - b[1];
      });
      body.append(...keyed.map((item) => item[2]));
    });
  });
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word)) &&
        choices.every((choice) => !choice.value || row.dataset[choice.dataset.column] === choice.value);
      row.hidden = !fits;
      count += fits;
    });
    shown.textContent = `${count} of ${rows.length} rows`;
  };
  search.addEventListener("input", filter);
  choices.forEach((choice) => choice.addEventListener("change", filter));
  form.addEventListener("submit", (event) => event.preventDefault());
})();

/* Alignments: two screens follow a slider along the path of a run. */
document.querySelectorAll("article.pair").forEach((article) => {
  const data = JSON.parse(article.querySelector('script[data-name="pair"]').textContent);
  const slider = article.querySelector(".step");
  const choice = article.querySelector("select.run");
  const play = article.querySelector(".play");
  const verdict = article.querySelector(".verdict");
  const drawings = [...article.querySelectorAll("svg[data-run]")];
  let timer = null;

  const nearest = (frames, frame) => frames.reduce(
    (best, candidate, place) => (Math.abs(candidate - frame) < Math.abs(frames[best] - frame) ? place : best), 0);
  const phaseOf = (side, frame) => {
    const label = side.labels[frame];
    return label < 0 ? "no label" : side.phases[label] ?? String(label);
  };
  const show = (name, frame) => {
    const side = data.sides[name];
    const figure = article.querySelector(`[data-side="${name}"]`);
    figure.querySelector(".now").textContent = `${side.seconds ? `${side.seconds[frame].toFixed(2)} s` : `frame ${frame}`}, ${phaseOf(side, frame)}`;
    const sheet = figure.querySelector(".sheet");
    if (!sheet) return;
    const place = nearest(side.frames, frame);
    const columns = Math.min(data.columns, side.frames.length);
    const x = place % columns, y = Math.floor(place / columns);
    sheet.style.transform = `translate(${(-100 * x) / data.columns}%, ${(-100 * y) / side.rows}%)`;
  };
  const update = () => {
    const run = data.runs[Number(choice.value)];
    const step = Math.min(Number(slider.value), run.rows.length - 1);
    const query = run.rows[step], reference = run.columns[step];
    show("query", query);
    show("reference", reference);
    const one = data.sides.query.labels[query], other = data.sides.reference.labels[reference];
    verdict.textContent = one < 0 || other < 0 ? "" : one === other ? "\u2713 same phase" : "\u2717 another phase";
    slider.setAttribute("aria-valuetext", `step ${step + 1} of ${run.rows.length}`);
    drawings.forEach((drawing) => {
      const cursor = drawing.querySelector(".cursor");
      const own = drawing.dataset.run === choice.value;
      cursor.toggleAttribute("hidden", !own);
      cursor.style.display = own ? "" : "none";
      if (!own) return;
      cursor.setAttribute("cx", ((reference + 0.5) / data.sides.reference.labels.length) * data.plot);
      cursor.setAttribute("cy", ((query + 0.5) / data.sides.query.labels.length) * data.height);
    });
  };
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
  play.addEventListener("click", () => {
    if (timer !== null) { stop(); return; }
    if (Number(slider.value) >= Number(slider.max)) slider.value = 0;
    play.textContent = "Pause";
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      update();
      if (Number(slider.value) >= Number(slider.max)) stop();
    }, 80);
  });
  choice.addEventListener("change", () => {
    slider.max = data.runs[Number(choice.value)].rows.length - 1;
    update();
  });
  slider.addEventListener("input", () => { if (timer !== null) stop(); update(); });
  article.querySelectorAll(".screen").forEach((screen) => {
    const sheet = screen.querySelector(".sheet");
    const rows = data.sides[screen.closest("figure").dataset.side].rows;
    const count = data.sides[screen.closest("figure").dataset.side].frames.length;
    const columns = data.columns;
    sheet.style.width = `${100 * columns}%`;
    screen.style.aspectRatio = `${sheet.getAttribute("width") / columns} / ${sheet.getAttribute("height") / rows}`;
  });
  update();
});
