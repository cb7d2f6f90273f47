/* The way in, the same on both pages: a token that is pasted, or one for a try where the service has its own issuer. */
import { button, make, plain, tell } from "./words.js";
import { Problem, send, signIn } from "./service.js";

const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;
let fields = 0;

function field(label, kind) {
  const input = make("input", kind), name = make("label", "", label);
  input.id = `field-${++fields}`; name.htmlFor = input.id;
  input.autocomplete = "off"; input.spellcheck = false; input.required = true;
  return [name, input];
}

function form(parts, act, alarm) {
  const made = make("form");
  made.append(...parts);
  made.addEventListener("submit", async event => {
    event.preventDefault();
    alarm.replaceChildren();
    try { await act(); } catch (error) { showProblem(alarm, error); }
  });
  return made;
}

/** `element` says what went wrong, in either language. */
export function showProblem(element, error) {
  const known = error instanceof Problem ? error : new Problem({}) /* an error of this page: its words help nobody */;
  tell(element, () => known.said());
}

/** Fill `box`; `entered` is called once there is a token, `role` and `subject` are for a try. */
export function entry(box, role, subject, entered) {
  const alarm = make("p", "problem"), [tokenName, token] = field("entry.token", "token");
  alarm.setAttribute("role", "alert");
  const go = make("button", "main", "entry.go");
  const paste = form([tokenName, token, go], async () => {
    signIn(token.value.trim().replace(/^bearer\s+/i, ""));
    token.value = "";
    await entered();
  }, alarm);
  box.replaceChildren(make("h2", "", "entry.title"), make("p", "soft", `entry.${role}`), alarm);
  offerTry(role, subject, entered, alarm).then(made => { /* both at once: nothing moves under a finger */
    if (made) go.className = "";
    alarm.before(...(made ? [made, paste] : [paste]));
  });
  return alarm;
}

/* The development issuer is for a first run on one machine; where it is missing, nothing of it is shown. */
async function offerTry(role, subject, entered, alarm) {
  const path = "/v1/development/token";
  const there = LOOPBACK.test(location.hostname) && await fetch(path, {method: "OPTIONS"}).catch(() => null);
  if (!there || there.status === 404) return null;
  const [name, who] = field("entry.subject", ""), go = make("button", "main", "entry.try");
  who.value = subject; who.maxLength = 64;
  return form([make("p", "soft small", "entry.development"), name, who, go], async () => {
    const made = await (await send(path, {role, subject: who.value.trim()})).json();
    signIn(made.access_token);
    await entered();
  }, alarm);
}
