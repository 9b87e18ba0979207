/* A reading: what the model does with a text. Every panel is drawn from one, made either by Python, with the page,
 * or by live.js, from a text typed since. minibert/explain/reading.py says what is in it.
 */
"use strict";

/**
 * The numbers of one name. One index for each axis gives a number; for a live block, which is nested lists, fewer
 * give the rows there, and none gives the whole.
 * @typedef {{at: (...place: number[]) => any}} Block
 */

/**
 * `block` finds the numbers of a name, `said` the likeliest pieces of a token after a layer, `ifMasked` those of a
 * token that [MASK] hides. Layers that are `opened` have states in the reading; `bits` says in how many bits it has
 * the weights of a linear map, such as "query.1", and 0 if it has none.
 * @typedef {{live: boolean, text: string[], tokens: any[], steps: any[][] | null, layers: any[], opened: number[],
 *            bits: (map: string) => number, block: (name: string) => Block,
 *            said: null | ((layer: number, token: number) => any[]), ifMasked: (token: number) => any[]}} Reading
 */

const MOST_SAID = 5;
const MOST_COST = 2e8; // multiplications that take about a second
const POINT = 300; // of them take as long as one point of a picture in the map

/** Each result is made once. @param {(...place: number[]) => any} make */
function remembered(make) {
  /** @type {Map<string, any>} */
  const kept = new Map();
  return (...place) => {
    const key = place.join(".");
    if (!kept.has(key)) kept.set(key, make(...place));
    return kept.get(key);
  };
}

/** The reading that Python put into the page. @returns {Reading} */
function pageReading(facts, block) {
  const { text, tokens, steps, layers, opened, mapped, words } = facts;
  return { live: false, text, tokens, steps, layers, opened, block, bits: (map) => mapped[map] ?? 0,
    said: words && ((layer, token) => words.layers[layer][token]), ifMasked: (token) => words.masked[token] };
}

/** A model that can read: its weights, vocabulary and sizes. */
function liveModel(live, config, tensors) {
  return { weights: dequantized(tensors), wordPiece: makeWordPiece(live), pieces: live.pieces, config };
}

/** What S tokens cost: the maps of every layer, the words that each would say, and the pictures of all heads. */
function cost(S, { weights, pieces, config }) {
  const { num_hidden_layers: L, num_attention_heads: N, hidden_size: D, intermediate_size: F } = config;
  const words = weights.mlm ? (L + 1) * pieces.length * D : 0;
  return S * (L * (4 * D * D + 2 * D * F) + words) + POINT * L * N * S * S;
}

