// The numbers of what runs now: places of the batch, tokens a second, memory.

import { bytes, h } from "./dom.js";

const MOST_CELLS = 32;
const HISTORY = 40;

export class Meter {
  constructor(home) {
    this._cells = h("span", { className: "cells", attrs: { "aria-hidden": "true" } });
    this._rows = h("span", { className: "number" });
    this._speed = h("span", { className: "number" });
    this._memory = h("span", { className: "number" });
    this._bars = Array.from({ length: HISTORY }, () => h("i"));
    this._history = new Array(HISTORY).fill(0);
    home.append(
      h("span", { className: "gauge" }, this._cells, this._rows),
      h("span", { className: "gauge" }, h("span", { className: "spark", attrs: { "aria-hidden": "true" } }, ...this._bars), this._speed),
      h("span", { className: "gauge" }, this._memory),
    );
  }

  /** `numbers` of the model that is asked. */
  show(numbers) {
    const { running, paused, waiting, max_rows: places, tokens_per_second: speed } = numbers;
    const count = Math.min(places || MOST_CELLS, MOST_CELLS);
    while (this._cells.childElementCount < count) this._cells.append(h("i"));
    const scale = count / Math.max(places, count);
    [...this._cells.children].forEach((cell, place) => {
      cell.className = place < running * scale ? "busy" : place < (running + paused) * scale ? "paused" : "";
    });
    const queue = waiting ? `, ${waiting} waiting` : "";
    const held = paused ? `, ${paused} paused` : "";
    this._rows.textContent = `${running} of ${places} rows${held}${queue}`;
    this._history = [...this._history.slice(1), speed];
    const most = Math.max(1, ...this._history);
    this._bars.forEach((bar, place) => bar.style.setProperty("--level", this._history[place] / most));
    this._speed.textContent = `${speed >= 100 ? Math.round(speed) : speed} tokens/s`;
    const held_bytes = numbers.allocated_bytes || numbers.kv_bytes + numbers.prefix_bytes;
    this._memory.textContent = `KV ${bytes(held_bytes)} of ${bytes(numbers.memory_bytes)}`;
  }
}
