/* A conversation: questions, answers while they come, what the customer says of them. */
import { begin, button, make, number, say, tell } from "./words.js";
import { Problem, events, send, signOut, signedIn } from "./service.js";
import { entry, showProblem } from "./signin.js";
import { Answer } from "./answer.js";

const MAX_QUESTION = 2000; /* characters; the service's own limit is not smaller */
const EXAMPLES = ["chat.example.lost", "chat.example.deposit", "chat.example.fee"];
const at = id => document.getElementById(id);
const box = at("question"), log = at("log");
let session = null, asking = null; /* the conversation's id; what stops the answer that is on its way */

function showPage() {
  const inside = signedIn();
  for (const id of ["log", "ask", "anew", "leave"]) at(id).hidden = !inside;
  at("entry").hidden = inside;
  if (inside) { at("entry").replaceChildren(); box.focus(); }
}

/* Who is next at this screen sees nothing of who was before. */
function leave(why) {
  asking?.abort();
  signOut();
  anew();
  box.value = "";
  count();
  const alarm = entry(at("entry"), "customer-channel", "customer-1", showPage);
  if (why) tell(alarm, why);
  showPage();
}

function anew() {
  asking?.abort();
  session = null;
  log.replaceChildren(welcome);
  welcome.hidden = false;
  if (signedIn()) box.focus();
}

function count() {
  const left = MAX_QUESTION - box.value.length;
  at("left").textContent = say("chat.left", {left: number(left)});
  at("left").classList.toggle("few", left < 100);
  at("send").disabled = asking !== null || box.value.trim() === "";
}

function busy(controller) {
  asking = controller;
  at("send").hidden = controller !== null;
  at("stop").hidden = controller === null;
  count();
}

/* What is new is seen, unless the reader has scrolled up to something else. */
function follow(change) {
  const near = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  change();
  if (near) log.scrollTop = log.scrollHeight;
}

async function ask(question) {
  const controller = new AbortController(), answer = new Answer();
  welcome.hidden = true;
  busy(controller);
  log.append(answer.asked(question), answer.box);
  log.scrollTop = log.scrollHeight;
  box.value = "";
  try {
    await read(question, answer, controller.signal);
    tell(at("said"), "chat.done");
  } catch (error) {
    if (controller.signal.aborted) answer.stopped();
    else if (error.status === 401) leave("entry.over");
    else follow(() => { answer.failed(error); if (box.value === "") box.value = question; });
  } finally {
    if (asking === controller) { busy(null); box.focus(); }
  }
}

/* An expired conversation is said to be over, and the question begins the next one. */
async function read(question, answer, signal) {
  const asked = {question, stream: true, ...(session && {session_id: session})};
  try {
    await stream(asked, answer, signal);
  } catch (error) {
    if (!session || error.name !== "unknown-session") throw error;
    session = null;
    answer.box.previousElementSibling.before(make("p", "divide", "chat.expired"));
    await stream({question, stream: true}, answer, signal);
  }
}

async function stream(asked, answer, signal) {
  const response = await send("/v1/query", asked, signal);
  for await (const {name, data} of events(response.body)) {
    if (name === "problem") throw new Problem(data);
    if (name === "started") session = data.session_id;
    follow(() => answer.heard(name, data));
    if (name === "answered") return;
  }
  throw new Problem({type: "cut"});
}

box.maxLength = MAX_QUESTION;
box.addEventListener("input", count);
box.addEventListener("keydown", event => {
  /* While an input method composes, Enter chooses a character. */
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("ask").requestSubmit(); }
});
document.addEventListener("keydown", event => { if (event.key === "Escape") asking?.abort(); });
at("ask").addEventListener("submit", event => {
  event.preventDefault();
  const question = box.value.trim();
  if (question && asking === null) ask(question);
});
at("stop").addEventListener("click", () => asking?.abort());
at("anew").addEventListener("click", anew);
at("leave").addEventListener("click", () => leave());
const welcome = at("welcome");
at("examples").append(...EXAMPLES.map(key => button(key, "", event => { box.value = event.target.textContent; count(); box.focus(); })));
begin(at("language"), count);
leave();
