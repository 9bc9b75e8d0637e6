/** The arrows of an order's sequence diagram, from its story. Draws nothing. */

export const LIFELINES = ["browser", "gateway", "orders", "billing", "notifications", "users"];
// Longer durations are explained.
const SLOW_MS = 500;
// orders waits so long for the first reply: WITHDRAW_TIMEOUT_S, by default.
const REPLY_TIMEOUT_MS = 3_000;
// orders retries a call after this time (FIRST_RETRY_AFTER in orders/domain.py).
const FIRST_RETRY_MS = 10_000;

/**
 * Return the rows of the diagram, one arrow each, from top to bottom.
 *
 * A row has
 * - id: a stable name
 * - event: the step of the story that it shows, if it shows one
 * - from, to: lifelines. A row from a lifeline to itself is a note.
 * - also: a second receiver of the same event
 * - style: "call", "reply", "event", "note", or "earlier" for the sign-up
 * - state: "done", "pending", "unknown", or for a call without a reply "late" if billing recorded
 *   the withdrawal nevertheless, and else "lost"
 * - label, and time, which is empty if it was not measured
 *
 * `sent` is the exchange that placed the order, if this page did. Its time is the browser's.
 * `text` has the functions t, money, duration and clock.
 */
export function rowsOf({ order, steps, attempts }, sent, text) {
  const { t, money } = text;
  const step = Object.fromEntries(steps.map((each) => [each.event, each]));
  const price = money(order.price);
  const facts = {
    attempts,
    sent,
    text,
    settled: order.status !== "pending" && t(`status.${order.status}`),
    reply: { from: "orders", to: "gateway", style: "reply" },
    recorded: step.withdrawal_recorded,
    withdraw: { from: "orders", to: "billing", style: "call", label: t("row.withdraw", { price }) },
    outcome: {
      id: "outcome", from: "billing", to: "orders", style: "reply",
      label: outcomeLabel(step.withdrawal_recorded.operation, text),
      ...ofStep(step.order_settled, text),
    },
  };
  return [
    {
      id: "sign-up", from: "users", to: "billing", also: "notifications", style: "earlier",
      ...done("user_created", t("row.earlier")),
    },
    { id: "request", from: "browser", to: "gateway", style: "call", ...done("POST /orders") },
    {
      id: "place", from: "gateway", to: "orders", style: "call",
      label: t("row.place", { price }),
      ...ofStep({ ...step.order_placed, since_previous_ms: undefined }, text),
    },
    ...(isSettledAtOnce({ order, attempts }) ? rowsOfOneCall(facts) : rowsOfRetries(facts)),
    {
      id: "event", from: "orders", to: "notifications", style: "event",
      label: facts.settled ? `order_${order.status}` : t("row.event"),
      ...ofStep(step.event_published, text),
    },
    {
      id: "letter", from: "notifications", to: "notifications", style: "note",
      label: step.letter_written.letter?.subject ?? t("row.letter"),
      ...ofStep(step.letter_written, text),
    },
  ];
}

/** Return the rows from the withdrawal to the response of an order that was settled at once. */
function rowsOfOneCall({ sent, text, settled, reply, recorded, withdraw, outcome }) {
  const { t } = text;
  const response = sent?.status === 201
    ? done("201 Created", measured(sent, text))
    : done(t("row.reply"));
  return [
    { id: "withdrawal", ...withdraw, ...ofStep(recorded, text) },
    outcome,
    { id: "settled", ...reply, ...done(settled) },
    { id: "response", from: "gateway", to: "browser", style: "reply", ...response },
  ];
}

/**
 * Return the same rows of an order that was pending: orders retries until billing replies.
 *
 * billing may have recorded the withdrawal after the first call, and only its reply was lost or too
 * late. Then a note shows it, and the retry gets the same outcome.
 */
