// Server-sent events out of the bytes of a response (HTML Standard, section 9.2.6), whatever the pieces they come in.

export class EventParser {
  #decoder = new TextDecoder();
  #rest = "";
  #data = [];

  // Bytes -> the data of the events that are complete.
  feed(bytes) {
    return this.#read(this.#decoder.decode(bytes, { stream: true }));
  }

  // What is left when the stream ends without its last empty line is no event.
  end() {
    return this.#read(this.#decoder.decode());
  }

  #read(text) {
    const events = [];
    let buffer = this.#rest + text;
    // A carriage return at the very end may be half of a line break.
    const held = buffer.endsWith("\r") ? "\r" : "";
    buffer = buffer.slice(0, buffer.length - held.length);
    const lines = buffer.split(/\r\n|\n|\r/);
    this.#rest = lines.pop() + held;
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) events.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line === "data") {
        this.#data.push("");
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    return events;
  }
}
