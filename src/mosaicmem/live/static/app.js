// The page: wires the socket to the views and the controls.

import { Edits } from "./edits.js";
import { Link } from "./link.js";
import { WorldMap } from "./map.js";
import { Meters } from "./meters.js";
import { Space } from "./space.js";
import { Timeline } from "./timeline.js";
import { View } from "./view.js";
import { Walking } from "./walking.js";

const dom = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const groups = new Map();
let pose = null, status = {}, spoken = 0, shownSeq = 0;

const link = new Link();
const view = new View(dom);
const map = new WorldMap(dom.map, (to) => link.do({ do: "jump", pose: to }));
const space = new Space(dom.space, (picked) => edits.picked(picked));
const timeline = new Timeline(dom, link, view, map);
const meters = new Meters(dom);
const edits = new Edits(link, view, space, () => pose);
const walking = new Walking(link, dom.view);

link.on("link", ({ state, why, wait }) => {
  dom.link.dataset.state = state;
  dom.link.textContent = { open: "connected", waiting: "connecting", gone: "not connected" }[state];
  if (state === "open") dom.gone.hidden = true;
  if (state === "gone") {
    dom.gone.hidden = false;
    dom.gone.textContent = `${why} Trying again in ${wait >= 1000 ? `${Math.round(wait / 1000)} s` : "a moment"}.`;
  }
});

link.on("hello", (hello) => {
  dom.label.textContent = hello.label;
  dom.world.textContent = hello.kept ? hello.world : "not kept";
  dom.world.title = hello.kept ? "The world file" : "This world is thrown away in the end; start with --out FILE to keep it";
  dom.prompt.hidden = !hello.generates;
  dom.memory.hidden = !hello.generates;
  dom["mosaic-figure"].hidden = !hello.generates;
  dom["mosaic-figure"].nextElementSibling.classList.toggle("wide", !hello.generates);
  for (const part of [view, map, space, timeline, edits, walking]) part.hello(hello);
});

link.on("patches", (message) => {
  if (message.reset) groups.clear();
  for (const uid of message.removed) groups.delete(uid);
  const xyz = new Float32Array(message.pictures.xyz), rgb = new Uint8Array(message.pictures.rgb);
  const radius = new Float32Array(message.pictures.radius);
  let at = 0;
  for (const group of message.groups) {
    const to = at + 3 * group.count;
    const radii = radius.subarray(at / 3, to / 3);
    groups.set(group.uid, { ...group, xyz: xyz.subarray(at, to), rgb: rgb.subarray(at, to), radius: radii });
    at = to;
  }
  map.patches(groups);
  space.patches(groups);
});

link.on("view", (message) => {
  pose = message.poses.at(-1);
  map.walked(message.frames, message.coverage, message.poses);
  space.walked(message.poses);
  const sent = link.lastSent;
  view.show(message, () => {
    if (sent && message.seq === sent.seq && message.seq !== shownSeq) {
      shownSeq = message.seq;
      meters.lag(performance.now() - sent.at);
    }
    document.body.dataset.shown = message.seq; // for whoever waits for it
  });
  timeline.walked(message.frames, message.coverage, message.poses);
  meters.view(message);
  if (message.said) note(message.said);
  for (const warning of message.warnings) note(warning);
  controls(message);
  speak(message);
});

link.on("status", (found) => { status = found; controls(found); });
link.on("trouble", ({ said }) => note(said));

function controls(found) {
  meters.status({ ...status, ...found });
  edits.status(found);
  if (found.memory !== undefined) {
    dom.memory.setAttribute("aria-pressed", found.memory);
    dom.memory.textContent = found.memory ? "Memory on" : "Memory off";
  }
  if (found.paused !== undefined) {
    dom.pause.setAttribute("aria-pressed", found.paused);
    dom.pause.textContent = found.paused ? "Paused" : "Pause";
    dom.one.hidden = !found.paused;
  }
  if (found.replaying !== undefined) dom.take.hidden = !found.replaying;
  if (found.words) {
    const words = found.words.length ? `Said: ${found.words.join("; ")}` : "";
    if (dom.said.textContent !== words) dom.said.textContent = words;
    dom.unsay.disabled = !words;
  }
}

// what a command did, or why it could not be done
let fading = 0;
function note(words) {
  dom.note.textContent = words;
  clearTimeout(fading);
  fading = setTimeout(() => { dom.note.textContent = ""; }, 8000);
}

// a screen reader hears where one is, but not at every frame
function speak(message) {
  const label = `The view, frame ${message.frame}: ${Math.round(100 * message.known)} % known by memory`;
  dom.view.setAttribute("aria-label", `${label}. Walk with W A S D or the arrow keys.`);
  const now = performance.now();
  if (now - spoken > 4000 && !message.said) { spoken = now; dom.news.textContent = label; }
}

const presses = {
  KeyM: () => dom.memory.click(),
  KeyP: () => dom.pause.click(),
  KeyN: () => { if (!dom.one.hidden) dom.one.click(); },
  KeyO: () => view.next(),
  KeyC: () => edits.clicked(0.5, 0.5, "ask"),
  KeyX: () => edits.clicked(0.5, 0.5, "thing"),
  KeyG: () => edits.doorway(),
  Delete: () => edits.edit("erase"),
  KeyT: () => dom.words.focus(),
  Home: () => timeline.now(),
};
addEventListener("keydown", (event) => {
  if (event.target.closest("input:not([type=radio]):not([type=range]), select, dialog")) {
    if (event.key === "Escape") dom.view.focus();
    return;
  }
  if (event.code === "KeyZ" && !event.altKey) {
    link.do({ do: event.shiftKey ? "redo" : "undo" });
    event.preventDefault();
  } else if (event.key === "?") dom.keys.showModal();
  else if (presses[event.code] && !event.ctrlKey && !event.metaKey && !event.altKey) {
    presses[event.code]();
    event.preventDefault();
  }
});
dom.view.addEventListener("place", ({ detail }) => edits.clicked(detail.u, detail.v));
dom.memory.addEventListener("click", () => link.do({ do: "memory", on: dom.memory.getAttribute("aria-pressed") !== "true" }));
dom.pause.addEventListener("click", () => link.control(status.paused ? "resume" : "pause"));
dom.take.addEventListener("click", () => link.control("take over"));
dom.one.addEventListener("click", () => link.control("step"));
dom.help.addEventListener("click", () => dom.keys.showModal());
dom.home.addEventListener("click", () => space.home());
dom.unsay.addEventListener("click", () => link.do({ do: "say", text: "" }));
dom.prompt.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = dom.words.value.trim();
  if (text) link.do({ do: "say", text });
  dom.words.value = "";
  dom.view.focus();
});
dom.view.focus({ preventScroll: true });
