// The page: a chat, its lanes, the settings that it is asked with, and the feed over which answers come.

import { Api, Feed, Refused } from "./api.js";
import { Chat } from "./chat.js";
import { announce, beforeFrame, button, byId, h } from "./dom.js";
import { Lanes } from "./lanes.js";
import { Meter } from "./meter.js";
import { Settings } from "./settings.js";

const PLACE = "greenroom.place";
const POLL_SECONDS = 0.5;
const MOST_SECONDS = 5;
const SAID = 600;
const SHOWN_EVENTS = 400;
const STATES = { draining: "The server finishes what runs, and takes nothing new on.", failed: "The model does not run any more: the server has to be started anew." };

class Page {
  constructor() {
    this._api = new Api(askForKey);
    this._feed = new Feed(this._api, { onNews: (news) => this._take(news), onState: (text) => this._connect(text) });
    this._meter = new Meter(byId("meter"));
    this._settings = new Settings();
    this._problems = new Map();
    this._defaults = new Map();
    this._shownEvents = null;
    this._lanes = new Lanes(byId("lanes"), this._welcome(), {
      stop: (_lane, turn) => this._stop([turn]),
      regenerate: (lane, turn) => this._again(lane, turn, turn.question, { isBeside: false }),
      branch: (lane, turn) => this._again(lane, turn, turn.question, { isBeside: true }),
      edit: (lane, turn, question) => this._again(lane, turn, question, { isBeside: true }),
      answerCalls: (lane, turn, results) => this._ask(lane, { parent: turn.id, results }),
      showEvents: (_lane, turn) => this._showEvents(turn),
      choose: (lane, _turn, sibling, step) => {
        lane.leaf = this._chat.newestLeaf(sibling);
        this._changed();
        lane.focusSwitcher(sibling, step);
      },
    }, () => this._showComposer());
  }

  async begin() {
    this._listen();
    this._chat = new Chat({ chat: null, turns: [] });
    this._lanes.show(this._chat, []);
    try {
      await this._showState();
      await this._restore();
    } catch (error) {
      this._showProblem("state", error.message);
    }
    this._feed.ready().catch(() => {});
    byId("question").focus();
  }

  // What there is.

  async _showState() {
    const state = await this._api.json("GET", "state");
    const select = byId("model");
    select.replaceChildren(...state.models.map((model) => h("option", { value: model.name, textContent: model.name })));
    this._defaults = new Map(state.models.map((model) => [model.name, model.defaults]));
    this._settings.showDefaults(state.models[0].defaults);
    this._settings.showTools(state.tools);
    for (const option of [...byId("copies").options]) if (Number(option.value) > state.most_copies) option.remove();
  }

