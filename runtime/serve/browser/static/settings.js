// What a question is asked with: parameters, a schema, tools. It stays in this tab.

import { byId, h } from "./dom.js";

const STORED = "greenroom.settings";
const NUMBERS = ["temperature", "max_tokens", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "presence_penalty", "frequency_penalty"];
const SCHEMA = {
  type: "object",
  properties: {
    name: { type: "string", maxLength: 30 }, age: { type: "integer", minimum: 0, maximum: 120 },
    hobbies: { type: "array", items: { type: "string", maxLength: 20 }, maxItems: 4 },
  },
  required: ["name", "age", "hobbies"], additionalProperties: false,
};
const TOOL = [{ type: "function", function: {
  name: "get_weather", description: "Get the current weather for a city.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
} }];

/** Why the settings cannot be used; the field is marked. */
export class SettingsError extends Error {}

export class Settings {
  constructor() {
    this._form = byId("settings");
    this._form.elements.schema.value = JSON.stringify(SCHEMA, null, 2);
    this._restore();
    this._form.addEventListener("input", () => this._store());
    this._form.addEventListener("submit", (event) => event.preventDefault());
    byId("tools-example").addEventListener("click", () => {
      this._form.elements.tools.value = JSON.stringify(TOOL, null, 2);
      this._store();
    });
  }

  /** What the app lets a model call. */
  showTools(tools) {
    const home = byId("app-tools");
    home.hidden = tools.length === 0;
    const chosen = new Set(this._chosen ?? []);
    home.append(...tools.map((tool) => h("label", { className: "check" }, h("input", { type: "checkbox", name: "app_tool", value: tool.name, checked: chosen.has(tool.name) }), h("span", {}, h("code", { textContent: tool.name }), ` ${tool.description.split("\n")[0]}`))));
  }

  /** What a parameter is where nothing is said. */
  showDefaults(defaults) {
    for (const name of NUMBERS) {
      const value = defaults[name];
      this._form.elements[name].placeholder = value === null || value === undefined ? "none" : String(value);
    }
    this._form.elements.seed.placeholder = defaults.seed === null || defaults.seed === undefined ? "drawn" : String(defaults.seed);
    this._form.elements.max_tokens.placeholder = defaults.max_tokens ?? "as fit";
  }

  useSchema() {
    this._form.elements.use_schema.checked = true;
    byId("schema-section").open = true;
    this._store();
  }

  /** The fields of a request. Raises `SettingsError`. */
  request() {
    const fields = this._form.elements;
    const sampling = {};
    for (const name of NUMBERS) {
      const { value, validity, labels } = fields[name];
      if (validity.badInput) throw this._refuse(fields[name], null, `${labels[0].firstChild.data}: a number is needed`);
      if (value !== "") sampling[name] = Number(value);
    }
    const stop = fields.stop.value.split("\n").filter(Boolean);
    if (stop.length) sampling.stop = stop;
    const asked = { sampling };
    if (fields.instructions.value.trim()) asked.instructions = fields.instructions.value;
    if (fields.thinking.value) asked.thinking = fields.thinking.value === "on";
    if (fields.use_schema.checked) asked.schema = this._json("schema", (value) => value !== null && typeof value === "object" && !Array.isArray(value), "a JSON object");
    const app_tools = [...this._form.querySelectorAll("[name=app_tool]:checked")].map((box) => box.value);
    if (app_tools.length) asked.app_tools = app_tools;
    if (fields.tools.value.trim()) asked.tools = this._json("tools", Array.isArray, "a JSON list of tools");
    if (app_tools.length || asked.tools?.length) asked.tool_choice = fields.tool_choice.value;
    return asked;
  }

  _json(name, fits, expected) {
    const field = this._form.elements[name];
    const note = byId(`${name}-error`);
    note.textContent = "";
    field.removeAttribute("aria-invalid");
    try {
      const value = JSON.parse(field.value);
      if (fits(value)) return value;
    } catch (error) {
      throw this._refuse(field, note, `${expected} is needed: ${error.message}`);
    }
    throw this._refuse(field, note, `${expected} is needed`);
  }

  _refuse(field, note, text) {
    field.setAttribute("aria-invalid", "true");
    field.closest("details").open = true;
    if (note) note.textContent = text;
    return new SettingsError(text);
  }

  _store() {
    const values = {};
    for (const field of this._form.elements) {
      if (field.name && field.name !== "app_tool") values[field.name] = field.type === "checkbox" ? field.checked : field.value;
    }
    values.app_tools = [...this._form.querySelectorAll("[name=app_tool]:checked")].map((box) => box.value);
    sessionStorage.setItem(STORED, JSON.stringify(values));
  }

  _restore() {
    let values = {};
    try {
      values = JSON.parse(sessionStorage.getItem(STORED) ?? "{}");
    } catch {
      // what another version left: begin anew
    }
    for (const [name, value] of Object.entries(values)) {
      const field = this._form.elements[name];
      if (field instanceof Element && field.type === "checkbox") field.checked = value;
      else if (field instanceof Element && "value" in field) field.value = value;
    }
    this._chosen = values.app_tools;
  }
}