function rowsOfRetries(facts) {
  const { attempts, sent, text, settled, reply, recorded, withdraw, outcome } = facts;
  const { t, clock } = text;
  // After a 201 this page had sent the request again. It did not wait.
  const isWaiting = sent?.status === 202;
  const state = settled ? "done" : "pending";
  const open = { state, time: "" };
  const note = wasRecordedFirst(facts) && {
    id: "withdrawal", from: "billing", to: "billing", style: "note", label: t("row.recorded"),
    ...ofStep(recorded, text),
  };
  const ms = recorded.since_previous_ms ?? Infinity;
  const isLate = ms > REPLY_TIMEOUT_MS;
  const accepted = isWaiting
    ? done("202 Accepted", measured(sent, text))
    : done(t("row.no-outcome"));
  const retries = attempts.count
    ? done(
        t("row.sweeper", { count: attempts.count }),
        // The last time is unknown for retries of an earlier version.
        attempts.last_at ? t("row.last", { time: clock(attempts.last_at) }) : "",
      )
    : { ...open, label: t("row.sweeper.none") };
  const wait = {
    id: "wait", from: "browser", to: "gateway", style: "call",
    ...done("GET, Prefer: wait=30"),
  };
  const response = {
    id: "response", from: "gateway", to: "browser", style: "reply", ...open,
    label: settled ? `200, ${settled}` : t("row.reply"),
  };
  return [
    {
      id: "first", ...withdraw,
      state: note && ms < FIRST_RETRY_MS ? "late" : "lost", time: t("row.no-reply"),
    },
    ...(note && !isLate ? [note] : []),
    { id: "unsettled", ...reply, ...done(t("status.pending")) },
    { id: "accepted", from: "gateway", to: "browser", style: "reply", ...accepted },
    ...(isWaiting ? [wait] : []),
    ...(note && isLate ? [note] : []),
    { id: "sweeper", from: "orders", to: "orders", style: "note", ...retries },
    note
      ? { id: "retry", ...withdraw, state, time: t(settled ? "row.same-key" : "state.pending") }
      : { id: "withdrawal", ...withdraw, ...ofStep(recorded, text) },
    outcome,
    ...(isWaiting ? [{ id: "settled", ...reply, ...open, label: settled || t("row.reply") }] : []),
    ...(isWaiting ? [response] : []),
  ];
}

/** Return whether billing replied to the first call: there was no retry. */
function isSettledAtOnce({ order, attempts }) {
  return order.status !== "pending" && attempts.count === 0;
}

/** Return whether billing recorded the withdrawal before the last retry, or may have. */
function wasRecordedFirst({ recorded, attempts, settled }) {
  return attempts.count ? recorded.at < attempts.last_at : !settled && recorded.state !== "pending";
}

/** Return the keys of the texts that explain delays of a settled order. */
export function explanationsOf(story) {
  const { order, steps, attempts } = story;
  const recorded = steps.find(({ event }) => event === "withdrawal_recorded");
  if (order.status === "pending" || recorded.state !== "done") return [];
  const isFirst = wasRecordedFirst({ recorded, attempts, settled: true });
  const isSlow = ({ since_previous_ms: ms }) => ms > SLOW_MS;
  const ofBilling = isSettledAtOnce(story)
    ? isSlow(recorded) && "story.slow"
    : isFirst ? "story.same-key" : "story.retried";
  return [ofBilling, isSlow(steps.at(-1)) && "story.slow-letter"].filter(Boolean);
}

function done(label, time = "") {
  return { state: "done", label, time };
}

function measured({ ms }, { t, duration }) {
  return t("row.measured", { time: duration(ms) });
}

/** The event, state and time of a step. The time is the duration since the previous step, if known. */
function ofStep({ event, state, at, since_previous_ms: ms }, { t, duration, clock }) {
  const time = state === "done" ? clock(at) : t(`state.${state}`);
  return { event, state, time: ms === undefined ? time : `+${duration(ms)}` };
}

/** Return the label of billing's reply. */
function outcomeLabel(operation, { t, money }) {
  if (!operation) return t("row.reply");
  const { status, reason, balance_after: balance } = operation;
  if (status === "refused") return t("row.refused", { reason: reasonText(reason, t) });
  return t("row.done", { balance: money(balance) });
}

/** Return a reason in the user's language, or as the service wrote it. */
export function reasonText(reason, t) {
  return t.has(`reason.${reason}`) ? t(`reason.${reason}`) : reason;
}

/** Return the duration from the order to the letter, or undefined while steps have no time. */
export function totalMs({ steps }) {
  const times = steps.map(({ since_previous_ms: ms }) => ms);
  return times.includes(undefined) ? undefined : times.reduce((sum, ms) => sum + ms, 0);
}
