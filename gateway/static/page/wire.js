/** The panel "On the wire": the last requests and responses, and "Send again". */

import { html, useEffect, useRef, useState } from "/page/standalone.module.js";
import { indent, isOutcomeUnknown } from "/page/api.js";
import { useShop } from "/page/shared.js";

/** `exchanges` is the log of the API's client, the newest first. */
export function Wire({ exchanges }) {
  const { t } = useShop();
  const [hasReads, setHasReads] = useState(true);
  const shown = hasReads ? exchanges : exchanges.filter(({ method }) => method !== "GET");
  return html`
    <section class="card wire" id="wire" aria-labelledby="wire-title">
      <h2 id="wire-title">${t("wire")}</h2>
      <p class="muted">${t("wire.text")}</p>
      <label class="check">
        <input
          type="checkbox" id="wire-reads" checked=${hasReads}
          onChange=${(event) => setHasReads(event.target.checked)} />
        ${t("wire.reads")}
      </label>
      ${shown.length === 0 && html`<p class="muted">${t("wire.none")}</p>`}
      <ol class="exchanges">
        ${grouped(shown).map(({ id, exchange, count }) => html`
          <li key=${id}><${Exchange} exchange=${exchange} count=${count} /></li>`)}
      </ol>
    </section>`;
}

/** Return equal reads in a row as one: the newest, their count, and the id of the first. */
function grouped(exchanges) {
  const groups = [];
  for (const exchange of exchanges) {
    const last = groups.at(-1);
    if (last && isEqualRead(last.exchange, exchange)) {
      last.count += 1;
      last.id = exchange.id;
    } else {
      groups.push({ id: exchange.id, exchange, count: 1 });
    }
  }
  return groups;
}

function isEqualRead(one, other) {
  const isEqual = (name) => one[name] === other[name];
  return one.method === "GET" && ["method", "path", "status", "failure"].every(isEqual);
}

function Exchange({ exchange, count }) {
  const { t, duration } = useShop();
  const { method, path, status, statusText, ms, failure } = exchange;
  const kind = failure ? "bad" : status === undefined ? "wait" : status < 300 ? "good" : "bad";
  return html`
    <details class=${`exchange ${method}`}>
      <summary>
        <span class="method">${method}</span>
        <span class="path">${path}</span>
        ${count > 1 && html`<span class="muted">×${count}</span>`}
        <span class=${`badge badge-${kind}`}>
          ${failure ? t(`wire.${failure}`) : status ?? t("wire.waiting")}
        </span>
        <span class="ms">${ms !== undefined && duration(ms)}</span>
      </summary>
      <h3>${t("wire.request")}</h3>
      <${Message} start=${`${method} ${path}`} headers=${exchange.headers} body=${exchange.body} />
      ${status !== undefined && html`
        <h3>${t("wire.response")}</h3>
        <${Message}
          start=${`${status} ${statusText}`.trim()}
          headers=${exchange.responseHeaders} body=${exchange.responseBody} />`}
      ${exchange.request && ms !== undefined && html`<${SendAgain} exchange=${exchange} />`}
    </details>`;
}

/** A request or a response as text. It can be scrolled, so it can have the focus. */
function Message({ start, headers, body }) {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  return html`<pre tabindex="0">${[start, ...lines, "", indent(body)].join("\n").trim()}</pre>`;
}

/** A button that sends a request again, and compares the responses and the balances. */
function SendAgain({ exchange }) {
  const { t, api, money, changed } = useShop();
  const [state, setState] = useState({ isBusy: false, lines: [] });
  const proof = useRef(null);
  useEffect(() => {
    if (state.lines.length) proof.current.scrollIntoView({ block: "nearest" });
  }, [state.lines]);
  const balance = async () => (await api.get("/account")).data?.balance;
  const sendAgain = async () => {
    if (state.isBusy) return;
    setState({ isBusy: true, lines: [] });
    const before = await balance();
    const answer = await api.resend(exchange);
    const after = await balance();
    setState({
      isBusy: false,
      lines: [t(comparison(exchange, answer)), balanceText(before, after)],
    });
    changed();
  };
  const balanceText = (before, after) => {
    if (before === undefined || after === undefined) return t("balance.unavailable");
    if (before === after) return t("wire.balance-same", { balance: money(after) });
    return t("wire.balance-changed", { before: money(before), after: money(after) });
  };
  return html`
    <div class="send-again-box">
      <button
        type="button" class="button send-again" aria-disabled=${state.isBusy} onClick=${sendAgain}
      >
        ${t("again")}
      </button>
      <p class="muted">${t("wire.again.text")}</p>
      <div class="proof" role="status" ref=${proof}>${state.lines.map((line) => html`<p>${line}</p>`)}</div>
    </div>`;
}

/** Return the key of the text that compares a response with the one before. */
function comparison(exchange, { exchange: next }) {
  if (isOutcomeUnknown(next.status)) {
    return isOutcomeUnknown(exchange.status) ? "wire.outcome-same" : "wire.outcome-missing";
  }
  if (isOutcomeUnknown(exchange.status)) return "wire.outcome-now";
  const isSame = next.status === exchange.status && next.responseBody === exchange.responseBody;
  if (isSame) return "wire.same";
  const idOf = ({ responseBody }) => /"id":\s*"([^"]+)"/.exec(responseBody ?? "")?.[1];
  return idOf(exchange) && idOf(exchange) === idOf(next) ? "wire.same-order" : "wire.different";
}
