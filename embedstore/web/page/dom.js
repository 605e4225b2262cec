/** Elements, made without markup from text: what a track is called can never become part of the page. */

/** The element of an id. @param {string} id */
export const $ = (id) => document.getElementById(id);

/**
 * Make an element.
 * @param {string} tag
 * @param {object} [given] properties; `on…` are listeners, `aria-…`, `data-…` and `role` attributes
 * @param {...(Node|string|null)} children
 */
export function h(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(made.style, value);
    else if (name.includes("-") || name === "role" || name === "scope") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Put other children into an element; whoever was within it with the keyboard stays there. @param {HTMLElement} parent @param {...Node} children */
export function fill(parent, ...children) {
  const within = parent.contains(document.activeElement);
  parent.replaceChildren(...children);
  if (within && !parent.contains(document.activeElement)) parent.focus();
}

/** Say something that also a screen reader reads, for some seconds. @param {string} text @param {boolean} [bad] */
export function say(text, bad = false) {
  const line = h("p", { className: bad ? "bad" : "" }, text);
  if (!bad) $("news").querySelectorAll("p:not(.bad)").forEach((one) => one.remove());
  $("news").append(line);
  setTimeout(() => line.remove(), bad ? 12000 : 5000);
}

/** Minutes and seconds. @param {number} seconds */
export function clock(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** A number of things in words. @param {number} count @param {string} name */
export function counted(count, name) {
  return `${count.toLocaleString("en")} ${name}${count === 1 ? "" : "s"}`;
}

/** Whether animations should be left out. */
export const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
