// Meters: coverage, amount, how long a key press takes to show, and where the time goes.

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const most = (list) => [...list].sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(0.95 * list.length))];
// three digits at most, whatever it is
const length = (ms) => (ms >= 999.5 ? `${(ms / 1000).toFixed(1)} s` : `${ms >= 10 ? Math.round(ms) : ms.toFixed(1)} ms`);

const many = (n, one, more = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : more}`;
const size = (bytes) => (bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

export class Meters {
  constructor(dom) {
    this.dom = dom;
    this.lags = [];
  }

  view(message) {
    this.dom.known.value = message.known;
    this.dom["known-out"].textContent = `${(100 * message.known).toFixed(0)} %`;
    const stages = Object.entries(message.stages).filter(([, seconds]) => seconds >= 5e-5);
    if (!stages.length) return;
    const longest = Math.max(...stages.map(([, s]) => s), 1e-6);
    this.dom.stages.replaceChildren(...stages.map(([name, seconds]) => {
      const row = document.createElement("tr"), bar = document.createElement("i");
      const head = Object.assign(document.createElement("th"), { textContent: name, scope: "row" });
      bar.style.width = `${100 * seconds / longest}%`;
      const middle = document.createElement("td");
      middle.append(bar);
      row.append(head, middle, Object.assign(document.createElement("td"), { textContent: length(1000 * seconds) }));
      return row;
    }));
    const { stages: table } = this.dom; // what stands below must not jump when a step has fewer stages
    this.most = Math.max(this.most || 0, stages.length * (table.firstChild.offsetHeight || 0));
    table.style.setProperty("--most", `${this.most}px`);
  }

  lag(ms) {
    this.lags.push(ms);
    if (this.lags.length > 60) this.lags.shift();
    this.dom.lag.textContent = `${length(median(this.lags))} (95 %: ${length(most(this.lags))})`;
  }

  status(status) {
    const { keyframes, patches, bytes, waiting = 0, paused, watchers, unsent } = status;
    if (keyframes !== undefined) {
      this.dom.amount.textContent = `${many(patches, "patch", "patches")}, ${many(keyframes, "keyframe")}, ${size(bytes)}`;
    }
    const who = watchers > 1 ? `, ${watchers} pages watch` : "", slow = unsent > 8 ? `, ${unsent} messages wait for the slowest page` : "";
    this.dom.queue.textContent = `${many(waiting, "command")}${paused ? ", paused" : ""}${who}${slow}`;
  }
}
