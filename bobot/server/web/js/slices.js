// Work that can wait a moment: done in slices, between which the browser can draw and scroll.

const SLICE = 6; // milliseconds
const waiting = [];
let isWorking = false;

export function later(job) {
  waiting.push(job);
  if (!isWorking) setTimeout(work);
  isWorking = true;
}

function work() {
  const end = performance.now() + SLICE;
  try {
    do waiting.shift()();
    while (waiting.length && performance.now() < end);
  } finally {
    isWorking = waiting.length > 0;
    if (isWorking) setTimeout(work);
  }
}
