/** The view without a session: sign up or log in. */

import { html, useEffect, useRef, useState } from "/page/standalone.module.js";
import { isOutcomeUnknown } from "/page/api.js";
import { Picture } from "/page/diagram.js";
import { Field, Problem, useFocusOnError, useRequest, useShop } from "/page/shared.js";

/** `message` says why the session ended, if one did. `onSession(token)` starts the next one. */
export function Welcome({ message, onSession }) {
  const { t } = useShop();
  const [isNew, setNew] = useState(!message);
  return html`
    <div class="welcome">
      <section class="welcome-text">
        <h2>${t("welcome.title")}</h2>
        <p class="lead">${t("welcome.text")}</p>
        <${Picture} browser=${t("browser")} />
      </section>
      <section class="card" aria-labelledby="sign-title">
        ${message && html`<p class="notice" id="session-message" role="status">${message}</p>`}
        <h2 id="sign-title">${t(isNew ? "sign-up.title" : "log-in.title")}</h2>
        ${isNew
          ? html`<${SignUp} key="sign-up" onSession=${onSession} />`
          : html`<${LogIn} key="log-in" onSession=${onSession} />`}
        <p>
          <button
            type="button" id="switch-form" class="button-link" onClick=${() => setNew(!isNew)}
          >
            ${t(isNew ? "have-account" : "no-account")}
          </button>
        </p>
      </section>
    </div>`;
}

function SignUp({ onSession }) {
  const { t, language } = useShop();
  // Letters are in the language of the page.
  return html`
    <${SignForm}
      path="/users" submitId="sign-up" label=${t("sign-up")}
      more=${{ locale: language }} onSession=${onSession}
    >
      ${(problem) => html`
        <${Field} id="username" label=${t("username")} hint=${t("username.hint")} problem=${problem}
          autocomplete="username" autocapitalize="none" spellcheck="false" />
        <${Field} id="email" label=${t("email")} hint=${t("email.hint")} problem=${problem}
          type="email" autocomplete="email" />
        <${Field} id="password" label=${t("password")} hint=${t("password.hint")} problem=${problem}
          type="password" autocomplete="new-password" />`}
    </${SignForm}>`;
}

function LogIn({ onSession }) {
  const { t } = useShop();
  return html`
    <${SignForm} path="/tokens" submitId="log-in" label=${t("log-in")} onSession=${onSession}>
      ${(problem) => html`
        <${Field} id="username" label=${t("username")} problem=${problem}
          autocomplete="username" autocapitalize="none" spellcheck="false" />
        <${Field} id="password" label=${t("password")} problem=${problem}
          type="password" autocomplete="current-password" />`}
    </${SignForm}>`;
}

/** A form whose fields are the body of the request. The API validates them. */
function SignForm({ path, submitId, label, more, onSession, children }) {
  const { t } = useShop();
  const { isBusy, problem, submit } = useRequest({ isKeyed: false });
  const form = useRef(null);
  useFocusOnError(form, problem);
  useEffect(() => form.current.elements[0].focus(), []);
  const onSubmit = async (event) => {
    event.preventDefault();
    if (isBusy) return;
    const fields = Object.fromEntries(new FormData(form.current));
    const answer = await submit(path, { ...fields, ...more });
    if (answer.ok) onSession(answer.data.access_token);
  };
  return html`
    <form ref=${form} onSubmit=${onSubmit} novalidate>
      ${children(problem)}
      ${problem && html`<${Problem} problem=${problem} />`}
      ${problem && isOutcomeUnknown(problem.status) && problem.outcome !== "none"
        && path === "/users" && html`
        <p>${t("problem.outcome.no-key")}</p>`}
      <button id=${submitId} class="button" aria-disabled=${isBusy}>${label}</button>
    </form>`;
}
