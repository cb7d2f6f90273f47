/* One question and its answer on the page. What people and models write is text (textContent), never markup. */
import { button, duration, either, make, number, plain, say, tell } from "./words.js";
import { send } from "./service.js";
import { showProblem } from "./signin.js";

const MAX_COMMENT = 2000; /* characters, as the service's */
const isLabel = notice => notice.code === "ai-generated"; /* the label above the answer and the line below all of them say it */

export class Answer {
  constructor() {
    this.box = make("article", "answer");
    this.text = make("p", "text waiting");
    this.text.setAttribute("aria-live", "polite");
    this.label = make("p", "label", "answer.label");
    this.box.append(this.label, this.text);
  }

  /** The question, to be put before `box`. */
  asked(question) {
    const language = /[\u4e00-\u9fff]/.test(question) ? "zh-Hans" : "en"; /* the answer's too: for whoever hears it */
    const line = make("div", "question");
    line.append(make("span", "unseen", "answer.asked"), plain("p", "", question));
    this.question = line.lastChild;
    this.question.lang = this.text.lang = language;
    return line;
  }

  /** One event of the service's stream. */
  heard(name, data) {
    if (name === "delta") this.text.append(data.text);
    if (name === "answered") this.#answered(data);
  }

  /** The customer wants no more of it; what came stays. */
  stopped() {
    this.#end(make("p", "stopped", "answer.stopped"));
  }

  failed(error) {
    const said = make("p", "problem");
    said.setAttribute("role", "alert");
    this.#end(said);
    showProblem(said, error);
    if (error.name === "secret-in-question") tell(this.question, "answer.hidden"); /* it is no longer to be read here */
  }

  #end(...parts) {
    this.text.classList.remove("waiting");
    this.label.hidden = this.text.hidden = this.text.textContent === "";
    this.box.append(...parts);
  }

  #answered(data) {
    if (this.text.textContent !== data.answer) this.text.textContent = data.answer;
    const others = data.notices.filter(notice => !isLabel(notice));
    const list = make("ul", "notices");
    list.append(...others.map(notice => make("li", "", () => either(notice))));
    this.#end(...(others.length ? [list] : []), facts(data), feedback(data.request_id));
  }
}

function facts(data) {
  const box = make("details", "facts"), list = make("dl");
  box.append(make("summary", "", () => say("answer.facts", {release: data.release, time: duration(data.latency_ms), tokens: number(data.token_count)})), list);
  list.append(make("dt", "", "answer.request"), plain("dd", "", data.request_id));
  for (const notice of data.notices.filter(isLabel)) list.append(make("dt", "", "answer.notice"), make("dd", "", () => either(notice)));
  for (const [name, value] of Object.entries(data.aigc).filter(([, value]) => value)) list.append(plain("dt", "", `AIGC ${name}`), plain("dd", "", value));
  return box;
}

function feedback(requestId) {
  const box = make("div", "feedback"), said = make("span"), alarm = make("p", "problem");
  said.setAttribute("role", "status"); alarm.setAttribute("role", "alert");
  const give = async (helpful, comment) => {
    alarm.replaceChildren();
    try {
      await send("/v1/feedback", {request_id: requestId, helpful, ...(comment && {comment})});
      yes.setAttribute("aria-pressed", helpful); no.setAttribute("aria-pressed", !helpful);
      tell(said, comment ? "feedback.commented" : "feedback.thanks");
      more?.remove();
      if (!comment) { more = comments(text => give(helpful, text)); alarm.before(more); more.scrollIntoView({block: "nearest"}); }
    } catch (error) { showProblem(alarm, error); }
  };
  const yes = button("feedback.yes", "", () => give(true)), no = button("feedback.no", "", () => give(false));
  let more = null;
  for (const one of [yes, no]) one.setAttribute("aria-pressed", "false");
  box.append(make("span", "", "feedback.question"), yes, no, said, alarm);
  return box;
}

function comments(give) {
  const form = make("form"), label = make("label"), input = make("input"), go = make("button", "", "feedback.send");
  label.append(make("span", "unseen", "feedback.comment"), input);
  input.dataset.hint = "feedback.comment"; input.placeholder = say("feedback.comment"); input.maxLength = MAX_COMMENT;
  form.append(label, go);
  form.addEventListener("submit", event => { event.preventDefault(); if (input.value.trim()) give(input.value.trim()); });
  return form;
}
