/* Every number of a reading: how it is stored, and how it came about, down to the last sum.
 *
 * Pure functions, which Node can run as well. S tokens (queries) · R tokens asked (keys) · D width · N heads ·
 * K = D/N.
 */
"use strict";

/**
 * One number of the model. `kind` is a state or a step, `row` mostly a token; heads count from 0,
 * layers from 1, and layer 0 of "hidden" is what the embeddings gave.
 * @typedef {{kind: string, layer: number, head: number, row: number, col: number}} Cell
 * A factor or addend: its name, its value, and the cell that it is, if it can be asked further.
 * @typedef {{name: string, value: number, cell?: Cell}} Part
 * How a number came about: rows of factors whose products are added, and what was done with the sum.
 * @typedef {{name: string, formula: string, source: string | null, rows: Part[][], sum: number,
 *            then: string, value: number, note: string}} Story
 * Numbers that Python laid into the page.
 * @typedef {Block & {shape: number[], data: ArrayLike<number>}} StoredBlock
 */

/** A half-precision number from its sixteen bits. @param {number} bits */
function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Little-endian numbers from base64. @param {string} text @param {string} kind u8 (shares), i8, f16 or f32 */
function decode(text, kind) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  if (kind === "u8") return Float32Array.from(bytes, (share) => share / 255);
  if (kind === "i8") return new Int8Array(bytes.buffer);
  const view = new DataView(bytes.buffer), size = kind === "f16" ? 2 : 4;
  return Float32Array.from({ length: bytes.length / size }, (_, i) =>
    size === 2 ? halfToNumber(view.getUint16(2 * i, true)) : view.getFloat32(4 * i, true));
}

/** @param {ArrayLike<number>} data @param {number[]} shape @returns {StoredBlock} */
function asBlock(data, shape) {
  return { data, shape, at: (...place) => data[place.reduce((all, i, axis) => all * shape[axis] + i, 0)] };
}

/** The sum over rows of the product of their factors. @param {Part[][]} rows */
function sumOfProducts(rows) {
  return rows.reduce((sum, row) => sum + row.reduce((product, part) => product * part.value, 1), 0);
}

/** Four digits. @param {number} value */
function shown(value) {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e5 ? value.toExponential(2) : value.toPrecision(4);
}

/** The linear maps of a layer: four of attention, two of the feed-forward. */
const MAPS = ["query", "key", "value", "output", "inner", "fed"];

/** The kinds of numbers that each head has of its own. */
const OF_A_HEAD = ["query", "key", "value", "dot", "scaled", "masked", "weight", "taken"];

const range = (n) => Array.from({ length: n }, (_, i) => i);

/**
 * Every number of a reading by its cell, and its story.
 * @param {any} facts @param {Reading} reading
 */
