// Edits and reasons: choose by a click, change it, take it back; and why a place looks as it does.

const $ = (id) => document.getElementById(id);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const NO_DOOR = "Stand in front of the doorway, look straight at it and click it, in the view or in 3D; or press G for the middle of the view.";

export class Edits {
  constructor(link, view, space, current) {
    Object.assign(this, { link, view, space, current });
    this.choice = null;
    for (const button of document.querySelectorAll("[data-edit]")) {
      button.addEventListener("click", () => this.edit(button.dataset.edit));
    }
    $("undo").addEventListener("click", () => link.do({ do: "undo" }));
    $("redo").addEventListener("click", () => link.do({ do: "redo" }));
    $("splice").addEventListener("click", () => this.splice());
    $("layout").addEventListener("change", () => this.placed());
    $("door-middle").addEventListener("click", () => this.doorway());
    $("saving").addEventListener("submit", (event) => {
      event.preventDefault();
      if ($("name").value) link.do({ do: "save", name: $("name").value });
      $("name").value = "";
    });
    $("load").addEventListener("click", () => link.do({ do: "load", name: $("saves").value }));
  }

  hello(hello) {
    this.about = hello;
    $("splice-row").hidden = !hello.others.length;
    $("other").replaceChildren(...hello.others.map((name) => new Option(name, name)));
    this.placed();
    $("unit").textContent = hello.unit;
    if (!this.sized) {
      this.sized = true;
      $("gap").value = +hello.scale.toFixed(2);
      $("radius").value = +(0.2 * hello.scale).toFixed(2);
      $("by-right").value = +(0.2 * hello.scale).toFixed(2);
    }
  }

  status(status) {
    if (status.undo === undefined) return;
    $("undo").disabled = !status.undo;
    $("undo").textContent = status.undo ? `Undo ${status.undo}` : "Undo";
    $("redo").disabled = !status.redo;
    const kept = $("saves").value;
    if ($("saves").options.length !== status.saves.length) {
      $("saves").replaceChildren(...status.saves.map((name) => new Option(name, name)));
      if (status.saves.includes(kept)) $("saves").value = kept;
    }
    $("saved").hidden = !status.saves.length;
  }

  get tool() { return document.querySelector("input[name=tool]:checked").value; }

  // a click on the view, at shares of its width and height
  async clicked(u, v, tool = this.tool) {
    try {
      const found = await this.link.ask({ ask: "why", u, v });
      this.view.ask(u, v, found.point);
      this.explain(found);
      if (tool === "ask") return;
      if (tool === "doorway") this.doorAt(found.point);
      else if (!found.point) this.say("Nothing is remembered there.");
      else await this.select(tool, found.point);
    } catch (error) { this.say(error.message); }
  }

  // a click on a patch in 3D
  async picked({ uid, point }) {
    try {
      this.explain(await this.link.ask({ ask: "why", uid }));
      this.view.ask(-1, -1, point);
      if (!this.choice) this.space.select(point);
      if (this.tool === "doorway") this.doorAt(point);
      else if (this.tool !== "ask") await this.select(this.tool, point);
    } catch (error) { this.say(error.message); }
  }

  async select(kind, point) {
    const choice = kind === "thing" ? { kind, point } : { kind, point, radius: +$("radius").value || 0.5 };
    this.say("Looking for all of it…");
    const found = await this.link.ask({ ask: "select", choice });
    if (!found.count) { this.say("Nothing is remembered there."); return; }
    this.choice = choice;
    this.show(found.points);
    this.say(`${found.count.toLocaleString("en")} patches are selected: ${kind === "thing" ? "a thing" : "a sphere"}, ` +
      `${found.size.map((x) => x.toFixed(2)).join(" × ")}${this.unit} in size.`);
    this.enable();
  }

  // what is selected is seen in 3D and in the view
  show(points) {
    this.space.select(points);
    this.view.select(points);
  }

  get unit() { return this.about.unit ? `\u00a0${this.about.unit}` : ""; }

  edit(verb) {
    if (!this.choice) { this.say("Nothing is selected."); return; }
    const command = { do: "edit", verb, choice: this.choice };
    if (verb === "move" || verb === "duplicate") command.by = this.shift();
    if (verb === "rotate") command.degrees = +$("degrees").value;
    if (verb === "scale") command.factor = +$("factor").value;
    this.link.do(command);
    this.clear();
  }

  // where another world goes; at a doorway, a click says which
  placed() {
    const door = $("layout").value === "doorway";
    $("gap-row").hidden = door;
    $("door-row").hidden = $("door-tool").hidden = !door;
    if (door !== (this.tool === "doorway")) document.querySelector(`input[name=tool][value=${door ? "doorway" : "ask"}]`).checked = true;
    this.noDoor();
  }

  noDoor() {
    this.door = null;
    $("door-said").textContent = NO_DOOR;
    $("splice").disabled = $("layout").value === "doorway";
  }

