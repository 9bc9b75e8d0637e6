/**
 * Requests to the API, and a log of them for the panel "On the wire".
 *
 * The token is in sessionStorage only: it ends with the tab, and it is in no address.
 */

const MAX_EXCHANGES = 60;
// So that the many reads do not displace the requests that change something.
const MAX_READS = 30;
// Longer than the gateway may wait for `Prefer: wait=30`.
const TIMEOUT_MS = 45_000;
const SHOWN_HEADERS = [
  "Content-Type",
  "Location",
  "Preference-Applied",
  "Retry-After",
  "WWW-Authenticate",
  "X-Request-Id",
];
const MASK = "••••••••";
const SECRETS = /("(?:password|access_token)"\s*:\s*)"(?:[^"\\]|\\.)*"/g;

/**
 * Return a new Idempotency-Key.
 *
 * crypto.randomUUID exists only with HTTPS or on this machine. The shop may be served by HTTP.
 */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `page-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/**
 * The client of the API.
 *
 * `send` never throws. It returns an answer:
 * - ok: whether the status is 2xx
 * - data: the parsed body of a successful response
 * - problem: otherwise, the problem (RFC 9457) with `status`, 0 if there was no response at all,
 *   `reason` ("network" or "aborted") without a response, and `retryAfter` (seconds) if it had one
 * - waited: whether the gateway applied `Prefer: wait`
 * - aborted: whether `signal` ended the request
 * - exchange: the request and the response, as the log shows them
 */
export class Api {
  token = sessionStorage.getItem("token");
  // Newest first. Passwords and tokens are masked.
  exchanges = [];
  // Called after a change of the log.
  onLog = () => {};
  // Called when the gateway no longer accepts the token.
  onExpired = () => {};
  #sent = 0;

  logIn(token) {
    this.token = token;
    sessionStorage.setItem("token", token);
  }

  logOut() {
    this.token = null;
    sessionStorage.removeItem("token");
    this.exchanges = [];
    this.onLog();
  }

  get(path, options) {
    return this.send({ method: "GET", path, ...options });
  }

  post(path, body, options) {
    return this.send({ method: "POST", path, body: JSON.stringify(body), ...options });
  }

  /** Send the same request once more: the same user, body and Idempotency-Key. */
  resend(exchange) {
    return this.send(exchange.request);
  }

  async send({ method, path, body, key, prefer, signal, token = this.token }) {
    const headers = { Accept: "application/json" };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (key) headers["Idempotency-Key"] = key;
    if (prefer) headers.Prefer = prefer;
    const exchange = {
      id: ++this.#sent,
      // To send it again, even if another user logs in meanwhile. Nothing else needs it unmasked.
      request: key && { method, path, body, key, token },
      method,
      path,
      headers: token ? { Authorization: `Bearer ${MASK}`, ...headers } : headers,
      body: masked(body ?? ""),
      started: new Date(),
    };
    // A user who has logged out since leaves nothing in the log of the next one.
    if (this.token === token) this.#log(exchange);
    if (token) headers.Authorization = `Bearer ${token}`;

    const before = performance.now();
    let answer;
    try {
      answer = await this.#fetch(path, { method, headers, body }, signal);
    } catch (error) {
      const reason = signal?.aborted ? "aborted" : "network";
      answer = {
        ok: false,
        aborted: signal?.aborted,
        problem: { status: 0, reason, detail: `${error}` },
      };
    }
    answer.exchange = {
      ...exchange,
      ms: performance.now() - before,
      failure: answer.problem?.reason,
      ...answer.response,
    };
    if (this.token === token) this.#log(answer.exchange);
    if (token && token === this.token && answer.problem?.status === 401) this.onExpired();
    return answer;
  }

  async #fetch(path, options, signal) {
    const signals = [AbortSignal.timeout(TIMEOUT_MS), ...(signal ? [signal] : [])];
    const response = await fetch(path, {
      ...options,
      signal: AbortSignal.any(signals),
      cache: "no-store",
    });
    const text = await response.text();
    const shown = SHOWN_HEADERS.filter((name) => response.headers.has(name));
    return {
      ok: response.ok,
      ...contentOf(response, text),
      waited: response.headers.has("Preference-Applied"),
      response: {
        status: response.status,
        statusText: response.statusText,
        responseHeaders: Object.fromEntries(shown.map((name) => [name, response.headers.get(name)])),
        responseBody: masked(text),
      },
    };
  }

  /** Add an exchange to the log, or replace its earlier state. */
  #log(exchange) {
    const others = this.exchanges.filter((each) => each.id !== exchange.id);
    const isNew = others.length === this.exchanges.length;
    const log = isNew
      ? [exchange, ...others]
      : this.exchanges.map((each) => (each.id === exchange.id ? exchange : each));
    let reads = 0;
    const kept = log.filter(({ method }) => method !== "GET" || ++reads <= MAX_READS);
    this.exchanges = kept.slice(0, MAX_EXCHANGES);
    this.onLog();
  }
}

/** Return the data or the problem of a response. A proxy may send a page that is no JSON. */
function contentOf(response, text) {
  const { status, statusText } = response;
  const retryAfter = Number(response.headers.get("Retry-After")) || undefined;
  try {
    const data = JSON.parse(text);
    return response.ok ? { data } : { problem: { title: statusText, ...data, status, retryAfter } };
  } catch {
    return {
      ok: false,
      problem: { title: statusText, detail: text.slice(0, 300), status, retryAfter },
    };
  }
}

/**
 * Return whether it is unknown what a request did. A retry with the same key finds out.
 *
 * `status` is 0 or undefined if there was no response.
 */
export function isOutcomeUnknown(status = 0) {
  return status === 0 || status >= 500;
}

function masked(text) {
  return text.replace(SECRETS, `$1"${MASK}"`);
}

/** Return a JSON text with line breaks. Everything else stays as it went over the wire. */
export function indent(json) {
  let depth = 0;
  const newLine = () => `\n${"  ".repeat(depth)}`;
  return json.replace(/"(?:[^"\\]|\\.)*"|\{\s*\}|\[\s*\]|[{[]|[}\]]|,\s*/g, (token) => {
    if (token === "{" || token === "[") {
      depth += 1;
      return token + newLine();
    }
    if (token === "}" || token === "]") {
      depth -= 1;
      return newLine() + token;
    }
    return token.startsWith(",") ? `,${newLine()}` : token;
  });
}
