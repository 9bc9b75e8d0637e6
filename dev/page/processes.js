/**
 * The panel of the development server: all programs with their restarts, and two faults for each.
 * app.js of the page describes `mount`.
 */

import { html, render, useEffect, useRef, useState } from "/page/standalone.module.js";

const POLL_MS = 1000;
const FORBIDDEN = 403;
const NO_RESPONSE = 0;

const TEXTS = {
  en: {
    title: "Kill something",
    help:
      "Freeze billing and place an order. SIGSTOP freezes a program for 10 s. SIGKILL ends a " +
      "process at once, and the supervisor starts it again.",
    table: "Programs of the suite",
    columns: ["Program", "State", "Restarts", "Faults"],
    kill: "Kill",
    freeze: "Freeze",
    left: (seconds) => `${seconds} s left`,
    states: { running: "running", frozen: "frozen", stopped: "stopped" },
    became: { running: "runs again", frozen: "is frozen", stopped: "has stopped" },
    restarted: "was restarted",
    unreachable: "The development server does not respond. make status shows whether it runs.",
    forbidden: "This token is not valid. Open the URL that make status prints.",
  },
  ru: {
    title: "Сломать что-нибудь",
    help:
      "Поставьте billing на паузу и сделайте заказ. SIGSTOP приостанавливает программу на 10 с. " +
      "SIGKILL сразу завершает процесс, и супервизор запускает его снова.",
    table: "Программы магазина",
    columns: ["Программа", "Состояние", "Перезапуски", "Сбои"],
    kill: "Убить",
    freeze: "Пауза",
    left: (seconds) => `ещё ${seconds} с`,
    states: { running: "работает", frozen: "на паузе", stopped: "остановлена" },
    became: { running: "снова работает", frozen: "на паузе", stopped: "остановлена" },
    restarted: "перезапущена",
    unreachable: "Сервер разработки не отвечает. Работает ли он, покажет make status.",
    forbidden: "Этот токен недействителен. Откройте адрес, который печатает make status.",
  },
};
const BADGES = { running: "badge-good", frozen: "badge-wait", stopped: "badge-bad" };

export function mount(element, { token, language }) {
  // The page calls this in an effect. preact would lose the effects of a tree rendered in there.
  queueMicrotask(() => render(html`<${Panel} token=${token} text=${TEXTS[language]} />`, element));
}

function Panel({ token, text }) {
  const [processes, setProcesses] = useState([]);
  const [problem, setProblem] = useState(null);
  const [news, setNews] = useState([]);
  const previous = useRef([]);
  const poll = usePolling(async (isCurrent) => {
    const answer = await call(token, "GET", "/dev/processes");
    if (!isCurrent()) return true;
    setProblem(answer.problem);
    if (answer.problem) return answer.problem.status !== FORBIDDEN;
    const rows = answer.data.processes;
    const changes = rows.flatMap((row) => changesOf(row, previous.current));
    if (changes.length) setNews(changes);
    previous.current = rows;
    setProcesses(rows);
    return true;
  }, [token]);

  async function inject(name, fault) {
    const answer = await call(token, "POST", `/dev/processes/${name}/${fault}`);
    if (answer.problem) setNews([{ name, refusal: answer.problem }]);
    poll();
  }

  return html`
    <link rel="stylesheet" href="/dev/processes.css" />
    <h2 id="dev-title">${text.title}</h2>
    <p class="muted">${text.help}</p>
    ${problem && html`<p role="alert">${problemText(problem, text)}</p>`}
    <table class="dev-processes">
      <caption class="visually-hidden">${text.table}</caption>
      <thead><tr>${text.columns.map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
      <tbody>
        ${processes.map((row) => html`<${Row} key=${row.name} row=${row} text=${text} inject=${inject} />`)}
      </tbody>
    </table>
    <p role="status" class="muted">${news.map((change) => newsText(change, text)).join(" ")}</p>`;
}

function Row({ row, text, inject }) {
  const left = row.continues_in_s;
  const button = (fault, style) => html`
    <button
      type="button" class=${style} aria-label=${`${text[fault]}: ${row.name}`}
      onClick=${() => inject(row.name, fault)}
    >${text[fault]}</button>`;
  return html`
    <tr>
      <th scope="row">${row.name}</th>
      <td>
        <span class=${`badge ${BADGES[row.state]}`}>
          ${text.states[row.state]}${left && `, ${text.left(left)}`}
        </span>
      </td>
      <td class="restarts" title=${text.columns[2]}>${row.restarts}</td>
      <td><div class="row">${button("kill", "button-danger")}${button("freeze", "button-quiet")}</div></td>
    </tr>`;
}

/**
 * Call `load` each second while the page is visible. Return a function that calls it at once.
 *
 * `load` gets a function that says whether its result is still wanted. It returns false to stop.
 */
function usePolling(load, inputs) {
  const poll = useRef(() => {});
  useEffect(() => {
    let timer;
    let isMounted = true;
    let latest = 0;

    poll.current = async () => {
      const own = (latest += 1);
      clearTimeout(timer);
      if (document.visibilityState !== "visible") return;
      const isCurrent = () => isMounted && own === latest;
      const goesOn = await load(isCurrent);
      if (goesOn && isCurrent()) timer = setTimeout(poll.current, POLL_MS);
    };
    const onVisibilityChange = () => poll.current();
    document.addEventListener("visibilitychange", onVisibilityChange);
    poll.current();
    return () => {
      isMounted = false;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisibilityChange);
    };
  }, inputs);
  return () => poll.current();
}

/** Return the data of a response, or a problem with its status, or with NO_RESPONSE. */
async function call(token, method, path) {
  try {
    const response = await fetch(path, { method, headers: { "X-Dev-Token": token } });
    const data = await response.json();
    return response.ok
      ? { data, problem: null }
      : { problem: { status: response.status, detail: data.detail } };
  } catch {
    return { problem: { status: NO_RESPONSE } };
  }
}

/** Return the changes of a program since the previous list, for the announcement. */
function changesOf(row, before) {
  const previous = before.find((other) => other.name === row.name);
  if (!previous) return [];
  if (row.restarts > previous.restarts) return [{ name: row.name, restarts: row.restarts }];
  return row.state === previous.state ? [] : [{ name: row.name, state: row.state }];
}

function newsText({ name, state, restarts, refusal }, text) {
  if (refusal) return problemText(refusal, text);
  if (restarts) return `${name} ${text.restarted} (${restarts}).`;
  return `${name} ${text.became[state]}.`;
}

function problemText({ status, detail }, text) {
  if (status === NO_RESPONSE) return text.unreachable;
  return status === FORBIDDEN ? text.forbidden : detail;
}
