// Requests to the server that gave this page; paths are relative, so its token goes with them.

async function get(path, words, signal) {
  let answer;
  try {
    answer = await fetch(`${path}?${new URLSearchParams(words)}`, { signal });
  } catch (error) {
    throw signal?.aborted ? error : new Error("no answer: the explorer has ended, start it again");
  }
  if (!answer.headers.get("content-type")?.includes("json")) {
    throw new Error(`the explorer failed (${answer.status}): its terminal says why`);
  }
  return answer;
}

/** The JSON of a path; an error has the server's sentence. */
export async function ask(path, words, signal) {
  const value = await (await get(path, words, signal)).json();
  if (value.error !== undefined) throw new Error(value.error);
  return value;
}

/** Each line of JSON as it comes. */
export async function* askLines(path, words, signal) {
  const answer = await get(path, words, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    const parts = (held + (value ?? "")).split("\n");
    held = parts.pop();
    for (const part of parts) {
      const line = JSON.parse(part);
      if (line.error !== undefined) throw new Error(line.error);
      yield line;
    }
    if (done) return;
  }
}

const images = new Map();
const MOST_IMAGES = 400;

/** The frame as an image that is loaded, or null where it cannot be shown. */
export function frameImage(clip, frame, view) {
  const path = `frame?${new URLSearchParams({ clip, frame, view })}`;
  if (!images.has(path)) {
    const image = new Image();
    image.src = path;
    images.set(path, image.decode().then(() => image, () => null));
    if (images.size > MOST_IMAGES) images.delete(images.keys().next().value);
  }
  return images.get(path);
}

/** Bytes of base64. */
export function bytesOf(text) {
  return Uint8Array.from(atob(text), (mark) => mark.charCodeAt(0));
}
