// What is shown, as the part of the address after #: a link restores it.

export const DEFAULTS = {
  clip: "", frame: 0, block: null, view: 0, overlay: "none", strength: 60, clicks: [], run: null,
  beside: "", split: "", action: null, phase: "", text: "",
};

const NUMBERS = new Set(["frame", "block", "view", "strength"]);

/** The state as text; what is as by default is left out. */
export function toHash(state) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (JSON.stringify(value) === JSON.stringify(DEFAULTS[name])) continue;
    words.set(name, name === "clicks" ? JSON.stringify(value) : String(value));
  }
  return words.toString();
}

/** The state of a text; words that mean nothing are passed over. */
export function fromHash(text) {
  const state = structuredClone(DEFAULTS);
  for (const [name, value] of new URLSearchParams(text.replace(/^#/, ""))) {
    if (!(name in DEFAULTS)) continue;
    if (name === "clicks") state.clicks = readClicks(value);
    else if (!NUMBERS.has(name)) state[name] = value;
    else if (/^\d{1,9}$/.test(value)) state[name] = Number(value);
  }
  return state;
}

function readClicks(text) {
  let value;
  try { value = JSON.parse(text); } catch { return []; }
  if (!Array.isArray(value)) return [];
  return value.filter((one) => Array.isArray(one) && one.length === 4
    && typeof one[0] === "string" && Number.isInteger(one[1])
    && /^\d+(,\d+){0,3}$/.test(one[2]) && typeof one[3] === "boolean");
}
