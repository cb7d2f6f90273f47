/* What an operator watches, every two seconds; and the two things that an operator does: promote, roll back. */
import { begin, duration, knows, make, number, plain, say, tell } from "./words.js";
import { bars, clock, lines, shares } from "./chart.js";
import { line } from "./lines.js";
import { send, signOut, signedIn } from "./service.js";
import { entry, showProblem } from "./signin.js";
import { next, releases, same } from "./releases.js";

const EVERY_MS = 2000, LATE_MS = 6000, TIMEOUT_MS = 5000;
const ANSWERS = [{key: "answers", kind: "good", name: "chart.answered"}, {key: "failures", kind: "bad", name: "chart.failures"}, {key: "refused", kind: "some", name: "chart.refused"}];
const LATENCY = [{key: "p50_ms", kind: "less", name: "chart.p50"}, {key: "p95_ms", kind: "more", name: "chart.p95"}];
const SAID = [{key: "helpful", kind: "fine", name: "fb.helpful"}, {key: "not_helpful", kind: "bad", name: "fb.not_helpful"}];
const REVIEWED = [{key: "candidates", kind: "some", name: "fb.candidates"}, {key: "approved", kind: "fine", name: "fb.approved"}, {key: "rejected", kind: "plain", name: "fb.rejected"}];
const at = id => document.getElementById(id);
let status = null, last = 0, trouble = null; /* the last answer; when it came (of this clock); why there is no newer one */
let offered = null; /* what the open dialogue would do, and of which releases */

function leave(why) {
  signOut();
  status = null; last = 0; trouble = null;
  at("confirm").close();
  at("result").replaceChildren();
  const alarm = entry(at("entry"), "operator", "operator-1", enter);
  if (why) tell(alarm, why);
  showPage();
}

async function enter() {
  await refresh();
  if (trouble) { signOut(); throw trouble; }
  showPage();
}

function showPage() {
  at("view").hidden = at("leave").hidden = status === null;
  at("entry").hidden = status !== null;
  if (status === null) at("alarm").replaceChildren(), at("age").replaceChildren();
  else at("entry").replaceChildren(), show();
}

async function refresh() {
  try {
    const found = await (await send("/v1/operator/status", undefined, AbortSignal.timeout(TIMEOUT_MS))).json();
    if (offered && !same(offered.view, found.releases)) withdraw();
    status = found; last = Date.now(); trouble = null;
  } catch (error) { trouble = error; }
}

async function watch() {
  if (status !== null && signedIn() && !document.hidden) {
    await refresh();
    if (trouble?.status === 401) leave("entry.over");
    else if (status !== null) show();
  }
  setTimeout(watch, EVERY_MS);
}

function show() {
  const {traffic, engine, feedback} = status, view = status.releases;
  tiles(traffic, engine);
  at("releases").replaceChildren(...releases(view));
  at("promote").disabled = next(view, "promote") === null;
  at("rollback").disabled = next(view, "rollback") === null;
  const silent = traffic.minutes.every(minute => ANSWERS.every(({key}) => minute[key] === 0));
  at("quiet").hidden = !silent; at("charts").hidden = silent;
  if (!silent) charts(traffic.minutes);
  const unsaid = [...SAID, ...REVIEWED].every(({key}) => !feedback[key]);
  at("unsaid").hidden = !unsaid; at("feedback").hidden = unsaid;
  if (!unsaid) for (const [id, title, parts] of [["said", "fb.said", SAID], ["reviewed", "fb.reviewed", REVIEWED]]) {
    const counted = parts.map(part => ({...part, value: feedback[part.key], name: say(part.name)}));
    legend(`${id}-legend`, title, counted.map(({kind, name, value}) => [kind, `${name} ${number(value)}`]));
    shares(at(id), say(title), counted);
  }
  events(view.events);
  age();
}

