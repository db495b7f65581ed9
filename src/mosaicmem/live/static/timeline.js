// The walk so far: a slider through its frames, and how much of each memory knew.

export class Timeline {
  constructor(dom, link, view, map) {
    Object.assign(this, { dom, link, view, map });
    this.frames = []; // [number, share, pose]
    dom.time.addEventListener("input", () => this.scrub());
    dom.now.addEventListener("click", () => this.now());
    dom.stand.addEventListener("click", () => {
      const at = this.frames[dom.time.value];
      if (at) link.do({ do: "jump", frame: at[0] });
      this.now();
    });
    new ResizeObserver(() => this.draw()).observe(dom.shares);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  hello(hello) {
    this.frames = hello.path.map(([number, share, ...pose]) => [number, share, pose]);
    this.update();
  }

  walked(numbers, shares, poses) {
    numbers.forEach((number, i) => {
      if (this.frames.length && this.frames.at(-1)[0] === number) this.frames.pop();
      this.frames.push([number, shares[i], poses[i]]);
    });
    this.update();
  }

  update() {
    const { time } = this.dom, last = this.frames.length - 1;
    time.disabled = last < 1;
    time.max = Math.max(0, last);
    if (!this.view.past) time.value = time.max;
    this.label();
    this.draw();
  }

  label() {
    const at = this.frames[this.dom.time.value];
    const words = at ? `frame ${at[0]}, ${Math.round(100 * at[1])} % known` : "";
    this.dom["time-out"].textContent = at ? `${at[0]}` : "";
    this.dom.time.setAttribute("aria-valuetext", words);
    this.dom.now.disabled = this.dom.stand.disabled = !this.view.past;
    this.dom.past.hidden = !this.view.past;
    this.dom.past.textContent = "looking back";
  }

  async scrub() {
    const index = +this.dom.time.value, at = this.frames[index];
    if (!at) return;
    if (index === this.frames.length - 1) { this.now(); return; }
    this.wanted = at[0];
    this.view.past = true;
    this.map.mark(at[2]);
    this.label();
    this.draw();
    if (this.asking) return; // the answer will see what is wanted by then
    this.asking = true;
    try {
      let got;
      while (this.view.past && got !== this.wanted) {
        got = this.wanted;
        const bytes = await this.link.ask({ ask: "frame", frame: got });
        if (this.view.past) await this.view.look(bytes, got);
      }
    } catch (error) {
      this.link.tell("trouble", { said: error.message });
    } finally {
      this.asking = false;
    }
  }

  now() {
    this.dom.time.value = this.dom.time.max;
    this.map.mark(null);
    this.view.now();
    this.label();
    this.draw();
  }

  draw() {
    const canvas = this.dom.shares, ratio = devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
    if (!w) return;
    canvas.width = w * ratio;
    canvas.height = h * ratio;
    const g = canvas.getContext("2d"), style = getComputedStyle(canvas), n = this.frames.length;
    g.scale(ratio, ratio);
    g.strokeStyle = style.getPropertyValue("--line");
    g.strokeRect(0.5, 0.5, w - 1, h - 1);
    if (!n) return;
    g.fillStyle = style.getPropertyValue("--accent");
    g.globalAlpha = 0.45;
    const columns = Math.min(n, Math.floor(w));
    for (let x = 0; x < columns; x++) {
      const share = this.frames[Math.floor(x * n / columns)][1];
      g.fillRect(x * w / columns, h - share * (h - 2), Math.ceil(w / columns), share * (h - 2));
    }
    g.globalAlpha = 1;
    g.fillStyle = style.getPropertyValue("--ink");
    g.fillRect((n > 1 ? this.dom.time.value / (n - 1) : 1) * (w - 2), 0, 2, h);
    const mean = this.frames.reduce((sum, f) => sum + f[1], 0) / n;
    canvas.setAttribute("aria-label", `Share of each frame that memory knew: ${Math.round(100 * mean)} % on average over ${n} frames`);
  }
}