function makeNumbers(facts, reading) {
  const { block, layers, tokens: all } = reading;
  /** @type {Map<string, any>} */
  const kept = new Map();
  const once = (key, make) => {
    if (!kept.has(key)) kept.set(key, make());
    return kept.get(key);
  };
  const { hidden_size: width, hidden_act } = facts.config, keyWidth = (layer) => layers[layer - 1].key_width;
  const places = range(all.length), name = (i) => `${all[i].piece}`;

  /** Scores and shares of a head, from its queries and keys. */
  const head = (layer, h) => once(`head.${layer}.${h}`, () => {
    const K = keyWidth(layer);
    const [query_SK, key_RK, value_RK] = ["query", "key", "value"].map((name) =>
      places.map((s) => range(K).map((i) => block(`${name}.${layer}`).at(h, s, i))));
    const dot_SR = query_SK.map((query_K) => key_RK.map((key_K) => dot(query_K, key_K)));
    const scaled_SR = dot_SR.map((row) => row.map((x) => x / Math.sqrt(K))), weight_SR = scaled_SR.map(softmax);
    return { dot_SR, scaled_SR, weight_SR, taken_SK: weight_SR.map((p_R) => weightedSum(p_R, value_RK)) };
  });

  /** @type {Record<string, (c: Cell) => number>} */
  const get = {
    word: (c) => block("embedding.word").at(c.row, c.col),
    position: (c) => block("embedding.position").at(c.row, c.col),
    type: (c) => block("embedding.type").at(c.row, c.col),
    summed: (c) => get.word(c) + get.position(c) + get.type(c),
    hidden: (c) => block(`hidden.${c.layer}`).at(c.row, c.col),
    query: (c) => block(`query.${c.layer}`).at(c.head, c.row, c.col),
    key: (c) => block(`key.${c.layer}`).at(c.head, c.row, c.col),
    value: (c) => block(`value.${c.layer}`).at(c.head, c.row, c.col),
    dot: (c) => head(c.layer, c.head).dot_SR[c.row][c.col],
    scaled: (c) => head(c.layer, c.head).scaled_SR[c.row][c.col],
    masked: (c) => head(c.layer, c.head).scaled_SR[c.row][c.col], // one text has no padding: bias 0
    weight: (c) => head(c.layer, c.head).weight_SR[c.row][c.col],
    taken: (c) => head(c.layer, c.head).taken_SK[c.row][c.col],
    output: (c) => block(`output.${c.layer}`).at(c.row, c.col),
    added: (c) => block(`hidden.${c.layer - 1}`).at(c.row, c.col) + get.output(c),
    attended: (c) => block(`attended.${c.layer}`).at(c.row, c.col),
    inner: (c) => block(`inner.${c.layer}`).at(c.row, c.col),
    unit: (c) => gelu[hidden_act](get.inner(c)),
    fed: (c) => block(`fed.${c.layer}`).at(c.row, c.col),
    filled: (c) => get.attended(c) + get.fed(c),
  };

  /** That the weights of a map are not in the page, and where they are, if anywhere. */
  const whyLeftOut = (map) => "The page had no room for this map, even in eight bits"
    + (facts.alone.includes(map) ? `; a page of this layer alone has it: --layers ${map.split(".")[1]}`
    : reading.opened.length > 1 ? ", nor has one of this layer alone" : "")
    + (facts.live && !facts.live.why ? "; for a sentence of your own it is in the page." : ".");

  /** A part that can be asked further. @returns {Part} */
  const part = (label, cell) => ({ name: label, value: get[cell.kind](cell), cell });

  /** @returns {Story} */
  const story = (c) => {
    const { kind, layer, head: h, row: s, col: i } = c, at = (more) => ({ ...c, ...more });
    /** @type {Story} */
    const told = { name: "", formula: "", source: null, rows: [], sum: 0, then: "", value: get[kind](c), note: "" };
    const tell = (more) => {
      Object.assign(told, more);
      told.sum = sumOfProducts(told.rows);
      return told;
    };
    /** Numbers in the page are rounded, so a sum differs a little from what the model had. */
    const rounded = (found, bits = 16) => reading.live ? "Computed in this page, from weights of eight bits."
      : `${bits === 8 ? "For want of room the weights of this map are kept in eight bits, with a scale for each row, "
        + "the other numbers in half precision; they" : "The numbers in this page are kept in half precision, and"} `
      + `come to ${shown(found)}; the model, in float32, had ${shown(told.value)}.`;

    /** A number of y = W x + b, from each x; the weights may be left out of the page for want of room. */
    const byMap = (map, out, width, x, title) => {
      const bits = reading.bits(`${map}.${layer}`), source = ["output", "fed"].includes(map) ? map : "linear";
      told.formula = `${title} = Σ_d x[d] · W[${out}, d] + b[${out}]`;
      if (!bits) return tell({ source, note: `A row of W is ${width} numbers. ${whyLeftOut(`${map}.${layer}`)}` });
      const w = block(`${map}.weight.${layer}`), b = block(`${map}.bias.${layer}`);
      const step = bits === 8 && !reading.live ? block(`${map}.scale.${layer}`).at(out) : 1;
      const rows = range(width).map((d) => [x(d), { name: `W[${out}, ${d}]`, value: step * w.at(out, d) }]);
      tell({ source, rows: [...rows, [{ name: `b[${out}]`, value: b.at(out) }]] });
      return tell({ note: rounded(told.sum, bits) });
    };

    /** A number of a layer norm, whose sum is the mean. */
    const norm = (from, table, on) => {
      const inputs = range(width).map((d) => part(`x[${d}]`, at({ kind: from, col: d, layer: on })));
      const mean = inputs.reduce((sum, one) => sum + one.value, 0) / width;
      const centred_D = inputs.map((one) => one.value - mean), variance = dot(centred_D, centred_D) / width;
      const x = inputs[i].value, gain = table.at(0, i), bias = table.at(1, i);
      const y = ((x - mean) / Math.sqrt(variance + facts.eps)) * gain + bias;
      tell({
        formula: "y = gain · (x - mean) / √(variance + eps) + bias", source: "norm",
        rows: inputs.map((one) => [one, { name: "1/D", value: 1 / width }]),
        then: `the sum is the mean; the variance is ${shown(variance)}; (${shown(x)} - ${shown(mean)}) / `
          + `√(${shown(variance)} + ${facts.eps}) · ${shown(gain)} + ${shown(bias)} = ${shown(y)}`,
      });
      return tell({ note: rounded(y) });
    };

    switch (kind) {
      case "word": case "position": case "type":
        told.name = `row of the ${kind} table for ${name(s)}, number ${i}`;
        return tell({ formula: "learned; looked up, not computed", source: "embed" });
      case "summed":
        told.name = `sum of the three embeddings of ${name(s)}, number ${i}`;
        return tell({ formula: "word[id] + position[s] + type[t]", source: "embed", rows: ["word", "position", "type"]
            .map((table) => [part(`${table}[${i}]`, at({ kind: table }))]) });
      case "hidden":
        told.name = layer ? `state of ${name(s)} after layer ${layer}, number ${i}`
          : `embedding of ${name(s)}, number ${i}`;
        if (!layer) return norm("summed", block("embedding.norm"), 0);
        if (reading.opened.includes(layer)) return norm("filled", block(`output_norm.${layer}`), layer);
        return tell({ formula: "LayerNorm(a + FeedForward(a)), a the state after the attention of that layer",
            source: "norm", note: `Layer ${layer} is not open in this page, so the steps to its state are not in it; `
            + `--layers ${[layer, ...reading.opened]} opens it, too.` });
      case "query": case "key": case "value":
        told.name = `${kind} of ${name(s)}, number ${i} of head ${h + 1}`;
        return byMap(kind, h * keyWidth(layer) + i, width,
          (d) => part(`x[${d}]`, at({ kind: "hidden", layer: layer - 1, col: d })), kind[0]);
      case "dot":
        told.name = `${name(s)} asks ${name(i)}: q · k`;
        return tell({ formula: "q_s · k_r = Σ_k q_s[k] · k_r[k]", source: "scores", rows: range(keyWidth(layer))
            .map((k) => [part(`q[${k}]`, at({ kind: "query", col: k })),
            part(`k[${k}]`, at({ kind: "key", row: i, col: k }))]) });
      case "scaled":
        told.name = `${name(s)} asks ${name(i)}: score`;
        return tell({ formula: "score = q · k / √K", source: "scores",
            rows: [[part("q · k", at({ kind: "dot" })), { name: `1/√${keyWidth(layer)}`,
            value: 1 / Math.sqrt(keyWidth(layer)) }]] });
      case "masked":
        told.name = `${name(s)} asks ${name(i)}: score and mask`;
        return tell({ formula: "score + bias; bias is 0 for a token, -∞ for padding", source: "mask",
            rows: [[part("score", at({ kind: "scaled" }))], [{ name: "bias", value: 0 }]],
          note: "One text alone has no padding, so nothing is masked." });
      case "weight": {
        told.name = `${name(s)} takes this share of ${name(i)}`;
        const scores = places.map((r) => get.masked(at({ kind: "masked", col: r }))), top = Math.max(...scores);
        const rows = places.map((r) => [{ name: `exp(${shown(scores[r])} - ${shown(top)})  ${name(r)}`,
            value: Math.exp(scores[r] - top), cell: at({ kind: "masked", col: r }) }]);
        tell({ formula: "p = exp(score - max) / Σ exp(score - max)", source: "softmax", rows });
        return tell({ then: `${shown(rows[i][0].value)} / ${shown(told.sum)} = ${shown(told.value)}` });
      }
      case "taken":
        told.name = `what ${name(s)} takes, number ${i} of head ${h + 1}`;
        return tell({ formula: "z[k] = Σ_r p_r · v_r[k]", source: "taken",
            rows: places.map((r) => [part(`p(${name(r)})`, at({ kind: "weight", col: r })),
            part(`v[${i}]`, at({ kind: "value", row: r }))]) });
      case "output": {
        told.name = `what the attention gives ${name(s)}, number ${i}`;
        const K = keyWidth(layer), { heads } = layers[layer - 1];
        return byMap("output", i, heads * K, (d) => part(`z[head ${Math.floor(d / K) + 1}, ${d % K}]`,
          at({ kind: "taken", head: Math.floor(d / K), col: d % K })), "o");
      }
      case "added":
        told.name = `${name(s)} before the norm, number ${i}`;
        return tell({ formula: "x + o", source: "add", rows: [[part("x", at({ kind: "hidden", layer: layer - 1 }))],
            [part("o", at({ kind: "output" }))]] });
      case "filled":
        told.name = `${name(s)} before the last norm of the layer, number ${i}`;
        return tell({ formula: "a + y", source: "add_fed", rows: [[part("a", at({ kind: "attended" }))],
            [part("y", at({ kind: "fed" }))]] });
      case "fed":
        told.name = `what the feed-forward gives ${name(s)}, number ${i}`;
        return byMap("fed", i, layers[layer - 1].units, (f) => part(`unit[${f}]`, at({ kind: "unit", col: f })), "y");
      case "unit": {
        told.name = `unit ${i} of the feed-forward of ${name(s)}`;
        const x = part("u", at({ kind: "inner" })), exact = hidden_act === "gelu";
        const share = gelu[hidden_act](x.value) / (x.value || 1);
        return tell({ formula: exact ? "gelu(u) = u · Φ(u), Φ the normal distribution function"
          : "gelu(u) = u · (1 + tanh(√(2/π) (u + 0.044715 u³))) / 2", source: exact ? "gelu" : "gelu_tanh",
            rows: [[x, { name: exact ? "Φ(u)" : "(1 + tanh(…)) / 2", value: share }]] });
      }
      case "inner":
        told.name = `what unit ${i} of the feed-forward of ${name(s)} is given`;
        return byMap("inner", i, width, (d) => part(`a[${d}]`, at({ kind: "attended", col: d })), "u");
      default:
        told.name = `${name(s)} after attention, add and norm, number ${i}`;
        return norm("added", block(`norm.${layer}`), layer);
    }
  };
  return { get: (c) => get[c.kind](c), story };
}
