/** Draws the rows of sequence.js as SVG. The arrows appear one after another. */

import { html, useEffect, useLayoutEffect, useRef, useState } from "/page/standalone.module.js";
import { LIFELINES } from "/page/sequence.js";

const ROW_MS = 480;
const ROW_PX = 50;
const NARROW_PX = 560; // below, the names stand in two lines
// The mean width of a character.
const LABEL_CHAR_PX = 6.5;
const TIME_CHAR_PX = 7.5;

/**
 * Return how many rows to show, and a function that starts again.
 *
 * Rows appear one by one, up to the first one that has not happened yet. All appear at once if the
 * user prefers reduced motion.
 */
export function useReveal(rows) {
  const [shown, setShown] = useState(0);
  const pending = rows.findIndex((row) => row.state === "pending");
  const end = pending < 0 ? rows.length : pending;
  const prefersReducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
  useEffect(() => {
    if (shown >= end) return undefined;
    if (prefersReducedMotion) {
      setShown(end);
      return undefined;
    }
    const timer = setTimeout(() => setShown(shown + 1), shown ? ROW_MS : 0);
    return () => clearTimeout(timer);
  }, [shown, end, prefersReducedMotion]);
  return [Math.min(shown, end), () => setShown(0)];
}

/** Return a ref for an element, and its width in px. */
function useWidth() {
  const element = useRef(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return [element, width];
}

/** The diagram. `title` is its accessible name. */
export function Diagram({ rows, shown, title, nameOf }) {
  const [element, width] = useWidth();
  return html`
    <div class="diagram" ref=${element}>
      ${width > 0 && html`<${Drawing} ...${{ rows, shown, title, nameOf, width }} />`}
    </div>`;
}

function Drawing({ rows, shown, title, nameOf, width }) {
  const isNarrow = width < NARROW_PX;
  const head = isNarrow ? 56 : 40;
  const margin = isNarrow ? 34 : 52;
  const height = head + rows.length * ROW_PX + 22;
  const column = (width - 2 * margin) / (LIFELINES.length - 1);
  const xOf = (name) => margin + LIFELINES.indexOf(name) * column;
  const yOf = (index) => head + 36 + index * ROW_PX;
  return html`
    <svg
      id="sequence" role="img" aria-label=${title}
      width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`}
    >
      ${LIFELINES.map((name, index) => html`
        <${Lifeline}
          key=${name} name=${name} text=${nameOf(name)} x=${xOf(name)}
          top=${isNarrow && index % 2 ? 28 : 2} to=${height} />`)}
      ${activations(rows, shown).map(({ name, from, to }) => html`
        <rect
          key=${`${name}-${from}`} class="activation" rx="4" width="8"
          x=${xOf(name) - 4} y=${yOf(from) - 6} height=${yOf(to) - yOf(from) + 12} />`)}
      ${rows.map((row, index) => {
        const y = yOf(index);
        const visibility = index < shown || !isDone(row) ? "shown" : "hidden";
        const kind = `arrow ${row.style} ${row.state} ${visibility}`;
        return html`
          <g key=${row.id} id=${`row-${row.id}`} class=${kind}>
            ${row.from === row.to
              ? html`<${Note} ...${{ row, y, width }} x=${xOf(row.from)} />`
              : html`<${Arrow} ...${{ row, y, width }} from=${xOf(row.from)} to=${xOf(row.to)} />`}
            ${row.also && html`
              <path class="head" d=${headPath(xOf(row.also), y, -1)} />`}
          </g>`;
      })}
    </svg>`;
}

function Lifeline({ name, text, x, top, to }) {
  const half = (text.length * 7.2 + 18) / 2;
  return html`
    <g class=${`lifeline ${name}`}>
      <line x1=${x} x2=${x} y1=${top + 26} y2=${to} />
      <rect x=${x - half} y=${top} width=${2 * half} height="26" rx="8" />
      <text x=${x} y=${top + 17.5} text-anchor="middle">${text}</text>
    </g>`;
}

function Arrow({ row, from, to, y, width }) {
  const way = Math.sign(to - from);
  const isLost = row.state === "lost";
  // A call that is lost ends on its way.
  const end = isLost ? from + (to - from) * 0.88 : to - way * 5;
  const start = from + way * 5;
  const middle = (from + to) / 2;
  return html`
    <line class="shaft" data-way=${way} x1=${start} x2=${end} y1=${y} y2=${y} />
    ${isLost
      ? html`<path class="head" d=${`M${end - 5} ${y - 5}l10 10m0 -10l-10 10`} />`
      : html`<path class="head" d=${headPath(to - way * 4, y, way)} />`}
    <${Label} text=${row.label} x=${middle} y=${y - 8} width=${width} />
    <${Label} text=${row.time} x=${middle} y=${y + 16} width=${width} isTime />`;
}

/** A text in the middle of an arrow, moved if it would leave the picture. */
function Label({ text, x, y, width, isTime }) {
  const half = (text.length * (isTime ? TIME_CHAR_PX : LABEL_CHAR_PX)) / 2 + 2;
  const inside = Math.max(half, Math.min(width - half, x));
  const kind = isTime ? "time" : "label";
  return html`<text class=${kind} x=${inside} y=${y} text-anchor="middle">${text}</text>`;
}

/** A loop at a lifeline. Its text is at the right, or at the left if only there it has room. */
function Note({ row, x, y, width }) {
  const length = 28 + Math.max(row.label.length * LABEL_CHAR_PX, row.time.length * TIME_CHAR_PX);
  const way = x + length > width && x > width - x ? -1 : 1;
  const anchor = way < 0 ? "end" : "start";
  const near = x + way * 4;
  return html`
    <path class="loop" d=${`M${near} ${y - 8}h${way * 16}v16h${-way * 12}`} />
    <path class="head" d=${headPath(near, y + 8, -way)} />
    <text class="label" x=${x + way * 28} y=${y - 1} text-anchor=${anchor}>${row.label}</text>
    <text class="time" x=${x + way * 28} y=${y + 15} text-anchor=${anchor}>${row.time}</text>`;
}

/** Return whether a row tells of something that has happened, as far as the services know. */
function isDone({ state }) {
  return state !== "pending" && state !== "unknown";
}

/** Return the path of an arrow's head whose point is at x, y. */
function headPath(x, y, way) {
  return `M${x - way * 9} ${y - 5}L${x} ${y}L${x - way * 9} ${y + 5}`;
}

/** Return the spans of rows in which a service works on the order, as far as they are shown. */
function activations(rows, shown) {
  const index = (id) => rows.findIndex((row) => row.id === id);
  const spans = [
    ["gateway", "request", index("accepted") < 0 ? "response" : "accepted"],
    ["gateway", "wait", "response"],
    ["orders", "place", index("unsettled") < 0 ? "settled" : "unsettled"],
    ["orders", "sweeper", "outcome"],
    ["billing", "withdrawal", index("retry") < 0 ? "outcome" : "withdrawal"],
    ["billing", "retry", "outcome"],
    ["notifications", "event", "letter"],
  ];
  // An event that is published waits in the queue of notifications until its letter is written.
  const isWritten = rows[index("letter")].state === "done";
  return spans
    .filter(([name]) => name !== "notifications" || isWritten)
    .map(([name, from, to]) => ({ name, from: index(from), to: Math.min(index(to), shown - 1) }))
    .filter(({ from, to }) => from >= 0 && from <= to);
}

/** A small picture of an order's way. Only decoration: the text beside it says the same. */
export function Picture({ browser }) {
  const names = [browser, ...LIFELINES.slice(1, 5)];
  const arrows = [
    ["call", 0, 1], ["call", 1, 2], ["call", 2, 3],
    ["reply", 3, 2], ["reply", 2, 1], ["reply", 1, 0],
    ["event", 2, 4],
  ];
  const xOf = (index) => 58 + index * 104;
  return html`
    <svg class="picture" viewBox="0 0 532 236" aria-hidden="true">
      ${names.map((name, index) => html`
        <${Lifeline} name=${name} text=${name} x=${xOf(index)} top=${2} to=${236} />`)}
      ${arrows.map(([style, from, to], index) => {
        const way = Math.sign(to - from);
        const y = 52 + index * 28;
        return html`
          <g class=${`arrow ${style}`}>
            <line class="shaft" x1=${xOf(from) + way * 5} x2=${xOf(to) - way * 6} y1=${y} y2=${y} />
            <path class="head" d=${headPath(xOf(to) - way * 4, y, way)} />
          </g>`;
      })}
    </svg>`;
}
