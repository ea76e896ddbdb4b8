"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const device = document.getElementById("device");
const run = document.getElementById("run");
const drawn = new Map(); // place -> what removes the drawing
let turn = 0; // of drawing: a newer one ends an older one

async function draw() {
  const mine = ++turn;
  document.documentElement.removeAttribute("data-drawn");
  for (const remove of drawn.values()) remove();
  drawn.clear();
  const theme = dark.matches ? "dark" : "light";
  for (const place of document.querySelectorAll(".chart")) {
    if (place.closest("[hidden]")) continue;
    const spec = { ...data.charts[place.dataset.chart], width: "container" };
    const options = { mode: "vega-lite", renderer: "svg", actions: false, config: data.themes[theme], tooltip: { theme } };
    try {
      const made = await vegaEmbed(place, spec, options);
      if (mine !== turn) return made.finalize();
      drawn.set(place, () => { made.finalize(); place.replaceChildren(); });
    } catch (error) {
      place.textContent = `This drawing failed: ${error.message}`;
      console.error(error);
    }
  }
  document.documentElement.dataset.drawn = theme;
}

function show() {
  for (const body of document.querySelectorAll("[data-run]")) body.hidden = body.dataset.run !== run.value;
  for (const choice of document.querySelectorAll("select.views")) {
    for (const view of choice.closest("p").parentElement.querySelectorAll("[data-view]")) {
      view.hidden = view.dataset.view !== choice.value;
    }
  }
  draw();
}

function listRuns() {
  const of = data.runs.map((one, number) => ({ ...one, number })).filter((one) => String(one.device) === device.value);
  run.replaceChildren(...of.map((one) => new Option(one.title, one.number)));
  run.value = String(of[of.length - 1].number); // the newest
}

device.addEventListener("change", () => { listRuns(); show(); });
run.addEventListener("change", show);
for (const choice of document.querySelectorAll("select.views")) choice.addEventListener("change", show);
dark.addEventListener("change", draw);
listRuns();
show();
