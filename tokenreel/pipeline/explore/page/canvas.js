// Drawing of frames, patches and maps.

const STOPS = [[13, 8, 60], [84, 2, 163], [156, 23, 158], [204, 71, 120], [237, 121, 83], [253, 180, 47], [240, 249, 33]];
export const LIKE = "#00d0ff", UNLIKE = "#ff3b30";

/** Red, green and blue of a share from 0 to 255, dark to bright. */
export function heat(value) {
  const place = (value / 255) * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[low].map((part, i) => part + (STOPS[low + 1][i] - part) * (place - low));
}

/** Draw a frame, or a blank grid where there is none. */
export function drawFrame(canvas, image, grid) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  if (image) { context.drawImage(image, 0, 0, width, height); return; }
  context.fillStyle = "#ececec";
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#cdcdcd";
  for (let row = 1; row < grid[0]; row++) context.fillRect(0, Math.round(row * height / grid[0]), width, 1);
  for (let column = 1; column < grid[1]; column++) context.fillRect(Math.round(column * width / grid[1]), 0, 1, height);
}

/** Draw a colour for each patch over what is there; 1 or 3 bytes a patch. */
export function drawMap(canvas, bytes, grid, strength) {
  const small = new OffscreenCanvas(grid[1], grid[0]);
  const count = grid[0] * grid[1];
  const pixels = new ImageData(grid[1], grid[0]);
  const depth = bytes.length / count;
  for (let i = 0; i < count; i++) {
    const colour = depth === 3 ? bytes.subarray(3 * i, 3 * i + 3) : heat(bytes[i]);
    pixels.data.set([...colour, 255], 4 * i);
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  context.save();
  context.imageSmoothingEnabled = false;
  context.globalAlpha = strength;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  context.restore();
}

/** The corners of a patch "27", "3,4" or "3,4,5,6": [row, column, last row, last column]. */
export function corners(patch, grid) {
  const numbers = String(patch).split(",").map(Number);
  if (numbers.length === 1) {
    const row = Math.floor(numbers[0] / grid[1]), column = numbers[0] % grid[1];
    return [row, column, row, column];
  }
  return numbers.length === 2 ? [...numbers, ...numbers] : numbers;
}

/** Frame a patch. */
export function drawBox(canvas, patch, grid, colour) {
  const [top, left, bottom, right] = corners(patch, grid);
  const width = canvas.width / grid[1], height = canvas.height / grid[0];
  const context = canvas.getContext("2d");
  context.lineWidth = Math.max(2, canvas.width / 150);
  context.strokeStyle = colour;
  context.strokeRect(left * width + 1, top * height + 1, (right - left + 1) * width - 2, (bottom - top + 1) * height - 2);
}

/** The patch under a place of the page: [row, column]. */
export function patchUnder(canvas, event, grid) {
  const box = canvas.getBoundingClientRect();
  const place = (part, count) => Math.min(count - 1, Math.max(0, Math.floor(part * count)));
  return [place((event.clientY - box.top) / box.height, grid[0]), place((event.clientX - box.left) / box.width, grid[1])];
}
