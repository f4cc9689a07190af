// The page of `tokenreel explore`: state in the address, the rest follows from it.

import { ask, askLines, bytesOf, frameImage } from "./api.js";
import { LIKE, UNLIKE, drawBox, drawFrame, drawMap, patchUnder } from "./canvas.js";
import { drawBands } from "./charts.js";
import { card, clipRow, fillSelect, make } from "./lists.js";
import { fromHash, toHash } from "./state.js";

const $ = (name) => document.getElementById(name);
const OVERLAY_FRAMES = 64;

let store, state;
let clip = null;  // of the server, and what was computed for it
let beside = null;
const NOTHING = { along: null, besideAlong: null, near: null, phases: null, matches: null };
let found = { ...NOTHING };
let wasTold = false;
const maps = new Map();
const running = new Map();  // name -> AbortController of the last request of a kind

function tell(text) { $("status").textContent = text; }

/** Run the last of a kind of work; what came before it is given up. */
async function only(kind, work) {
  running.get(kind)?.abort();
  const control = new AbortController();
  running.set(kind, control);
  try {
    await work(control.signal);
  } catch (error) {
    if (!control.signal.aborted) tell(error.message);
  }
}

/** Change what is shown. */
function show(changes) {
  const before = state;
  state = { ...state, ...changes };
  history.replaceState(null, "", `#${toHash(state)}`);
  follow(before);
}

function changed(before, ...names) {
  return names.some((name) => JSON.stringify(before?.[name]) !== JSON.stringify(state[name]));
}

async function follow(before) {
  if (changed(before, "clip", "beside", "clicks", "block", "view")) found.along = found.besideAlong = null;
  if (changed(before, "split", "action", "phase", "text")) listClips();
  if (!state.clip) return;  // the first of the list comes
  if (changed(before, "clip")) {
    await only("clip", async (signal) => {
      clip = await ask("api/clip", { clip: state.clip }, signal);
      found = { ...NOTHING };
    });
    markClip();
  }
  if (!clip || clip.id !== state.clip) return;
  if (changed(before, "clip", "beside")) await openBeside();
  if (changed(before, "clip", "run")) await askPhases();
  if (changed(before, "clip", "beside", "run")) await askMatches();
  if (changed(before, "clip", "beside", "clicks", "block", "view")) await askAlong();
  if (changed(before, "clip", "clicks", "block", "view")) askSimilar();
  if (changed(before, "clip", "frame", "run") && !playing) askNear();
  draw();
}

function runNumber() { return store.runs.findIndex((run) => run.name === state.run); }

function runWords(words) { return { run: runNumber(), ...words }; }

async function openBeside() {
  beside = null;
  if (state.beside) {
    await only("beside", async (signal) => { beside = await ask("api/clip", { clip: state.beside }, signal); });
  }
  $("other").hidden = !beside;
}

async function askPhases() {
  found.phases = null;
  if (state.run === null) return;
  await only("phases", async (signal) => {
    const answer = await ask("api/phases", runWords({ clip: clip.id }), signal);
    if (answer.reason) tell(answer.reason); else found.phases = answer;
  });
}

async function askMatches() {
  found.matches = null;
  if (state.run === null || !beside) return;
  await only("align", async (signal) => {
    found.matches = await ask("api/align", runWords({ clip: clip.id, other: beside.id }), signal);
  });
}

async function askAlong() {
  found.along = found.besideAlong = null;
  if (!state.clicks.length) return;
  await only("along", async (signal) => {
    const words = tokenWords({ clicks: JSON.stringify(state.clicks) });
    const of = [clip.id, ...(beside ? [beside.id] : [])];
    const answers = await Promise.all(of.map((id) => ask("api/along", { ...words, clip: id }, signal)));
    [found.along, found.besideAlong] = answers.map((one) => ({ ...one, bytes: bytesOf(one.data) }));
  });
}

function tokenWords(words) { return { clip: clip.id, block: state.block, view: state.view, ...words }; }

function askSimilar() {
  if (!state.clicks.length) {
    running.get("similar")?.abort();
    $("similar").replaceChildren();
    $("speed").textContent = "Click a patch, or drag a box.";
    return;
  }
  const start = performance.now();
  $("similar").dataset.done = "";
  only("similar", async (signal) => {
    for await (const answer of askLines("api/similar", tokenWords({ clicks: JSON.stringify(state.clicks) }), signal)) {
      const isLast = answer.done === answer.frames;
      $("speed").textContent = isLast ? answer.speed : `${answer.done} of ${answer.frames} frames so far`;
      if (answer.left_out.length) tell(`left out: ${answer.left_out.join("; ")}`);
      await showCards("similar", answer.patches, (one) => `${one.score.toFixed(3)}  ${one.clip}, ${one.seconds.toFixed(2)} s`, signal);
      if (signal.aborted) return;
      $("similar").dataset.first ??= performance.now() - start;
      if (isLast) $("similar").dataset.done = "true";
    }
  });
}

