// What a model wrote, shown as text. Code between fences gets a frame of its own; nothing else is read into it.

import { button, copy, h } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const LONG = 4000;
const MAY_BE_FENCE = /^ {0,3}(`{0,}|~{0,})$|^ {0,3}(`{3,}|~{3,})[^`\n]*$/;

/** Grows an element by pieces of text. A line that may be a fence waits until it is whole. */
export class TextWriter {
  constructor(element) {
    this._element = element;
    this._node = null;
    this._fence = null;
    this._line = "";
    this._shown = 0;
  }

  write(text) {
    const lines = (this._line + text).split("\n");
    let shown = this._shown;
    let ready = "";
    lines.forEach((line, place) => {
      const isWhole = place < lines.length - 1;
      if (isWhole && shown === 0 && this._turnsAt(line)) {
        this._append(ready);
        ready = "";
        this._turn(line);
      } else if (isWhole) {
        ready += `${line.slice(shown)}\n`;
      } else {
        this._line = line;
        this._shown = shown > 0 || !MAY_BE_FENCE.test(line) ? line.length : 0;
        ready += this._shown ? line.slice(shown) : "";
      }
      if (isWhole) shown = 0;
    });
    this._append(ready);
  }

  /** Nothing more comes. */
  finish() {
    const rest = this._line.slice(this._shown);
    if (rest && !(this._fence && this._turnsAt(rest))) this._append(rest);
    this._line = "";
    this._shown = 0;
  }

  _turnsAt(line) {
    const found = FENCE.exec(line);
    if (!found) return false;
    return this._fence === null || (found[1].startsWith(this._fence) && !found[2].trim());
  }

  _turn(line) {
    const [, fence, rest] = FENCE.exec(line);
    if (this._fence !== null) {
      this._fence = this._node = null;
      return;
    }
    this._trim();
    this._fence = fence;
    this._node = document.createTextNode("");
    const node = this._node;
    const copied = button("Copy", () => copy(node.data), { className: "quiet small" });
    const code = h("pre", { attrs: { tabindex: "0" } }, h("code", {}, node));
    this._element.append(h("div", { className: "code-block" }, h("div", { className: "code-head" }, rest.trim().slice(0, 30) || "code", copied), code));
  }

  /** Blank lines in front of a frame are its margin. */
  _trim() {
    if (this._node === null) return;
    this._node.data = this._node.data.replace(/\n+$/, "");
    if (!this._node.data) this._node.parentElement.remove();
  }

  _append(text) {
    if (!text) return;
    if (this._node === null) {
      text = text.replace(/^\n+/, "");
      if (!text) return;
      this._node = document.createTextNode("");
      this._element.append(h("div", { className: "prose", dir: "auto" }, this._node));
    }
    const cut = this._fence === null && this._node.length > LONG ? text.indexOf("\n") : -1;
    if (cut < 0) {
      this._node.appendData(text);
      return;
    }
    this._node.appendData(text.slice(0, cut)); // a block of its own from here, so that no frame lays all of a text out
    this._node = document.createTextNode(text.slice(cut + 1));
    this._element.append(h("div", { className: "prose", dir: "auto" }, this._node));
  }
}
