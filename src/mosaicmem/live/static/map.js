// The map: patches from above in their own colours, the path, where one looks, and where a click would stand.

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => { const l = Math.hypot(...a) || 1; return a.map((x) => x / l); };
const STRIP = 20; // pixels below the map, for its scale
export const column = (pose, i) => [pose[i], pose[4 + i], pose[8 + i]];

export class WorldMap {
  constructor(canvas, jump) {
    this.canvas = canvas;
    this.groups = new Map();
    this.path = []; // [frame, share, ...pose]
    this.marked = null;
    new ResizeObserver(() => this.later()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.later());
    canvas.addEventListener("click", (event) => {
      if (!this.pose || !this.from) return;
      const box = canvas.getBoundingClientRect();
      const [x, y] = this.from(event.clientX - box.left, event.clientY - box.top);
      const here = column(this.pose, 3), height = dot(here, this.up);
      const place = [0, 1, 2].map((i) => x * this.right[i] + y * this.forward[i] + height * this.up[i]);
      const pose = [...this.pose];
      [3, 7, 11].forEach((at, i) => { pose[at] = place[i]; });
      jump(pose);
    });
  }

  hello(hello) {
    this.up = hello.up;
    this.K = hello.K;
    this.width = hello.width;
    this.unit = hello.unit;
    this.path = hello.path;
    const pose = hello.path.length ? hello.path[0].slice(2) : null;
    let forward = pose ? column(pose, 2) : [0, 0, 1];
    const rise = dot(forward, this.up);
    forward = forward.map((x, i) => x - rise * this.up[i]);
    this.forward = unit(Math.hypot(...forward) > 1e-6 ? forward : cross(this.up, [1, 0, 0]));
    this.right = cross(this.forward, this.up);
    this.later();
  }

  patches(groups) { this.groups = groups; this.later(); }

  walked(frames, shares, poses) {
    frames.forEach((frame, i) => {
      if (this.path.length && this.path.at(-1)[0] === frame) this.path.pop();
      this.path.push([frame, shares[i], ...poses[i]]);
    });
    if (this.path.length > 20000) this.path.splice(0, this.path.length - 20000);
    this.pose = poses.at(-1);
    this.later();
  }

  mark(pose) { this.marked = pose; this.later(); }

  later() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => { this.due = false; this.draw(); });
  }

  flat(p) { return [dot(p, this.right), dot(p, this.forward)]; }

  draw() {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
    if (!w || !this.up) return;
    canvas.width = w * ratio;
    canvas.height = h * ratio;
    const g = canvas.getContext("2d");
    g.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const ink = style.getPropertyValue("--ink"), faint = style.getPropertyValue("--faint"), accent = style.getPropertyValue("--accent");
    // floor and furniture, not what hangs above the eye
    const eye = Math.max(-Infinity, ...this.path.map((p) => dot(column(p.slice(2), 3), this.up)));
    const points = [];
    for (const group of this.groups.values()) {
      const { xyz, rgb, radius } = group;
      for (let i = 0; i < xyz.length; i += 3) {
        const p = [xyz[i], xyz[i + 1], xyz[i + 2]], height = dot(p, this.up);
        if (height <= eye + 0.02) points.push([...this.flat(p), height, rgb[i], rgb[i + 1], rgb[i + 2], radius[i / 3]]);
      }
    }
    const places = this.path.map((p) => this.flat(column(p.slice(2), 3)));
    const xs = [...points.map((p) => p[0]), ...places.map((p) => p[0])].sort((a, b) => a - b);
    const ys = [...points.map((p) => p[1]), ...places.map((p) => p[1])].sort((a, b) => a - b);
    if (!xs.length) return;
    const cut = Math.floor(xs.length * 0.004);
    let [x0, x1, y0, y1] = [xs[cut], xs.at(-1 - cut), ys[cut], ys.at(-1 - cut)];
    for (const [x, y] of places) [x0, x1, y0, y1] = [Math.min(x0, x), Math.max(x1, x), Math.min(y0, y), Math.max(y1, y)];
    const span = Math.max(x1 - x0, y1 - y0, 0.5) * 1.08, zoom = Math.min(w, h - STRIP) / span;
    const cx = (x0 + x1) / 2, cy = (y0 + y1) / 2;
    const at = ([x, y]) => [w / 2 + (x - cx) * zoom, (h - STRIP) / 2 - (y - cy) * zoom];
    this.from = (px, py) => [cx + (px - w / 2) / zoom, cy - (py - (h - STRIP) / 2) / zoom];
    points.sort((a, b) => a[2] - b[2]);
    for (const p of points) {
      const [x, y] = at(p), size = Math.max(2, 2 * zoom * p[6]);
      g.fillStyle = `rgb(${p[3]} ${p[4]} ${p[5]})`;
      g.fillRect(x - size / 2, y - size / 2, size, size);
    }
    this.scale(g, w, h, zoom, faint);
    g.lineWidth = 2;
    g.lineJoin = "round";
    g.strokeStyle = accent;
    g.beginPath();
    places.forEach((p, i) => {
      const [x, y] = at(p);
      const far = i && Math.hypot(p[0] - places[i - 1][0], p[1] - places[i - 1][1]) > span / 6; // a jump
      if (i && !far) g.lineTo(x, y); else g.moveTo(x, y);
    });
    g.stroke();
    if (this.marked) this.eye(g, at, this.marked, faint, span);
    if (this.pose) this.eye(g, at, this.pose, ink, span);
  }

  eye(g, at, pose, colour, span) {
    const centre = column(pose, 3), reach = span * 0.09;
    const edges = [0, this.width].map((u) => {
      const d = (u - this.K[2]) / this.K[0];
      return [0, 1, 2].map((i) => centre[i] + reach * (column(pose, 2)[i] + d * column(pose, 0)[i]));
    });
    const [c, a, b] = [centre, ...edges].map((p) => at(this.flat(p)));
    g.globalAlpha = 0.25;
    g.fillStyle = colour;
    g.beginPath();
    g.moveTo(...c);
    g.lineTo(...a);
    g.lineTo(...b);
    g.closePath();
    g.fill();
    g.globalAlpha = 1;
    g.strokeStyle = colour;
    g.stroke();
    g.beginPath();
    g.arc(...c, 4.5, 0, 7);
    g.fill();
  }

  scale(g, w, h, zoom, faint) {
    const raw = 0.3 * w / zoom, power = 10 ** Math.floor(Math.log10(raw));
    const step = [5, 2, 1].map((m) => m * power).find((m) => m <= raw) || power;
    g.strokeStyle = g.fillStyle = faint;
    g.lineWidth = 1.5;
    g.beginPath();
    g.moveTo(8, h - 14);
    g.lineTo(8, h - 9);
    g.lineTo(8 + step * zoom, h - 9);
    g.lineTo(8 + step * zoom, h - 14);
    g.stroke();
    g.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    g.fillText(`${+step.toPrecision(2)} ${this.unit}`, 14 + step * zoom, h - 8);
  }
}
