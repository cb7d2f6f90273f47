/* What the service says of gates and events, in Chinese too: its sentences are English (fedbank/serving/rollout/stages.py). */
import { locale } from "./words.js";

const N = "([0-9.]+)", P = "([0-9.]+%)";
const CHINESE = [
  [`${N} of ${N} answers`, "已回答 $1 次，需 $2 次"],
  [`failures ${N} of ${N} \\(${P} to ${P}; at most ${P}\\)`, "失败 $1 / $2（$3 至 $4，上限 $5）"],
  [`95th percentile ${N} ms per 100 tokens, stable ${N} \\(at most ${N} times\\)`, "延迟 95 分位：每百词元 $1 毫秒，稳定版 $2（不超过 $3 倍）"],
  ["95th percentile: not known yet", "延迟 95 分位：尚无数据"],
  [`agreement ${N} of ${N} \\(${P} to ${P}; at least ${P}\\)`, "与稳定版一致 $1 / $2（$3 至 $4，下限 $5）"],
  [`probe questions ${N} of ${N} right, ${N} to ask`, "探测题答对 $1 / $2，共需 $3 题"],
  [`after ${N} days it has not shown enough`, "$1 天后样本仍不足"],
  ["begins", "开始"],
  ["the first", "首个版本"],
  ["gates passed", "门槛全部通过"],
  ["by the operator", "由运营人员操作"],
  ["client rollback", "由命令 client rollback 回退"],
  ["(.+) was adopted instead", "已改为采用 $1"],
].map(([pattern, text]) => [new RegExp(`^${pattern}$`), text]);

/** A sentence of the service in the language of the moment; one that is not known stays as it is. */
export function line(said) {
  if (!locale().startsWith("zh")) return said;
  return said.split("; ").reduce(joined, []).map(chinese).join("；");
}

/* A gate's own semicolon stands in brackets. */
function joined(parts, part) {
  const last = parts.at(-1);
  if (last !== undefined && last.includes("(") && !last.includes(")")) parts[parts.length - 1] = `${last}; ${part}`;
  else parts.push(part);
  return parts;
}

function chinese(said) {
  const found = CHINESE.find(([pattern]) => pattern.test(said));
  return found ? said.replace(...found) : said;
}

/** How far a gate is that only wants more answers: [seen, wanted], else null. */
export function progress(said) {
  const found = /^([0-9]+) of ([0-9]+) answers$/.exec(said);
  return found && [Number(found[1]), Number(found[2])];
}
