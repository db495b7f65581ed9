// The view: frames played one after the other, an overlay that says where each token came from, and clicks.

import { decode } from "./link.js";

const SEEN = "#3d8bfd", MADE = "#f59e0b", IMAGINED = "#d6409f";
const CHOSEN = "#ff2f92";
const CELL = 8; // pixels of the overlay a token: room for hatching
const hue = (uid) => `hsl(${(20 + (uid * 99.31) % 260)} 75% 52%)`; // none is like that of what was imagined
// dark blue to yellow, even in lightness
const ages = ["#2d1e5f", "#5b2a86", "#932b80", "#c73e6e", "#ee6a50", "#fca636", "#f0f921"];
const aged = (share) => ages[Math.min(ages.length - 1, Math.floor(share * ages.length))];

export class View {
  constructor(dom) {
    this.canvas = dom.view;
    this.overlay = dom.overlay;
    this.marks = dom.marks;
    this.mosaic = dom.mosaic;
    this.where = dom.where;
    this.legend = dom.legend;
    this.colour = dom.colour;
    this.turn = null; // the promise of all that came so far
    this.queue = [];
    this.playing = false;
    this.past = false; // showing a frame of the timeline
    this.colour.addEventListener("change", () => this.paint());
    this.selected = [];
    this.spot = null;
    new ResizeObserver(() => this.mark()).observe(this.marks);
  }

  hello(hello) {
    this.about = hello;
    for (const canvas of [this.canvas, this.mosaic]) {
      canvas.width = hello.width;
      canvas.height = hello.height;
    }
    [this.overlay.height, this.overlay.width] = hello.tokens.map((n) => n * CELL);
    document.documentElement.style.setProperty("--aspect", hello.width / hello.height);
    this.mosaic.style.aspectRatio = `${hello.width} / ${hello.height}`;
  }

  // what a message brings; `drawn` is called when its newest frame is on the screen
  show(message, drawn) {
    const { frames, mosaic } = message.pictures;
    // messages are shown in the order of coming, whichever picture is decoded first
    this.turn = Promise.all([Promise.all(frames.map(decode)), mosaic ? decode(mosaic) : null, this.turn])
      .then(([pictures, remembered]) => this.add(message, pictures, remembered, drawn))
      .catch((error) => console.error(error));
  }

  add(message, pictures, remembered, drawn) {
    const first = !this.tokens;
    this.tokens = message.tokens;
    this.known = message.known;
    this.frame = message.frame;
    this.mosaic.getContext("2d").drawImage(remembered ?? pictures.at(-1), 0, 0);
    if (this.queue.length > 8) this.queue.length = 0; // far behind: the newest is what counts
    this.queue.push(...pictures.map((picture, i) => ({
      picture, number: message.frames[i], last: i === pictures.length - 1, drawn, pace: pictures.length > 1 ? 55 : 0,
      pose: message.poses[i],
    })));
    if (!this.playing) this.play();
    if (first) this.paint();
  }

  async play() {
    this.playing = true;
    while (this.queue.length) {
      const { picture, number, last, drawn, pace, pose } = this.queue.shift();
      this.pose = pose;
      if (!last) this.mark();
      if (!this.past) {
        this.canvas.getContext("2d").drawImage(picture, 0, 0);
        this.where.textContent = `frame ${number}`;
      }
      if (drawn) drawn(number, last);
      if (last) this.paint();
      if (pace) await new Promise((done) => setTimeout(done, pace));
      this.latest = picture;
    }
    this.playing = false;
  }

  async look(bytes, number) {
    this.past = true;
    this.canvas.getContext("2d").drawImage(await decode(bytes), 0, 0);
    this.where.textContent = `frame ${number}`;
    this.paint();
  }

  now() {
    this.past = false;
    if (this.latest) this.canvas.getContext("2d").drawImage(this.latest, 0, 0);
    this.where.textContent = `frame ${this.frame}`;
    this.paint();
  }

  next() {
    this.colour.selectedIndex = (this.colour.selectedIndex + 1) % this.colour.options.length;
    this.paint();
  }

  // what is selected, `[x, y, z, ...]`, and the place that was asked about: shares of the picture, and its point if known
  select(points) { this.selected = points; this.mark(); }

  ask(u, v, point) { this.spot = { u, v, point, frame: this.frame }; this.mark(); }

