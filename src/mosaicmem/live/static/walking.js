// Walking: keys, drags and buttons become steps, never more than two under way.

const KEYS = {
  KeyW: "forward", ArrowUp: "forward", KeyS: "back", ArrowDown: "back", KeyA: "sideleft", KeyD: "sideright",
  ArrowLeft: "left", KeyQ: "left", ArrowRight: "right", KeyE: "right", KeyR: "up", KeyF: "down", Space: "wait",
};
const SPEED = 0.022, TURN = 2.3, TILT = 1.6; // a frame: shares of the scene's scale, degrees
const HOLD = 200; // milliseconds after which a key that is still down goes on stepping; a tap is one step
const typing = (target) => target.closest("input:not([type=radio]):not([type=range]), select, textarea, dialog");

export class Walking {
  constructor(link, view) {
    this.link = link;
    this.held = new Map(); // way -> since when
    this.taps = [];
    this.drag = [0, 0];
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("keyup", (event) => this.held.delete(KEYS[event.code]));
    addEventListener("blur", () => this.held.clear());
    document.addEventListener("visibilitychange", () => this.held.clear());
    for (const button of document.querySelectorAll("[data-go]")) {
      const go = button.dataset.go;
      button.addEventListener("pointerdown", (event) => { event.preventDefault(); button.focus(); this.press(go); });
      for (const end of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(end, () => this.held.delete(go));
      button.addEventListener("keydown", (event) => { if (event.code === "Enter") { this.taps.push(go); this.go(); } });
    }
    this.dragging(view);
    link.on("receipt", () => this.go());
    link.on("view", () => this.go());
  }

  hello(hello) { this.about = hello; }

  key(event) {
    const go = KEYS[event.code];
    if (!go || event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (event.target.type === "range" && event.code.startsWith("Arrow")) return;
    if (event.code === "Space" && event.target.closest("button")) return;
    event.preventDefault();
    this.fast = event.shiftKey;
    if (!event.repeat) this.press(go);
  }

  press(go) {
    this.held.set(go, performance.now());
    this.taps.push(go); // a step, even if the key is up before anything can be sent
    this.go();
    setTimeout(() => this.go(), HOLD + 5);
  }

  dragging(canvas) {
    let from = null, moved = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      from = [event.clientX, event.clientY];
      moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const turn = this.about ? 360 / Math.PI * Math.atan(this.about.width / 2 / this.about.K[0]) / canvas.clientWidth : 0.1;
      this.drag[0] -= (event.clientX - from[0]) * turn;
      this.drag[1] += (event.clientY - from[1]) * turn;
      moved += Math.abs(event.clientX - from[0]) + Math.abs(event.clientY - from[1]);
      from = [event.clientX, event.clientY];
      if (moved > 5) this.go();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (from && moved <= 5) {
        this.drag = [0, 0];
        const box = canvas.getBoundingClientRect();
        const u = (event.clientX - box.left) / box.width, v = (event.clientY - box.top) / box.height;
        if (u >= 0 && u < 1 && v >= 0 && v < 1) canvas.dispatchEvent(new CustomEvent("place", { detail: { u, v } }));
      }
      from = null;
    });
    canvas.addEventListener("pointercancel", () => { from = null; });
  }

  // send a step, if there is a reason to and nothing much is under way
  go() {
    if (!this.about || this.link.flying.size >= 2) return;
    const now = performance.now(), long = [...this.held].filter(([, since]) => now - since >= HOLD);
    const ways = new Set([...long.map(([way]) => way), ...this.taps]);
    this.taps = [];
    const [yaw, tilt] = this.drag;
    if (!ways.size && Math.hypot(yaw, tilt) < 0.2) return;
    const frames = this.about.frames, pace = frames * this.about.scale * SPEED * (this.fast ? 2 : 1), turn = this.fast ? 2 : 1;
    const sum = (plus, minus) => ways.has(plus) - ways.has(minus);
    const most = (x) => Math.max(-12 * frames, Math.min(12 * frames, x));
    const dragged = [most(yaw), most(tilt)];
    this.drag = [yaw - dragged[0], tilt - dragged[1]];
    const command = {
      do: "move", forward: pace * sum("forward", "back"), right: pace * sum("sideright", "sideleft"),
      yaw: frames * TURN * turn * sum("right", "left") + dragged[0], tilt: frames * TILT * turn * sum("up", "down") + dragged[1],
    };
    for (const name of Object.keys(command)) if (command[name] === 0) delete command[name];
    this.link.do(command);
  }
}
