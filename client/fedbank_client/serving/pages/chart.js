/* Drawings of numbers, as wide as their place. Each says in words (aria-label) what it shows, each mark its own numbers. */
import { number, say } from "./words.js";

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 170, TOP = 12, BOTTOM = 24, LEFT = 44, RIGHT = 8;

function draw(tag, attributes, text) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function titled(mark, text) {
  mark.append(draw("title", {}, text));
  return mark;
}

/* The end of an axis: the least round number that is not below `value`, from 2 on; half of it is whole. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map(step => step * power).find(step => step >= value);
}

/* The empty drawing: `minutes` on the way to the right, 0 to `top` on the way up. */
function frame(place, minutes, top, label) {
  const width = Math.max(240, place.clientWidth), svg = draw("svg", {viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": label});
  const x = at => LEFT + (width - LEFT - RIGHT) * at / minutes.length, y = value => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top;
  for (const part of [0, 0.5, 1]) {
    svg.append(draw("line", {class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(top * part), y2: y(top * part)}));
    svg.append(draw("text", {x: LEFT - 6, y: y(top * part) + 4, "text-anchor": "end"}, number(top * part)));
  }
  const marks = [[0, "start"], [0.5, "middle"], [1, "end"]];
  for (const [part, anchor] of marks) svg.append(draw("text", {x: x(minutes.length * part), y: HEIGHT - 6, "text-anchor": anchor}, clock(minutes[Math.min(minutes.length - 1, Math.floor(minutes.length * part))].at)));
  return {svg, x, y};
}

/** Hour and minute where the reader is. */
export const clock = at => new Date(at).toLocaleTimeString("en-GB", {hour: "2-digit", minute: "2-digit"});

/** Bars of `parts` [{key, kind, name}] on top of each other, one for each minute. */
export function bars(place, title, minutes, parts) {
  const sums = minutes.map(minute => parts.reduce((sum, {key}) => sum + minute[key], 0)), most = Math.max(...sums);
  const label = say("chart.sum", {title, sum: number(sums.reduce((a, b) => a + b, 0)), most: number(most)});
  const {svg, x, y} = frame(place, minutes, round(Math.max(2, most)), label);
  minutes.forEach((minute, at) => {
    const group = titled(draw("g", {}), `${clock(minute.at)}  ${parts.map(({key, name}) => `${name} ${number(minute[key])}`).join(", ")}`);
    let below = 0;
    for (const {key, kind} of parts.filter(part => minute[part.key] > 0)) {
      const top = y(below + minute[key]);
      group.append(draw("rect", {class: kind, x: x(at) + 0.5, width: Math.max(1, x(at + 1) - x(at) - 1), y: top, height: y(below) - top}));
      below += minute[key];
    }
    svg.append(group);
  });
  place.replaceChildren(svg);
}

/** Lines of `parts` [{key, kind, name}] through the minutes in which there is a value. */
export function lines(place, title, minutes, parts) {
  const values = parts.flatMap(({key}) => minutes.map(minute => minute[key])).filter(value => value !== null);
  const label = say("chart.range", {title, least: number(Math.min(...values)), most: number(Math.max(...values))});
  const {svg, x, y} = frame(place, minutes, round(Math.max(2, ...values)), label);
  for (const {key, kind, name} of parts) {
    const there = minutes.map((minute, at) => [x(at + 0.5), minute]).filter(([, minute]) => minute[key] !== null);
    svg.append(draw("polyline", {class: kind, points: there.map(([left, minute]) => `${left},${y(minute[key])}`).join(" ")}));
    svg.append(...there.map(([left, minute]) => titled(draw("circle", {class: kind, cx: left, cy: y(minute[key]), r: 2.5}), `${clock(minute.at)}  ${name} ${number(minute[key])} ms`)));
  }
  place.replaceChildren(svg);
}

/** One bar of shares of a whole: `parts` [{value, kind, name}]. */
export function shares(place, title, parts) {
  const whole = parts.reduce((sum, {value}) => sum + value, 0), label = `${title}: ${parts.map(({name, value}) => `${name} ${number(value)}`).join(", ")}`;
  const width = Math.max(240, place.clientWidth), svg = draw("svg", {viewBox: `0 0 ${width} 18`, height: 18, role: "img", "aria-label": label});
  let left = 0;
  for (const {value, kind, name} of parts.filter(part => part.value > 0)) {
    const wide = width * value / whole;
    svg.append(titled(draw("rect", {class: kind, x: left, y: 0, width: Math.max(1, wide - 2), height: 18, rx: 3}), `${name} ${number(value)}`));
    left += wide;
  }
  place.replaceChildren(svg);
}
