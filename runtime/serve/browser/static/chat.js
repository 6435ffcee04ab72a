// A chat as a tree of turns. What stands behind one turn twice is two branches.

const MOST_EVENTS = 2000;

/** A question with all that answers it: `parts` are what is shown, `events` the newest as they came. */
export class Turn {
  constructor(view) {
    this.id = view.id;
    this.parent = view.parent;
    this.children = [];
    this.model = view.model;
    this.question = view.question;
    this.results = view.results;
    this.schema = view.schema;
    this.parts = [];
    this.events = [];
    this.numEvents = 0;
    this.object = null;
    this.info = null;
    this.isMine = false;
    this.update(view);
    for (const event of view.events) this.take(event);
    if (this.schema && !this.isRunning) this.object = wholeObject(this.text);
  }

  update({ state, is_kept, fault }) {
    this.state = state;
    this.isKept = is_kept;
    this.fault = fault ?? null;
  }

  take(event) {
    this.numEvents += 1;
    this.events.push(event);
    if (this.events.length > MOST_EVENTS) this.events.splice(0, MOST_EVENTS / 2);
    const last = this.parts.at(-1);
    switch (event.type) {
      case "chunk":
      case "reasoning":
        if (last?.type === event.type) last.text += event.text;
        else this.parts.push({ type: event.type, text: event.text });
        break;
      case "tool_call":
        this.parts.push({ type: "call", call: event, result: null });
        break;
      case "tool_result": {
        const part = this.parts.findLast((each) => each.type === "call" && each.call.id === event.id);
        if (part) part.result = event;
        break;
      }
      case "rejected_tool_call":
        this.parts.push({ type: "rejected", rejected: event });
        break;
      case "info":
        this.info = event;
        break;
    }
  }

  get isRunning() {
    return this.state === "running";
  }

  get text() {
    return this.parts.filter((part) => part.type === "chunk").map((part) => part.text).join("");
  }

  /** Calls at its end that nothing has run: their results can be typed. */
  get openCalls() {
    if (this.state !== "done") return [];
    return this.parts.filter((part) => part.type === "call" && part.result === null).map((part) => part.call);
  }
}

/** The object of an answer that is over; null where it was cut. */
function wholeObject(text) {
  try {
    return { value: JSON.parse(text), done: null };
  } catch {
    return null;
  }
}

export class Chat {
  constructor(view) {
    this.id = view.chat;
    this.turns = new Map();
    for (const turn of view.turns) this.put(turn);
  }

  /** Take a turn as the server shows it. */
  put(view) {
    const known = this.turns.get(view.id);
    const turn = new Turn(view);
    if (known) {
      turn.isMine = known.isMine;
      turn.children = known.children;
    } else if (view.parent !== null) {
      this.turns.get(view.parent)?.children.push(view.id);
    }
    this.turns.set(turn.id, turn);
    return turn;
  }

  get running() {
    return [...this.turns.values()].filter((turn) => turn.isRunning);
  }

  /** A turn behind all that it stands behind. */
  path(leaf) {
    const found = [];
    for (let id = leaf; id !== null && this.turns.has(id); id = this.turns.get(id).parent) found.unshift(this.turns.get(id));
    return found;
  }

  /** Turns behind the same one, oldest first. */
  siblings(turn) {
    if (turn.parent !== null) return this.turns.get(turn.parent).children;
    return [...this.turns.values()].filter((each) => each.parent === null).map((each) => each.id);
  }

  /** The newest turn behind `id`, or itself. */
  newestLeaf(id) {
    for (let turn = this.turns.get(id); ; turn = this.turns.get(turn.children.at(-1))) {
      if (turn.children.length === 0) return turn.id;
    }
  }
}
