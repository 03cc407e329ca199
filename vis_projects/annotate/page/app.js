import { Picture, Stroke } from "./canvas.js";
import { ObjectList } from "./objects.js";
import { call, image, listen } from "./server.js";
import { Timeline } from "./timeline.js";

const $ = (id) => document.getElementById(id);
const picture = new Picture($("picture"));
const timeline = new Timeline($("timeline"), (t) => go(t));
let state = null, t = 0, current = null, tool = "box", playing = null, busy = false;
let points = { inside: [], outside: [] }, polygon = [], drag = null, space = false;
let making = null, sent = Promise.resolve(); // an object on its way; what was drawn, in order

function say(text, error = false) {
  $("message").textContent = text; $("message").classList.toggle("error", error);
}
async function attempt(work) {
  try { return await work(); } catch (error) { say(error.message, true); return null; }
}

// State --------------------------------------------------------------------------------------------

async function refresh() {
  state = await call("GET", "state");
  picture.size = [state.proxy[1], state.proxy[0]];
  if (current === null || !state.objects.some((o) => o.id === current)) current = state.objects[0]?.id ?? null;
  $("video").textContent = state.video; $("video").title = state.video;
  $("undo").disabled = !state.undo; $("redo").disabled = !state.redo;
  setBusy(state.busy);
  if (!$("kind").options.length) for (const kind of state.exports) $("kind").add(new Option(kind, kind));
  listObjects();
  timeline.show(state, t, current);
}

function setBusy(value) {
  busy = value;
  $("stop").disabled = !busy;
  for (const id of ["follow", "follow-back", "propose"]) $(id).disabled = busy;
}

let wanted = 0, held = null; // held: the frame that picture.frame is
async function go(to, { masksOnly = false } = {}) {
  if (!state) return;
  t = Math.min(Math.max(0, to), state.length - 1);
  $("place").textContent = `${t + 1} / ${state.length}`;
  timeline.show(state, t, current);
  const mine = ++wanted, at = t;
  if (!masksOnly) forgetDraft(); // other frames' masks come any time: what is being drawn stays
  await attempt(async () => {
    const frame = masksOnly && held === at ? picture.frame : image(`frames/${at}`);
    const [shown, masks] = await Promise.all([frame, image(`frames/${at}/masks`)]);
    if (mine !== wanted) return; // somebody went on meanwhile
    picture.frame = shown; picture.masks = masks; held = at;
    if (picture.draft?.sent) picture.draft = null; // the masks have it now
    if (picture.fitted) picture.fit(); else picture.paint();
    document.body.dataset.shown = at;
  });
}

const always = (title) => () => title;
const objects = new ObjectList($("objects"), {
  choose, rename: (id, name) => act(id, { action: "rename", name }), typed: () => inOrder(refresh),
  buttons: [
    { text: "Accept", title: (o) => `A system found this (${Math.round(100 * o.score)} %)`, when: (o) => o.proposal, work: (id) => act(id, { action: "accept" }) },
    { text: "Erase here", title: always("Forget the mask in this frame"), work: (id) => { const at = t; inOrder(() => call("DELETE", `frames/${at}/masks/${id}`)); } },
    { text: "Delete from here", title: always("Delete from this frame on (Delete)"), work: (id) => act(id, { action: "delete", from: t }) },
    { text: "Delete", title: always("Delete in all frames"), work: (id) => act(id, { action: "delete", from: 0 }) },
    { text: "Split here", title: always("A new object from this frame on"), work: (id) => act(id, { action: "split", from: t }) },
    { text: "Merge", title: always("Join this object to the chosen one"), when: (o, chosen) => chosen !== null && chosen !== o.id, work: (id) => act(id, { action: "merge", into: current }) },
  ],
});
function listObjects() {
  objects.show(state, current);
  $("hint").hidden = state.objects.length > 0;
}

const act = (id, body) => inOrder(() => call("POST", `objects/${id}`, body));
function choose(id) {
  if (id === current) return;
  current = id; forgetDraft(); listObjects(); timeline.show(state, t, current); picture.paint();
}
function newObject() {
  making = attempt(async () => {
    const made = await call("POST", "objects", { name: "" });
    current = made.id; await refresh(); say(`object ${made.id}: mark it with a box, points, polygon or brush`);
    return made.id;
  }).finally(() => { making = null; });
  return making;
}
// The object that is drawn on: the one being made, else the chosen one, else a new one.
async function target() { return (making && (await making)) ?? current ?? (await newObject()); }

// Drawing ------------------------------------------------------------------------------------------

function forgetDraft() { points = { inside: [], outside: [] }; polygon = []; drag?.end?.(false); drag = null; picture.draft = null; }
function setTool(name) {
  tool = name; forgetDraft();
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === name);
  $("stage").style.cursor = name === "pan" ? "grab" : "crosshair";
  picture.paint();
}
const colour = (id) => state.colours[id] || "#ffffff";
const toVideo = ([x, y]) => [x * state.size[1] / state.proxy[1], y * state.size[0] / state.proxy[0]];

