/** Amounts, times and durations as text. */

/**
 * Return an amount with its currency, as the language writes it: "€1,234.50", "1 234,50 €".
 *
 * An amount is a decimal string, and is never a float: the part before the point is a BigInt, and
 * the part after it stays as it is. Currencies have 0 to 4 digits there.
 */
export function formatMoney(amount, currency, language) {
  const [whole, fraction = ""] = amount.replace("-", "").split(".");
  const format = new Intl.NumberFormat(language, {
    style: "currency",
    currency,
    minimumFractionDigits: fraction.length,
    maximumFractionDigits: fraction.length,
  });
  const parts = format.formatToParts(BigInt(whole));
  const text = parts.map(({ type, value }) => (type === "fraction" ? fraction : value)).join("");
  return amount.startsWith("-") ? `−${text}` : text;
}

/** Return an amount as the API takes it. In Russian, the decimal separator is a comma. */
export function parseAmount(text, language) {
  const trimmed = text.trim();
  return language === "ru" ? trimmed.replace(",", ".") : trimmed;
}

/** Return an amount as a user types it, with the digits of the currency: "100.00", "100". */
export function exampleAmount(account, language) {
  const digits = account?.balance.split(".")[1]?.length;
  const separator = language === "ru" ? "," : ".";
  return digits ? `100${separator}${"0".repeat(digits)}` : "100";
}

const UNITS = { en: { ms: "ms", s: "s" }, ru: { ms: "мс", s: "с" } };

/** Return a duration of milliseconds: "3.1 ms", "240 ms", "12.4 s". */
export function formatDuration(ms, language) {
  const [value, unit] = ms < 1000 ? [ms, "ms"] : [ms / 1000, "s"];
  const format = new Intl.NumberFormat(language, { maximumFractionDigits: value < 100 ? 1 : 0 });
  // A no-break space: the number and its unit stay on one line.
  return `${format.format(value)}\u00a0${UNITS[language][unit]}`;
}

/** Return the time of day with milliseconds, in the time zone of the browser. */
export function formatClock(iso, language) {
  return new Intl.DateTimeFormat(language, {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    fractionalSecondDigits: 3,
    hourCycle: "h23",
  }).format(new Date(iso));
}

/** Return date and time of day. */
export function formatTime(iso, language) {
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(
    new Date(iso),
  );
}
