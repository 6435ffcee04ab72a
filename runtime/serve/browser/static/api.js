// Requests to the server that this page came from, and the feed over which all answers come.

const HERE = new URL("./", import.meta.url);
const KEY = "greenroom.key";
const RETRY_SECONDS = [0.5, 1, 2, 5];
const LASTING_SECONDS = 10;

/** Why a request was not done, in the server's words. */
export class Refused extends Error {
  constructor(status, fault) {
    super(fault.message);
    this.status = status;
    this.code = fault.code;
    this.param = fault.param;
  }
}

/** Numbers that a double does not hold, which are seeds, stay as they were written. */
function exact(_name, value, context) {
  return typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source
    ? context.source
    : value;
}

export function parse(text) {
  return text.includes('"seed":') ? JSON.parse(text, exact) : JSON.parse(text);
}

export class Api {
  /** `askForKey` is told whether one was wrong, and gives another. */
  constructor(askForKey) {
    this._askForKey = askForKey;
    this._asking = null;
  }

  async fetch(method, path, body, signal) {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
      const headers = {};
      if (body !== undefined) headers["Content-Type"] = "application/json";
      if (key) headers["X-API-Key"] = encodeURI(key) === key ? key : latin(key);
      const answer = await fetch(new URL(path, HERE), {
        method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
        credentials: "omit", cache: "no-store", redirect: "error",
      });
      if (answer.ok) return answer;
      if (answer.status !== 401) throw await refusal(answer);
      await this._takeKey(key);
    }
  }

  async json(method, path, body) {
    const answer = await this.fetch(method, path, body);
    return parse(await answer.text());
  }

  /** Ask for a key once, however many requests wait for it. */
  async _takeKey(tried) {
    if (sessionStorage.getItem(KEY) !== tried) return;
    this._asking ??= this._askForKey(tried !== null).finally(() => { this._asking = null; });
    sessionStorage.setItem(KEY, await this._asking);
  }
}

/** Headers are bytes: UTF-8, a byte a character. */
function latin(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

async function refusal(answer) {
  let fault = { message: `the server answered ${answer.status}` };
  try {
    fault = (await answer.json()).error ?? fault;
  } catch {
    // a proxy's own page: the status says it
  }
  return new Refused(answer.status, fault);
}

/** The news of this page, for as long as it wants them: a connection that ends is made again. */
export class Feed {
  constructor(api, { onNews, onState }) {
    this._api = api;
    this._onNews = onNews;
    this._onState = onState;
    this._abort = null;
    this._opened = null;
    this.id = null;
  }

  /** The feed's name, once it is open. */
  ready() {
    if (this._abort === null) this._start();
    return this._opened.promise;
  }

  close() {
    this._abort?.abort();
    this._abort = null;
    this.id = null;
  }

  /** What goes wrong with one of the news is no loss of the connection. */
  _tell(news) {
    try {
      this._onNews(news);
    } catch (error) {
      reportError(error);
    }
  }

  _start() {
    this._abort = new AbortController();
    this._opened = Promise.withResolvers ? Promise.withResolvers() : resolvers();
    this._opened.promise.catch(() => {});
    this._listen(this._abort.signal);
  }

  async _listen(signal) {
    let failures = 0;
    while (!signal.aborted) {
      let reason = null;
      const began = performance.now();
      try {
        const answer = await this._api.fetch("POST", "feeds", {}, signal);
        for await (const news of read(answer.body)) {
          if (news.type === "feed") {
            this.id = news.feed;
            this._onState(null);
            this._opened.resolve(news.feed);
          } else {
            this._tell(news);
          }
        }
      } catch (error) {
        if (signal.aborted) return;
        reason = error instanceof Refused ? error.message : null;
      }
      this.id = null;
      this._opened.reject(new Error("the connection to the server was lost"));
      this._opened = Promise.withResolvers ? Promise.withResolvers() : resolvers();
      this._opened.promise.catch(() => {});
      this._onState(reason ?? "The connection to the server was lost. It is tried again.");
      failures = performance.now() - began > 1000 * LASTING_SECONDS ? 0 : failures + 1;
      await sleep(RETRY_SECONDS[Math.min(failures, RETRY_SECONDS.length) - 1] ?? 0.1, signal);
    }
  }
}

function resolvers() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

function sleep(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

/** The data of server-sent events. */
async function* read(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      if (frame.startsWith("data: ")) yield parse(frame.slice(6));
    }
  }
}