function sendPrompt(prompt) {
  const at = t, aim = target();
  return inOrder(async () => {
    const id = await aim;
    if (id === null) return;
    say("looking for the object ...");
    await call("POST", `frames/${at}/prompt/${id}`, prompt);
    say(`object ${id} is marked in frame ${at + 1}`);
  });
}
// What a person does goes to the server in that order, however long each takes.
function inOrder(work) {
  sent = sent.then(() => attempt(work));
  return sent;
}
async function sendMask(made, at, id) {
  await call("PUT", `frames/${at}/masks/${id}`, await made.blob());
  say(`object ${id} is marked in frame ${at + 1}`);
}
function startStroke(at) {
  const made = { stroke: null, last: at, queue: [[at, at]], width: +$("size").value, erase: tool === "eraser" };
  const frame = t, aim = target(), ended = new Promise((done) => { made.end = done; });
  inOrder(async () => {
    const id = await aim;
    if (id === null) return;
    const stroke = new Stroke(picture.size, colour(id));
    stroke.load(await image(`frames/${frame}/masks/${id}`)); // as the strokes before this one left it
    made.stroke = stroke;
    const draft = (g) => { g.globalAlpha = 0.7; g.drawImage(stroke.canvas, 0, 0); g.globalAlpha = 1; };
    if (frame === t) picture.draft = draft;
    flush(made);
    if (!(await ended)) return; // given up
    flush(made);
    await sendMask(stroke, frame, id);
    draft.sent = true;
  });
  return made;
}
function flush({ stroke, queue, width, erase }) {
  if (!stroke) return;
  for (const [a, b] of queue.splice(0)) stroke.line(a, b, width, erase);
  picture.paint();
}

const stage = $("stage");
stage.addEventListener("pointerdown", (event) => {
  if (!state || event.button > 1) return;
  stage.setPointerCapture(event.pointerId); stage.focus();
  const at = picture.at(event);
  if (tool === "pan" || space || event.button === 1) { drag = { pan: [event.clientX, event.clientY] }; return; }
  if (tool === "box") {
    drag = { box: [...at, ...at] };
    picture.draft = (g, unit) => { const [a, b, c, d] = drag?.box || [0, 0, 0, 0]; g.lineWidth = 2 * unit; g.strokeStyle = "#fff"; g.strokeRect(a, b, c - a, d - b); };
  } else if (tool === "points") {
    points[event.shiftKey || event.altKey ? "outside" : "inside"].push(at);
    drawPoints();
    sendPrompt({ inside: points.inside.map(toVideo), outside: points.outside.map(toVideo) });
  } else if (tool === "polygon") {
    polygon.push(at); drawPolygon();
  } else {
    drag = startStroke(at);
  }
});
stage.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const at = picture.at(event);
  if (drag.pan) { picture.pan(event.clientX - drag.pan[0], event.clientY - drag.pan[1]); drag.pan = [event.clientX, event.clientY]; }
  else if (drag.box) { drag.box.splice(2, 2, ...at); picture.paint(); }
  else if (drag.queue) { drag.queue.push([drag.last, at]); drag.last = at; flush(drag); }
});
stage.addEventListener("pointerup", () => {
  const done = drag; drag = null;
  if (!done || done.pan) return;
  if (done.box) {
    picture.draft = null; picture.paint();
    const [x0, y0, x1, y1] = done.box, a = toVideo([Math.min(x0, x1), Math.min(y0, y1)]), b = toVideo([Math.max(x0, x1), Math.max(y0, y1)]);
    if (b[0] - a[0] > 3 && b[1] - a[1] > 3) sendPrompt({ box: [...a, ...b] });
  } else done.end(true);
});
stage.addEventListener("dblclick", () => closePolygon());
stage.addEventListener("wheel", (event) => { event.preventDefault(); picture.zoom(Math.exp(-event.deltaY / 400), event); }, { passive: false });

function drawPoints() {
  picture.draft = (g, unit) => {
    for (const [list, fill] of [[points.inside, "#4ade80"], [points.outside, "#ff5c48"]])
      for (const [x, y] of list) { g.beginPath(); g.arc(x, y, 5 * unit, 0, 7); g.fillStyle = fill; g.fill(); g.lineWidth = unit; g.strokeStyle = "#000"; g.stroke(); }
  };
  picture.paint();
}
function drawPolygon() {
  picture.draft = (g, unit) => {
    g.lineWidth = 2 * unit; g.strokeStyle = "#fff"; g.beginPath();
    polygon.forEach((p, k) => (k ? g.lineTo(...p) : g.moveTo(...p))); g.stroke();
  };
  picture.paint();
}
function closePolygon() {
  if (tool !== "polygon" || polygon.length < 3) return;
  const corners = polygon, at = t, aim = target();
  polygon = []; picture.draft = null;
  inOrder(async () => {
    const id = await aim;
    if (id === null) return;
    const made = new Stroke(picture.size, colour(id));
    made.fill(corners);
    await sendMask(made, at, id);
  });
}

