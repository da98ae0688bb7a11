// How the model reads the prompt: a count that follows the typing, and the tokens on demand.

import { asked, made, part } from "./dom.js";

const PAUSE_MS = 180;

let pause = 0;
let last = null;
let turn = 0;

/** The prompt or the number of steps may have changed. */
export function reading(values) {
  const text = values.prompt ?? "";
  const steps = Math.max(1, Math.round(Number(values.steps)) || 20);
  const emphasis = values.emphasis ?? "original";
  const key = `${steps} ${emphasis} ${text}`;
  if (key === last) return;
  last = key;
  clearTimeout(pause);
  pause = setTimeout(() => read(text, steps, emphasis), PAUSE_MS);
}

async function read(text, steps, emphasis) {
  const mine = ++turn;
  const told = await asked("/api/tokens", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ text, steps, emphasis }),
  }).catch(() => null);
  const count = part("token-count");
  if (!told || !count || mine !== turn) return;
  const chunks = told.room / 75;
  count.textContent =
    `${told.tokens} of ${told.room} tokens` + (chunks > 1 ? ` in ${chunks} chunks` : "");
  part("token-list").replaceChildren(
    ...told.parts.flatMap((one, i) => shownPart(one, told.parts.length > 1 ? i + 1 : 0)),
    ...told.embeddings.map(shownEmbedding),
    ...told.networks.map(shownNetwork),
  );
}

function shownPart(one, number) {
  const title = number ? [made("h4", {}, `Prompt ${number}, weight ${one.weight}`)] : [];
  const lists = one.chunks.map((chunk, i) =>
    made("ol", { ariaLabel: `Chunk ${i + 1}` }, ...chunk.map(shownToken)),
  );
  return [...title, ...lists];
}

function shownEmbedding(one) {
  const vectors = one.vectors === 1 ? "1 vector" : `${one.vectors} vectors`;
  const word = one.is_ordinary ? " It stands in for the ordinary word of that name." : "";
  const text = `Embedding ${one.name}: ${vectors}, for ${one.made_for}.${word}`;
  return made("p", { className: "v-muted" }, text);
}

function shownNetwork(one) {
  const text = one.problem ? `${one.tag} ${one.problem}` : `${one.tag} is applied, not read as words.`;
  return made("p", { className: one.problem ? "v-problem" : "v-muted" }, text.trim());
}

function shownToken(token) {
  const weight = token.weight === 1 ? "" : ` ×${token.weight.toFixed(2).replace(/0$/, "")}`;
  return made(
    "li",
    {},
    made("span", { className: "word" }, token.text || "·"),
    made("small", {}, token.vector ? `${token.vector} of ${token.vectors}${weight}` : `${token.id}${weight}`),
  );
}
