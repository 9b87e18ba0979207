/* BERT, from token ids to a logit for every word: minibert/encoder.py and minibert/heads.py once more.
 *
 * A vector is a Float32Array and a matrix the list of its rows, so x_SD[s][d] is number d of token s. Names end in
 * their shape, as in the book: S query tokens · R key tokens (the same ones) · D width · N heads · K = D/N ·
 * F feed-forward units · V words of the vocabulary · L layers · I, O inputs and outputs of a map.
 * One text is read at a time, so there is no batch and no padding; nothing is trained, so there is no dropout.
 * Sums are computed in 64 bits, as always in JavaScript, and results kept in 32. With the same weights, every state,
 * share and score is the book's, to a millionth of the largest: tests/test_explain_live.py.
 */
"use strict";

// ------------------------------------------------------------------------------------ arithmetic

/** Σ x_i y_i */
function dot(x_I, y_I) {
  let sum = 0;
  for (let i = 0; i < x_I.length; i++) sum += x_I[i] * y_I[i];
  return sum;
}

/** x + y, number by number */
const add = (x_D, y_D) => x_D.map((x, d) => x + y_D[d]);

/** y = W x + b */
const linear = (x_I, { weight_OI, bias_O }) => bias_O.map((b, o) => dot(weight_OI[o], x_I) + b);

/** p_r = exp(x_r - max x) / Σ exp(x - max x): shares that add up to 1. */
function softmax(x_R) {
  const most = x_R.reduce((a, b) => Math.max(a, b));
  const exp_R = x_R.map((x) => Math.exp(x - most));
  const total = exp_R.reduce((a, b) => a + b);
  return exp_R.map((e) => e / total);
}

/** y = gain (x - mean) / √(variance + eps) + bias */
function layerNorm(x_D, { gain_D, bias_D }, { layer_norm_eps: eps }) {
  const D = x_D.length, mean = x_D.reduce((a, b) => a + b) / D;
  const centred_D = x_D.map((x) => x - mean);
  const deviation = Math.sqrt(dot(centred_D, centred_D) / D + eps);
  return centred_D.map((x, d) => (gain_D[d] * x) / deviation + bias_D[d]);
}

