/** Follows an order until its letter is written. */

const STORY_EVERY_MS = 3_000;
const RETRY_AFTER_MS = 2_000;
// The letter usually takes some milliseconds. The last of these pauses takes 4 seconds.
const FIRST_PAUSE_MS = 150;
const MAX_PAUSE_MS = 4_000;
const MAX_LETTER_POLLS = 20;
// With the pauses between them, ten minutes.
const MAX_FAILURES = 300;

/**
 * Fetch the story of an order until the letter is written, and report each change.
 *
 * - onStory(story): after each response
 * - onProblem(problem): after a failed request. It is tried again, except after 401 and 404.
 * - onWait(isWaiting): while the order is pending
 * - signal: aborts it when the user leaves
 *
 * Returns whether the story is complete. A pending order is followed without limit. After
 * MAX_LETTER_POLLS or MAX_FAILURES it stops, and the user can ask again.
 */
export async function follow(api, id, { signal, onStory, onProblem, onWait }) {
  let pause = FIRST_PAUSE_MS;
  let polls = 0;
  let failures = 0;
  while (!signal.aborted && polls < MAX_LETTER_POLLS && failures < MAX_FAILURES) {
    const answer = await fetchStory(api, id, signal, onStory);
    if (answer.aborted) break;
    if (answer.problem) {
      onProblem(answer.problem);
      if ([401, 404].includes(answer.problem.status)) break;
      failures += 1;
      await sleep(retryAfter(answer), signal);
      continue;
    }
    if (isComplete(answer.data)) return true;
    if (answer.data.order.status === "pending") {
      onWait(true);
      await waitForSettlement(api, id, signal, onStory);
      onWait(false);
    } else {
      await sleep(pause, signal);
      pause = Math.min(pause * 1.4, MAX_PAUSE_MS);
      polls += 1;
    }
  }
  return false;
}

/** Wait until an order has settled, or for 30 seconds. Meanwhile the story is fetched too. */
async function waitForSettlement(api, id, signal, onStory) {
  const waiting = api.get(`/orders/${id}`, { prefer: "wait=30", signal });
  const ended = waiting.then(() => true);
  while (!(await Promise.race([ended, sleep(STORY_EVERY_MS, signal).then(() => signal.aborted)]))) {
    await fetchStory(api, id, signal, onStory);
  }
  const answer = await waiting;
  // The gateway answers at once if too many requests wait.
  if (answer.problem || (answer.data.status === "pending" && !answer.waited)) {
    await sleep(retryAfter(answer), signal);
  }
}

async function fetchStory(api, id, signal, onStory) {
  const answer = await api.get(`/orders/${id}/story`, { signal });
  if (answer.ok) onStory(answer.data);
  return answer;
}

/** Return whether nothing can change any more. A published event is deleted after ten minutes. */
function isComplete({ steps }) {
  return steps.every(
    ({ event, state }) => state === "done" || (event === "event_published" && state === "unknown"),
  );
}

function retryAfter({ problem }) {
  return problem?.retryAfter ? problem.retryAfter * 1000 : RETRY_AFTER_MS;
}

function sleep(ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