function askNear() {
  $("nearhead").hidden = state.run === null;
  if (state.run === null) {
    running.get("near")?.abort();
    $("near").replaceChildren();
    found.near = null;
    return;
  }
  const frame = Math.min(state.frame, clip.frames - 1);
  only("near", async (signal) => {
    found.near = await ask("api/near", runWords({ clip: clip.id, frame }), signal);
    await showCards("near", found.near.nearest, (one) => `${one.distance.toFixed(3)}  ${one.clip}, ${one.seconds.toFixed(2)} s`, signal);
    draw();
  });
}

async function showCards(name, list, words, signal) {
  const made = list.map((one) => ({ one, ...card(one, words(one), (it) => show({ clip: it.clip, frame: it.frame })) }));
  await Promise.all(made.map(async ({ one, canvas }) => {
    drawFrame(canvas, await frame(one.clip, one.frame), store.grid);
    if (one.patch !== undefined) drawBox(canvas, one.patch, store.grid, LIKE);
  }));
  if (!signal.aborted) $(name).replaceChildren(...made.map(({ button }) => button));
}

/** A frame; the first that cannot be shown is told, once. */
async function frame(id, number) {
  const image = await frameImage(id, number, state.view);
  if (!image && !wasTold) {
    wasTold = true;
    ask("frame", { clip: id, frame: number, view: state.view }).catch((error) => tell(`without frames: ${error.message}`));
  }
  return image;
}

async function overlayBytes(id, number) {
  const size = store.grid[0] * store.grid[1];
  if (state.overlay === "similarity") {
    const along = id === clip.id ? found.along : found.besideAlong;
    return along?.bytes.subarray(number * size, (number + 1) * size) ?? null;
  }
  if (state.overlay === "none") return null;
  const first = Math.floor(number / OVERLAY_FRAMES) * OVERLAY_FRAMES;
  const words = { clip: id, kind: state.overlay, block: state.block, view: state.view, first, count: OVERLAY_FRAMES };
  const key = JSON.stringify(words);
  if (!maps.has(key)) {
    maps.set(key, ask("api/overlay", words).then((answer) => bytesOf(answer.data)));
    if (maps.size > 50) maps.delete(maps.keys().next().value);
  }
  let bytes;
  try {
    bytes = await maps.get(key);
  } catch (error) {
    maps.delete(key);
    tell(error.message);
    return null;
  }
  const depth = state.overlay === "norm" ? 1 : 3;
  const place = (number - first) * size * depth;
  return bytes.subarray(place, place + size * depth);
}

let drawing = 0;

async function draw() {
  const own = ++drawing;
  const number = Math.min(state.frame, clip.frames - 1);
  const other = besideFrame(number);
  const parts = [[$("stage"), clip.id, number]];
  if (beside) parts.push([$("beside"), beside.id, other]);
  const made = await Promise.all(parts.map(async ([, id, n]) => [await frame(id, n), await overlayBytes(id, n)]));
  if (own !== drawing) return;
  parts.forEach(([canvas, id, n], i) => {
    drawFrame(canvas, made[i][0], store.grid);
    if (made[i][1]) drawMap(canvas, made[i][1], store.grid, state.strength / 100);
    for (const [at, frameOf, patch, isPositive] of state.clicks) {
      if (at === id && frameOf === n) drawBox(canvas, patch, store.grid, isPositive ? LIKE : UNLIKE);
    }
  });
  $("title").textContent = clip.id;
  $("frame").max = clip.frames - 1;
  $("frame").value = number;
  $("time").textContent = `${clip.seconds[number].toFixed(2)} s, frame ${number} of ${clip.frames}`;
  $("caption").textContent = words(clip, number);
  if (beside) $("besidecaption").textContent = `${beside.id}: ${words(beside, other)}${found.matches ? `, tau ${found.matches.tau ?? "-"}` : ""}`;
  drawAlong(number);
  drawEntities(number, made[0][0]);
  if (state.overlay !== "similarity" || found.along) $("stage").dataset.drawn = `${clip.id}|${number}|${state.overlay}`;
  document.body.dataset.ready ??= Math.round(performance.now());
}

