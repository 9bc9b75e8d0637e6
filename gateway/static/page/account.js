/** The balance with deposits and withdrawals, and the statement. */

import { html, useRef } from "/page/standalone.module.js";
import { exampleAmount, parseAmount } from "/page/format.js";
import { reasonText } from "/page/sequence.js";
import {
  Field, Pages, Problem, Status, useFocusOnError, useRequest, useShop,
} from "/page/shared.js";

const PATHS = { deposit: "/account/deposits", withdraw: "/account/withdrawals" };

export function Account() {
  const { t, account, accountProblem, money, changed } = useShop();
  return html`
    <section class="card" aria-labelledby="account-title">
      <h2 id="account-title">${t("money.title")}</h2>
      <p class="balance">
        <span class="muted">${t("balance")}</span>
        <output id="balance">${account ? money(account.balance) : "…"}</output>
      </p>
      ${accountProblem && html`
        <p class="row">
          <span class="field-error">${t("balance.unavailable")}</span>
          <button type="button" class="button-quiet" onClick=${changed}>${t("retry")}</button>
        </p>`}
      <${Movement} />
    </section>`;
}

/** One amount, and a button for each direction. */
function Movement() {
  const { t, language, account, money, changed, announce } = useShop();
  const { isBusy, problem, submit, again } = useRequest();
  const form = useRef(null);
  useFocusOnError(form, problem);

  const finish = ({ ok, data }) => {
    changed();
    if (!ok) return;
    form.current?.reset();
    const { amount, balance_after: balance } = data;
    const done = data.kind === "deposit" ? "deposit.done" : "withdraw.done";
    announce(t(done, { amount: money(amount), balance: money(balance) }));
  };
  const onSubmit = async (event) => {
    event.preventDefault();
    if (isBusy) return;
    // Enter in the field counts as the first button.
    const chosen = event.submitter?.value || "deposit";
    const amount = parseAmount(form.current.elements.amount.value, language);
    finish(await submit(PATHS[chosen], { amount }));
  };
  return html`
    <form ref=${form} onSubmit=${onSubmit} novalidate>
      <div class="line">
        <${Field} id="amount" label=${t("amount")} problem=${problem}
          inputmode="decimal" autocomplete="off" placeholder=${exampleAmount(account, language)} />
        <button id="deposit" value="deposit" class="button" aria-disabled=${isBusy}>
          ${t("deposit")}
        </button>
        <button id="withdraw" value="withdraw" class="button-quiet" aria-disabled=${isBusy}>
          ${t("withdraw")}
        </button>
      </div>
      ${problem && html`
        <${Problem}
          id="movement-problem" problem=${problem} isBusy=${isBusy}
          onAgain=${async () => finish(await again())} />`}
    </form>`;
}

export function Statement() {
  const { t } = useShop();
  return html`
    <${Pages} id="statement" path="/account/operations" none=${t("statement.none")}
      row=${(operation) => html`<${Operation} operation=${operation} />`} />`;
}

function Operation({ operation }) {
  const { t, money, time } = useShop();
  const { kind, status, reason, amount, balance_after: balance, created_at: at } = operation;
  const name = operation.order_id ? "order" : kind;
  const sign = kind === "deposit" ? "+" : "−";
  return html`
    <div class="item">
      <span>
        ${t.has(`kind.${name}`) ? t(`kind.${name}`) : name}
        ${status === "refused" && html` <${Status} status=${status} />`}
        <small class="muted">${time(at)}</small>
      </span>
      <span class="amount">
        <span class=${status === "refused" ? "struck" : ""}>${sign}${money(amount)}</span>
        <small class="muted">
          ${status === "refused"
            ? reasonText(reason, t)
            : balance && t("balance-after", { amount: money(balance) })}
        </small>
      </span>
    </div>`;
}
