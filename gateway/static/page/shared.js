/** Shared by several views: the shop's context, problems, fields, and the hooks for requests. */

import {
  createContext, html, useContext, useEffect, useRef, useState,
} from "/page/standalone.module.js";
import { isOutcomeUnknown, newKey } from "/page/api.js";

/**
 * The context of all views:
 * - api, language, t
 * - money(amount), duration(ms), clock(iso), time(iso): values as text
 * - account: the response of GET /account, or null until it is there
 * - accountProblem: the problem of the last GET /account, if it failed
 * - announce(text): says an outcome to screen readers
 * - version: a number that rises when money moved or an order settled. Lists load again.
 * - changed(): raises it
 */
export const Shop = createContext(null);
export const useShop = () => useContext(Shop);

/**
 * Return the state of a form's request, and the functions that send it.
 *
 * `submit(path, body)` sends a POST with a new Idempotency-Key. `again()` sends the same request
 * with the same key, as after an unknown outcome. Both return the answer.
 */
export function useRequest({ isKeyed = true } = {}) {
  const { api } = useShop();
  const [state, setState] = useState({ isBusy: false, answer: null });
  const run = async (send) => {
    setState((before) => ({ ...before, isBusy: true }));
    const answer = await send();
    setState({ isBusy: false, answer });
    return answer;
  };
  return {
    ...state,
    problem: state.answer?.problem,
    submit: (path, body) =>
      run(() => api.post(path, body, { key: isKeyed ? newKey() : undefined })),
    again: () => run(async () => {
      const answer = await api.resend(state.answer.exchange);
      // "none" is about this attempt only. An earlier one may have had its effect.
      if (answer.problem && state.answer.problem?.outcome !== "none") {
        answer.problem.outcome = "unknown";
      }
      return answer;
    }),
  };
}

/**
 * A problem as the API sent it (RFC 9457), with an explanation in the user's language.
 *
 * If it is unknown what the request did, `onAgain` sends it again with the same Idempotency-Key.
 */
export function Problem({ problem, id, onAgain, isBusy }) {
  const { t } = useShop();
  const name = problem.type?.split(":").at(-1);
  const explanation = t.has(`problem.${name}`) && t(`problem.${name}`);
  return html`
    <div class="problem" role="alert" id=${id}>
      <p class="problem-title">
        ${problem.status
          ? html`<span lang="en">${problem.status} ${problem.title}</span>`
          : t("problem.network")}
      </p>
      ${problem.status === 0
        ? html`<p>${t("problem.network.text")}</p>`
        : explanation && html`<p>${explanation}</p>`}
      ${problem.status > 0 && problem.detail && problem.detail !== explanation && html`
        <p lang="en" class="muted">${problem.detail}</p>`}
      ${problem.type && html`<p class="problem-type"><code>${problem.type}</code></p>`}
      ${onAgain && isOutcomeUnknown(problem.status) && html`
        <p>${t(problem.outcome === "none" ? "problem.nothing-done" : "problem.outcome")}</p>
        <button
          type="button" class="button send-again"
          aria-disabled=${isBusy} onClick=${() => isBusy || onAgain()}
        >
          ${t("again")}
        </button>`}
    </div>`;
}

/** An input with its label, its hint and the errors of its field. */
export function Field({ id, label, hint, problem, name = id, ...rest }) {
  const errors = [problem?.errors?.[name] ?? []].flat();
  const described = [hint && `${id}-hint`, errors.length > 0 && `${id}-error`].filter(Boolean);
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      <input
        id=${id} name=${name} required
        aria-invalid=${errors.length > 0}
        aria-describedby=${described.join(" ") || undefined} ...${rest} />
      ${hint && html`<p class="hint" id=${`${id}-hint`}>${hint}</p>`}
      ${errors.length > 0 && html`
        <p class="field-error" id=${`${id}-error`} lang="en">${errors.join(" ")}</p>`}
    </div>`;
}

/** Move the focus to the first invalid field of a form, after its problem is drawn. */
export function useFocusOnError(form, problem) {
  useEffect(() => {
    form.current?.querySelector('[aria-invalid="true"]')?.focus();
  }, [problem]);
}

/** Return the items of a list, page by page, and a function that loads the next page. */
function usePages(path) {
  const { api, version } = useShop();
  const [state, setState] = useState({ items: null, next: null, problem: null, isBusy: false });
  const newest = useRef(0);
  const load = async (cursor) => {
    const mine = ++newest.current;
    setState((before) => ({ ...before, isBusy: true }));
    const query = cursor ? `?limit=10&cursor=${encodeURIComponent(cursor)}` : "?limit=10";
    const { data, problem } = await api.get(path + query);
    // A newer request has replaced this one.
    if (mine !== newest.current) return 0;
    setState((before) => ({
      items: data ? [...(cursor ? before.items : []), ...data.items] : before.items,
      next: data ? data.next_cursor : before.next,
      problem,
      isBusy: false,
    }));
    return data?.items.length ?? 0;
  };
  useEffect(() => {
    load(null);
  }, [version]);
  return { ...state, reload: () => load(null), more: () => load(state.next) };
}

/** A list with its pages. `row` draws an item, and `none` is the text of an empty list. */
export function Pages({ id, path, none, row }) {
  const { t, announce } = useShop();
  const { items, next, problem, isBusy, more, reload } = usePages(path);
  const list = useRef(null);
  const showMore = async () => {
    const shown = items.length;
    const count = await more();
    if (count > 0) {
      announce(t("more.done", { count }));
      // The new rows are drawn after this. The button may be gone then.
      requestAnimationFrame(() => list.current?.children[shown]?.focus());
    }
  };
  return html`
    ${problem && html`
      <${Problem} problem=${problem} />
      <button type="button" class="button-quiet" onClick=${reload}>${t("retry")}</button>`}
    ${!items && !problem && html`<p class="muted">${t("loading")}</p>`}
    ${items?.length === 0 && html`<p class="muted">${none}</p>`}
    ${items?.length > 0 && html`
      <ol class="list" id=${id} ref=${list}>
        ${items.map((item) => html`<li key=${item.id} tabindex="-1">${row(item)}</li>`)}
      </ol>`}
    ${next && html`
      <button
        type="button" class="button-quiet more"
        aria-disabled=${isBusy} onClick=${() => isBusy || showMore()}
      >
        ${t("more")}
      </button>`}`;
}

/** The status of an order or an operation, as a coloured word. */
export function Status({ status }) {
  const { t } = useShop();
  const kind = { paid: "good", done: "good", pending: "wait" }[status] ?? "bad";
  return html`<span class=${`badge badge-${kind}`}>${t(`status.${status}`)}</span>`;
}