function words(of, number) {
  const label = of.labels[number];
  const phase = label < 0 ? "no label" : of.phases[label] ?? `phase ${label}`;
  const guess = found.phases?.predicted[number];
  const predicted = of === clip && guess !== undefined ? `, predicted ${of.phases[guess] ?? `phase ${guess}`}` : "";
  return `${of.split}${of.action ? `, ${of.action}` : ""}: ${phase}${predicted}`;
}

function besideFrame(number) {
  if (!beside) return 0;
  if (found.matches) return found.matches.matches[number];
  return Math.round(number / Math.max(clip.frames - 1, 1) * (beside.frames - 1));
}

function drawAlong(number) {
  const rows = [{ labels: clip.labels }];
  const legend = [];
  clip.phases.forEach((name, i) => {
    const item = make("li");
    item.append(make("i", "", { class: `p${i % 8}` }), name);
    legend.push(item);
  });
  if (found.phases) {
    rows.push({ labels: found.phases.predicted });
    legend.push(make("li", `below it: predicted${found.phases.right === null ? "" : `, ${(100 * found.phases.right).toFixed(0)} % right`}`));
  }
  if (found.along) {
    rows.push({ values: found.along.best, colour: "#00a0c8" });
    legend.push(make("li", `curve: similarity of the best patch, ${Math.min(...found.along.best).toFixed(2)} to ${Math.max(...found.along.best).toFixed(2)}`));
  }
  if (found.near) {
    rows.push({ values: found.near.distances, low: 0, colour: "#c2517a" });
    legend.push(make("li", "curve: distance of this frame's embedding"));
  }
  drawBands($("bands"), rows, clip.frames, number);
  $("legend").replaceChildren(...legend);
}

function drawEntities(number, image) {
  if (state.run === null || !store.runs[runNumber()].attends || playing) {
    running.get("attention")?.abort();
    $("entities").replaceChildren();
    return;
  }
  only("attention", async (signal) => {
    const answer = await ask("api/attention", runWords({ clip: clip.id, frame: number }), signal);
    $("entities").replaceChildren(...answer.entities.map((map, i) => {
      const figure = make("figure");
      const canvas = make("canvas", "", { width: 160, height: 160 });
      drawFrame(canvas, image, store.grid);
      drawMap(canvas, Uint8Array.from(map.flat(), (share) => 255 * share), [map.length, map[0].length], 0.7);
      figure.append(canvas, make("figcaption", `entity ${i}`));
      return figure;
    }));
  });
}

// The list of clips

let offset = 0;

function listClips() {
  offset = 0;
  only("clips", (signal) => addClips(signal, true));
}

async function addClips(signal, isNew) {
  const words = { split: state.split, phase: state.phase, text: state.text, offset };
  if (state.action !== null) words.action = state.action;
  const answer = await ask("api/clips", words, signal);
  const rows = answer.clips.map((one) => clipRow(one, one.id === state.clip,
    (id) => show({ clip: id, frame: 0 }), (id) => show({ beside: id === state.beside ? "" : id })));
  if (isNew) $("clips").replaceChildren(...rows); else $("clips").append(...rows);
  offset += answer.clips.length;
  $("count").textContent = `${answer.num_clips} clips`;
  $("more").hidden = offset >= answer.num_clips;
  if (!state.clip && answer.clips.length) show({ clip: answer.clips[0].id });
}

function markClip() {
  for (const row of $("clips").children) {
    const isCurrent = row.firstChild.firstChild.textContent === state.clip;
    if (isCurrent) row.setAttribute("aria-current", "true"); else row.removeAttribute("aria-current");
  }
}

// The player

let playing = 0;

function play() {
  if (playing) { clearTimeout(playing); playing = 0; follow({ ...state, frame: -1 }); }
  else playing = setTimeout(advance, 0);
  $("play").setAttribute("aria-pressed", String(Boolean(playing)));
  $("play").textContent = playing ? "Pause" : "Play";
}

async function advance() {
  const next = (state.frame + 1) % clip.frames;
  const wait = next ? 1000 * (clip.seconds[next] - clip.seconds[state.frame]) : 300;
  await frame(clip.id, next);
  if (!playing) return;
  show({ frame: next });
  playing = setTimeout(advance, Math.min(Math.max(wait, 15), 1000));
}

// Clicks

