// Branches side by side: each lane shows one path through the chat, and can be asked by itself.

import { beforeFrame, button, h } from "./dom.js";
import { TurnView } from "./turn.js";

const NEAR = 48;

class Lane {
  constructor(lanes, leaf) {
    this.leaf = leaf;
    this._lanes = lanes;
    this._views = new Map();
    this._isPinned = true;
    this._title = h("h2", { className: "lane-title" });
    this._close = button("Close", () => lanes.close(this), { className: "quiet small" });
    this._shared = h("div", { className: "shared" });
    this._log = h("div", { className: "turns" });
    this._thread = h("div", { className: "thread", attrs: { tabindex: "0", role: "region" } }, this._shared, this._log);
    this._thread.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this._thread;
      this._isPinned = scrollHeight - scrollTop - clientHeight < NEAR;
    }, { passive: true });
    this.element = h("section", { className: "lane", on: { focusin: () => lanes.activate(this), pointerdown: () => lanes.activate(this) } }, h("header", { className: "lane-head" }, this._title, this._close), this._thread);
  }

  /** Show it as one of so many; of the turns that the first lane shows too, only how many. */
  layOut(place, count, shared) {
    this._title.textContent = count > 1 ? `Branch ${place + 1}` : "Chat";
    this.element.setAttribute("aria-label", this._title.textContent);
    this._thread.setAttribute("aria-label", `${this._title.textContent}: turns`);
    this._close.hidden = count === 1;
    this.element.querySelector(".lane-head").hidden = count === 1;
    const chat = this._lanes.chat;
    const path = chat.path(this.leaf);
    const first = place === 0 || this._isWhole ? 0 : Math.min(shared, path.length - 1);
    const shown = path.slice(Math.max(0, first));
    this._shared.replaceChildren();
    if (first > 0) {
      const text = `${first} turn${first === 1 ? "" : "s"} as in Branch 1`;
      this._shared.append(button(text, () => { this._isWhole = true; this._lanes.layOut(); }, { className: "quiet small" }));
    }
    const views = new Map();
    for (const turn of shown) {
      const siblings = chat.siblings(turn);
      let view = this._views.get(turn.id);
      if (view?.turn === turn) view.updateSiblings(siblings);
      else view = new TurnView(turn, siblings, this._lanes.actsOf(this));
      views.set(turn.id, view);
    }
    this._views = views;
    const elements = [...views.values()].map((view) => view.element);
    const isSame = elements.length === this._log.children.length && elements.every((each, at) => this._log.children[at] === each);
    if (!isSame) this._log.replaceChildren(...elements);
    this.follow();
  }

  /** Take the focus that was on something that is gone. */
  focus() {
    this._thread.focus();
  }

  focusSwitcher(id, step) {
    this._views.get(id)?.focusSwitcher(step);
  }

  draw(id) {
    this._views.get(id)?.draw();
  }

  get shows() {
    return (id) => this._views.has(id);
  }

  get isEmpty() {
    return this.leaf === null;
  }

  get running() {
    return this._lanes.chat.path(this.leaf).filter((turn) => turn.isRunning);
  }

  follow() {
    if (this._isPinned) this._thread.scrollTop = this._thread.scrollHeight;
  }

  /** Stand at its end from now on. */
  pin() {
    this._isPinned = true;
  }
}

/** All lanes. `acts` are what turns can have done; each is told its lane. */
export class Lanes {
  constructor(home, empty, acts, onChange) {
    this._home = home;
    this._empty = empty;
    this._acts = acts;
    this._onChange = onChange;
    this._dirty = new Set();
    this.chat = null;
    this.list = [];
    this.active = null;
    this._draw = () => {
      const lanes = this.list.filter((lane) => [...this._dirty].filter((id) => lane.shows(id)).map((id) => lane.draw(id)).length);
      this._dirty.clear();
      return () => lanes.forEach((lane) => lane.follow());
    };
  }

  actsOf(lane) {
    return Object.fromEntries(Object.entries(this._acts).map(([name, act]) => [name, (...given) => act(lane, ...given)]));
  }

  /** Show `chat`, with a lane for each of `leaves`. */
  show(chat, leaves) {
    this.chat = chat;
    const known = leaves.filter((leaf) => chat.turns.has(leaf));
    this.list = (known.length ? known : [null]).map((leaf) => new Lane(this, leaf));
    this.active = this.list[0];
    this.layOut();
  }

  /** A new lane beside `lane`, which shows what leads to `leaf`. */
  open(leaf, beside) {
    const lane = new Lane(this, leaf);
    this.list.splice(this.list.indexOf(beside) + 1, 0, lane);
    return lane;
  }

  close(lane) {
    const place = this.list.indexOf(lane);
    this.list.splice(place, 1);
    if (this.active === lane) this.active = this.list[Math.max(0, place - 1)];
    this.layOut();
    this.active.focus();
  }

  activate(lane) {
    if (this.active === lane || !this.list.includes(lane)) return;
    this.active = lane;
    this._mark();
    this._onChange();
  }

  _mark() {
    for (const lane of this.list) {
      const isActive = lane === this.active;
      lane.element.classList.toggle("active", isActive && this.list.length > 1);
      if (isActive) lane.element.setAttribute("aria-current", "true");
      else lane.element.removeAttribute("aria-current");
    }
  }

  layOut() {
    const first = new Set(this.chat.path(this.list[0].leaf).map((turn) => turn.id));
    const isEmpty = this.list.length === 1 && this.list[0].isEmpty;
    const elements = isEmpty ? [this._empty] : this.list.map((lane) => lane.element);
    const isSame = elements.length === this._home.children.length && elements.every((each, at) => this._home.children[at] === each);
    if (!isSame) this._home.replaceChildren(...elements);
    this._home.classList.toggle("several", this.list.length > 1);
    this.list.forEach((lane, place) => {
      const shared = this.chat.path(lane.leaf).filter((turn) => first.has(turn.id)).length;
      lane.layOut(place, this.list.length, shared);
    });
    this._mark();
    this._onChange();
  }

  /** Have a turn drawn before the next frame, wherever it is shown. */
  redraw(id) {
    this._dirty.add(id);
    beforeFrame(this._draw);
  }
}