  // the middle of the view, for whoever has no mouse
  doorway() {
    if ($("splice-row").hidden) { this.say("There is no other world; name one with --other when you start."); return; }
    if ($("layout").value !== "doorway") { $("layout").value = "doorway"; this.placed(); }
    this.clicked(0.5, 0.5, "doorway");
  }

  // the other world's door is where a camera was, so this one is at the height of the eye, too
  doorAt(point) {
    if (!point) { this.noDoor(); $("door-said").textContent = `Nothing is remembered there. ${NO_DOOR}`; return; }
    const pose = this.current(), { up, scale } = this.about, eye = [pose[3], pose[7], pose[11]];
    const rise = dot(eye, up) - dot(point, up), place = point.map((x, i) => x + rise * up[i]);
    const [right, ahead] = this.level();
    this.door = { door: place.map((x) => +x.toFixed(5)), facing: ahead.map((x) => +(-x).toFixed(6)) };
    const frame = [];
    for (let k = -10; k <= 10; k++) {
      const along = (a, b) => frame.push(...place.map((x, i) => x + scale * (a * right[i] + b * up[i])));
      for (const side of [-0.12, 0.12]) { along(side, 0.015 * k); along(0.012 * k, side * 1.25); }
    }
    this.show(frame);
    const away = Math.hypot(...place.map((x, i) => x - eye[i]));
    $("door-said").textContent = `The doorway is ${away.toFixed(2)}${this.unit} away; whoever goes through it enters ${$("other").value}.`;
    $("splice").disabled = false;
  }

  splice() {
    const layout = $("layout").value, command = { do: "edit", verb: "splice", other: $("other").value, layout };
    if (layout !== "doorway") command.offset = Math.max(0, +$("gap").value || 0);
    else {
      if (!this.door) return;
      Object.assign(command, this.door, { factor: +$("door-ratio").value || 1 });
      if ($("other-frame").value !== "") command.other_frame = Math.round(+$("other-frame").value);
    }
    this.link.do(command);
    this.clear();
    this.noDoor();
  }

  // the directions to the right and ahead as one looks now, on the level
  level() {
    const pose = this.current(), up = this.about.up;
    const ahead = [pose[2], pose[6], pose[10]], rise = dot(ahead, up);
    const level = ahead.map((x, i) => x - rise * up[i]), length = Math.hypot(...level) || 1;
    const f = level.map((x) => x / length);
    return [[f[1] * up[2] - f[2] * up[1], f[2] * up[0] - f[0] * up[2], f[0] * up[1] - f[1] * up[0]], f];
  }

  // "right, up, away"
  shift() {
    const up = this.about.up, [r, f] = this.level();
    const [x, y, z] = ["by-right", "by-up", "by-away"].map((id) => +$(id).value || 0);
    return [0, 1, 2].map((i) => +(x * r[i] + y * up[i] + z * f[i]).toFixed(6));
  }

  clear() {
    this.choice = null;
    this.show([]);
    this.say("Nothing is selected.");
    this.enable();
  }

  enable() {
    for (const button of document.querySelectorAll("[data-edit]")) button.disabled = !this.choice;
  }

  say(words) { $("selected").textContent = words; }

  explain(found) {
    const parts = [], { owner } = found;
    const line = (tag, text, name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });
    const age = (o) => (o.age > 0 ? `${o.age} frame${o.age === 1 ? "" : "s"} ago` : "now");
    if (owner) {
      const served = found.point ? `Shown from frame ${owner.frame}` : `Keyframe of frame ${owner.frame}: ${owner.words}`;
      parts.push(line("p", `${served}, ${owner.origin}, ${age(owner)}` +
        (found.depth ? `, ${found.depth.toFixed(2)}${this.unit} away.` : ".")));
    } else {
      parts.push(line("p", `${this.about.generates ? "Imagined" : "Not known"}: nothing that is remembered shows this place.`, "none"));
    }
    if (found.others.length) {
      const table = document.createElement("table"), body = document.createElement("tbody");
      table.append(line("caption", "Others with patches there", "quiet"), body);
      for (const other of found.others) {
        const row = document.createElement("tr");
        row.append(line("th", `frame ${other.frame}`), line("td", `${other.origin}, ${age(other)}`), line("td", other.words));
        body.append(row);
      }
      parts.push(table);
    } else if (found.cell) parts.push(line("p", "No other keyframe has a patch there.", "quiet"));
    const counts = Object.entries(found.counts).map(([name, count]) => `${count} ${name}`).join(", ");
    parts.push(line("p", `Keyframes for the whole view: ${counts || "none"}.`, "quiet"));
    $("why").replaceChildren(...parts);
    $("why").scrollTop = 0;
    // where the card is out of sight, its first sentence stands below the view
    const { top, bottom } = $("why-card").getBoundingClientRect();
    if (top > innerHeight - 130 || bottom < 90) this.link.tell("trouble", { said: `${parts[0].textContent} More under Why.` });
  }
}
