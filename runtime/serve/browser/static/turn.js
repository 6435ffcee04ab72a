// One turn as it is shown in one branch. It draws what is new of its turn, whenever it is asked to.

import { button, copy, h } from "./dom.js";
import { objectRows } from "./object.js";
import { TextWriter } from "./text.js";

const ENDS = {
  max_tokens: "cut: as many tokens as were asked for", context: "cut: the context is full",
  max_rounds: "cut: rounds of tools are used up", timeout: "ended by the server's time", shutdown: "the server stopped",
  handle: "stopped", scope: "stopped: the page left", stream_closed: "stopped", dropped: "stopped",
};

/** `acts`: stop, regenerate, branch, edit, answerCalls, showEvents, choose — of a turn. */
export class TurnView {
  constructor(turn, siblings, acts) {
    this.turn = turn;
    this._acts = acts;
    this._drawn = 0;
    this._open = null;
    this._object = null;
    this._answer = h("div", { className: "answer", attrs: { "aria-busy": String(turn.isRunning) } });
    this._foot = h("footer", { className: "turn-foot" });
    this._asked = h("div", { className: "asked" });
    this._drawQuestion(siblings);
    this.element = h("article", { className: "turn", attrs: { "aria-label": `Turn ${turn.id + 1}` } }, this._asked, this._answer, this._foot);
    this.element.dataset.turn = turn.id;
    this.draw();
  }

  // The question.

  _drawQuestion(siblings) {
    const { turn } = this;
    this._numSiblings = siblings.length;
    const asked = turn.question ?? turn.results.map((each) => each.content).join("\n");
    const tools = h("div", { className: "turn-tools" });
    if (siblings.length > 1) tools.append(this._switcher(siblings));
    if (turn.question !== null) tools.append(button("Edit", () => this._edit(), { className: "quiet small" }));
    this._bubble = h("div", { className: "bubble", dir: "auto" }, asked);
    this._asked.replaceChildren(
      h("div", { className: "asked-head" }, h("span", { className: "who", textContent: turn.question === null ? "Results" : "You" }), tools),
      this._bubble,
    );
  }

  _switcher(siblings) {
    const place = siblings.indexOf(this.turn.id);
    const go = (step) => () => this._acts.choose(this.turn, siblings[place + step], step);
    return h("span", { className: "switcher", attrs: { role: "group", "aria-label": "Other branches from here" } },
      button("‹", go(-1), { className: "quiet small", disabled: place === 0, ariaLabel: "The branch before" }),
      h("span", { textContent: `${place + 1}/${siblings.length}` }),
      button("›", go(1), { className: "quiet small", disabled: place === siblings.length - 1, ariaLabel: "The next branch" }));
  }

  /** There may be more branches from here than before, and turns behind it: then its calls wait for nothing. */
  updateSiblings(siblings) {
    if (this.turn.children.length) this._foot.querySelector("form.results")?.remove();
    if (!this._asked.querySelector("form") && siblings.length !== this._numSiblings) this._drawQuestion(siblings);
  }

  /** Have the focus on the way to the next branch, or the one before. */
  focusSwitcher(step) {
    const ways = [...this._asked.querySelectorAll(".switcher button")];
    if (step > 0) ways.reverse();
    ways.find((each) => !each.disabled)?.focus();
  }

