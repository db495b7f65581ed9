// The socket: commands and questions out, messages in, and coming back when the server has gone away.

export class Link extends EventTarget {
  constructor() {
    super();
    this.next = 1;
    this.waiting = new Map(); // questions
    this.flying = new Map(); // commands that were neither applied nor refused: id -> when they were sent
    this.wait = 250;
    this.connect();
  }

  connect() {
    this.tell("link", { state: "waiting" });
    const socket = new WebSocket(`ws://${location.host}/walk`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => { this.wait = 250; this.tell("link", { state: "open" }); };
    socket.onmessage = (event) => {
      try {
        if (typeof event.data === "string") this.heard(JSON.parse(event.data), {});
        else this.heard(...parts(event.data));
      } catch (error) {
        console.error(error);
      }
    };
    socket.onclose = (event) => this.lost(event);
  }

  async lost(event) {
    for (const { fail } of this.waiting.values()) fail(new Error("the server has gone away"));
    this.waiting.clear();
    this.flying.clear();
    const wait = this.wait;
    this.wait = Math.min(2 * wait, 4000);
    let why = "The server has gone away.";
    let again = true;
    if (event.code === 1013) why = "Too many pages watch this walk.";
    if (event.code === 1008 && event.reason) why = `The server hung up: ${event.reason}.`;
    try {
      const answer = await fetch("/icon.svg", { cache: "no-store" });
      if (answer.status === 403) {
        why = "The server was started anew, with another key: open the address that it printed.";
      }
    } catch {
      why = "The server has gone away: it was ended, or this machine has lost it.";
      if (this.kept) why += " The world file keeps all that was done.";
    }
    this.tell("link", { state: "gone", why, again, wait });
    setTimeout(() => this.connect(), wait);
  }

  heard(message, blobs) {
    if (message.type === "answer" || message.type === "picture") {
      const found = this.waiting.get(message.id);
      this.waiting.delete(message.id);
      if (message.error !== undefined) {
        this.flying.delete(message.id);
        if (found) found.fail(new Error(message.error));
        else this.tell("trouble", { said: message.error });
      } else if (found) found.done(message.type === "picture" ? blobs.frame : message.answer);
      return;
    }
    if (message.type === "receipt" && message.state !== "received") {
      const sent = this.flying.get(message.id);
      this.flying.delete(message.id);
      if (message.state === "applied" && sent) this.lastSent = { seq: message.seq, at: sent };
      if (message.state !== "applied" && message.said) this.tell("trouble", { said: message.said });
    }
    if (message.type === "hello") this.kept = message.kept;
    this.tell(message.type, { ...message, pictures: blobs });
  }

  get open() { return this.socket.readyState === WebSocket.OPEN; }

  do(command) {
    if (!this.open) return 0;
    const id = this.next++;
    this.flying.set(id, performance.now());
    this.socket.send(JSON.stringify({ id, command }));
    return id;
  }

  ask(what) {
    if (!this.open) return Promise.reject(new Error("the server is not there"));
    const id = this.next++;
    return new Promise((done, fail) => {
      this.waiting.set(id, { done, fail });
      this.socket.send(JSON.stringify({ id, ...what }));
    });
  }

  control(control) { if (this.open) this.socket.send(JSON.stringify({ id: 0, control })); }

  tell(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  on(type, heed) { this.addEventListener(type, (event) => heed(event.detail)); }
}

// header and blobs of a binary message
function parts(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const blobs = { frames: [] };
  let at = 4 + length;
  for (const [name, size] of header.blobs) {
    const bytes = buffer.slice(at, at + size);
    at += size;
    if (name === "frame") blobs.frames.push(bytes);
    blobs[name] = bytes;
  }
  return [header, blobs];
}

export const decode = (bytes) => createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