function listen() {
  let from = null;
  $("stage").addEventListener("pointerdown", (event) => {
    from = patchUnder($("stage"), event, store.grid);
    $("stage").setPointerCapture(event.pointerId);
  });
  $("stage").addEventListener("pointerup", (event) => {
    if (!from) return;
    const to = patchUnder($("stage"), event, store.grid);
    const [top, bottom] = [from[0], to[0]].sort((a, b) => a - b), [left, right] = [from[1], to[1]].sort((a, b) => a - b);
    from = null;
    const patch = top === bottom && left === right ? `${top},${left}` : `${top},${left},${bottom},${right}`;
    const mode = event.altKey ? "unlike" : event.shiftKey ? "like" : document.querySelector("[name=mode]:checked").value;
    const click = [clip.id, state.frame, patch, mode !== "unlike"];
    const changes = { clicks: mode === "new" ? [click] : [...state.clicks, click] };
    if (state.overlay === "none") changes.overlay = "similarity";
    show(changes);
  });
  $("bands").addEventListener("click", (event) => {
    const box = $("bands").getBoundingClientRect();
    show({ frame: Math.min(clip.frames - 1, Math.floor((event.clientX - box.left) / box.width * clip.frames)) });
  });
  const number = (name) => $(name).addEventListener("input", () => show({ [name]: Number($(name).value) }));
  ["block", "view", "strength", "frame"].forEach(number);
  for (const name of ["overlay", "split", "phase", "text"]) {
    $(name).addEventListener("input", () => show({ [name]: $(name).value }));
  }
  $("action").addEventListener("input", () => show({ action: $("action").value === "all" ? null : $("action").value.slice(1) }));
  $("run").addEventListener("input", () => show({ run: $("run").value || null }));
  $("clear").addEventListener("click", () => show({ clicks: [], overlay: state.overlay === "similarity" ? "none" : state.overlay }));
  $("play").addEventListener("click", play);
  $("more").addEventListener("click", () => only("clips", (signal) => addClips(signal, false)));
  $("link").addEventListener("click", () => navigator.clipboard.writeText(location.href).then(() => tell("link copied"), () => tell(location.href)));
  $("save").addEventListener("click", save);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { const before = state; state = complete(fromHash(location.hash)); fillControls(); follow(before); });
}

/** The stages and what is below them, as a PNG. */
async function save() {
  const parts = [$("stage"), ...(beside ? [$("beside")] : [])];
  const width = parts.length * 448, height = 448 + 24 + $("bands").height;
  const sheet = new OffscreenCanvas(width, height);
  const context = sheet.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, width, height);
  parts.forEach((canvas, i) => context.drawImage(canvas, i * 448, 0, 448, 448));
  context.fillStyle = "#1d1f23";
  context.font = "14px sans-serif";
  context.fillText(`${clip.id}  ${$("time").textContent}  ${$("caption").textContent}`, 6, 466, width - 12);
  context.drawImage($("bands"), 0, 472, width, $("bands").height);
  const link = make("a", "", { download: `${clip.id.replace(/[^\p{L}\p{N}._-]/gu, "_")}-${state.frame}.png` });
  link.href = URL.createObjectURL(await sheet.convertToBlob());
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  document.body.dataset.saved = link.download;
}

/** The state with what only the store can tell. */
function complete(given) {
  const made = { ...given };
  if (!store.blocks.includes(made.block)) made.block = store.blocks.at(-1);
  if (made.view >= store.views.length) made.view = 0;
  if (made.run !== null && !store.runs.some((run) => run.name === made.run)) {
    tell(`the link shows the run ${made.run}, which this explorer was started without: name its folder with --run`);
    made.run = null;
  }
  return made;
}

function fillControls() {
  fillSelect($("block"), store.blocks.map((block) => [block, block]), state.block);
  fillSelect($("view"), store.views.map((name, i) => [i, name]), state.view);
  fillSelect($("run"), [["", "none"], ...store.runs.map((run) => [run.name, run.name])], state.run ?? "");
  fillSelect($("split"), [["", "all"], ...store.splits.map((name) => [name, name])], state.split);
  fillSelect($("action"), [["all", "all"], ...store.actions.map((name) => [`=${name}`, name || "(no name)"])], state.action === null ? "all" : `=${state.action}`);
  fillSelect($("phase"), [["", "all"], ...store.phases.map((name) => [name, name])], state.phase);
  for (const name of ["overlay", "strength", "text"]) $(name).value = state[name];
  $("run").parentElement.hidden = !store.runs.length;
  $("view").parentElement.hidden = store.views.length < 2;
}

async function begin() {
  store = await ask("api/store", {});
  state = complete(fromHash(location.hash));
  $("store").textContent = store.name;
  $("about").textContent = `${store.num_clips} clips, ${store.num_frames} frames, ${store.backbone}, ${store.codec}, ${store.grid.join(" x ")} patches${store.has_cls ? "" : ", no CLS"}`;
  document.title = `${store.name}: TokenReel explorer`;
  fillControls();
  listen();
  await follow(null);
}

begin().catch((error) => tell(error.message));