/** Where each token of `before` stands in `after`, or -1: what is alike at both ends was not edited. */
function placesAfter(before, after) {
  const most = Math.min(before.length, after.length), moved = after.length - before.length;
  let head = 0, tail = 0;
  while (head < most && before[head] === after[head]) head++;
  while (tail < most - head && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail++;
  return before.map((_, place) => place < head ? place : place >= before.length - tail ? place + moved : -1);
}

/** [CLS] first [SEP], or [CLS] first [SEP] second [SEP]. @param {Word[][]} steps */
function assemble(steps) {
  const special = (piece, type) => ({ piece, type, span: [0, 0] });
  return [special("[CLS]", 0), ...steps.flatMap((words, type) => [
    ...words.flatMap((word) => word.pieces.map((piece, i) => ({ piece, type, span: word.spans[i] }))),
    special("[SEP]", type)])];
}

/** The tokens of a text or a pair, or why it cannot be read, in a sentence. @param {string[]} text */
function liveTokens(model, text) {
  if (text.some((one) => /\p{Cs}/u.test(one))) return { why: "The text contains half a character; type it again." };
  const steps = text.map(model.wordPiece.words), most = model.config.max_position_embeddings;
  const empty = steps.findIndex((words) => words.length === 0);
  if (empty >= 0) return { why: `${text.length > 1 ? `Sentence ${"AB"[empty]}` : "The text"} holds no word yet.` };
  const tokens = assemble(steps).map((token) => ({ ...token, id: model.wordPiece.ids.get(token.piece) }));
  const these = `These are ${tokens.length} tokens`;
  if (tokens.length > most) return { why: `${these}, but the model knows only ${most} positions; shorten the text.` };
  if (cost(tokens.length, model) <= MOST_COST) return { steps, tokens };
  let quick = tokens.length;
  while (cost(quick, model) > MOST_COST) quick--;
  return { why: `${these}; over ${quick} this model would keep the page waiting for more than a second, so shorten `
    + "the text." };
}

/** The pieces with the highest scores and their shares. @param {Float32Array} logits_V @param {string[]} pieces */
function likeliest(logits_V, pieces) {
  const shares_V = softmax(logits_V.subarray(0, pieces.length));
  /** @type {number[]} */
  const best = [];
  shares_V.forEach((share, id) => { // most are no rival, so nothing is sorted for them
    if (best.length === MOST_SAID && share <= shares_V[best[MOST_SAID - 1]]) return;
    best.push(id);
    best.sort((a, b) => shares_V[b] - shares_V[a]).splice(MOST_SAID);
  });
  return best.map((id) => [pieces[id], shares_V[id]]);
}

/** The mean entropy of a head: 0 looks at one token, log R at all alike. @param {Float32Array[]} p_SR */
const entropy = (p_SR) => -p_SR.flatMap((p_R) => [...p_R].map((p) => (p > 0 ? p * Math.log(p) : 0)))
  .reduce((a, b) => a + b) / p_SR.length;

/**
 * The numbers of a layer by the names that Python gives them in the page. The two maps of the feed-forward are
 * `inner` and `fed`, named after their results; the book calls them `intermediate` and `output`.
 */
function blocksOf({ attention, attended_SD, fed_S, hidden_SD }, weights) {
  const norm = ({ gain_D, bias_D }) => [gain_D, bias_D];
  /** @type {Record<string, any>} */
  const blocks = { query: attention.query_NSK, key: attention.key_NRK, value: attention.value_NRK,
    attention: attention.probabilities_NSR, output: attention.output_SD, attended: attended_SD, hidden: hidden_SD,
    inner: fed_S.map(({ inner_F }) => inner_F), fed: fed_S.map(({ fed_D }) => fed_D),
    norm: norm(weights.attention_norm), output_norm: norm(weights.output_norm) };
  const maps = { ...weights.attention, inner: weights.intermediate, fed: weights.output };
  for (const [name, map] of Object.entries(maps)) {
    blocks[`${name}.weight`] = map.weight_OI;
    blocks[`${name}.bias`] = map.bias_O;
  }
  return blocks;
}

/** What the page shows of `tokens`, as the model in the page computes it. @returns {Reading} */
function liveReading(model, text, steps, tokens) {
  const { weights, config, pieces } = model, tables = weights.embeddings, mask = model.wordPiece.ids.get("[MASK]");
  const types = tokens.map((token) => Math.min(token.type, config.type_vocab_size - 1));
  const ids = tokens.map((token) => token.id), trace = encode(ids, types, weights, config);

  /** @type {Record<string, any>} */
  const named = { "embedding.word": ids.map((id) => tables.word_VD[id]), "embedding.position": tables.position_PD,
    "embedding.type": types.map((type) => tables.type_TD[type]),
    "embedding.norm": [tables.norm.gain_D, tables.norm.bias_D], "hidden.0": trace.hiddens_LSD[0] };
  trace.blocks.forEach((made, i) => {
    for (const [name, rows] of Object.entries(blocksOf(made, weights.blocks[i]))) named[`${name}.${i + 1}`] = rows;
  });
  const layers = trace.blocks.map(({ attention: { query_NSK, probabilities_NSR }, fed_S }) => ({
    heads: query_NSK.length, key_width: query_NSK[0][0].length, units: fed_S[0].inner_F.length,
    distinct: probabilities_NSR.map((p_SR) => +entropy(p_SR).toFixed(3)) }));
  const all = layers.map((_, i) => i + 1);

  const guesses = (state_D) => likeliest(mlmLogits(state_D, weights, config), pieces);
  const masked = (token) => {
    const others = ids.map((id, place) => (place === token ? mask : id));
    return guesses(encode(others, types, weights, config).hiddens_LSD.at(-1)[token]);
  };
  return { live: true, text, tokens, steps, layers, opened: all, bits: () => 8,
    block: (name) => ({ at: (...place) => place.reduce((inside, i) => inside[i], named[name]) }),
    said: weights.mlm ? remembered((layer, token) => guesses(trace.hiddens_LSD[layer][token])) : null,
    ifMasked: remembered(masked) };
}