/** erf(x) = 2/√π exp(-x²) Σ_n x (2x²)^n / (1·3·5 ⋯ (2n+1)). All terms have the sign of x, so nothing cancels. */
function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x, sum = x;
  for (let odd = 3; Math.abs(term) > 1e-17 * Math.abs(sum); odd += 2) sum += term *= (2 * x * x) / odd;
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** x · Φ(x), Φ the share of a normal distribution below x; and nearly the same with tanh, as Google wrote it. */
const geluErf = (x) => (x / 2) * (1 + erf(x / Math.SQRT2));
const geluTanh = (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const gelu = { gelu: geluErf, gelu_new: geluTanh, gelu_pytorch_tanh: geluTanh };

// ------------------------------------------------------------------------------------- attention

/** The heads are slices of the width, each K numbers of every token. */
const splitHeads = (x_SD, K) => Array.from({ length: x_SD[0].length / K }, (_, n) =>
  x_SD.map((x_D) => x_D.subarray(n * K, (n + 1) * K)));

/** And back: the heads of a token side by side again. */
const mergeHeads = (x_NSK) => x_NSK[0].map((_, s) =>
  Float32Array.from(x_NSK.flatMap((x_SK) => [...x_SK[s]])));

/** score_sr = q_s · k_r / √K */
const attentionScores = (query_SK, key_RK) => query_SK.map((query_K) =>
  Float32Array.from(key_RK, (key_K) => dot(query_K, key_K) / Math.sqrt(query_K.length)));

/** z_k = Σ_r p_r v_rk */
const weightedSum = (p_R, value_RK) => value_RK[0].map((_, k) => dot(p_R, value_RK.map((value_K) => value_K[k])));

/** Every token asks every token, in each head anew, and takes its shares of their values. */
function multiHeadAttention(hidden_SD, weights, config) {
  const K = config.hidden_size / config.num_attention_heads;
  const heads = (map) => splitHeads(hidden_SD.map((x_D) => linear(x_D, map)), K);
  const query_NSK = heads(weights.query), key_NRK = heads(weights.key), value_NRK = heads(weights.value);
  const scores_NSR = query_NSK.map((query_SK, n) => attentionScores(query_SK, key_NRK[n]));
  const probabilities_NSR = scores_NSR.map((scores_SR) => scores_SR.map(softmax));
  const taken_NSK = probabilities_NSR.map((p_SR, n) => p_SR.map((p_R) => weightedSum(p_R, value_NRK[n])));
  const output_SD = mergeHeads(taken_NSK).map((taken_D) => linear(taken_D, weights.output));
  return { query_NSK, key_NRK, value_NRK, scores_NSR, probabilities_NSR, output_SD };
}

// --------------------------------------------------------------------------------------- encoder

/** x_s = LayerNorm(word[id_s] + position[s] + type[t_s]) */
function embeddings(ids_S, types_S, { word_VD, position_PD, type_TD, norm }, config) {
  const summed_SD = ids_S.map((id, s) => add(add(word_VD[id], position_PD[s]), type_TD[types_S[s]]));
  return summed_SD.map((x_D) => layerNorm(x_D, norm, config));
}

/** u = W₁ x + b₁, y = W₂ gelu(u) + b₂ */
function feedForward(x_D, weights, config) {
  const inner_F = linear(x_D, weights.intermediate);
  return { inner_F, fed_D: linear(inner_F.map(gelu[config.hidden_act]), weights.output) };
}

/** a = LayerNorm(x + Attention(x)), y = LayerNorm(a + FeedForward(a)) */
function block(hidden_SD, weights, config) {
  const attention = multiHeadAttention(hidden_SD, weights.attention, config);
  const attended_SD = hidden_SD.map((x_D, s) =>
    layerNorm(add(x_D, attention.output_SD[s]), weights.attention_norm, config));
  const fed_S = attended_SD.map((a_D) => feedForward(a_D, weights, config));
  const output_SD = attended_SD.map((a_D, s) =>
    layerNorm(add(a_D, fed_S[s].fed_D), weights.output_norm, config));
  return { attention, attended_SD, fed_S, hidden_SD: output_SD };
}

/** h_0 = embeddings, h_l = block_l(h_(l-1)); everything on the way is kept. */
function encode(ids_S, types_S, weights, config) {
  let hidden_SD = embeddings(ids_S, types_S, weights.embeddings, config);
  const blocks = [], hiddens_LSD = [hidden_SD];
  for (const blockWeights of Object.values(weights.blocks)) {
    blocks.push(block(hidden_SD, blockWeights, config));
    hidden_SD = blocks.at(-1).hidden_SD;
    hiddens_LSD.push(hidden_SD);
  }
  return { blocks, hiddens_LSD };
}

/** The masked-word head: t = LayerNorm(gelu(W h + b)), logit_v = t · word_v + bias_v. */
function mlmLogits(hidden_D, { mlm, embeddings: { word_VD } }, config) {
  const transformed_D = linear(hidden_D, mlm.transform).map(gelu[config.hidden_act]);
  const normed_D = layerNorm(transformed_D, mlm.norm, config);
  return linear(normed_D, { weight_OI: word_VD, bias_O: mlm.bias_V });
}

// --------------------------------------------------------------------------------------- weights

/**
 * The weights by the book's names, such as weights.blocks[0].attention.query.weight_OI, from tensors by their paths.
 * A matrix is stored as integers of eight bits, with a scale for each row.
 */
function dequantized(tensors) {
  const weights = {};
  for (const [path, { data, shape: [rows, width] }] of Object.entries(tensors)) {
    const names = path.split("."), last = names.pop();
    if (last === "scale") continue;
    const part = names.reduce((inside, name) => (inside[name] ??= {}), weights);
    const scale_O = tensors[`${path}.scale`]?.data;
    part[last] = scale_O === undefined ? data : Array.from({ length: rows }, (_, o) =>
      Float32Array.from(data.subarray(o * width, (o + 1) * width), (whole) => whole * scale_O[o]));
  }
  return weights;
}
