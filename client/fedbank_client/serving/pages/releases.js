/* The releases of the service and their stages: what is there, and what promote and rollback would do. */
import { make, percent, plain, say } from "./words.js";
import { line, progress } from "./lines.js";

/** What `what` ("promote" or "rollback") would do now: {key, names} of its words; null: there is nothing to do. */
export function next(view, what) {
  const names = {stable: view.stable?.release, candidate: view.candidate?.release, previous: view.previous, aside: view.set_aside};
  if (view.candidate) return {key: what === "promote" ? `promote.${view.candidate.stage}` : "rollback.candidate", names};
  if (what === "promote") return view.set_aside && view.stable ? {key: "promote.aside", names} : null;
  return view.previous ? {key: "rollback.previous", names} : null;
}

/** Whether promote and rollback would do the same in both. */
export function same(one, other) {
  const mark = view => JSON.stringify([view.stable?.release, view.previous, view.set_aside, view.candidate?.release, view.candidate?.stage]);
  return mark(one) === mark(other);
}

/** The stable release and the candidate, each as a card. */
export const releases = view => [stable(view), candidate(view)];

function card(kind, title, pill) {
  const box = make("article", `release ${kind}`), head = plain("h3", "", say(title));
  if (pill) head.append(pill);
  box.append(head);
  return box;
}

function facts(...pairs) {
  const list = make("dl");
  for (const [name, value, kind] of pairs) list.append(plain("dt", "", say(name)), plain("dd", kind, value));
  return list;
}

function named(box, release) {
  box.append(plain("p", "name", release.release));
  if (!release.loaded) box.append(plain("p", "unloaded", say("rel.unloaded")));
}

function stable(view) {
  const box = card("stable", "rel.stable"), found = view.stable;
  if (!found) { box.append(plain("p", "soft", say("rel.stable.none"))); return box; }
  named(box, found);
  const shared = view.candidate?.stage === "canary";
  box.append(plain("p", "soft small", say(shared ? "rel.stable.what" : "rel.stable.all")));
  box.append(facts(["rel.previous", view.previous ?? say("rel.none")], ["rel.digest", found.digest, "digest"]));
  return box;
}

function candidate(view) {
  const found = view.candidate, pill = found && plain("span", `pill ${found.verdict}`, say(`rel.${found.verdict}`));
  const box = card(found ? "candidate" : "", "rel.candidate", pill);
  if (!found) {
    box.append(plain("p", "soft", view.set_aside ? say(view.stable ? "rel.aside" : "rel.aside.by", {release: view.set_aside}) : say("rel.candidate.none")));
    return box;
  }
  named(box, found);
  box.append(track(found.stage), plain("p", "soft small", say(`rel.${found.stage}.what`, {share: percent(found.share)})));
  const gates = make("ul", "gates");
  gates.setAttribute("aria-label", say("rel.gates"));
  gates.append(...found.lines.map(gate));
  box.append(facts(["rel.since", new Date(found.since).toLocaleString("sv-SE").slice(0, 16)], ["rel.digest", found.digest, "digest"]), gates);
  box.append(plain("p", "soft small", say(view.automatic ? "rel.automatic" : "rel.manual")));
  return box;
}

function track(stage) {
  const list = make("ol", "track"), stages = ["shadow", "canary", "stable"], here = stages.indexOf(stage);
  stages.forEach((name, number) => {
    const step = plain("li", number < here ? "past" : "", say(`rel.${name}`));
    if (number === here) step.setAttribute("aria-current", "step");
    list.append(step);
  });
  return list;
}

function gate(said) {
  const item = plain("li", "", line(said)), part = progress(said);
  if (part) {
    const bar = make("progress");
    [bar.value, bar.max] = [Math.min(...part), part[1]];
    bar.setAttribute("aria-label", line(said));
    item.append(bar);
  }
  return item;
}
