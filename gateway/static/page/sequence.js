/** The arrows of an order's sequence diagram, from its story. Draws nothing. */

export const LIFELINES = ["browser", "gateway", "orders", "billing", "notifications", "users"];

/**
 * Return the rows of the diagram, one arrow each, from top to bottom.
 *
 * A row has
 * - id: a stable name
 * - from, to: lifelines. A row from a lifeline to itself is a note.
 * - style: "call", "reply", "event", "note", or "earlier" for the sign-up
 * - state: "done", "pending", "unknown", or "lost" for a call without a reply
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
    recorded: step.withdrawal_recorded,
    withdraw: { from: "orders", to: "billing", style: "call", label: t("row.withdraw", { price }) },
    outcome: {
      id: "outcome", from: "billing", to: "orders", style: "reply",
      label: outcomeLabel(step.withdrawal_recorded.operation, text),
      ...timed(step.order_settled, text),
    },
  };
  // No retry and no 202: billing replied to the first call.
  const isSettledAtOnce = facts.settled && sent?.status !== 202 && attempts.count === 0;
  return [
    {
      id: "sign-up", from: "users", to: "billing", style: "earlier",
      ...done("user_created", t("row.earlier")),
    },
    { id: "request", from: "browser", to: "gateway", style: "call", ...done("POST /orders") },
    {
      id: "place", from: "gateway", to: "orders", style: "call",
      label: t("row.place", { price }),
      ...timed({ ...step.order_placed, since_previous_ms: undefined }, text),
    },
    ...(isSettledAtOnce ? rowsOfOneCall(facts) : rowsOfRetries(facts)),
    {
      id: "event", from: "orders", to: "notifications", style: "event",
      label: facts.settled ? `order_${order.status}` : t("row.event"),
      ...timed(step.event_published, text),
    },
    {
      id: "letter", from: "notifications", to: "notifications", style: "note",
      label: step.letter_written.letter?.subject ?? t("row.letter"),
      ...timed(step.letter_written, text),
    },
  ];
}

/** Return the rows from the withdrawal to the response of an order that was settled at once. */
function rowsOfOneCall({ sent, text, settled, recorded, withdraw, outcome }) {
  const { t } = text;
  const response = sent
    ? done(`${sent.status} ${sent.statusText}`, measured(sent, text))
    : done(t("row.reply"));
  return [
    { id: "withdrawal", ...withdraw, ...timed(recorded, text) },
    outcome,
    { id: "settled", from: "orders", to: "gateway", style: "reply", ...done(settled) },
    { id: "response", from: "gateway", to: "browser", style: "reply", ...response },
  ];
}

/**
 * Return the same rows of an order that was pending: orders retries until billing answers.
 *
 * The first call may have been recorded as well, and only its reply was lost. After a 201 this
 * page had sent the request again. It did not wait.
 */
function rowsOfRetries({ attempts, sent, text, settled, recorded, withdraw, outcome }) {
  const { t, clock } = text;
  const wasRecordedFirst = recorded.at < attempts.last_at;
  const isWaiting = sent?.status === 202;
  const state = settled ? "done" : "pending";
  const first = wasRecordedFirst
    ? { id: "withdrawal", ...withdraw, ...timed(recorded, text) }
    : { id: "lost", ...withdraw, state: "lost", time: t("row.no-reply") };
  const repeated = wasRecordedFirst
    ? { id: "repeated", ...withdraw, state, time: t("row.same") }
    : { id: "withdrawal", ...withdraw, ...timed(recorded, text) };
  const accepted = isWaiting
    ? done("202 Accepted", measured(sent, text))
    : done(t("row.no-outcome"));
  const retries = attempts.count
    ? done(
        t("row.sweeper", { count: attempts.count }),
        t("row.last", { time: clock(attempts.last_at) }),
      )
    : { state, label: t("row.sweeper.none"), time: "" };
  const wait = {
    id: "wait", from: "browser", to: "gateway", style: "call",
    ...done("GET, Prefer: wait=30"),
  };
  const response = {
    id: "response", from: "gateway", to: "browser", style: "reply", state,
    label: settled ? `200, ${settled}` : t("row.reply"), time: "",
  };
  return [
    first,
    { id: "accepted", from: "gateway", to: "browser", style: "reply", ...accepted },
    ...(isWaiting ? [wait] : []),
    { id: "sweeper", from: "orders", to: "orders", style: "note", ...retries },
    repeated,
    outcome,
    ...(isWaiting ? [response] : []),
  ];
}

function done(label, time = "") {
  return { state: "done", label, time };
}

function measured({ ms }, { t, duration }) {
  return t("row.measured", { time: duration(ms) });
}

/** The time of a step: since the previous one, or of the day if that one is unknown. */
function timed({ state, at, since_previous_ms: ms }, { t, duration, clock }) {
  const time = state === "done" ? clock(at) : t(`state.${state}`);
  return { state, time: ms === undefined ? time : `+${duration(ms)}` };
}

/** Return what billing replied, if its operation is known. */
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