function tiles({minutes}, engine) {
  const sum = key => minutes.reduce((total, minute) => total + minute[key], 0);
  const timed = minutes.findLast(minute => minute.p50_ms !== null), tile = (name, value, kind, small) => {
    const box = make("div"), cell = plain("dd", kind, value);
    if (small) cell.append(plain("small", "", small));
    box.append(plain("dt", "", say(name)), cell);
    return box;
  };
  const time = key => timed ? duration(timed[key]) : "—", when = timed && clock(timed.at);
  at("tiles").replaceChildren(
    tile("ops.engine", say(engine.ready ? "ops.ready" : "ops.notready"), engine.ready ? "up" : "bad"),
    tile("ops.running", number(engine.running)),
    tile("ops.waiting", number(engine.waiting), engine.waiting > 0 ? "some" : ""),
    tile("ops.minute", number(minutes.at(-2).answers)),
    tile("ops.p50", time("p50_ms"), "", when),
    tile("ops.p95", time("p95_ms"), "", when),
    tile("ops.failures", number(sum("failures")), sum("failures") > 0 ? "bad" : ""),
    tile("ops.refused", number(sum("refused")), sum("refused") > 0 ? "some" : ""),
  );
}

function legend(id, title, parts) {
  at(id).replaceChildren(plain("b", "", say(title)), ...parts.map(([kind, text]) => {
    const item = make("span");
    item.append(make("i", kind), text);
    return item;
  }));
}

function charts(minutes) {
  for (const [id, title, parts] of [["answers", "chart.answers", ANSWERS], ["latency", "chart.latency", LATENCY]]) {
    legend(`${id}-legend`, title, parts.map(({kind, name}) => [kind, say(name)]));
  }
  const named = parts => parts.map(part => ({...part, name: say(part.name)}));
  bars(at("answers"), say("chart.answers"), minutes, named(ANSWERS));
  if (minutes.some(minute => minute.p50_ms !== null)) lines(at("latency"), say("chart.latency"), minutes, named(LATENCY));
  else at("latency").replaceChildren();
}

function events(all) {
  at("uneventful").hidden = all.length > 0; at("events").hidden = all.length === 0;
  at("events").tBodies[0].replaceChildren(...all.map(event => {
    const row = make("tr"), action = `event.${event.action}`;
    row.append(plain("td", "", moment(event.at)), plain("td", "", event.release), plain("td", "", knows(action) ? say(action) : event.action), plain("td", "", line(event.said)));
    return row;
  }));
}

/** Day and time where the reader is. */
const moment = text => new Date(text).toLocaleString("sv-SE").slice(0, 16);

/* Old figures are marked as old, and an engine that is down is the first thing to be seen. */
function age() {
  if (status === null) return;
  const passed = Date.now() - last, seconds = number(Math.round(passed / 1000)), late = passed > LATE_MS;
  at("age").textContent = say("ops.age", {seconds});
  at("view").classList.toggle("late", late);
  at("alarm").classList.toggle("late", !late && status.engine.ready);
  const why = trouble?.said ? trouble.said() : "";
  const said = late ? say("ops.stale", {time: new Date(last).toLocaleTimeString("en-GB"), why}) : status.engine.ready ? line(status.releases.problem) : say("ops.down", {said: status.engine.said});
  if (at("alarm").textContent !== said) at("alarm").textContent = said;
}

function offer(what) {
  const chosen = next(status.releases, what);
  if (chosen === null) return;
  offered = {what, chosen, view: status.releases};
  tell(at("confirm-title"), `do.${chosen.key}`, chosen.names);
  tell(at("confirm-what"), `do.${chosen.key}.what`, chosen.names);
  tell(at("act"), `rel.${what}`);
  at("act").className = what === "promote" ? "main" : "main danger";
  at("confirm").showModal();
}

/* What the dialogue says is not what would happen any more. */
function withdraw() {
  at("confirm").close();
  at("result").className = "failed";
  tell(at("result"), "do.changed");
}

async function act() {
  const {what, chosen} = offered;
  at("confirm").close();
  at("promote").disabled = at("rollback").disabled = true;
  try {
    status.releases = await (await send(`/v1/operator/${what}`, {})).json();
    at("result").className = "";
    tell(at("result"), `done.${chosen.key}`, chosen.names);
  } catch (error) {
    if (error.status === 401) { leave("entry.over"); return; }
    at("result").className = "failed";
    showProblem(at("result"), error);
  }
  show();
}

at("promote").addEventListener("click", () => offer("promote"));
at("rollback").addEventListener("click", () => offer("rollback"));
at("cancel").addEventListener("click", () => at("confirm").close());
at("act").addEventListener("click", act);
at("confirm").addEventListener("close", () => { offered = null; });
at("leave").addEventListener("click", () => leave());
addEventListener("resize", () => { if (status !== null) show(); });
begin(at("language"), () => { if (status !== null) show(); });
leave();
setInterval(age, 1000);
watch();
