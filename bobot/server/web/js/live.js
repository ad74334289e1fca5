// Answers while they come. Only what draws one of them listens to it, at most once per frame.

const lives = new Map();

export function begin(id) {
  const live = {
    text: "", reasoning: "", tokens: [], num: 0, prompt: null, model: null,
    firstAt: null, lastAt: null, listeners: new Set(), isAsked: false,
  };
  lives.set(id, live);
  return live;
}

export const find = (id) => lives.get(id);
export const end = (id) => lives.delete(id);

export function take(live, event) {
  if (event.type === "started") {
    live.model = event.model;
    live.prompt = event.prompt_tokens;
  } else {
    live.firstAt ??= performance.now();
    live.lastAt = performance.now();
    live.num += event.num ?? 0;
    if (event.type === "text") live.text += event.text;
    if (event.type === "reasoning") live.reasoning += event.text;
    if (event.tokens) live.tokens.push(...event.tokens);
  }
  if (!live.isAsked) {
    live.isAsked = true;
    requestAnimationFrame(() => {
      live.isAsked = false;
      for (const listener of live.listeners) listener();
    });
  }
}

// Tokens per second since the first one; null while there is nothing to measure.
export function speedOf(live) {
  const seconds = (live.lastAt - live.firstAt) / 1000;
  return live.num > 1 && seconds > 0.05 ? (live.num - 1) / seconds : null;
}
