// Lists of clips and of what was found; texts are set as text, never as markup.

/** An element with text and attributes. */
export function make(name, text = "", attributes = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** Options of a select: [value, text] each. */
export function fillSelect(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => make("option", text, { value })));
  select.value = chosen;
}

/** A row of the list of clips. */
export function clipRow(clip, isCurrent, open, beside) {
  const row = make("li");
  const button = make("button", clip.id, { type: "button" });
  button.append(make("small", `${clip.split}${clip.action ? `, ${clip.action}` : ""}, ${clip.frames} frames`));
  button.addEventListener("click", () => open(clip.id));
  if (isCurrent) row.setAttribute("aria-current", "true");
  const other = make("button", "+", { type: "button", title: "Show beside", "aria-label": `Show ${clip.id} beside` });
  other.addEventListener("click", () => beside(clip.id));
  row.append(button, other);
  return row;
}

/** A card with a canvas and a line of text, which opens a frame of a clip. */
export function card(found, words, open) {
  const button = make("button", "", { type: "button" });
  for (const name of ["clip", "frame", "patch"]) {
    if (found[name] !== undefined) button.dataset[name] = found[name];
  }
  const canvas = make("canvas", "", { width: 160, height: 160 });
  button.append(canvas, make("span", words));
  button.addEventListener("click", () => open(found));
  return { button, canvas };
}
