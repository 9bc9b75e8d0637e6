/** The form of a new order, the list of orders, and the story of the chosen one. */

import { html, useEffect, useMemo, useRef, useState } from "/page/standalone.module.js";
import { Diagram, useReveal } from "/page/diagram.js";
import { exampleAmount, parseAmount } from "/page/format.js";
import { Letter } from "/page/letters.js";
import { explanationsOf, reasonText, rowsOf, totalMs } from "/page/sequence.js";
import {
  Field, Pages, Problem, Status, useFocusOnError, useRequest, useShop,
} from "/page/shared.js";
import { follow } from "/page/story.js";

const LATE_MS = 300;

/**
 * The form of a new order.
 *
 * - onSend(): called before the request
 * - onOrder(order, exchange): receives the new order, and the exchange that placed it
 * - onFailure(): called if there is no order
 */
export function NewOrder({ onSend, onOrder, onFailure }) {
  const { t, language, account, changed, announce } = useShop();
  const { isBusy, problem, submit, again } = useRequest();
  const isLate = useIsLate(isBusy);
  const form = useRef(null);
  useFocusOnError(form, problem);

  const finish = ({ ok, data, exchange }) => {
    changed();
    if (!ok) {
      onFailure();
      return;
    }
    form.current?.reset();
    announce(t(`order.done.${data.status}`, { reason: reasonText(data.reason, t) }));
    onOrder(data, exchange);
  };
  const onSubmit = async (event) => {
    event.preventDefault();
    if (isBusy) return;
    const price = parseAmount(form.current.elements.price.value, language);
    onSend();
    finish(await submit("/orders", { price }));
  };
  const onAgain = async () => {
    onSend();
    finish(await again());
  };
  return html`
    <section class="card" aria-labelledby="order-title">
      <h2 id="order-title">${t("order.title")}</h2>
      <p class="muted">
        ${!isLate && t("order.text")}<span role="status">${isLate && t("order.sent")}</span>
      </p>
      <form ref=${form} onSubmit=${onSubmit} novalidate>
        <div class="line">
          <${Field} id="price" label=${t("price")} problem=${problem}
            inputmode="decimal" autocomplete="off"
            placeholder=${exampleAmount(account, language)} />
          <button id="place-order" class="button" aria-disabled=${isBusy}>
            ${t("place-order")}
          </button>
        </div>
        ${problem && html`
          <${Problem}
            id="order-problem" problem=${problem} isBusy=${isBusy}
            onAgain=${onAgain} />`}
      </form>
    </section>`;
}

/** Return whether a request has taken longer than usual, so that its text does not flicker. */
function useIsLate(isBusy) {
  const [isLate, setLate] = useState(false);
  useEffect(() => {
    const timer = isBusy && setTimeout(() => setLate(true), LATE_MS);
    return () => {
      clearTimeout(timer);
      setLate(false);
    };
  }, [isBusy]);
  return isLate;
}

/** The list of orders. A click on one shows its story. */
export function Orders({ chosen, onChoose }) {
  const { t } = useShop();
  return html`
    <${Pages} id="orders" path="/orders" none=${t("orders.none")}
      row=${(order) => html`
        <${OrderRow} order=${order} isChosen=${order.id === chosen?.id} onChoose=${onChoose} />`} />`;
}

function OrderRow({ order, isChosen, onChoose }) {
  const { t, money, time } = useShop();
  return html`
    <button
      type="button" class="item" aria-current=${isChosen ? "true" : undefined}
      onClick=${() => onChoose(order)}
    >
      <span>
        <span class="visually-hidden">${t("orders.show")} </span>
        <${Status} status=${order.status} />
        <small class="muted">
          ${order.reason && `${reasonText(order.reason, t)}, `}${time(order.created_at)}
        </small>
      </span>
      <span class="amount">${money(order.price)}</span>
    </button>`;
}

/** Return the newest story of an order while it is followed, and a function that asks again. */
function useStory(id) {
  const { api, changed } = useShop();
  const [round, setRound] = useState(0);
  const [state, setState] = useState({
    story: null, problem: null, isWaiting: false, isFollowing: true, isComplete: false,
  });
  useEffect(() => {
    const leaving = new AbortController();
    const update = (part) => {
      if (!leaving.signal.aborted) setState((before) => ({ ...before, ...part }));
    };
    let status = null;
    update({ isFollowing: true, problem: null });
    follow(api, id, {
      signal: leaving.signal,
      onStory: (story) => {
        update({ story, problem: null });
        // The balance and the lists are older than the settlement.
        if (status === "pending" && story.order.status !== "pending") changed();
        status = story.order.status;
      },
      onProblem: (problem) => update({ problem }),
      onWait: (isWaiting) => update({ isWaiting }),
    }).then((isComplete) => {
      update({ isFollowing: false, isComplete });
      if (!leaving.signal.aborted) changed();
    });
    return () => leaving.abort();
  }, [api, id, round]);
  return { ...state, refresh: () => setRound(round + 1) };
}

