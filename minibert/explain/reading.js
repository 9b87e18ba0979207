/* What a text makes of the model: a reading. Every panel is drawn from one, whoever made it: Python, when the page
 * was made, or live.js, of a text that was typed since. minibert/explain/reading.py says what is in it.
 */
"use strict";

/**
 * `block` finds the numbers of a name, `said` the likeliest pieces of a token after a layer, `ifMasked` those of a
 * token that [MASK] hides. Layers that are `opened` have states in the reading, those that are `mapped` weights too.
 * @typedef {{live: boolean, text: string[], tokens: any[], steps: any[][] | null, layers: any[], opened: number[],
 *            mapped: number[], block: (name: string) => Block, said: null | ((layer: number, token: number) => any[]),
 *            ifMasked: (token: number) => any[]}} Reading
 */

const MOST_SAID = 5;

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

/** The reading that Python laid into the page. @returns {Reading} */
function pageReading(facts, block) {
  const { text, tokens, steps, layers, opened, mapped, words } = facts;
  return { live: false, text, tokens, steps, layers, opened, mapped, block,
    said: words && ((layer, token) => words.layers[layer][token]), ifMasked: (token) => words.masked[token] };
}

/** A model that can read: its weights, vocabulary and sizes. */
function liveModel(live, config, tensors) {
  return { weights: dequantised(tensors), wordPiece: makeWordPiece(live), pieces: live.pieces, config };
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
  if (text.some((one) => /\p{Cs}/u.test(one))) return { why: "Half a character stands in the text; type it anew." };
  const steps = text.map(model.wordPiece.words), most = model.config.max_position_embeddings;
  const empty = steps.findIndex((words) => words.length === 0);
  if (empty >= 0) return { why: `${text.length > 1 ? `Sentence ${"AB"[empty]}` : "The text"} holds no word yet.` };
  const tokens = assemble(steps).map((token) => ({ ...token, id: model.wordPiece.ids.get(token.piece) }));
  if (tokens.length <= most) return { steps, tokens };
  return { why: `These are ${tokens.length} tokens, but the model knows only ${most} positions; shorten the text.` };
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

/** Of a head the mean over the tokens: 0 looks at one token, log R at all alike. @param {Float32Array[]} p_SR */
const entropy = (p_SR) => -p_SR.flatMap((p_R) => [...p_R].map((p) => (p > 0 ? p * Math.log(p) : 0)))
  .reduce((a, b) => a + b) / p_SR.length;

/** What the page shows of `tokens`, as the model in the page computes it. @returns {Reading} */
function liveReading(model, text, steps, tokens) {
  const { weights, config, pieces } = model, tables = weights.embeddings, mask = model.wordPiece.ids.get("[MASK]");
  const types = tokens.map((token) => Math.min(token.type, config.type_vocab_size - 1));
  const ids = tokens.map((token) => token.id), trace = encode(ids, types, weights, config);
  const named = { "embedding.word": ids.map((id) => tables.word_VD[id]),
    "embedding.position": tables.position_PD, "embedding.type": types.map((type) => tables.type_TD[type]),
    "embedding.norm": [tables.norm.gain_D, tables.norm.bias_D], "hidden.0": trace.hiddens_LSD[0] };
  const layers = trace.blocks.map(({ attention, attended_SD, hidden_SD }, i) => {
    const of = weights.blocks[i], maps = Object.entries({ ...of.attention, inner: of.intermediate, fed: of.output });
    for (const [name, rows] of [["query", attention.query_NSK], ["key", attention.key_NRK],
      ["value", attention.value_NRK], ["attention", attention.probabilities_NSR], ["output", attention.output_SD],
      ["attended", attended_SD], ["hidden", hidden_SD],
      ["norm", [of.attention_norm.gain_D, of.attention_norm.bias_D]],
      ["output_norm", [of.output_norm.gain_D, of.output_norm.bias_D]],
      ...maps.map(([map, linear]) => [`${map}.weight`, linear.weight_OI]),
      ...maps.map(([map, linear]) => [`${map}.bias`, linear.bias_O])]) named[`${name}.${i + 1}`] = rows;
    return { heads: attention.query_NSK.length, key_width: attention.query_NSK[0][0].length,
      distinct: attention.probabilities_NSR.map((p_SR) => +entropy(p_SR).toFixed(3)) };
  });
  const every = layers.map((_, i) => i + 1), says = (state_D) => likeliest(mlmLogits(state_D, weights, config), pieces);
  const hidden = (place) => ids.map((id, s) => (s === place ? mask : id));
  return { live: true, text, tokens, steps, layers, opened: every, mapped: every,
    block: (name) => ({ at: (...place) => place.reduce((inside, i) => inside[i], named[name]) }),
    said: weights.mlm ? remembered((layer, token) => says(trace.hiddens_LSD[layer][token])) : null,
    ifMasked: remembered((token) => says(encode(hidden(token), types, weights, config).hiddens_LSD.at(-1)[token])) };
}