// Commands -----------------------------------------------------------------------------------------

const follow = (direction, frame = t) => inOrder(async () => {
  await call("POST", "follow", { frame, direction, count: +$("count").value, ids: [] });
  setBusy(true); say("following ...");
});
const undo = () => inOrder(() => call("POST", "undo"));
const redo = () => inOrder(() => call("POST", "redo"));
function play() {
  if (playing) { clearInterval(playing); playing = null; $("play").textContent = "▶"; return; }
  let waiting = false;
  $("play").textContent = "❚❚";
  playing = setInterval(async () => {
    if (waiting) return;
    waiting = true; await go(t + 1 >= state.length ? 0 : t + 1); waiting = false;
  }, 1000 / Math.min(30, state.fps));
}
function jump(direction) {
  const marks = [...new Set(state.objects.flatMap((o) => [...o.drawn, ...o.doubtful]))].sort((a, b) => a - b);
  const next = direction > 0 ? marks.find((m) => m > t) : marks.reverse().find((m) => m < t);
  if (next !== undefined) go(next);
}
async function exportMasks() {
  say("exporting ...");
  const kind = $("kind").value, made = await inOrder(() => call("POST", "export", { kind }));
  if (made) say(`${made.files.length} file${made.files.length > 1 ? "s" : ""}: ${made.files[0]}`);
}

for (const button of document.querySelectorAll("[data-tool]")) button.onclick = () => setTool(button.dataset.tool);
Object.entries({
  add: newObject, undo, redo, play, export: exportMasks, follow: () => follow(1), "follow-back": () => follow(-1),
  stop: () => attempt(() => call("POST", "stop")), propose: () => attempt(() => call("POST", "propose")),
  previous: () => go(t - 1), next: () => go(t + 1), help: () => $("shortcuts").showModal(),
}).forEach(([id, work]) => { $(id).onclick = work; });

addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || $("shortcuts").open) return;
  const key = event.key, step = event.shiftKey ? 10 : 1;
  const control = event.ctrlKey || event.metaKey;
  if (control && key.toLowerCase() === "z") { event.preventDefault(); event.shiftKey ? redo() : undo(); return; }
  if (control || event.altKey) return;
  const tools = { b: "box", p: "points", g: "polygon", d: "brush", e: "eraser" };
  if (key === " ") { event.preventDefault(); space = true; }
  else if (key === "ArrowRight") go(t + step);
  else if (key === "ArrowLeft") go(t - step);
  else if (key === "Home") go(0);
  else if (key === "End") go(state.length - 1);
  else if (key === ",") jump(-1);
  else if (key === ".") jump(1);
  else if (key === "[") $("size").value -= 3;
  else if (key === "]") $("size").value = +$("size").value + 3;
  else if (key === "0") picture.fit();
  else if (key === "?") $("shortcuts").showModal();
  else if (key === "Enter") closePolygon();
  else if (key === "Escape") { forgetDraft(); picture.paint(); if (busy) call("POST", "stop"); }
  else if (key === "Delete" && current !== null) act(current, { action: "delete", from: t });
  else if (key.toLowerCase() === "f") follow(event.shiftKey ? -1 : 1);
  else if (key === "k") play();
  else if (key === "n") newObject();
  else if (tools[key]) setTool(tools[key]);
  else if (/^[1-9]$/.test(key) && state.objects[key - 1]) choose(state.objects[key - 1].id);
  else return;
  event.preventDefault();
});
addEventListener("keyup", (event) => { if (event.key === " ") space = false; });

let pending = false;
async function update() { // events come faster than a state can be fetched
  if (pending) return;
  pending = true;
  await new Promise((done) => setTimeout(done, 60));
  pending = false;
  await attempt(async () => { await refresh(); await go(t, { masksOnly: true }); });
}
listen((event) => {
  if (event.kind === "progress") {
    setBusy(true);
    say(event.text || `following: frame ${(event.frame ?? event.done) + 1}, ${event.done} of ${event.of}`);
  } else if (event.kind === "done") { setBusy(false); say(`${event.frames} frames are done${event.stopped ? ", stopped" : ""}`); }
  else if (event.kind === "failed") { setBusy(false); say(event.reason, true); }
  document.body.dataset.event = event.kind;
  update();
});
setTool("box");
await attempt(async () => { await refresh(); await go(0); picture.fit(); });
