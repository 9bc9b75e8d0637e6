/**
 * The shop's page. This module starts it and shows its views.
 *
 * No build step: the browser loads these modules as they are. html`...` is htm's syntax for
 * preact's virtual DOM. It never parses values as HTML, so the text of users stays text.
 *
 * The development server (`make up`) adds a panel that kills and freezes programs. Only if the page
 * was opened with `#dev=<token>`, it imports `/dev/processes.js`, which exports
 *
 *     mount(element, { token, language })
 *
 * - element: an empty <section id="dev-panel" class="card" aria-labelledby="dev-title">. The panel
 *   draws its own <h2 id="dev-title"> in it.
 * - token: the value of the header X-Dev-Token.
 * - language: "en" or "ru".
 *
 * The page calls mount again, with the same element, when the language changes. Then render
 * updates the same tree: render(html`<${Panel} ...${{ token, language }} />`, element).
 * The panel imports html, render, useState, useEffect and so on from "/page/standalone.module.js".
 *
 * Classes of style.css for it: card, muted, row (children in one line), button, button-quiet,
 * button-danger, badge with badge-good, badge-wait or badge-bad, visually-hidden.
 */

import { html, render, useEffect, useMemo, useRef, useState } from "/page/standalone.module.js";
import { Account, Statement } from "/page/account.js";
import { Api } from "/page/api.js";
import { DevelopmentPanel } from "/page/development.js";
import { Picture } from "/page/diagram.js";
import { formatClock, formatDuration, formatMoney, formatTime } from "/page/format.js";
import { Letters } from "/page/letters.js";
import { NewOrder, Orders, Story } from "/page/orders.js";
import * as preferences from "/page/preferences.js";
import { Shop, useShop } from "/page/shared.js";
import { translator } from "/page/texts.js";
import { Welcome } from "/page/welcome.js";
import { Wire } from "/page/wire.js";

const api = new Api();

function Page() {
  const [language, setLanguage] = useState(preferences.language);
  const [theme, setTheme] = useState(preferences.theme);
  const [token, setToken] = useState(api.token);
  const [message, setMessage] = useState("");
  const [account, setAccount] = useState(null);
  const [accountProblem, setAccountProblem] = useState(null);
  const [profile, setProfile] = useState(null);
  const [version, setVersion] = useState(0);
  const [exchanges, setExchanges] = useState(api.exchanges);
  const [outcome, setOutcome] = useState("");
  const main = useRef(null);
  const t = useMemo(() => translator(language), [language]);

  useEffect(() => {
    document.documentElement.lang = language;
  }, [language]);
  useEffect(() => {
    preferences.applyTheme(theme);
  }, [theme]);

  const startSession = (value) => {
    api.logIn(value);
    setToken(value);
    setMessage("");
  };
  const endSession = (reason) => {
    api.logOut();
    setToken(null);
    setAccount(null);
    setAccountProblem(null);
    setProfile(null);
    setOutcome("");
    setMessage(reason);
  };
  api.onLog = () => setExchanges(api.exchanges);
  api.onExpired = () => endSession("expired");

  useEffect(() => {
    if (!token) return undefined;
    main.current.focus({ preventScroll: true });
    return undefined;
  }, [token]);
  useEffect(() => {
    if (!token || profile) return undefined;
    let isCurrent = true;
    api.get("/users/me").then(({ data }) => {
      if (!data || !isCurrent) return;
      setProfile(data);
      setOutcome(t("session.started", { name: data.username }));
    });
    return () => {
      isCurrent = false;
    };
  }, [token, version]);
  useEffect(() => {
    if (!token) return undefined;
    // A later request may be answered first.
    let isCurrent = true;
    api.get("/account").then(({ data, problem }) => {
      if (!isCurrent) return;
      if (data) setAccount(data);
      setAccountProblem(problem);
    });
    return () => {
      isCurrent = false;
    };
  }, [token, version]);

  const shop = useMemo(
    () => ({
      api, language, t, account, accountProblem, version,
      money: (amount) => (account ? formatMoney(amount, account.currency, language) : amount),
      duration: (ms) => formatDuration(ms, language),
      clock: (iso) => formatClock(iso, language),
      time: (iso) => formatTime(iso, language),
      // A screen reader says a text only if it differs from the one before.
      announce: (text) => setOutcome((before) => (before === text ? `${text}\u00a0` : text)),
      changed: () => setVersion((before) => before + 1),
    }),
    [language, t, account, accountProblem, version],
  );
  return html`
    <${Shop.Provider} value=${shop}>
      <a class="skip" href="#main">${t("skip")}</a>
      <${Top}
        ...${{ t, language, theme, profile }} isLoggedIn=${token !== null}
        onLanguage=${(value) => {
          preferences.rememberLanguage(value);
          setLanguage(value);
        }}
        onTheme=${(value) => {
          preferences.rememberTheme(value);
          setTheme(value);
        }}
        onLogOut=${() => endSession("logged-out")} />
      <main id="main" class="columns" tabindex="-1" ref=${main}>
        <div class="views">
          ${token
            ? html`<${Views} key=${token} />`
            : html`
                <${Welcome}
                  key=${message} message=${message && t(message)} onSession=${startSession} />`}
        </div>
        <aside>
          <${DevelopmentPanel} language=${language} />
          <${Wire} exchanges=${exchanges} />
        </aside>
      </main>
      <footer class="bottom muted"><a href="/docs">${t("api-docs")}</a></footer>
      <div id="outcome" class="visually-hidden" role="status" aria-live="polite">${outcome}</div>
    </${Shop.Provider}>`;
}

