// Memory in 3D: every remembered patch as a point, the path, the frusta of keyframes and of the eye, and a selection.

import {
  BufferAttribute, BufferGeometry, Color, LineBasicMaterial, LineSegments, PerspectiveCamera, Points, PointsMaterial,
  Scene, ShaderMaterial, Vector3, WebGLRenderer,
} from "./vendor/three.module.min.js";
import { column } from "./map.js";

// a patch is a square of its own size, seen from wherever one looks
const SQUARES = {
  vertexShader: `
    attribute float radius;
    attribute vec3 colour;
    uniform float pixels;
    varying vec3 shade;
    void main() {
      vec4 seen = modelViewMatrix * vec4(position, 1.0);
      gl_Position = projectionMatrix * seen;
      gl_PointSize = clamp(pixels * radius / max(-seen.z, 1e-4), 1.5, 64.0);
      shade = colour;
    }`,
  fragmentShader: `
    varying vec3 shade;
    void main() { gl_FragColor = vec4(shade, 1.0); }`,
};

// without a hand on it: looked at from so far, a little ahead of the walker; shares of the scene's scale
const FAR = 2.0, AHEAD = 0.7;

export class Space {
  constructor(canvas, pick) {
    this.canvas = canvas;
    this.pick = pick;
    this.groups = new Map();
    this.path = [];
    try {
      this.renderer = new WebGLRenderer({ canvas, antialias: true });
    } catch {
      canvas.replaceWith(Object.assign(document.createElement("p"), {
        className: "quiet", textContent: " This browser shows no 3D (WebGL); the map shows the same patches.", id: "space",
      }));
      return;
    }
    this.scene = new Scene();
    this.camera = new PerspectiveCamera(50, 1, 0.01, 1000);
    this.points = this.add(new Points(new BufferGeometry(),
      new ShaderMaterial({ ...SQUARES, uniforms: { pixels: { value: 1 } } })));
    this.chosen = this.add(new Points(new BufferGeometry(),
      new PointsMaterial({ color: "#ff2f92", size: 5, sizeAttenuation: false, depthTest: false })));
    this.trail = this.add(new LineSegments(new BufferGeometry(), new LineBasicMaterial({ color: "#4ea1ff" })));
    this.frusta = this.add(new LineSegments(new BufferGeometry(),
      new LineBasicMaterial({ color: "#8a94a6", transparent: true, opacity: 0.55 })));
    this.eye = this.add(new LineSegments(new BufferGeometry(), new LineBasicMaterial({ color: "#ffffff" })));
    this.angles = { yaw: 0, tilt: 0.55, far: 6 };
    this.follow = true;
    new ResizeObserver(() => this.later()).observe(canvas);
    this.listen();
  }

  add(thing) {
    thing.frustumCulled = false;
    this.scene.add(thing);
    return thing;
  }

  hello(hello) {
    this.about = hello;
    if (!this.renderer) return;
    this.scene.background = new Color("#10141b");
    this.camera.up.set(...hello.up);
    this.angles.far = FAR * hello.scale;
    this.path = hello.path.map((p) => column(p.slice(2), 3));
    this.wire();
  }

  patches(groups) {
    this.groups = groups;
    if (!this.renderer) return;
    let count = 0;
    for (const group of groups.values()) count += group.xyz.length;
    const xyz = new Float32Array(count), rgb = new Uint8Array(count), radius = new Float32Array(count / 3);
    this.owners = [];
    let at = 0;
    for (const group of groups.values()) {
      xyz.set(group.xyz, at);
      rgb.set(group.rgb, at);
      radius.set(group.radius, at / 3);
      this.owners.push([at / 3, group.uid]);
      at += group.xyz.length;
    }
    this.xyz = xyz;
    this.points.geometry.dispose();
    this.points.geometry = new BufferGeometry();
    this.points.geometry.setAttribute("position", new BufferAttribute(xyz, 3));
    this.points.geometry.setAttribute("colour", new BufferAttribute(rgb, 3, true));
    this.points.geometry.setAttribute("radius", new BufferAttribute(radius, 1));
    this.wire();
  }

  walked(poses) {
    for (const pose of poses) this.path.push(column(pose, 3));
    if (this.path.length > 20000) this.path.splice(0, this.path.length - 20000);
    this.pose = poses.at(-1);
    this.wire();
  }

  select(points) {
    if (!this.renderer) return;
    this.lines(this.chosen, points);
    this.later();
  }

