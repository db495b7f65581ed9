// Meters: coverage, amount, how long a key press takes to show, and where the time goes.

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const most = (list) => [...list].sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(0.95 * list.length))];
const milliseconds = (seconds) => (seconds >= 0.01 ? `${Math.round(1000 * seconds)}` : (1000 * seconds).toFixed(1)) + " ms";

export class Meters {
  constructor(dom) {
    this.dom = dom;
    this.lags = [];
  }

  view(message) {
    this.dom.known.value = message.known;
    this.dom["known-out"].textContent = `${(100 * message.known).toFixed(0)} %`;
    const stages = Object.entries(message.stages);
    if (!stages.length) return;
    const longest = Math.max(...stages.map(([, s]) => s), 1e-6);
    this.dom.stages.replaceChildren(...stages.map(([name, seconds]) => {
      const row = document.createElement("tr"), bar = document.createElement("i");
      const head = Object.assign(document.createElement("th"), { textContent: name, scope: "row" });
      bar.style.width = `${100 * seconds / longest}%`;
      const middle = document.createElement("td");
      middle.append(bar);
      row.append(head, middle, Object.assign(document.createElement("td"), { textContent: milliseconds(seconds) }));
      return row;
    }));
  }

  lag(ms) {
    this.lags.push(ms);
    if (this.lags.length > 60) this.lags.shift();
    this.dom.lag.textContent = `${Math.round(median(this.lags))} ms median, ${Math.round(most(this.lags))} ms at 95 %`;
  }

  status(status) {
    const { keyframes, patches, bytes, waiting, paused, watchers, unsent } = status;
    if (keyframes !== undefined) {
      this.dom.amount.textContent = `${patches.toLocaleString("en")} patches of ${keyframes} keyframes, ${(bytes / 1e6).toFixed(1)} MB`;
    }
    const who = watchers > 1 ? `, ${watchers} pages watch` : "", slow = unsent > 8 ? `, ${unsent} messages wait for the slowest page` : "";
    this.dom.queue.textContent = `${waiting} command${waiting === 1 ? "" : "s"}${paused ? ", paused" : ""}${who}${slow}`;
  }
}
