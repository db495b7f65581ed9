// The view: frames played one after the other, an overlay that says where each token came from, and clicks.

import { decode } from "./link.js";

const SEEN = "#3d8bfd", MADE = "#f59e0b", IMAGINED = "#d6409f";
const hue = (uid) => `hsl(${(uid * 137.508) % 360} 75% 52%)`;
// dark blue to yellow, even in lightness
const ages = ["#2d1e5f", "#5b2a86", "#932b80", "#c73e6e", "#ee6a50", "#fca636", "#f0f921"];
const aged = (share) => ages[Math.min(ages.length - 1, Math.floor(share * ages.length))];

export class View {
  constructor(dom) {
    this.canvas = dom.view;
    this.overlay = dom.overlay;
    this.mosaic = dom.mosaic;
    this.where = dom.where;
    this.legend = dom.legend;
    this.colour = dom.colour;
    this.queue = [];
    this.playing = false;
    this.past = false; // showing a frame of the timeline
    this.colour.addEventListener("change", () => this.paint());
  }

  hello(hello) {
    this.about = hello;
    for (const canvas of [this.canvas, this.mosaic]) {
      canvas.width = hello.width;
      canvas.height = hello.height;
    }
    [this.overlay.height, this.overlay.width] = hello.tokens;
    this.mosaic.style.aspectRatio = `${hello.width} / ${hello.height}`;
  }

  // what a message brings; `drawn` is called when its newest frame is on the screen
  async show(message, drawn) {
    const { frames, mosaic } = message.pictures;
    const [pictures, remembered] = await Promise.all([Promise.all(frames.map(decode)), mosaic ? decode(mosaic) : null]);
    const first = !this.tokens;
    this.tokens = message.tokens;
    this.known = message.known;
    this.frame = message.frame;
    if (remembered) this.mosaic.getContext("2d").drawImage(remembered, 0, 0);
    else this.mosaic.getContext("2d").drawImage(pictures.at(-1), 0, 0);
    if (this.queue.length > 8) this.queue.length = 0; // far behind: the newest is what counts
    this.queue.push(...pictures.map((picture, i) => ({
      picture, number: message.frames[i], last: i === pictures.length - 1, drawn, pace: pictures.length > 1 ? 55 : 0,
    })));
    if (!this.playing) this.play();
    if (first) this.paint();
  }

  async play() {
    this.playing = true;
    while (this.queue.length) {
      const { picture, number, last, drawn, pace } = this.queue.shift();
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

  paint() {
    const context = this.overlay.getContext("2d");
    context.clearRect(0, 0, this.overlay.width, this.overlay.height);
    this.legend.replaceChildren();
    const mode = this.colour.value;
    if (mode === "none" || !this.tokens || this.past) return;
    const { uid, frame, generated } = this.tokens;
    const oldest = Math.max(1, ...frame.filter((_, i) => uid[i] >= 0).map((f) => this.frame - f));
    for (let i = 0; i < uid.length; i++) {
      context.fillStyle = uid[i] < 0 ? IMAGINED
        : mode === "origin" ? (generated[i] ? MADE : SEEN)
        : mode === "frame" ? hue(uid[i]) : aged((this.frame - frame[i]) / oldest);
      context.fillRect(i % this.overlay.width, Math.floor(i / this.overlay.width), 1, 1);
    }
    const imagined = this.about.generates ? "imagined" : "not known";
    const count = (test) => Math.round(100 * uid.filter(test).length / uid.length);
    if (mode === "origin") {
      this.entry(SEEN, `seen ${count((u, i) => u >= 0 && !generated[i])} %`);
      this.entry(MADE, `generated ${count((u, i) => u >= 0 && generated[i])} %`);
    } else if (mode === "frame") {
      const found = [...new Set(uid.filter((u) => u >= 0))].slice(0, 6);
      for (const u of found) this.entry(hue(u), `of frame ${frame[uid.indexOf(u)]}`);
    } else {
      const bar = this.entry("", `0 to ${oldest} frames ago`);
      bar.className = "scale";
      bar.style.background = `linear-gradient(90deg, ${ages.join(",")})`;
    }
    this.entry(IMAGINED, `${imagined} ${count((u) => u < 0)} %`);
  }

  entry(colour, words) {
    const item = document.createElement("span"), box = document.createElement("i");
    box.style.background = colour;
    item.append(box, words);
    this.legend.append(item);
    return box;
  }
}