  wire() {
    if (!this.renderer || !this.about) return;
    const trail = [], reach = 0.18 * this.about.scale;
    for (let i = 1; i < this.path.length; i++) {
      const [a, b] = [this.path[i - 1], this.path[i]];
      if (Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]) < this.about.scale) trail.push(...a, ...b);
    }
    this.lines(this.trail, trail);
    const frusta = [], groups = [...this.groups.values()];
    const step = Math.max(1, Math.ceil(groups.length / 60));
    for (let i = 0; i < groups.length; i += step) this.frustum(frusta, groups[i].pose, 0.6 * reach);
    this.lines(this.frusta, frusta);
    const eye = [];
    if (this.pose) this.frustum(eye, this.pose, 1.5 * reach);
    this.lines(this.eye, eye);
    this.later();
  }

  frustum(out, pose, reach) {
    const { K, width, height } = this.about;
    const at = (u, v, d) => [0, 1, 2].map((i) => pose[4 * i + 3] + d * (
      pose[4 * i] * (u - K[2]) / K[0] + pose[4 * i + 1] * (v - K[5]) / K[4] + pose[4 * i + 2]));
    const c = at(0, 0, 0), corners = [at(0, 0, reach), at(width, 0, reach), at(width, height, reach), at(0, height, reach)];
    corners.forEach((corner, i) => out.push(...c, ...corner, ...corner, ...corners[(i + 1) % 4]));
  }

  lines(thing, points) {
    thing.geometry.dispose();
    thing.geometry = new BufferGeometry();
    thing.geometry.setAttribute("position", new BufferAttribute(Float32Array.from(points), 3));
  }

  later() {
    if (this.due || !this.renderer) return;
    this.due = true;
    requestAnimationFrame(() => { this.due = false; this.draw(); });
  }

  draw() {
    const { canvas } = this, w = canvas.clientWidth, h = canvas.clientHeight;
    if (!w || !h || !this.about) return;
    this.renderer.setPixelRatio(Math.min(2, devicePixelRatio || 1));
    this.renderer.setSize(w, h, false);
    this.camera.aspect = w / h;
    this.camera.far = 40 * this.angles.far + 100 * this.about.scale;
    this.camera.near = 0.005 * this.about.scale;
    this.camera.updateProjectionMatrix();
    // a patch of half extent r at distance z covers r / z / tan(fov / 2) of half the height, both ways
    this.points.material.uniforms.pixels.value = this.renderer.domElement.height / Math.tan(this.camera.fov * Math.PI / 360);
    const up = new Vector3(...this.about.up), { yaw, tilt, far } = this.angles;
    let ahead = this.pose ? new Vector3(...column(this.pose, 2)) : new Vector3(0, 0, 1);
    if (!this.follow && this.held) ahead = this.held;
    ahead = ahead.clone().addScaledVector(up, -ahead.dot(up)).normalize();
    if (this.follow && this.pose) {
      this.target = new Vector3(...column(this.pose, 3)).addScaledVector(ahead, AHEAD * this.about.scale);
    }
    const target = this.target || new Vector3();
    const back = ahead.clone().negate().applyAxisAngle(up, yaw);
    this.camera.position.copy(target).addScaledVector(back, far * Math.cos(tilt)).addScaledVector(up, far * Math.sin(tilt));
    this.camera.lookAt(target);
    this.renderer.render(this.scene, this.camera);
  }

  turn(yaw, tilt) {
    if (this.follow) { this.held = this.pose && new Vector3(...column(this.pose, 2)); this.follow = false; }
    this.angles.yaw -= yaw;
    this.angles.tilt = Math.max(-1.5, Math.min(1.5, this.angles.tilt + tilt));
    this.later();
  }

  zoom(factor) {
    this.angles.far = Math.max(0.05 * this.about.scale, Math.min(60 * this.about.scale, this.angles.far * factor));
    this.later();
  }

  home() {
    this.follow = true;
    Object.assign(this.angles, { yaw: 0, tilt: 0.55, far: FAR * this.about.scale });
    this.later();
  }

  listen() {
    const { canvas } = this, down = new Map();
    let moved = 0, apart = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      down.set(event.pointerId, [event.clientX, event.clientY]);
      moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = down.get(event.pointerId);
      if (!before) return;
      const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
      down.set(event.pointerId, [event.clientX, event.clientY]);
      moved += Math.abs(dx) + Math.abs(dy);
      if (down.size === 2) {
        const [a, b] = [...down.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
        if (apart) this.zoom(apart / now);
        apart = now;
      } else if (moved > 4) this.turn(dx * 0.008, dy * 0.008);
    });
    const up = (event) => {
      if (down.delete(event.pointerId) && moved <= 4 && event.type === "pointerup") this.clicked(event);
      apart = 0;
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); this.zoom(Math.exp(event.deltaY * 0.001)); }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.08], ArrowDown: [0, -0.08] };
      if (turns[event.key]) this.turn(...turns[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoom(0.85);
      else if (event.key === "-") this.zoom(1.18);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  // the patch nearest to the eye among those under the pointer
  clicked(event) {
    if (!this.xyz) return;
    const box = this.canvas.getBoundingClientRect();
    const x = 2 * (event.clientX - box.left) / box.width - 1, y = 1 - 2 * (event.clientY - box.top) / box.height;
    const p = new Vector3(), near = 12 / box.height;
    let best = -1, closest = Infinity;
    for (let i = 0; i < this.xyz.length; i += 3) {
      p.set(this.xyz[i], this.xyz[i + 1], this.xyz[i + 2]).project(this.camera);
      const away = Math.hypot((p.x - x) * this.camera.aspect, p.y - y);
      if (away < near && p.z < 1 && p.z + away < closest) [best, closest] = [i / 3, p.z + away];
    }
    if (best < 0) return;
    const uid = this.owners.findLast(([from]) => from <= best)[1];
    this.pick({ uid, point: [...this.xyz.slice(3 * best, 3 * best + 3)].map((v) => +v.toFixed(5)) });
  }
}
