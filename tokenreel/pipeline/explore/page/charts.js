// Bands and curves along a clip, one above the other, with a cursor.

const PHASES = ["#7e57c2", "#f2a541", "#3f9e8f", "#c2517a", "#5b8def", "#9a9a2f", "#8d6e63", "#37474f"];
const BAND = 16, CURVE = 44, GAP = 4;

/** Draw rows: {labels}, numbers of phases, -1 for none; or {values, low, high, colour}. */
export function drawBands(canvas, rows, numFrames, frame) {
  canvas.height = rows.reduce((sum, row) => sum + (row.labels ? BAND : CURVE) + GAP, GAP);
  const context = canvas.getContext("2d");
  const width = canvas.width;
  const step = width / numFrames;
  let top = GAP;
  for (const row of rows) {
    const height = row.labels ? BAND : CURVE;
    context.fillStyle = "rgba(128, 128, 128, .15)";
    context.fillRect(0, top, width, height);
    if (row.labels) {
      row.labels.forEach((label, i) => {
        if (label < 0) return;
        context.fillStyle = PHASES[label % PHASES.length];
        context.fillRect(i * step, top, Math.ceil(step), height);
      });
    } else {
      const low = row.low ?? Math.min(...row.values), high = row.high ?? Math.max(...row.values);
      context.strokeStyle = row.colour;
      context.lineWidth = 1.5;
      context.beginPath();
      row.values.forEach((value, i) => {
        const y = top + height - 3 - (height - 6) * (value - low) / Math.max(high - low, 1e-9);
        context.lineTo((i + 0.5) * step, y);
      });
      context.stroke();
    }
    top += height + GAP;
  }
  context.fillStyle = "#d32f2f";
  context.fillRect((frame + 0.5) * step - 1, 0, 2, canvas.height);
}
