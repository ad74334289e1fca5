// The server's routes under /app/api: JSON, and streams of server-sent events.
import { remembered, set } from "./state.js";
import { t } from "./words.js";

const ROOT = "/app/api";
export const NEEDS_KEY = 401;
export const UNREACHABLE = 0; // the status of an error when there is no answer at all

export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `HTTP ${status}`);
    this.status = status;
    this.code = error?.code;
  }
}

async function request(method, path, body, signal) {
  const headers = {};
  const key = remembered("key", "");
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const text = typeof body === "string" || body === undefined ? body : JSON.stringify(body);
  const answer = await reached(fetch(ROOT + path, { method, headers, body: text, signal }));
  if (answer.ok) return answer;
  if (answer.status === NEEDS_KEY) set({ needsKey: true });
  const found = await answer.json().catch(() => null);
  throw new ApiError(answer.status, found?.error);
}

// The browser's own words for a server that is gone help nobody.
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(UNREACHABLE, { message: t("unreachable") });
  }
}

export const get = async (path) => (await request("GET", path)).json();
export const post = async (path, body = {}) => (await request("POST", path, body)).json();
export const patch = async (path, body) => (await request("PATCH", path, body)).json();
export const remove = async (path) => (await request("DELETE", path)).json();
export const file = async (path) => (await request("GET", path)).blob();

// Calls take(event) with the data of each event; ends when the stream ends.
export async function stream(method, path, body, take, signal) {
  const answer = await request(method, path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reached(reader.read());
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ")) {
        const event = JSON.parse(block.slice(6));
        take(event.error && !event.type ? { type: "error", ...event } : event);
      }
    }
  }
}
