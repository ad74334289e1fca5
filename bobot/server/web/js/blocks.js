// Markdown in pieces. While an answer comes, only its last block can still change: the blocks before
// it are cut off once, and neither read nor drawn again.
import { lexer } from "./markdown.js";

export class Blocks {
  constructor() {
    this.done = [];
    this.open = "";
    this.size = 0; // letters in done
  }

  // The whole text so far, which only ever grows.
  read(text) {
    const rest = text.slice(this.size);
    const tokens = lexer(rest);
    let last = tokens.length - 1;
    while (last > 0 && tokens[last].type === "space") last -= 1;
    const raws = tokens.map((token) => token.raw);
    if (last > 0 && raws.join("") === rest) {
      for (const raw of raws.slice(0, last)) {
        this.size += raw.length;
        if (raw.trim()) this.done.push(raw);
      }
    }
    this.open = text.slice(this.size);
    return this;
  }
}

export function blocksOf(text) {
  const blocks = new Blocks().read(text.replace(/\r\n?/g, "\n"));
  return blocks.open.trim() ? [...blocks.done, blocks.open] : blocks.done;
}
