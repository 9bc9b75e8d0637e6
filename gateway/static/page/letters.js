/** The letters. Their text comes from users too, and is shown as text. */

import { html } from "/page/standalone.module.js";
import { Pages, useShop } from "/page/shared.js";

/** A letter as on paper. */
export function Letter({ letter }) {
  const { t, time } = useShop();
  return html`
    <article class=${`letter ${letter.kind}`} data-letter=${letter.id}>
      <header>
        <h4>${letter.subject}</h4>
        <p>${t("letter.to", { to: letter.to })}, ${time(letter.created_at)}</p>
      </header>
      <p class="letter-body">${letter.body}</p>
    </article>`;
}

export function Letters() {
  const { t } = useShop();
  return html`
    <${Pages} id="letters" path="/notifications" none=${t("letters.none")}
      row=${(letter) => html`<${ClosedLetter} letter=${letter} />`} />`;
}

/** A letter in a list: its subject, and the whole letter after a click. */
function ClosedLetter({ letter }) {
  const { time } = useShop();
  return html`
    <details class="closed-letter">
      <summary class="item">
        <span>${letter.subject}</span>
        <small class="muted">${time(letter.created_at)}</small>
      </summary>
      <${Letter} letter=${letter} />
    </details>`;
}
