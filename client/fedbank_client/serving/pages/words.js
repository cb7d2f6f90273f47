/* The page's two languages. The choice, and nothing else, is kept in the browser (localStorage). */
import { VOCABULARY } from "./vocabulary.js";

const KEPT = "fedbank.language";
const told = new WeakMap(); /* element -> what gives its text in the language of the moment */
let language = chosen();

function chosen() {
  let kept = null;
  try { kept = localStorage.getItem(KEPT); } catch { /* no storage: the browser's own language each time */ }
  return kept === "zh" || kept === "en" ? kept : navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** Whether there are words for `key`. */
export const knows = key => key in VOCABULARY;

/** The text of `key` in the language of the moment, `{name}` replaced by `values.name`. */
export function say(key, values = {}) {
  const text = VOCABULARY[key][language === "zh" ? 0 : 1];
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Text that is there in both languages, such as a notice. */
export const either = both => both[language] || both.en || both.zh || "";

export const locale = () => language === "zh" ? "zh-CN" : "en-GB";
export const number = (value, digits = 0) => value.toLocaleString(locale(), {minimumFractionDigits: digits, maximumFractionDigits: digits});
export const percent = share => `${number(100 * share, Number.isInteger(Math.round(1000 * share) / 10) ? 0 : 1)}%`;
export const duration = ms => ms < 1000 ? say("unit.ms", {value: number(ms)}) : say("unit.s", {value: number(ms / 1000, ms < 10000 ? 1 : 0)});

/** `element` says `text`, a key or a function, now and after each change of language. */
export function tell(element, text, values) {
  const spoken = typeof text === "function" ? text : () => say(text, values);
  told.set(element, spoken);
  element.dataset.told = "";
  element.textContent = spoken();
  return element;
}

/** A new element that says `text` (see `tell`); without one, an empty element. */
export function make(tag, kind, text, values) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  return text === undefined ? element : tell(element, text, values);
}

/** A new element with content that has no language: a name, or what a person or a model wrote. */
export function plain(tag, kind, content) {
  const element = make(tag, kind);
  element.textContent = content;
  return element;
}

/** A button that does `act`. */
export function button(text, kind, act) {
  const element = make("button", kind, text);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

function speak() {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const element of document.querySelectorAll("[data-words]")) element.textContent = say(element.dataset.words);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", say(element.dataset.label));
  for (const element of document.querySelectorAll("[data-hint]")) element.placeholder = say(element.dataset.hint);
  for (const element of document.querySelectorAll("[data-told]")) element.textContent = told.get(element)();
  document.title = document.querySelector("h1").textContent;
}

/** Put words to the page; `toggle` changes the language, and `changed` is called after it has. */
export function begin(toggle, changed) {
  speak();
  toggle.addEventListener("click", () => {
    language = language === "zh" ? "en" : "zh";
    try { localStorage.setItem(KEPT, language); } catch { /* it is chosen for this visit only */ }
    speak();
    changed();
  });
}