  /** The chat of this tab, as the server has it. */
  async _restore() {
    const place = JSON.parse(sessionStorage.getItem(PLACE) ?? "null");
    if (!place) return;
    try {
      this._chat = new Chat(await this._api.json("GET", `chats/${encodeURIComponent(place.chat)}`));
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 404) throw error;
      sessionStorage.removeItem(PLACE);
      announce("The chat of before is not kept any more.");
      return;
    }
    this._lanes.show(this._chat, place.leaves);
    this._poll();
  }

  _store() {
    if (this._chat.id === null) sessionStorage.removeItem(PLACE);
    else sessionStorage.setItem(PLACE, JSON.stringify({ chat: this._chat.id, leaves: this._lanes.list.map((lane) => lane.leaf) }));
  }

  /** Look at turns that run, and whose news go elsewhere: to a page that was left, or another tab. */
  async _poll() {
    const chat = this._chat;
    let seconds = POLL_SECONDS;
    while (chat === this._chat && chat.running.some((turn) => !turn.isMine)) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      seconds = Math.min(1.5 * seconds, MOST_SECONDS);
      let view = null;
      try {
        view = await this._api.json("GET", `chats/${encodeURIComponent(chat.id)}`);
      } catch (error) {
        if (!(error instanceof Refused)) continue; // the server may come back
        for (const turn of chat.running) turn.update({ state: "stopped", is_kept: false });
        this._lanes.list.forEach((lane) => chat.path(lane.leaf).forEach((turn) => this._lanes.redraw(turn.id)));
        return;
      }
      if (chat !== this._chat) return;
      for (const turn of view.turns) {
        const known = chat.turns.get(turn.id);
        if (!known || (known.isRunning && !known.isMine)) chat.put(turn);
      }
      this._changed();
    }
  }

  /** The feed is there, or lost (`problem`): what ran over it has ended on the server. */
  _connect(problem) {
    if (problem === null || !this._problems.has("state")) this._showProblem("feed", problem);
    const lost = problem === null ? [] : this._chat.running.filter((turn) => turn.isMine);
    for (const turn of lost) turn.isMine = false;
    if (lost.length) this._poll();
    if (problem === null && byId("model").options.length === 0) this._showState().catch(() => {});
  }

  // News.

  _take(news) {
    if (news.type === "live") {
      const found = news.models.find((each) => each.name === byId("model").value) ?? news.models[0];
      this._showProblem("state", STATES[found.state] ?? null);
      if (found.state !== "failed") beforeFrame(() => this._meter.show(found));
      return;
    }
    if (news.chat !== this._chat.id) return;
    if (news.type === "turn") {
      const turn = this._chat.put(news.turn);
      turn.isMine = true;
      if (this._lanes.list.some((lane) => lane.leaf === turn.id || lane.leaf === turn.parent)) this._lanes.layOut();
      return;
    }
    const turn = this._chat.turns.get(news.turn);
    if (!turn) return;
    if (news.type === "event") turn.take(news.event);
    if (news.type === "object") turn.object = news;
    if (news.type === "end") this._end(turn, news);
    this._lanes.redraw(turn.id);
    if (this._shownEvents === turn) this._redrawEvents();
  }

  _end(turn, news) {
    turn.update(news);
    const name = this._nameOf(turn);
    if (turn.fault) announce(`${name} failed: ${turn.fault.message}`);
    else if (this._lanes.list.length === 1) announce(turn.state === "stopped" ? "Stopped." : `Answer: ${turn.text.slice(0, SAID)}`);
    else announce(`${name} is ${turn.state === "stopped" ? "stopped" : "done"}.`);
    this._showComposer();
  }

  _nameOf(turn) {
    const place = this._lanes.list.findIndex((lane) => lane.shows(turn.id));
    return this._lanes.list.length > 1 && place >= 0 ? `Branch ${place + 1}` : "The answer";
  }

  // Questions.

  async _send() {
    const box = byId("question");
    const question = box.value;
    if (!question.trim()) return;
    const isAll = byId("all").checked && this._lanes.list.length > 1;
    const asked = (isAll ? [...this._lanes.list] : [this._lanes.active]).filter((lane) => lane.running.length === 0);
    if (asked.length === 0) return;
    const copies = isAll ? 1 : Number(byId("copies").value);
    box.value = "";
    const done = await Promise.all(asked.map((lane) => this._ask(lane, { parent: lane.leaf, question, copies })));
    if (!done.some(Boolean) && !box.value) box.value = question;
  }

  /** Ask behind the parent of `turn`: in the lane, or beside it. */
  _again(lane, turn, question, { isBeside }) {
    const asked = question === null ? { results: turn.results } : { question };
    return this._ask(lane, { parent: turn.parent, ...asked }, { isBeside });
  }

  /** Ask, and show the answers: the first in the lane unless it goes beside it. Whether it was taken on. */
  async _ask(lane, asked, { isBeside = false } = {}) {
    try {
      const request = { ...this._settings.request(), ...asked, model: byId("model").value || null };
      this._showProblem("ask", null);
      if (this._chat.id === null) await this._openChat();
      request.feed = await this._feed.ready();
      const { turns } = await this._api.json("POST", `chats/${encodeURIComponent(this._chat.id)}/turns`, request);
      this._place(lane, turns, asked.parent ?? null, { isBeside });
      return true;
    } catch (error) {
      if (error instanceof Refused && error.code === "chat_not_found") this._startAnew();
      this._showProblem("ask", error.message);
      return false;
    }
  }

  async _openChat() {
    const chat = new Chat(await this._api.json("POST", "chats", {}));
    this._chat = chat;
    this._lanes.chat = chat;
  }

  _place(lane, turns, parent, { isBeside }) {
    let beside = lane;
    turns.forEach((id, place) => {
      if (place === 0 && !isBeside) lane.leaf = id;
      else beside = this._lanes.open(id, beside);
    });
    lane.pin();
    if (isBeside) this._lanes.active = beside;
    for (const id of turns) {
      if (!this._chat.turns.has(id)) this._chat.put({ id, parent, model: "", question: "", results: [], schema: null, state: "running", is_kept: false, events: [], fault: null });
    }
    announce(turns.length > 1 ? `${turns.length} answers begin.` : "The answer begins.");
    this._changed();
    if (document.activeElement === document.body) this._lanes.active.focus();
    if (isBeside) beside.element.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  async _stop(turns) {
    const chat = encodeURIComponent(this._chat.id);
    await Promise.all(turns.map((turn) => this._api.json("POST", `chats/${chat}/turns/${turn.id}/stop`, {}).catch((error) => this._showProblem("ask", error.message))));
  }

  _startAnew() {
    this._chat = new Chat({ chat: null, turns: [] });
    this._lanes.show(this._chat, []);
    this._store();
  }

  async _newChat() {
    const { id } = this._chat;
    this._startAnew();
    byId("question").focus();
    announce("A new chat.");
    if (id !== null) await this._api.json("DELETE", `chats/${encodeURIComponent(id)}`).catch(() => {});
  }

  // What is shown around it.

  _changed() {
    this._lanes.layOut();
    this._store();
  }

  _showComposer() {
    const { list, active } = this._lanes;
    const running = this._chat?.running.filter((turn) => turn.isMine || list.some((lane) => lane.shows(turn.id))) ?? [];
    byId("stop").hidden = running.length === 0;
    byId("stop").textContent = running.length > 1 ? `Stop all ${running.length}` : "Stop";
    byId("all-label").hidden = list.length < 2;
    const isAll = byId("all").checked && list.length > 1;
    byId("copies").disabled = isAll;
    byId("send").disabled = (isAll ? list : [active]).every((lane) => lane?.running.length);
    const place = list.indexOf(active);
    byId("question").placeholder = list.length > 1 && !isAll ? `Ask in Branch ${place + 1}` : "Ask something";
  }

  /** Say what is wrong, by what it is about; null: nothing any more. */
  _showProblem(about, text) {
    if (text === null) this._problems.delete(about);
    else this._problems.set(about, text);
    const banner = byId("banner");
    const found = [...this._problems.values()].join(" ");
    if (banner.textContent !== found) banner.textContent = found;
    banner.hidden = found === "";
  }

  _showEvents(turn) {
    this._shownEvents = turn;
    openSide("events", true);
    this._redrawEvents();
  }

  _redrawEvents() {
    beforeFrame(() => {
      const turn = this._shownEvents;
      const shown = turn.events.slice(-SHOWN_EVENTS);
      const hidden = turn.numEvents - shown.length;
      byId("events-note").textContent = `Turn ${turn.id + 1}: ${turn.numEvents} events${hidden ? `, the last ${shown.length}` : ""}`;
      const list = byId("events-list");
      list.textContent = shown.map(asSent).join("\n");
      return () => { list.scrollTop = list.scrollHeight; };
    });
  }

  _welcome() {
    const example = (text, act) => button(text, act, { className: "example" });
    const put = (question, copies) => {
      byId("question").value = question;
      byId("copies").value = String(copies);
      this._send();
    };
    return h("section", { className: "welcome" },
      h("h2", { textContent: "Ask something" }),
      h("p", { textContent: "Every answer is a row of one batch: several run at once, each can be stopped, and every turn can be gone on from in another way." }),
      h("div", { className: "examples" },
        example("Tell me a short story about a fox.", () => put("Tell me a short story about a fox.", 1)),
        example("The same story four times, side by side", () => put("Tell me a short story about a fox.", 4)),
        example("Make up a person, as an object that grows", () => {
          this._settings.useSchema();
          openSide("panel", true);
          put("Make up a person.", 1);
        })));
  }

  _listen() {
    byId("model").addEventListener("change", () => this._settings.showDefaults(this._defaults.get(byId("model").value)));
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this._send();
    });
    byId("question").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this._send();
      }
    });
    byId("stop").addEventListener("click", () => this._stop(this._chat.running));
    byId("new-chat").addEventListener("click", () => this._newChat());
    byId("all").addEventListener("change", () => this._showComposer());
    for (const name of ["panel", "events"]) byId(`${name}-button`).addEventListener("click", () => openSide(name, byId(name).hidden));
    for (const each of document.querySelectorAll("[data-close]")) each.addEventListener("click", () => openSide(each.dataset.close, false));
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || byId("key-dialog").open) return;
      const side = document.activeElement?.closest(".side");
      if (side) openSide(side.id, false);
      else if (this._chat.running.length) this._stop(this._lanes.active.running.length ? this._lanes.active.running : this._chat.running);
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this._feed.ready().catch(() => {});
      else if (!this._chat.running.some((turn) => turn.isMine)) this._feed.close(); // browsers have few connections
    });
  }
}

/** An event as the server sent it: seeds that no double holds are numbers there. */
function asSent(event) {
  const text = JSON.stringify(event);
  return event.type === "info" ? text.replace(/"seed":"(\d+)"/, '"seed":$1') : text;
}

/** Show or hide what stands at a side, with the focus where it belongs. */
function openSide(name, isOpen) {
  const opener = byId(`${name}-button`);
  if (byId(name).hidden === !isOpen) return;
  byId(name).hidden = !isOpen;
  opener.setAttribute("aria-expanded", String(isOpen));
  if (!isOpen) opener.focus();
}

/** Ask the user; `wasWrong` where one was given already. */
function askForKey(wasWrong) {
  const dialog = byId("key-dialog");
  byId("key-note").textContent = wasWrong ? "That key is not the server's. Try another one." : "This server answers those who have its key. It stays in this tab.";
  byId("key").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => resolve(byId("key").value), { once: true });
  });
}

new Page().begin();
