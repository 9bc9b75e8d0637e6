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
  const { t, money, duration, clock } = text;
  const step = Object.fromEntries(steps.map((each) => [each.event, each]));
  const timed = (event) => timedRow(step[event], text);
  const { operation } = step.withdrawal_recorded;
  const price = money(order.price);
  const settled = order.status !== "pending";
  const withdraw = { from: "orders", to: "billing", style: "call", label: t("row.withdraw", { price }) };
  const measured = sent ? t("row.measured", { time: duration(sent.ms) }) : "";

  const first = [
    { id: "sign-up", from: "users", to: "billing", style: "earlier", state: "done", label: "user_created", time: t("row.earlier") },
    { id: "request", from: "browser", to: "gateway", style: "call", state: "done", label: "POST /orders", time: "" },
    { id: "place", from: "gateway", to: "orders", style: "call", label: t("row.place", { price }), ...timedRow({ ...step.order_placed, since_previous_ms: undefined }, text) },
  ];
  const outcome = {
    id: "outcome", from: "billing", to: "orders", style: "reply",
    label: operation ? outcomeLabel(operation, text) : t("row.reply"),
    ...timed("order_settled"),
  };
  const last = [
    {
      id: "event", from: "orders", to: "notifications", style: "event",
      label: settled ? `order_${order.status}` : t("row.event"),
      ...timed("event_published"),
    },
    {
      id: "letter", from: "notifications", to: "notifications", style: "note",
      label: step.letter_written.letter?.subject ?? t("row.letter"),
      ...timed("letter_written"),
    },
  ];
  const response = { from: "gateway", to: "browser", style: "reply" };

  // A 201: billing answered while the request was waiting.
  const wasPending = sent?.status === 202 || attempts.count > 0 || !settled;
  if (!wasPending) {
    return [
      ...first,
      { id: "withdrawal", ...withdraw, ...timed("withdrawal_recorded") },
      outcome,
      { id: "settled", from: "orders", to: "gateway", style: "reply", state: "done", label: t(`status.${order.status}`), time: "" },
      { ...response, id: "response", state: "done", label: sent ? `${sent.status} ${sent.statusText}` : t("row.reply"), time: measured },
      ...last,
    ];
  }

  // A 202: orders retries until billing answers. The first call may have been recorded all the same.
  // If this page got another response, it sent the request again, and did not wait.
  const accepted = sent?.status === 202 ? sent : undefined;
  const recordedAt = step.withdrawal_recorded.at;
  const wasRecordedFirst = recordedAt !== undefined && attempts.last_at !== undefined && recordedAt < attempts.last_at;
  return [
    ...first,
    wasRecordedFirst
      ? { id: "withdrawal", ...withdraw, ...timed("withdrawal_recorded") }
      : { id: "lost", ...withdraw, state: "lost", time: t("row.no-reply") },
    { ...response, id: "accepted", state: "done", label: accepted ? "202 Accepted" : t("row.no-outcome"), time: accepted ? measured : "" },
    ...(accepted ? [{ id: "wait", from: "browser", to: "gateway", style: "call", state: "done", label: "GET, Prefer: wait=30", time: "" }] : []),
    {
      id: "sweeper", from: "orders", to: "orders", style: "note",
      state: attempts.count > 0 || settled ? "done" : "pending",
      label: attempts.count > 0 ? t("row.sweeper", { count: attempts.count }) : t("row.sweeper.none"),
      time: attempts.last_at ? t("row.last", { time: clock(attempts.last_at) }) : "",
    },
    wasRecordedFirst
      ? { id: "repeated", ...withdraw, state: settled ? "done" : "pending", time: t("row.same") }
      : { id: "withdrawal", ...withdraw, ...timed("withdrawal_recorded") },
    outcome,
    ...(accepted ? [{ ...response, id: "response", state: settled ? "done" : "pending", label: settled ? `200, ${t(`status.${order.status}`)}` : t("row.reply"), time: "" }] : []),
    ...last,
  ];
}

/** The time of a step: since the previous one, or of the day if that one is unknown. */
function timedRow({ state, at, since_previous_ms: ms }, { t, duration, clock }) {
  const time = state === "done" ? clock(at) : t(`state.${state}`);
  return { state, time: ms === undefined ? time : `+${duration(ms)}` };
}

function outcomeLabel({ status, reason, balance_after: balance }, { t, money }) {
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