  mark() {
    const { marks } = this, ratio = devicePixelRatio || 1, w = marks.clientWidth * ratio, h = marks.clientHeight * ratio;
    if (!w) return;
    [marks.width, marks.height] = [w, h];
    if (this.past || !this.pose) return;
    const g = marks.getContext("2d"), many = this.selected.length > 900, size = (many ? 1.5 : 3) * ratio;
    g.lineWidth = ratio;
    g.strokeStyle = "#000a";
    g.fillStyle = CHOSEN;
    for (let i = 0; i < this.selected.length; i += 3) {
      const at = this.lands(this.selected.slice(i, i + 3));
      if (!at) continue;
      g.beginPath();
      g.arc(at[0] * w, at[1] * h, size, 0, 7);
      g.fill();
      if (!many) g.stroke();
    }
    const { spot } = this, at = spot && (spot.point ? this.lands(spot.point) : spot.frame === this.frame && [spot.u, spot.v]);
    if (!at) return;
    for (const [width, colour] of [[4, "#000a"], [2, "#fff"]]) {
      g.lineWidth = width * ratio;
      g.strokeStyle = colour;
      g.beginPath();
      g.arc(at[0] * w, at[1] * h, 9 * ratio, 0, 7);
      g.stroke();
    }
  }

  // where a point lands in the picture, shares of its width and height; null where it does not
  lands(point) {
    const { K, width, height } = this.about, { pose } = this, d = point.map((x, i) => x - pose[4 * i + 3]);
    const [x, y, z] = [0, 1, 2].map((j) => d[0] * pose[j] + d[1] * pose[4 + j] + d[2] * pose[8 + j]);
    if (z <= 0) return null;
    const u = (K[0] * x / z + K[2]) / width, v = (K[4] * y / z + K[5]) / height;
    return u >= 0 && u <= 1 && v >= 0 && v <= 1 ? [u, v] : null;
  }

  paint() {
    this.mark();
    const context = this.overlay.getContext("2d");
    context.clearRect(0, 0, this.overlay.width, this.overlay.height);
    this.legend.replaceChildren();
    const mode = this.colour.value;
    if (mode === "none" || !this.tokens || this.past) return;
    const { uid, frame, generated } = this.tokens;
    const oldest = Math.max(1, ...frame.filter((_, i) => uid[i] >= 0).map((f) => this.frame - f));
    const columns = this.about.tokens[1];
    for (let i = 0; i < uid.length; i++) {
      const x = CELL * (i % columns), y = CELL * Math.floor(i / columns);
      if (uid[i] < 0) { this.hatch(context, x, y); continue; }
      context.fillStyle = mode === "origin" ? (generated[i] ? MADE : SEEN)
        : mode === "frame" ? hue(uid[i]) : aged((this.frame - frame[i]) / oldest);
      context.fillRect(x, y, CELL, CELL);
    }
    const imagined = this.about.generates ? "imagined" : "not known";
    const count = (test) => Math.round(100 * uid.filter(test).length / uid.length);
    if (mode === "origin") {
      this.entry(SEEN, `seen ${count((u, i) => u >= 0 && !generated[i])} %`);
      this.entry(MADE, `generated ${count((u, i) => u >= 0 && generated[i])} %`);
    } else if (mode === "frame") {
      const found = [...new Set(uid.filter((u) => u >= 0))].slice(0, 4);
      for (const u of found) this.entry(hue(u), `frame ${frame[uid.indexOf(u)]}`);
    } else {
      const bar = this.entry("", `0 to ${oldest} frames ago`);
      bar.className = "scale";
      bar.style.background = `linear-gradient(90deg, ${ages.join(",")})`;
    }
    this.entry("", `${imagined} ${count((u) => u < 0)} %`).className = "hatched";
  }

  // in no colour alone: stripes, whatever the other colours are
  hatch(context, x, y) {
    context.fillStyle = IMAGINED;
    for (let dy = 0; dy < CELL; dy++) {
      for (let dx = 0; dx < CELL; dx++) if ((x + y + dx + dy) % 4 < 2) context.fillRect(x + dx, y + dy, 1, 1);
    }
  }

  entry(colour, words) {
    const item = document.createElement("span"), box = document.createElement("i");
    box.style.background = colour;
    item.append(box, words);
    this.legend.append(item);
    return box;
  }
}
