// Elements, made of text alone: nothing here, or anywhere on the page, reads HTML.

/** An element with properties, attributes (`attrs`), listeners (`on`) and children; strings are text. */
export function h(tag, { attrs = {}, on = {}, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  for (const [name, value] of Object.entries(attrs)) element.setAttribute(name, value);
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button that does something. */
export function button(text, act, { className = "quiet", ...rest } = {}) {
  return h("button", { type: "button", className, textContent: text, on: { click: act }, ...rest });
}

export const byId = (id) => document.getElementById(id);

const waiting = new Set();
let isAsked = false;

/** Have `draw` called before the next frame, once however often it is asked for. */
export function beforeFrame(draw) {
  waiting.add(draw);
  if (isAsked) return;
  isAsked = true;
  requestAnimationFrame(() => {
    isAsked = false;
    const now = [...waiting];
    waiting.clear();
    const later = now.map((each) => each()).filter((each) => typeof each === "function");
    for (const each of later) each(); // what looks at the layout, behind everything that changes it
  });
}

let announced = "";

/** Tell those who listen to the page. */
export function announce(text) {
  announced = text === announced ? `${text}\u00a0` : text; // the same words again are told again
  byId("announcer").textContent = announced;
}

/** Put a text where one pastes from. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied.");
  } catch {
    announce("This browser does not let the page copy."); // without TLS, say
  }
}

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** Bytes in words. */
export function bytes(count) {
  let unit = 0;
  while (count >= 1000 && unit < UNITS.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${count >= 100 || unit === 0 ? Math.round(count) : count.toFixed(1)} ${UNITS[unit]}`;
}
