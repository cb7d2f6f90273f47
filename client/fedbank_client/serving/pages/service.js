/* The bank's service as the pages see it: requests with a token, problems (RFC 9457) in plain words, streams of events. */
import { knows, say } from "./words.js";

let token = ""; /* in memory only: another tab, a reload or a stolen disk has none */

/** What went wrong: `name` is the last part of the problem's type, "network" if nobody answered. */
export class Problem extends Error {
  constructor(about, wait) {
    super(about.detail || about.title || "");
    this.name = String(about.type || "").split(/[/:#]/).pop() || "unknown";
    this.status = about.status || 0;
    this.wait = Number(wait) > 0 ? Math.ceil(Number(wait)) : 0;
  }

  /** A sentence in the language of the moment; the service's own where no other is known. */
  said() {
    const known = [`problem.${this.name}`, `problem.${this.status}`].find(knows);
    if (!known) return this.message ? say("problem.said", {said: this.message}) : say("problem.unknown");
    return say(known, {when: this.wait ? say("problem.wait", {seconds: this.wait}) : say("problem.later")});
  }
}

export const signedIn = () => token !== "";
export const signIn = given => { token = given; };
export const signOut = () => { token = ""; };

/** The response to `body` (JSON, by POST) or to a GET; every other end is a `Problem`, but an abort is an AbortError. */
export async function send(path, body, signal) {
  const headers = token ? {Authorization: `Bearer ${token}`} : {};
  const asked = {headers, signal, cache: "no-store", credentials: "omit", redirect: "error"};
  if (body !== undefined) Object.assign(asked, {method: "POST", body: JSON.stringify(body)});
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, asked);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({type: "network"});
  }
  if (response.ok) return response;
  const about = await response.json().catch(() => ({}));
  throw new Problem({status: response.status, ...about}, response.headers.get("Retry-After"));
}

/** The events {name, data} of a text/event-stream (WHATWG HTML, 9.2.6), wherever the network divides it. */
export async function* events(body) {
  const reader = body.getReader(), decoder = new TextDecoder();
  let left = "", name = "", data = [];
  try {
    for (;;) {
      const {done, value} = await reader.read().catch(error => {
        throw error.name === "AbortError" ? error : new Problem({type: "cut"});
      });
      left += done ? decoder.decode() : decoder.decode(value, {stream: true});
      /* A \r at the end may be half of \r\n: it waits for what comes. */
      const lines = left.split(done ? /\r\n|\r|\n/ : /\r\n|\r(?!$)|\n/);
      left = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield {name: name || "message", data: JSON.parse(data.join("\n"))};
          name = ""; data = [];
          continue;
        }
        const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (field === "event") name = content;
        if (field === "data") data.push(content);
      }
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