function Top({ t, language, onLanguage, theme, onTheme, isLoggedIn, profile, onLogOut }) {
  return html`
    <header class="top">
      <img src="/page/icon.svg" alt="" width="36" height="36" />
      <div class="brand">
        <h1>${t("title")}</h1>
        <p class="muted">${t("tagline")}</p>
      </div>
      ${isLoggedIn && html`
        <p class="row user">
          ${profile && html`
            <span class="visually-hidden">${t("signed-in")}</span>
            <b id="user">${profile.username}</b>`}
          <button type="button" id="log-out" class="button-quiet" onClick=${onLogOut}>
            ${t("log-out")}
          </button>
        </p>`}
      <${Choice}
        id="language" label=${t("language")} value=${language} onChange=${onLanguage}
        options=${Object.entries(preferences.LANGUAGES)} />
      <${Choice}
        id="theme" label=${t("theme")} value=${theme} onChange=${onTheme}
        options=${preferences.THEMES.map((name) => [name, t(`theme.${name}`)])} />
    </header>`;
}

function Choice({ id, label, value, options, onChange }) {
  return html`
    <label class="choice" for=${id}>
      <span class="visually-hidden">${label}</span>
      <select id=${id} value=${value} onChange=${(event) => onChange(event.target.value)}>
        ${options.map(([name, text]) => html`
          <option value=${name} selected=${name === value}>${text}</option>`)}
      </select>
    </label>`;
}

/** The views of a user who is logged in. */
function Views() {
  const { t } = useShop();
  // The order on display, and whether it was chosen in the list.
  const [{ chosen, isFromList }, choose] = useState({ chosen: null, isFromList: false });
  // The exchange that placed an order, by its id, for the orders that this page has placed.
  const sent = useRef(new Map());
  // While a new order has no response, the story on display is that of an earlier one.
  const [isPlacing, setPlacing] = useState(false);
  const onOrder = (order, exchange) => {
    sent.current.set(order.id, exchange);
    choose({ chosen: order, isFromList: false });
    setPlacing(false);
  };
  const onChoose = (order) => {
    choose({ chosen: order, isFromList: true });
    setPlacing(false);
  };
  return html`
    <div class="forms">
      <${Account} />
      <${NewOrder}
        onSend=${() => setPlacing(true)} onOrder=${onOrder}
        onFailure=${() => setPlacing(false)} />
    </div>
    ${chosen
      ? html`
          <div class=${isPlacing ? "outdated" : ""}>
            <${Story}
              key=${chosen.id} ...${{ chosen, isFromList }}
              sent=${sent.current.get(chosen.id)} />
          </div>`
      : html`
          <section class="card empty">
            <p>${t("story.empty")}</p>
            <${Picture} browser=${t("browser")} />
          </section>`}
    <${Lists} chosen=${chosen} onChoose=${onChoose} />`;
}

const TABS = ["orders", "statement", "letters"];

/** Three lists as tabs: the arrow keys move between them. */
function Lists({ chosen, onChoose }) {
  const { t } = useShop();
  const [tab, setTab] = useState("orders");
  const onKeyDown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length];
    setTab(next);
    document.getElementById(`tab-${next}`).focus();
  };
  return html`
    <section class="card lists" aria-label=${t("tabs")}>
      <div class="tabs" role="tablist" aria-label=${t("tabs")} onKeyDown=${onKeyDown}>
        ${TABS.map((name) => html`
          <button
            type="button" role="tab" id=${`tab-${name}`}
            aria-controls="list" aria-selected=${name === tab}
            tabindex=${name === tab ? 0 : -1} onClick=${() => setTab(name)}
          >${t(name)}</button>`)}
      </div>
      <div id="list" role="tabpanel" aria-labelledby=${`tab-${tab}`}>
        ${tab === "orders" && html`<${Orders} chosen=${chosen} onChoose=${onChoose} />`}
        ${tab === "statement" && html`<${Statement} />`}
        ${tab === "letters" && html`<${Letters} />`}
      </div>
    </section>`;
}

// "Back" may show this page as it was left, although the user has logged out in the same tab since.
addEventListener("pageshow", () => {
  if (api.token !== sessionStorage.getItem("token")) location.reload();
});
preferences.applyTheme(preferences.theme());
render(html`<${Page} />`, document.getElementById("app"));