  _edit() {
    const box = h("textarea", { value: this.turn.question, rows: 3, ariaLabel: "The question, to be asked in another way" });
    const close = () => {
      form.replaceWith(this._bubble);
      this._asked.querySelector(".turn-tools button:last-child")?.focus();
    };
    const form = h("form", { className: "edit", on: {
      submit: (event) => {
        event.preventDefault();
        if (!box.value.trim()) return;
        close();
        this._acts.edit(this.turn, box.value);
      },
      keydown: (event) => {
        if (event.key === "Escape") {
          event.stopPropagation();
          close();
        } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
          event.preventDefault();
          form.requestSubmit();
        }
      },
    } }, box, h("div", { className: "edit-row" }, button("Cancel", close), h("button", { type: "submit", className: "primary", textContent: "Ask in a new branch" })));
    this._bubble.replaceWith(form);
    box.focus();
  }

  // The answer.

  /** Draw what is new. */
  draw() {
    const { turn } = this;
    while (this._drawn < turn.parts.length) {
      const part = turn.parts[this._drawn];
      if (this._open?.part !== part) this._begin(part);
      this._open.grow();
      const isLast = this._drawn === turn.parts.length - 1;
      if (isLast && turn.isRunning) break;
      this._open.end?.();
      this._open = null;
      this._drawn += 1;
    }
    if (turn.object) this._drawObject();
    this._drawFoot();
  }

  _begin(part) {
    const made = { chunk: () => this._text(part), reasoning: () => this._thought(part), call: () => this._call(part), rejected: () => rejected(part.rejected) }[part.type]();
    this._open = { part, ...made };
    const parent = part.type === "chunk" && this.turn.schema ? this._jsonHome() : this._answer;
    parent.append(made.element);
  }

  _text(part) {
    const element = h("div", { className: "text" });
    const writer = new TextWriter(element);
    let shown = 0;
    return {
      element,
      grow() {
        if (shown < part.text.length) writer.write(part.text.slice(shown));
        shown = part.text.length;
      },
      end: () => writer.finish(),
    };
  }

  _thought(part) {
    const text = h("div", { className: "prose", dir: "auto" });
    const node = document.createTextNode("");
    text.append(node);
    const title = h("summary", { textContent: "Thinking…" });
    const element = h("details", { className: "thought", open: this.turn.isRunning }, title, text);
    return {
      element,
      grow: () => node.appendData(part.text.slice(node.length)),
      end: () => {
        title.textContent = "Thought";
        element.open = false;
      },
    };
  }

  _call(part) {
    const { call } = part;
    const result = h("div", { className: "call-result" });
    const repairs = call.repairs?.length ? h("p", { className: "note", textContent: `made good: ${call.repairs.map((each) => each.kind.replaceAll("_", " ")).join(", ")}` }) : null;
    const element = h("div", { className: "call" }, h("div", { className: "call-head" }, h("span", { className: "tag", textContent: "call" }), h("code", { textContent: call.function.name })), h("pre", { textContent: JSON.stringify(call.function.arguments, null, 2), attrs: { tabindex: "0" } }), repairs, result);
    this._calls = [...(this._calls ?? []), { part, result }];
    return { element, grow: () => this._drawResults() };
  }

  _drawResults() {
    for (const { part, result } of this._calls ?? []) {
      if (part.result === null || result.childElementCount) continue;
      const { error, result: text, seconds } = part.result;
      result.append(
        h("div", { className: "call-head" }, h("span", { className: error === null || error === undefined ? "tag good" : "tag bad", textContent: error === null || error === undefined ? "result" : "failed" }), h("span", { className: "note", textContent: `${seconds.toFixed(seconds < 1 ? 3 : 1)} s` })),
        h("pre", { textContent: error ?? text, attrs: { tabindex: "0" } }));
    }
  }

  _jsonHome() {
    if (!this._json) {
      this._json = h("details", { className: "json" }, h("summary", { textContent: "JSON as it was written" }));
      this._rows = h("tbody");
      this._object = h("table", { className: "object" }, h("caption", { className: "hidden-label", textContent: "The answer as an object" }), h("thead", { className: "hidden-label" }, h("tr", {}, ...["Field", "Value", "State"].map((textContent) => h("th", { textContent, scope: "col" })))), this._rows);
      this._answer.append(this._object, this._json);
    }
    return this._json;
  }

  _drawObject() {
    if (this._shownObject === this.turn.object) return;
    this._shownObject = this.turn.object;
    this._jsonHome();
    const { value, done } = this.turn.object;
    this._rows.replaceChildren(...objectRows(value, done, this.turn.schema));
  }

  // What stands below it.

  _drawFoot() {
    const { turn } = this;
    this._drawResults();
    if (this._state === turn.state) return;
    this._state = turn.state;
    const hadFocus = this._foot.contains(document.activeElement);
    this._answer.setAttribute("aria-busy", String(turn.isRunning));
    this.element.classList.toggle("running", turn.isRunning);
    const small = { className: "quiet small" };
    if (turn.isRunning) {
      this._foot.replaceChildren(h("span", { className: "note pulse", textContent: turn.isMine ? "answering" : "answering elsewhere" }), button("Stop", () => this._acts.stop(turn), { className: "danger small" }), button("Events", () => this._acts.showEvents(turn), small));
      return;
    }
    const acts = [
      button("Regenerate", () => this._acts.regenerate(turn), small),
      button("Branch", () => this._acts.branch(turn), { ...small, title: "Answer once more, beside this one" }),
      button("Copy", () => copy(turn.text), small),
      button("Events", () => this._acts.showEvents(turn), small),
    ];
    const fault = turn.fault ? h("p", { className: "fault", attrs: { role: "alert" }, textContent: turn.fault.message }) : null;
    const lost = turn.isKept || turn.fault ? null : h("p", { className: "note", textContent: "Nothing was said: what is asked next does not know of this question." });
    this._foot.replaceChildren(...[fault, lost, this._callForm(), h("span", { className: "note", textContent: this._numbers() }), h("span", { className: "foot-acts" }, ...acts)].filter(Boolean));
    if (hadFocus) acts[0].focus();
  }

  _numbers() {
    const { info } = this.turn;
    if (!info) return this.turn.state === "failed" ? "failed" : "stopped";
    const speed = info.generate_time > 0 ? ` · ${((info.generation_tokens - 1) / info.generate_time).toFixed(1)} tokens/s` : "";
    const reused = info.cached_prompt_tokens ? `, ${info.cached_prompt_tokens} reused` : "";
    const rounds = info.rounds > 1 ? ` · ${info.rounds} rounds` : "";
    const end = ENDS[info.stop_detail] ? ` · ${ENDS[info.stop_detail]}` : "";
    return `${info.generation_tokens} tokens${speed} · prompt ${info.prompt_tokens}${reused}${rounds}${end}`;
  }

  _callForm() {
    const calls = this.turn.openCalls;
    if (!calls.length || this.turn.children.length) return null;
    const boxes = calls.map((call) => ({ id: call.id, box: h("textarea", { rows: 2, required: true }) }));
    const form = h("form", { className: "results", on: {
      submit: (event) => {
        event.preventDefault();
        this._acts.answerCalls(this.turn, boxes.map(({ id, box }) => ({ id, content: box.value })));
        form.remove();
      },
    } }, ...boxes.map(({ box }, place) => h("label", {}, `What ${calls[place].function.name} gave`, box)), h("button", { type: "submit", className: "primary", textContent: calls.length === 1 ? "Give the result" : "Give the results" }));
    return form;
  }
}

function rejected({ reason, name, detail, raw }) {
  const element = h("div", { className: "call" }, h("div", { className: "call-head" }, h("span", { className: "tag bad", textContent: "rejected call" }), h("code", { textContent: name ?? "" }), h("span", { className: "note", textContent: reason.replaceAll("_", " ") })), detail ? h("p", { className: "note", textContent: detail }) : null, h("pre", { textContent: raw, attrs: { tabindex: "0" } }));
  return { element, grow() {} };
}
