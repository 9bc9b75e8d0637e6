/**
 * The shop's page. This module starts it and shows its views.
 *
 * No build step: the browser loads these modules as they are. html`...` is htm's syntax for
 * preact's virtual DOM. It never parses values as HTML, so the text of users stays text.
 *
 * The development server (`make up`) adds a panel that kills processes. Only if the page was
 * opened with `#dev=<token>`, it imports `/dev/processes.js`, which exports
 *
 *     mount(element, { token, language })
 *
 * - element: an empty <section id="dev-panel" class="card" aria-labelledby="dev-title">. The panel
 *   draws its own <h2 id="dev-title"> in it.
 * - token: the value of the header X-Dev-Token.
 * - language: "en" or "ru".
 *
 * The page calls mount again, with the same element, when the language changes. preact's render
 * does the right thing then: render(html`<${Panel} token=${token} language=${language} />`, element).
 * The panel imports html, render, useState, useEffect and so on from "/page/standalone.module.js".
 *
 * Classes of style.css for it: card, muted, row (children in one line), button, button-quiet,
 * button-danger, badge with badge-good, badge-wait or badge-bad, visually-hidden.
 */

import { html, render, useEffect, useState } from "/page/standalone.module.js";
import { DevelopmentPanel } from "/page/development.js";
import * as preferences from "/page/preferences.js";

function Page() {
  const [language, setLanguage] = useState(preferences.language);

  useEffect(() => {
    document.documentElement.lang = language;
    preferences.rememberLanguage(language);
  }, [language]);

  return html`
    <header class="top">
      <h1>nameko-shop</h1>
      <nav class="row">
        ${Object.entries(preferences.LANGUAGES).map(
          ([tag, name]) => html`
            <button
              type="button" class="button-quiet" lang=${tag} aria-pressed=${tag === language}
              onClick=${() => setLanguage(tag)}
            >${name}</button>`,
        )}
      </nav>
    </header>
    <main class="columns"><${DevelopmentPanel} language=${language} /></main>`;
}

preferences.applyTheme(preferences.theme());
render(html`<${Page} />`, document.getElementById("app"));