/**
 * The story of an order: diagram, steps and letter.
 *
 * `chosen` is the order as the API returned it, and `isFromList` whether it was chosen in the list.
 * `sent` is the exchange that placed it, if this page did.
 */
export function Story({ chosen, isFromList, sent }) {
  const shop = useShop();
  const { t, money, duration, time, announce } = shop;
  const { story, problem, isWaiting, isFollowing, isComplete, refresh } = useStory(chosen.id);
  const order = story?.order ?? chosen;
  const rows = useMemo(() => (story ? rowsOf(story, sent, shop) : []), [story, sent, shop]);
  const [shown, replay] = useReveal(rows);
  const section = useRef(null);
  const title = useRef(null);
  const letter = story?.steps.at(-1).letter;
  const total = story ? totalMs(story) : undefined;

  useEffect(() => {
    const { top } = section.current.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) section.current.scrollIntoView();
  }, [story !== null]);
  useEffect(() => {
    // A new order leaves the focus in its form.
    if (isFromList) title.current.focus({ preventScroll: true });
  }, []);
  useEffect(() => {
    if (letter) announce(t("story.ready", { subject: letter.subject }));
  }, [letter?.id]);

  const isShown = rows.length > 0 && shown === rows.length;
  const explanations = story ? explanationsOf(story) : [];
  const hasUnknown = rows.some(({ state }) => state === "unknown");
  // The time of a response that this page has measured.
  const isMeasured = rows.some(({ id, time }) => ["accepted", "response"].includes(id) && time);
  const nameOf = (name) => (name === "browser" ? t("browser") : name);
  return html`
    <section
      class="card story" id="story" ref=${section}
      aria-labelledby="story-title" aria-busy=${!story && !problem} data-following=${`${isFollowing}`}
    >
      <header class="story-head">
        <h2 id="story-title" tabindex="-1" ref=${title}>
          ${t("story.title", { price: money(order.price) })}
          ${" "}<${Status} status=${order.status} />
        </h2>
        <p class="row">
          ${total !== undefined && html`
            <span class="total" id="total">${t("story.total", { time: duration(total) })}</span>`}
          ${isShown && html`
            <button type="button" id="replay" class="button-quiet" onClick=${replay}>
              ${t("story.replay")}
            </button>`}
        </p>
        <p class="muted">
          <code>${order.id}</code>, ${t("story.placed", { time: time(order.created_at) })}
        </p>
      </header>
      ${!story && !problem && html`<p class="muted">${t("loading")}</p>`}
      ${isWaiting && html`
        <p class="notice waiting" id="waiting" role="status">${t("story.waiting")}</p>`}
      ${problem && html`
        <${Problem} problem=${problem} />
        ${isFollowing && html`<p class="muted">${t("story.problem")}</p>`}`}
      ${story && html`
        <figure>
          <${Diagram} rows=${rows} shown=${shown} title=${t("story.diagram")} nameOf=${nameOf} />
          <figcaption class="muted">
            ${isShown && explanations.map((key) => html`<p class="notice">${t(key)}</p>`)}
            <p>${t("story.users")}</p>
            <p>
              ${t("story.clocks")} ${isMeasured && t("story.browser")}
              ${hasUnknown && html` ${t("story.unknown")}`}
            </p>
          </figcaption>
        </figure>
        ${!isFollowing && !isComplete && html`
          <p class="row">
            <span class="muted">${t("story.stopped")}</span>
            <button type="button" id="ask-again" class="button-quiet" onClick=${refresh}>
              ${t("story.refresh")}
            </button>
          </p>`}
        <div class="story-parts">
          <section aria-labelledby="steps-title">
            <h3 id="steps-title">${t("story.steps")}</h3>
            <${Steps} rows=${rows} nameOf=${nameOf} />
          </section>
          <section aria-labelledby="letter-title">
            <h3 id="letter-title">${t("story.letter")}</h3>
            ${letter
              ? html`<${Letter} letter=${letter} />`
              : html`
                  <p class="muted" id="no-letter">
                    ${t(isFollowing ? "story.letter-waiting" : "story.stopped")}
                  </p>`}
          </section>
        </div>`}
    </section>`;
}

/** The arrows of the diagram as a list, with the names of the steps in the API's story. */
function Steps({ rows, nameOf }) {
  const { t } = useShop();
  return html`
    <ol class="steps" id="steps">
      ${rows.map(({ id, event, from, to, also, style, state, label, time }) => html`
        <li key=${id} class=${`${style} ${state}`}>
          <span class="who">
            ${nameOf(from)}
            ${from !== to && html`
              <span aria-hidden="true"> → </span>
              <span class="visually-hidden"> ${t("row.to")} </span>
              ${nameOf(to)}${also && `, ${nameOf(also)}`}`}
          </span>
          <span class="what">
            ${label}
            ${event && html` <code class="muted">${event}</code>`}
          </span>
          <span class="when">${time}</span>
        </li>`)}
    </ol>`;
}
