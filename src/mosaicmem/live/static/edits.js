// Edits and reasons: choose by a click, change it, take it back; and why a place looks as it does.

const $ = (id) => document.getElementById(id);

export class Edits {
  constructor(link, view, space, current) {
    Object.assign(this, { link, view, space, current });
    this.choice = null;
    for (const button of document.querySelectorAll("[data-edit]")) {
      button.addEventListener("click", () => this.edit(button.dataset.edit));
    }
    $("undo").addEventListener("click", () => link.do({ do: "undo" }));
    $("redo").addEventListener("click", () => link.do({ do: "redo" }));
    $("splice").addEventListener("click", () => link.do({ do: "edit", verb: "splice", other: $("other").value }));
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
    if (!this.sized) {
      this.sized = true;
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
    $("saves").disabled = $("load").disabled = !status.saves.length;
  }

  get tool() { return document.querySelector("input[name=tool]:checked").value; }

  // a click on the view, at shares of its width and height
  async clicked(u, v, tool = this.tool) {
    try {
      const found = await this.link.ask({ ask: "why", u, v });
      this.explain(found);
      if (tool === "ask") return;
      if (!found.point) { this.say("Nothing is remembered there."); return; }
      await this.select(tool, found.point);
    } catch (error) { this.say(error.message); }
  }

  // a click on a patch in 3D
  async picked({ uid, point }) {
    try {
      this.explain(await this.link.ask({ ask: "why", uid }));
      if (this.tool !== "ask") await this.select(this.tool, point);
    } catch (error) { this.say(error.message); }
  }

  async select(kind, point) {
    const choice = kind === "thing" ? { kind, point } : { kind, point, radius: +$("radius").value || 0.5 };
    const found = await this.link.ask({ ask: "select", choice });
    if (!found.count) { this.say("Nothing is remembered there."); return; }
    this.choice = choice;
    this.space.select(found.points);
    this.say(`${found.count.toLocaleString("en")} patches are selected: ${kind === "thing" ? "a thing" : "a sphere"}, ` +
      `${found.size.map((x) => x.toFixed(2)).join(" × ")} in size.`);
    this.enable();
  }

  edit(verb) {
    if (!this.choice) { this.say("Nothing is selected."); return; }
    const command = { do: "edit", verb, choice: this.choice };
    if (verb === "move" || verb === "duplicate") command.by = this.shift();
    if (verb === "rotate") command.degrees = +$("degrees").value;
    if (verb === "scale") command.factor = +$("factor").value;
    this.link.do(command);
    this.clear();
  }

  // "right, up, away" as one looks now, on the level
  shift() {
    const pose = this.current(), up = this.about.up;
    const ahead = [pose[2], pose[6], pose[10]], rise = ahead.reduce((s, x, i) => s + x * up[i], 0);
    const level = ahead.map((x, i) => x - rise * up[i]), length = Math.hypot(...level) || 1;
    const f = level.map((x) => x / length);
    const r = [f[1] * up[2] - f[2] * up[1], f[2] * up[0] - f[0] * up[2], f[0] * up[1] - f[1] * up[0]];
    const [x, y, z] = ["by-right", "by-up", "by-away"].map((id) => +$(id).value || 0);
    return [0, 1, 2].map((i) => +(x * r[i] + y * up[i] + z * f[i]).toFixed(6));
  }

  clear() {
    this.choice = null;
    this.space.select([]);
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
        (found.depth ? `, ${found.depth.toFixed(2)} away.` : ".")));
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
  }
}
