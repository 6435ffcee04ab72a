// An object as far as it has come: a row a field, what is whole told apart from what grows.

import { h } from "./dom.js";

const MOST_ROWS = 300;

/** The rows of `value`, `done` the paths in it that are whole (null: all); fields of `schema` are there from the start. */
export function objectRows(value, done, schema) {
  const whole = done && new Set(done.map((path) => JSON.stringify(path)));
  const rows = [];
  walk(value, [], schema, { whole, rows });
  return rows;
}

function walk(value, path, schema, found) {
  if (found.rows.length >= MOST_ROWS) return;
  if (value !== null && typeof value === "object") {
    const keys = Array.isArray(value) ? [...value.keys()] : Object.keys(value);
    for (const key of keys) branch(value[key], [...path, key], part(schema, key), found);
    const expected = Array.isArray(value) ? [] : Object.keys(schema?.properties ?? {});
    for (const key of expected) {
      if (!Object.hasOwn(value, key)) branch(undefined, [...path, key], null, found);
    }
  }
}

function branch(value, path, schema, found) {
  const isWhole = found.whole === null || found.whole.has(JSON.stringify(path));
  const name = h("th", { textContent: String(path.at(-1)), scope: "row" });
  name.style.setProperty("--depth", path.length - 1);
  const isLeaf = value === null || typeof value !== "object";
  const state = value === undefined ? "missing" : isWhole ? "whole" : "growing";
  const cell = h("td", { textContent: value === undefined ? "…" : isLeaf ? shown(value) : summary(value) });
  const mark = h("td", { className: "mark" }, h("span", { textContent: { whole: "✓", growing: "●", missing: "" }[state], attrs: { "aria-hidden": "true" } }), h("span", { className: "hidden-label", textContent: { whole: "whole", growing: "growing", missing: "not there yet" }[state] }));
  found.rows.push(h("tr", { className: state }, name, cell, mark));
  if (!isLeaf) walk(value, path, schema, found);
}

function part(schema, key) {
  return typeof key === "number" ? schema?.items : schema?.properties?.[key];
}

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const summary = (value) => (Array.isArray(value) ? `${value.length} item${value.length === 1 ? "" : "s"}` : "");
