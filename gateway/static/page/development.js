/**
 * The place of the development server's panel, which kills and freezes programs (see app.js).
 *
 * Only `make up` starts a development server. The gateway itself serves no file of the panel.
 */

import { html, useEffect, useRef, useState } from "/page/standalone.module.js";

const STORED = "dev-token";

/** Return the token of the development server, if there is one, and remove it from the address. */
export function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("dev");
  if (token) {
    sessionStorage.setItem(STORED, token);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(STORED);
}

/** The panel's place. `mount` of the imported module draws in it (see app.js). */
export function DevelopmentPanel({ language }) {
  const [token, setToken] = useState(takeToken);
  const [panel, setPanel] = useState(null);
  const element = useRef(null);

  useEffect(() => {
    // The link of `make up` may be opened in a tab that already shows the page.
    const onHashChange = () => setToken(takeToken());
    addEventListener("hashchange", onHashChange);
    return () => removeEventListener("hashchange", onHashChange);
  }, []);

  useEffect(() => {
    if (!token) return;
    import("/dev/processes.js").then(
      (module) => setPanel(() => module.mount),
      // Another server answers at this address now: the token is of no use.
      () => sessionStorage.removeItem(STORED),
    );
  }, [token]);

  useEffect(() => {
    if (panel) panel(element.current, { token, language });
  }, [panel, token, language]);

  return panel && html`
    <section id="dev-panel" class="card" aria-labelledby="dev-title" ref=${element}></section>`;
}
