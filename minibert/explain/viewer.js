/* The page of `minibert explain`: what a BERT computed from one text, panel by panel.
 *
 * The last of a few classic scripts. First come the drawing tools, then a function for each panel, which draws it
 * from the reading that is shown and from the one `state`.
 * S tokens (queries) · R tokens asked (keys) · D width · N heads · K = D/N.
 */
"use strict";

// --------------------------------------------------------------------------------- drawing tools

/** An element; text is text, a function under "onclick" a listener. @returns {any} */
function h(tag, values = {}, /** @type {any[]} */ ...inside) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(values)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.startsWith("aria-")) element.setAttribute(key, String(value));
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, String(value));
  }
  element.append(...inside.flat(Infinity).filter((one) => one !== null)
    .map((one) => (typeof one === "object" ? one : String(one))));
  return element;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const HEADS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A7B00",
  "#7F7F7F"]; // Okabe and Ito
const STROKES = [["solid", null], ["dashed", "8 4"], ["dotted", "2 3"]]; // of heads 1 to 8, 9 to 16, and more

/** Blue below 0, orange above, in the colours of the theme: from -1 to 1. @returns {(t: number) => string} */
function signedColours() {
  const below = d3.interpolateRgb(css("--middle"), css("--below")), above = d3.interpolateRgb(css("--middle"),
    css("--above"));
  return (t) => (t < 0 ? below(-t) : above(t));
}

/** A bar of colours with its ends. @param {boolean} signed @param {number} most */
function scaleBar(signed, most) {
  const canvas = h("canvas", { width: 120, height: 10, "aria-hidden": "true" }), pen = canvas.getContext("2d");
  const colourOf = signed ? signedColours() : d3.interpolateCividis;
  for (const x of range(120)) {
    pen.fillStyle = colourOf(signed ? x / 59.5 - 1 : x / 119);
    pen.fillRect(x, 0, 1, 10);
  }
  return h("span", { class: "scale" }, signed ? shown(-most) : "0", canvas, shown(most));
}

/** Shares of one head as a small picture; there are many, so a colour is looked up and not mixed for each. */
function thumbnail(share, n, size, signed = false) {
  const canvas = h("canvas", { width: n, height: n, "aria-hidden": "true" }), pen = canvas.getContext("2d");
  const [colourOf, low] = signed ? [signedColours(), -1] : [d3.interpolateCividis, 0];
  const image = pen.createImageData(n, n);
  const colours = range(256).map((i) => d3.rgb(colourOf(low + (1 - low) * i / 255)));
  canvas.style.width = canvas.style.height = `${size}px`;
  for (const s of range(n)) for (const r of range(n)) {
    const { r: red, g, b } = colours[Math.round(255 * (share(s, r) - low) / (1 - low))];
    image.data.set([red, g, b, 255], 4 * (s * n + r));
  }
  pen.putImageData(image, 0, 0);
  return canvas;
}

/**
 * A matrix on a canvas: its name, shape and scale; a click, or arrows and Enter, picks a cell.
 * @param {{id: string, name: string, shape: string, kind?: string, rows: string[], cols: number, colNames?: string[],
 *          value: (r: number, c: number) => number, signed: boolean, row?: number,
 *          pick: (r: number, c: number) => void}} o
 */
function matrix(o) {
  const tall = o.rows.length > 48 ? 6 : 14, wide = Math.max(3, Math.min(o.colNames ? tall : 14,
      Math.floor(620 / o.cols)));
  const left = tall > 8 ? 84 : 0, top = o.colNames && wide > 8 ? 72 : 0, ratio = window.devicePixelRatio || 1;
  const values = o.rows.map((_, r) => range(o.cols).map((c) => o.value(r, c)));
  const most = o.signed ? Math.max(1e-12, d3.max(values, (row) => d3.max(row, Math.abs))) : 1;
  const canvas = h("canvas", { class: "matrix", id: o.id, tabindex: 0, role: "application",
    "aria-label": `${o.name}, ${o.shape}; arrow keys move, Enter shows how a number came about` });
  const W = left + wide * o.cols + 2, H = top + tall * o.rows.length + 2;
  const picture = h("canvas"); // drawn once; only the cursor moves
  for (const one of [canvas, picture]) Object.assign(one, { width: W * ratio, height: H * ratio });
  canvas.style.width = `${W}px`;
  const told = h("output", { class: "told" }), cursor = { r: o.row ?? 0, c: 0 };
  const brush = picture.getContext("2d"), colourOf = o.signed ? signedColours() : d3.interpolateCividis;
  brush.scale(ratio, ratio);
  brush.font = "11px system-ui, sans-serif";
  brush.textBaseline = "middle";
  values.forEach((row, r) => row.forEach((value, c) => {
    brush.fillStyle = colourOf(value / most);
    brush.fillRect(left + c * wide, top + r * tall, wide, tall);
  }));
  brush.fillStyle = css("--ink");
  if (left) o.rows.forEach((text, r) => brush.fillText(text, 0, top + (r + 0.5) * tall, left - 6));
  if (top) o.colNames?.forEach((text, c) => {
    brush.save();
    brush.translate(left + (c + 0.5) * wide, top - 4);
    brush.rotate(-Math.PI / 2);
    brush.fillText(text, 0, 0, top - 6);
    brush.restore();
  });
  const draw = () => {
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, W * ratio, H * ratio);
    pen.drawImage(picture, 0, 0);
    pen.scale(ratio, ratio);
    for (const [colour, thick] of /** @type {[string, number][]} */ ([["#fff", 3.5],
        ["#000", 1.5]])) { // seen on any colour
      Object.assign(pen, { strokeStyle: colour, lineWidth: thick });
      if (o.row !== undefined) pen.strokeRect(left + 0.5, top + o.row * tall + 0.5, wide * o.cols - 1, tall - 1);
      pen.strokeRect(left + cursor.c * wide, top + cursor.r * tall, wide, tall);
    }
    const column = o.colNames ? o.colNames[cursor.c] : cursor.c;
    told.textContent = `${o.rows[cursor.r]}, ${column}: ${shown(values[cursor.r][cursor.c])}`;
  };
  const move = (r, c) => {
    cursor.r = Math.max(0, Math.min(o.rows.length - 1, r));
    cursor.c = Math.max(0, Math.min(o.cols - 1, c));
    draw();
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left - left,
      y = event.clientY - box.top - top;
    return x < 0 || y < 0 ? null : [Math.floor(y / tall), Math.floor(x / wide)];
  };
  canvas.addEventListener("mousemove", (event) => { const at = under(event); if (at) move(at[0], at[1]); });
  canvas.addEventListener("click",
    (event) => { const at = under(event); if (at) { move(at[0], at[1]); o.pick(cursor.r, cursor.c); } });
  canvas.addEventListener("keydown", (event) => {
    /** @type {Record<string, number[]>} */
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] },
      step = steps[event.key];
    if (step) move(cursor.r + step[0], cursor.c + step[1]);
    else if (event.key === "Enter" || event.key === " ") o.pick(cursor.r, cursor.c);
    else return;
    event.preventDefault();
  });
  draw();
  return h("figure", { class: "matrix" },
    h("figcaption", { class: o.kind ?? "" }, h("b", {}, o.name), ` [${o.shape}] `, scaleBar(o.signed, most)),
    h("div", { class: "wide" }, canvas), told);
}

/** Hand an SVG to the reader as a file. @param {SVGElement} svg @param {string} name */
function saveSvg(svg, name) {
  const copy = /** @type {any} */ (svg.cloneNode(true)); // which no style sheet reaches
  d3.select(copy).attr("color", css("--ink")).attr("font-family", "system-ui, sans-serif");
  copy.insertBefore(d3.create("svg:rect").attr("width", "100%").attr("height", "100%")
    .attr("fill", css("--page")).node(), copy.firstChild);
  const text = new XMLSerializer().serializeToString(copy).replace(/[\0-\x08\x0b\x0c\x0e-\x1f]/g,
    "\ufffd"); // not allowed in XML
  const url = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Put parts into a body. One that is already there is not removed meanwhile, as its slider may be held. */
function lay(body, parts) {
  for (const part of [...body.childNodes]) if (!parts.includes(part)) part.remove();
  parts.forEach((part, i) => { if (body.childNodes[i] !== part) body.insertBefore(part, body.childNodes[i] ?? null); });
}

/** @param {() => SVGElement} picture @param {string} name */
const saveButton = (picture, name) =>
  h("button", { class: "save", onclick: () => saveSvg(picture(), name) }, "save as SVG");
/** A button whose colour is a share. */
function shareButton(share, values, text) {
  const button = h("button", { class: "lens", ...values }, text);
  Object.assign(button.style, { background: d3.interpolateCividis(share), color: share > 0.5 ? "#000" : "#fff" });
  return button;
}
const bar = (piece, share) => {
  const fill = h("span", { class: "fill" });
  fill.style.width = `${100 * share}%`;
  return h("li", {}, h("code", {}, piece), h("span", { class: "track" }, fill), ` ${(100 * share).toFixed(1)} %`);
};
const choice = (label, options, value, pick, id = "") =>
  h("label", {}, `${label} `, h("select", { id: id || null, onchange: (e) => pick(e.target.value) },
    options.map(([key, text]) => h("option", { value: key, selected: String(key) === String(value) }, text))));

// --------------------------------------------------------------------------------------- the page

/** Read the page's numbers, draw the panels, and listen to the keyboard. */
function start() {
  const facts = JSON.parse(/** @type {string} */ (document.getElementById("facts")?.textContent));
  /** @type {Map<string, StoredBlock>} */
  const cache = new Map();
  const block = (name) => {
    if (!cache.has(name)) {
      const source = /** @type {any} */ (document.getElementById(name));
      cache.set(name, asBlock(decode(source.textContent, source.dataset.kind), source.dataset.shape.split(",")
          .map(Number)));
    }
    return /** @type {StoredBlock} */ (cache.get(name));
  };
  const written = pageReading(facts, block), first = written.tokens.findIndex((t) => t.piece === "[MASK]");
  const state = {
    word: Math.max(0, (written.steps?.flat() ?? []).findIndex((word) => word.pieces.length > 1)),
    ...sharpest(written), token: Math.max(first, written.tokens.length > 2 ? 1 : 0), stage: 0, sort: "order",
    heads: /** @type {Set<number>} */ (new Set([sharpest(written).head])), pinned: -1, specials: true, pairs: "all",
      threshold: 0.05,
    rule: "uniform", map: facts.teacher ? [...facts.teacher.maps.uniform] : [],
  };
  const app = {
    facts, block, state, written, .../** @type {any} */ (shownOf(facts, written)),
    /** Redraw everything from another reading; a choice of a token that no longer exists is dropped. */
    show: (reading, changes = {}) => {
      Object.assign(app, shownOf(facts, reading));
      const top = (section) => section.getBoundingClientRect().top;
      const seen = [...main.children].find((part) => part.tagName === "SECTION" && top(part) > 0);
      const before = seen && top(seen); // what is in view stays there, though all above it changes its height
      const most = reading.tokens.length - 1, words = reading.steps?.flat().length ?? 1;
      app.set({ reading, token: Math.min(state.token, most), word: Math.min(state.word, words - 1),
          pinned: state.pinned > most ? -1 : state.pinned, ...changes });
      app.again();
      if (seen && window.scrollY) window.scrollBy({ top: top(seen) - before, behavior: "instant" });
    },
    /** Change the state and draw what shows it; the focus stays where it was. */
    set: (changes) => {
      Object.assign(state, changes);
      const heads = written.layers[state.layer - 1].heads; // a pruned layer has fewer
      state.head = Math.min(state.head, heads - 1);
      if ("layer" in changes && ![...state.heads].some((head) => head < heads)) state.heads = new Set([state.head]);
      const focused = document.activeElement?.id, keys = Object.keys(changes);
      for (const panel of drawn) if (panel.watch.some((key) => keys.includes(key))) panel.draw();
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    },
    tell: (_cell) => {}, again: () => {},
  };
  const main = /** @type {HTMLElement} */ (document.getElementById("page"));
  main.replaceChildren(h("h1", {}, "A BERT at work"),
    facts.live && !facts.live.why ? "" : h("p", { class: "text" }, facts.text.join("  ·  ")),
    h("p", { class: "faint" }, `${facts.about.model}: ${facts.config.num_hidden_layers} layers, `,
      `${facts.config.hidden_size} wide, ${facts.config.num_attention_heads} heads of ${facts.layers[0].key_width}. `,
      "Keys ", h("kbd", {}, "["), " and ", h("kbd", {}, "]"), " change the layer, ", h("kbd", {}, ","), " and ",
      h("kbd", {}, "."), " the head; Tab and the arrow keys move through every picture."));
  Object.assign(app, storyTeller(app, main));
  /** @type {{watch: string[], draw: () => void}[]} */
  const drawn = [];
  let number = 0;
  for (const [id, title, needed, watch, make] of PANELS) {
    if (needed && !facts[needed]) continue;
    const body = h("div"), nav = h("h2", { id: `${id}-title` }, id === "live" ? "" : `${number += 1} · `, title);
    main.append(h("section", { id, "aria-labelledby": `${id}-title` }, nav, body));
    const draw = () => lay(body, make(app).flat().filter(Boolean));
    drawn.push({ watch, draw });
    draw();
  }
  document.addEventListener("keydown", (event) => {
    if (/** @type {any} */ (event.target).matches("input, select, textarea") || event.ctrlKey || event.metaKey
        || event.altKey) return;
    const heads = written.layers[state.layer - 1].heads, layers = written.layers.length;
    if (event.key === "[") app.set({ layer: Math.max(1, state.layer - 1) });
    else if (event.key === "]") app.set({ layer: Math.min(layers, state.layer + 1) });
    else if (event.key === ",") showHead(app, state.layer, (state.head + heads - 1) % heads);
    else if (event.key === ".") showHead(app, state.layer, (state.head + 1) % heads);
  });
  for (const medium of ["(prefers-color-scheme: dark)", "print"]) // pictures keep the colours they were drawn in
    matchMedia(medium).addEventListener("change", () => drawn.forEach((panel) => panel.draw()));
}

/** What the panels read of a reading. @param {any} facts @param {Reading} reading */
const shownOf = (facts, reading) => ({ reading, numbers: makeNumbers(facts, reading),
  pieces: reading.tokens.map((token) => token.piece), share: sharesOf(reading) });

/** The shares of a head. @param {Reading} reading */
const sharesOf = (reading) => (layer, head) => (s, r) => reading.block(`attention.${layer}`).at(head, s, r);

/** The head that looks at the fewest tokens, to begin with. @param {Reading} reading */
function sharpest({ opened, layers }) {
  const all = opened.flatMap((layer) => range(layers[layer - 1].heads).map((head) => ({ layer, head })));
  const distinct = ({ layer, head }) => layers[layer - 1].distinct[head];
  return all.sort((a, b) => distinct(a) - distinct(b))[0];
}

/** One layer and head for all panels. @param {any} app @param {number} layer @param {number} head */
const showHead = (app, layer, head) => app.set({ layer, head, heads: new Set([head]) });

/** The layers as a list. @param {any} app @param {string} id */
const layerPicker = ({ reading, state, set }, id) => choice("layer", reading.layers.map((_, i) => [i + 1, i + 1]),
  state.layer, (v) => set({ layer: +v }), id);

/** Buttons with the tokens; the chosen one is pressed. @param {any} app @param {string} id */
const tokenButtons = (app, id) => h("p", { class: "tokens" }, app.pieces.map((piece, i) =>
  h("button", { id: `${id}-${i}`, class: "token", "aria-pressed": i === app.state.token,
      onclick: () => app.set({ token: i }) }, piece)));

/**
 * The panel that tells how a number came about, down to the last sum.
 * @param {any} app @param {HTMLElement} main
 */
function storyTeller(app, main) {
  const aside = h("aside", { id: "story", hidden: true, tabindex: -1, "aria-label": "how a number came about" });
  main.append(aside);
  /** @type {Cell[]} */
  let path = [];
  let before = "";
  const close = () => {
    const inside = aside.contains(document.activeElement);
    aside.hidden = true;
    path = [];
    if (inside) document.getElementById(before)?.focus();
  };
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !aside.hidden) close(); });
  const draw = (focus = true) => {
    const cell = path[path.length - 1], told = app.numbers.story(cell), source = app.facts.sources[told.source];
    const place = !cell.layer ? "embeddings" : `layer ${cell.layer}`
      + (OF_A_HEAD.includes(cell.kind) ? `, head ${cell.head + 1}` : "");
    const partView = (part) => {
      const words = `${part.name} = ${shown(part.value)}`;
      return part.cell ? h("button", { class: "part",
          onclick: () => { path.push(/** @type {Cell} */ (part.cell)); draw(); } }, words) : h("span", {}, words);
    };
    const product = (row) => sumOfProducts([row]), colourOf = signedColours();
    const most = Math.max(1e-12, ...told.rows.map((row) => Math.abs(product(row))));
    const line = (row) => {
      const chip = h("span", { class: "chip" });
      chip.style.background = colourOf(product(row) / most);
      return h("tr", {}, h("td", {}, row.map((part, i) => [i ? " · " : "", partView(part)])),
        h("td", { class: "number" }, chip, shown(product(row))));
    };
    aside.hidden = false;
    aside.replaceChildren(
      h("p", { class: "bar" },
        h("button", { id: "story-back", disabled: path.length < 2, onclick: () => { path.pop(); draw(); } },
          "← back"), ` step ${path.length} · `, h("b", { id: "story-place" }, place),
        h("button", { id: "story-close", onclick: close }, "close (Esc)")),
      h("h3", {}, `${told.name}: ${shown(told.value)}`), h("p", { class: "formula" }, told.formula),
      told.rows.length ? h("div", { class: "wide tall" }, h("table", {}, h("tbody", {}, told.rows.map(line)),
        h("tfoot", {}, h("tr", {}, h("td", {}, `sum of ${told.rows.length}`),
            h("td", { class: "number", id: "story-sum" }, shown(told.sum)))))) : "",
      told.then ? h("p", {}, told.then) : "",
      told.note ? h("p", { class: "faint" }, told.note) : "",
      source ? h("p", { class: "source" }, h("b", {}, `${source.file}:${source.line}`), h("code", {}, source.code),
        h("span", { class: "faint" }, "checked by ", h("code", {}, source.proof))) : "");
    if (focus) aside.focus();
  };
  const tell = (cell) => {
    if (aside.hidden) before = document.activeElement?.id ?? "";
    path = [cell];
    draw();
  };
  const again = () => { // of another text; a token may be gone
    const over = ["dot", "scaled", "masked", "weight"], most = app.pieces.length;
    if (aside.hidden) return;
    if (path.every((c) => c.row < most && (c.col < most || !over.includes(c.kind)))) draw(false);
    else { aside.hidden = true; path = []; }
  };
  return { tell, again };
}

// ---------------------------------------------------------------------------------- 1. the tokens

/** @param {any} app */
function tokensPanel(app) {
  const { facts, reading, state, numbers } = app, token = reading.tokens[state.token];
  const texts = reading.text.map((text, i) => {
    const letters = [...text], [from, to] = token.span && token.type === i ? token.span : [0, 0];
    return h("p", { class: "text" }, to > from ? [letters.slice(0, from).join(""),
        h("mark", {}, letters.slice(from, to).join("")), letters.slice(to).join("")] : text);
  });
  const words = reading.steps?.flat() ?? [], word = words[state.word];
  const steps = !word ? h("p", { class: "faint" },
    "This tokenizer works differently from the book's WordPiece, so its steps are not shown.") : [
    h("p", { class: "tokens" }, "WordPiece, word by word: ", words.map((one, i) =>
      h("button", { id: `word-${i}`, class: "token", "aria-pressed": i === state.word,
          onclick: () => app.set({ word: i }) }, one.text))),
    h("p", {}, h("code", {}, word.text), word.word === word.text ? ""
      : [" is normalised to ", h("code", {}, word.word)],
      "; the longest piece that is in the vocabulary wins, then the rest of the word is looked up:"),
    h("ol", { class: "tries" }, word.tries.map((list, i) => h("li", {}, list.map((one, j) =>
      j === list.length - 1 && word.pieces[i] === one ? h("b", {}, one) : h("s", {}, one))))),
    h("p", {}, "→ ", word.pieces.map((piece) => h("code", {}, piece)))];
  const kinds = ["word", "position", "type", "summed", "hidden"], names = ["word", "+ position", "+ type", "= sum",
    "norm → x"];
  const at = (r, c) => ({ kind: kinds[r], layer: 0, head: 0, row: state.token, col: c });
  const D = facts.config.hidden_size, pick = (from) => (r, c) => app.tell(at(from + r, c));
  const strip = (id, name, from, to) =>
    matrix({ id, name, shape: `${to - from} × D = ${to - from} × ${D}`, rows: names.slice(from, to), cols: D,
        signed: true, value: (r, c) => numbers.get(at(from + r, c)), pick: pick(from) });
  return [texts, tokenButtons(app, "token"), h("p", {}, h("code", {}, token.piece),
      ` id ${token.id} · position ${state.token} · sentence ${"AB"[token.type] ?? token.type}`,
    token.span && token.span[1] ? ` · characters ${token.span[0]} to ${token.span[1]}` : ""), steps,
    h("h3", {}, `The embedding of ${token.piece}`), strip("m-embedding", "word, position and sentence, added", 0,
      4),
    strip("m-embedded", "the sum, normalised: what layer 1 reads", 4, 5)];
}

// ------------------------------------------------------------------------------------- 2. the map

/** @param {any} app */
function mapPanel(app) {
  const { reading, state, pieces } = app, n = pieces.length, size = Math.max(48, Math.min(96, n * 3));
  const facts = { ...app.facts, layers: reading.layers, teacher: reading.live ? null : app.facts.teacher };
  const loss = (l, i) => facts.teacher.attention[l][state.map[l] - 1][i];
  const order = (l) => {
    const heads = range(facts.layers[l].heads), distinct = facts.layers[l].distinct;
    if (state.sort === "entropy") heads.sort((a, b) => distinct[a] - distinct[b]);
    if (state.sort === "teacher" && facts.teacher) heads.sort((a, b) => loss(l, a) - loss(l, b));
    return heads;
  };
  const open = (layer, head) => {
    showHead(app, layer, head);
    document.getElementById("head")?.scrollIntoView({ behavior: still() ? "auto" : "smooth" });
  };
  const rows = facts.layers.map((layer, l) => h("div", { class: "maprow" },
    h("span", { class: "rowname" }, `layer ${l + 1}`),
    order(l).map((head, place) => h("button", { id: `map-${l + 1}-${place}`, class: "thumb", "data-layer": l + 1,
        "data-head": head, "aria-pressed": l + 1 === state.layer && head === state.head,
      "aria-label": `layer ${l + 1}, head ${head + 1}, entropy ${layer.distinct[head]}`,
        title: `layer ${l + 1}, head ${head + 1}; entropy ${layer.distinct[head]}`,
      onclick: () => open(l + 1, head) },
      thumbnail(app.share(l + 1, head), n, size), h("small", {}, head + 1)))));
  const grid = h("div", { class: "wide", id: "grid", onkeydown: (event) => {
    const [, l, place] = (document.activeElement?.id.match(/^map-(\d+)-(\d+)$/) ?? []).map(Number);
    /** @type {Record<string, number[]>} */
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] },
      step = steps[event.key];
    if (!l || !step) return;
    document.getElementById(`map-${l + step[0]}-${place + step[1]}`)?.focus();
    event.preventDefault();
  } }, rows);
  const whole = () => {
    const side = size + 6, width = Math.max(...facts.layers.map((l) => l.heads)) * side + 70;
    const svg = d3.create("svg:svg").attr("width", width).attr("height", facts.layers.length * (side + 14) + 10)
      .attr("font-size", 11);
    facts.layers.forEach((_, l) => {
      svg.append("text").attr("x", 4).attr("y", l * (side + 14) + side / 2).attr("fill", css("--ink"))
        .text(`layer ${l + 1}`);
      order(l).forEach((head, i) => {
        svg.append("image").attr("x", 60 + i * side).attr("y", l * (side + 14) + 4).attr("width", size)
          .attr("height", size).attr("image-rendering", "pixelated").attr("href", thumbnail(app.share(l + 1, head),
            n, size).toDataURL());
        svg.append("text").attr("x", 60 + i * side).attr("y", l * (side + 14) + size + 15).attr("fill", css("--ink"))
          .text(head + 1);
      });
    });
    return svg.node();
  };
  const sorts = [["order", "number"], ["entropy", "entropy, the sharpest first"],
    ...(facts.teacher ? [["teacher", "distance to the teacher"]] : [])];
  return [h("p", {}, `Each picture is [S × R = ${n} × ${n}]: a row for each token that asks (query), a column for `,
      "each that is asked (key). A click opens the head below. ", scaleBar(false, 1)),
    h("p", { class: "bar" }, choice("sort heads by", sorts, state.sort, (sort) => app.set({ sort }),
        "map-sort"), saveButton(whole, "attention-map.svg")), grid];
}

// ------------------------------------------------------------------------------- 3. the head view

/**
 * Whether a line is drawn.
 * @param {any[]} tokens @param {any} state @param {number} s @param {number} r @param {number} share
 */
function lineShown(tokens, state, s, r, share) {
  const special = (i) => ["[CLS]", "[SEP]"].includes(tokens[i].piece);
  if (share < state.threshold || (!state.specials && (special(s) || special(r)))) return false;
  return state.pairs === "all" || state.pairs === "AB"[tokens[s].type] + "AB"[tokens[r].type];
}

/** @param {any} app */
function headPanel(app) {
  const { reading, state, pieces } = app, n = pieces.length, { heads } = reading.layers[state.layer - 1], row = 21,
    [x1, x2] = [190, 430];
  const chosen = [...state.heads].filter((head) => head < heads);
  const colour = (head) => HEADS[head % HEADS.length];
  const stroke = (head) => STROKES[Math.floor(head / HEADS.length) % STROKES.length];
  const y = (i) => 14 + i * row;
  const lines = chosen.flatMap((head) => range(n).flatMap((s) => range(n)
      .map((r) => ({ head, s, r, share: app.share(state.layer, head)(s, r) }))))
    .filter((line) => lineShown(reading.tokens, state, line.s, line.r, line.share));
  const svg = d3.create("svg:svg").attr("id", "lines").attr("viewBox", `0 0 620 ${n * row + 10}`)
    .attr("role", "group").attr("aria-label", "who asks whom")
    .attr("font-family", "system-ui, sans-serif").attr("font-size", 13);
  svg.append("g").selectAll("line").data(lines).join("line").attr("x1", x1).attr("x2", x2)
    .attr("y1", (d) => y(d.s)).attr("y2", (d) => y(d.r))
    .attr("stroke", (d) => colour(d.head)).attr("stroke-width", 2).attr("stroke-opacity", (d) => d.share)
    .attr("stroke-dasharray", (d) => stroke(d.head)[1]);
  const isolate = (token) => {
    const one = token < 0 ? state.pinned : token;
    svg.selectAll("line").attr("visibility", (d) => (one < 0 || d.s === one ? "visible" : "hidden"));
    svg.selectAll(".asked").attr("font-weight",
      (r) => (one >= 0 && chosen.some((head) => app.share(state.layer, head)(one, r) >= 0.1) ? "bold" : "normal"))
      .text((r) => one < 0 ? pieces[r]
        : `${pieces[r]}  ${chosen.map((head) => app.share(state.layer, head)(one, r).toFixed(2)).join(" ")}`);
  };
  const pin = (i) => app.set({ pinned: state.pinned === i ? -1 : i });
  svg.append("g").selectAll("text").data(range(n)).join("text").attr("id", (i) => `asks-${i}`).attr("class", "asks")
    .attr("x", x1 - 8).attr("y", (i) => y(i) + 4)
    .attr("text-anchor", "end").attr("fill", css("--ink")).attr("tabindex", 0).attr("role", "button")
      .attr("aria-pressed", (i) => i === state.pinned)
    .attr("font-weight", (i) => (i === state.pinned ? "bold" : "normal")).text((i) => pieces[i])
    .on("mouseenter focus", (_, i) => isolate(i)).on("mouseleave blur", () => isolate(-1))
    .on("click", (_, i) => pin(i))
    .on("keydown", (event, i) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      pin(i);
      event.preventDefault();
    });
  svg.append("g").selectAll("text").data(range(n)).join("text").attr("class", "asked").attr("x", x2 + 8)
    .attr("y", (i) => y(i) + 4).attr("fill", css("--ink"));
  isolate(-1);
  const only = (head) => { // if it is the only one already, show all again
    const alone = chosen.length === 1 && chosen[0] === head;
    app.set({ head, heads: new Set(alone ? range(heads) : [head]) });
  };
  let waiting = 0;
  const toggle = (head) => { // a double click begins with a click, so a click waits
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const next = new Set(chosen);
      if (!next.delete(head)) next.add(head);
      app.set({ heads: next });
    }, 250);
  };
  const chips = range(heads).map((head) => {
    const button = h("button", { id: `chip-${head}`, class: "headchip", "aria-pressed": chosen.includes(head),
        "aria-label": `head ${head + 1}`,
      onclick: () => toggle(head), ondblclick: () => { clearTimeout(waiting); only(head); },
      onkeydown: (event) => { if (event.key === "o") only(head); } }, head + 1);
    button.style.setProperty("--chip", colour(head));
    button.style.borderStyle = stroke(head)[0];
    return button;
  });
  const check = h("label", {}, h("input", { type: "checkbox", id: "specials", checked: !state.specials,
      onchange: (e) => app.set({ specials: !e.target.checked }) }), " hide [CLS] and [SEP]");
  const slider = h("label", {}, "shares of at least ", h("input", { type: "range", id: "threshold", min: 0, max: 0.5,
      step: 0.01, value: state.threshold, onchange: (e) => app.set({ threshold: +e.target.value }) }),
    ` ${state.threshold.toFixed(2)}`);
  const pairs = reading.text.length > 1 ? choice("sentences", [["all", "all"], ["AA", "A → A"], ["AB", "A → B"],
      ["BA", "B → A"], ["BB", "B → B"]], state.pairs, (v) => app.set({ pairs: v }), "pairs") : "";
  return [h("p", { class: "bar" }, layerPicker(app, "head-layer"), "heads ", chips,
      h("button", { id: "all-heads", onclick: () => app.set({ heads: new Set(range(heads)) }) }, "all heads")),
    h("p", { class: "bar" }, check, slider, pairs, saveButton(() => svg.node(), `layer-${state.layer}.svg`)),
    h("p", { class: "faint" }, "Tokens on the left ask those on the right; the stronger a line, the larger the share. ",
      "Point at a token to see only its lines, click it to keep them. ",
      "Click a head to add or remove it; double-click it (or press o) to see only it, and once more to see all."),
    chosen.length ? svg.node() : h("p", {}, "No head is chosen.")];
}

// --------------------------------------------------------------------------- 4. one attention head

/** The stages: what is seen, in which kind of cell, of what size, and what it says. */
const STAGES = [
  ["x", ["hidden"], "D", "Each token comes in as a vector: its hidden state from the layer before."],
  ["q, k, v", ["query", "key", "value"], "K",
    "Three linear maps turn it into what it asks for, what it can be found by, and what it hands out."],
  ["q · k", ["dot"], "S", "The dot product of each query and each key: the sum of the products of their numbers."],
  ["/ √K", ["scaled"], "S", "A sum of K products grows like √K; dividing brings it back to the size of one product."],
  ["mask", ["masked"], "S", "Padding would get -∞ here, and so no share. A single text has no padding."],
  ["softmax", ["weight"], "S", "Each row of scores becomes shares that add up to 1."],
  ["weighted sum", ["taken"], "K", "Each token takes its shares of the values."],
  ["output map", ["output"], "D", "All heads, this one among them, side by side, go through one more linear map."],
  ["add", ["added"], "D", "The input x is added: the layer only says what to change."],
  ["norm", ["attended"], "D",
    "Every vector is brought to mean 0 and variance 1, then scaled and shifted. The feed-forward comes next."],
];

/** @param {any} app */
function stepsPanel(app) {
  const { facts, reading, state, pieces, numbers } = app, layer = state.layer;
  const pickers = [layerPicker(app, "steps-layer"), choice("head", range(reading.layers[layer - 1].heads)
    .map((i) => [i, i + 1]), state.head, (v) => showHead(app, layer, +v), "steps-head")];
  if (!reading.opened.includes(layer)) {
    return [h("p", { class: "bar" }, pickers), h("p", {},
      `Of layer ${layer} the page has only the shares. Layers that can be opened: ${reading.opened.join(", ")}.`)];
  }
  const [, kinds, axis, says] = /** @type {any[]} */ (STAGES[state.stage]), K = reading.layers[layer - 1].key_width;
  const cols = { D: facts.config.hidden_size, K, S: pieces.length }[/** @type {"D"} */ (axis)];
  const on = (kind) => (kind === "hidden" ? layer - 1 : layer);
  const pictures = kinds.map((kind) => {
    const at = (r, c) => ({ kind, layer: on(kind), head: state.head, row: r, col: c });
    return matrix({ id: `m-${kind}`, kind, name: kind === "hidden" ? "x" : kind === "weight" ? "shares"
        : kind === "attended" ? "a = norm(x + o)" : kind, rows: pieces, cols, row: state.token,
      shape: axis === "S" ? `S × R = ${pieces.length} × ${cols}` : `S × ${axis} = ${pieces.length} × ${cols}`,
        colNames: axis === "S" ? pieces : undefined,
      signed: kind !== "weight", value: (r, c) => numbers.get(at(r, c)), pick: (r, c) => app.tell(at(r, c)) });
  });
  const go = (stage) => app.set({ stage: Math.max(0, Math.min(STAGES.length - 1, stage)) });
  const play = () => {
    if (playing) { clearInterval(playing); playing = 0; app.set({ stage: app.state.stage }); return; }
    playing = setInterval(() => { if (app.state.stage === STAGES.length - 1) play(); else go(app.state.stage + 1); },
      2500);
    go(app.state.stage === STAGES.length - 1 ? 0 : app.state.stage);
  };
  app.scrub ??= h("input", { type: "range", id: "step-scrub", min: 0, max: STAGES.length - 1, "aria-label": "step",
    oninput: (e) => go(+e.target.value) }); // made once, as it may be held while the panel is drawn
  app.scrub.value = state.stage;
  return [h("p", { class: "bar" }, pickers,
      h("button", { id: "step-play", onclick: play }, playing ? "pause" : "play"),
      h("button", { id: "step-back", disabled: !state.stage, onclick: () => go(state.stage - 1) }, "← step"),
      h("button", { id: "step-on", disabled: state.stage === STAGES.length - 1, onclick: () => go(state.stage + 1) },
        "step →")),
    app.scrub,
    h("p", { class: "bar stages" },
      STAGES.map(([name], i) => h("button", { id: `stage-${i}`, "aria-pressed": i === state.stage,
        onclick: () => go(i) }, name))),
    tokenButtons(app, "asks4"), h("p", { id: "says" }, says, " Click any number to see where it comes from."),
      h("div", { class: "pictures" }, pictures)];
}
let playing = 0;

// ------------------------------------------------------------------------------------ 5. the words

/** @param {any} app */
function wordsPanel(app) {
  const { facts, reading, state, pieces } = app;
  if (!reading.said) return [h("p", {},
    `This model has the head "${facts.head}" and none that names words, so it cannot say what it expects. `,
    "A masked-word head comes from pre-training; minibert/training/masked_head.py trains one on raw text.")];
  const last = reading.layers.length;
  const guesses = (list) => h("ol", { class: "guesses" }, list.map(([piece, share]) => bar(piece, share)));
  const cell = (list, l, s) => {
    const [piece, share] = list[0], title = list.map(([p, x]) => `${p} ${(100 * x).toFixed(1)} %`).join("\n");
    return h("td", {}, shareButton(share, { id: `lens-${l}-${s}`, "aria-pressed": s === state.token && l === last,
      title, onclick: () => app.set({ token: s }) }, piece));
  };
  return [tokenButtons(app, "say"), h("div", { class: "columns" },
      h("div", { id: "as-read" }, h("h3", {}, `${pieces[state.token]}, as it stands`),
        guesses(reading.said(last, state.token))),
      h("div", { id: "if-masked" }, h("h3", {}, `${pieces[state.token]}, if it were [MASK]`),
        guesses(reading.ifMasked(state.token)))),
    h("h3", {}, "What each layer would say"), h("p", { class: "faint" },
      "The head, trained on the last layer only, reads the states of every layer. ",
      "The colour is the probability of the likeliest piece. ", scaleBar(false, 1)),
    h("div", { class: "wide", id: "lens" },
      h("table", {}, h("thead", {}, h("tr", {}, h("th"), pieces.map((p) => h("th", {}, p)))),
      h("tbody", {}, range(last + 1).reverse().map((l) => h("tr", {}, h("th", {}, l ? `layer ${l}` : "embeddings"),
        pieces.map((_, s) => cell(reading.said(l, s), l, s))))))),
    h("p", { class: "source faint" }, `${facts.sources.words.file}:${facts.sources.words.line}`)];
}

// ---------------------------------------------------------------------- 6. teacher beside student

/** @param {any} app */
function teacherPanel(app) {
  const { facts, state, written } = app, { teacher } = facts, n = written.tokens.length, L = written.layers.length;
  const head = state.head, heads = written.layers[0].heads, shares = sharesOf(written);
  const most = Math.max(1e-12, ...teacher.attention.flat(2));
  const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
  const rules = [...Object.keys(teacher.maps).map((rule) => [rule, rule]), ["custom", "your own"]];
  const svg = d3.create("svg:svg").attr("viewBox", `0 0 300 ${teacher.layers * 24 + 24}`).attr("class", "layermap")
    .attr("role", "img").attr("aria-label", `layers ${state.map.join(", ")} of the teacher`).attr("font-size", 12);
  const ys = (l, count) => 30 + (l - 0.5) * teacher.layers * 24 / count - 12;
  svg.append("text").attr("x", 10).attr("y", 12).attr("fill", css("--ink")).text("student");
  svg.append("text").attr("x", 210).attr("y", 12).attr("fill", css("--ink")).text("teacher");
  svg.selectAll("path").data(state.map).join("path").attr("fill", "none").attr("stroke", css("--query"))
    .attr("stroke-width", 2)
    .attr("d", (g, i) => d3.linkHorizontal()({ source: [70, ys(i + 1, L)], target: [205, ys(g, teacher.layers)] }));
  for (const [x, count] of [[10, L], [210, teacher.layers]]) svg.append("g").selectAll("text").data(range(count))
    .join("text").attr("x", x).attr("y", (i) => ys(i + 1, count) + 4).attr("fill", css("--ink"))
    .text((i) => `layer ${i + 1}`);
  const rows = range(L).map((l) => {
    const g = state.map[l], own = shares(l + 1, head), theirs = (s, r) => app.block(`teacher.${g}`).at(head, s, r);
    const losses = teacher.attention[l][g - 1];
    return h("tr", {}, h("th", {}, `${l + 1} ← `, choice("", range(teacher.layers).map((i) => [i + 1, i + 1]), g,
        (v) => app.set({ rule: "custom", map: state.map.map((x, i) => (i === l ? +v : x)) }), `g-${l}`)),
      h("td", {}, thumbnail(own, n, 72)), h("td", {}, thumbnail(theirs, n, 72)),
        h("td", {}, thumbnail((s, r) => own(s, r) - theirs(s, r), n, 72, true)),
      losses.map((loss, i) => h("td", {}, shareButton(loss / most, { id: `loss-${l}-${i}`,
        "aria-pressed": i === head, onclick: () => showHead(app, l + 1, i) }, shown(loss)))),
      h("td", { class: "number" }, shown(mean(losses))), teacher.hidden ? h("td", { class: "number" },
        shown(teacher.hidden[l][g - 1])) : null);
  });
  const sum = mean(range(L).map((l) => mean(teacher.attention[l][state.map[l] - 1]))) * L;
  const own = "This panel stays with the page's own text: the teacher is not in the page.";
  const grouped = `; each of the ${heads} heads here is compared with the mean of ${teacher.heads / heads} of them`;
  return [h("p", {},
      `${facts.about.teacher}: ${teacher.layers} layers, ${teacher.width} wide, ${teacher.heads} heads`,
      teacher.heads > heads ? grouped : "", ". ", app.reading.live ? own : ""),
    h("p", { class: "bar" }, choice("layer map", rules, state.rule,
        (rule) => app.set({ rule, map: rule === "custom" ? state.map : [...teacher.maps[rule]] }), "rule"),
      h("span", { id: "loss-sum" }, `attention loss on this text, all layers: ${shown(sum)}`),
      saveButton(() => svg.node(), "layer-map.svg")), svg.node(),
    h("p", { class: "faint" },
      `Pictures are of head ${head + 1}, [S × R = ${n} × ${n}]: shares of student and teacher `, scaleBar(false, 1),
      ", their difference ", scaleBar(true, 1),
      ". Numbers are mean squared differences of scores, as TinyBERT compares them ", scaleBar(false, most), "."),
    h("div", { class: "wide" },
      h("table", {}, h("thead", {}, h("tr", {}, ["layer", "student", "teacher", "difference", ...range(heads)
        .map((i) => `head ${i + 1}`), "mean", ...(teacher.hidden ? ["states"] : [])].map((t) => h("th", {}, t)))),
      h("tbody", {}, rows)))];
}

// ---------------------------------------------------------------------------- 7. how it was trained

/** @param {any} app */
function trainingPanel(app) {
  const groups = d3.groups(app.facts.curves, (c) => `${c.kind === "lr" ? "learning rate" : `${c.kind}: ${c.name}`}`);
  const phases = [...new Set(app.facts.curves.map((c) => c.phase))];
  const own = "These curves were recorded in training; they do not depend on the text.";
  return [h("p", { class: "faint" }, own), h("div", { class: "columns" }, groups.map(([title, lines]) => {
    const points = lines.flatMap((l) => l.points), values = points.map((p) => p[1]);
    const low = Math.min(...values), high = Math.max(...values), log = low > 0 && high / low > 30;
    const x = d3.scaleLinear([0, Math.max(...points.map((p) => p[0]))], [48, 344]);
    const floor = lines[0].kind === "dev" ? low : Math.min(low, 0); // a loss ends at 0, a score does not begin there
    const y = (log ? d3.scaleLog([low, high], [150, 10]) : d3.scaleLinear([floor, high || 1], [150, 10])).nice();
    const svg = d3.create("svg:svg").attr("viewBox", "0 0 360 190").attr("class", "curve").attr("role", "img")
      .attr("aria-label", `${title}, from ${shown(values[0])} to ${shown(values[values.length - 1])}`);
    const written = (v) => (v && v < 1e-3 ? v.toExponential(0) : d3.format("~g")(v));
    svg.append("g").attr("transform", "translate(0,150)").call(d3.axisBottom(x).ticks(4));
    svg.append("g").attr("transform", "translate(48,0)")
      .call(d3.axisLeft(y).ticks(4) // a log scale leaves some out
        .tickFormat(log ? y.tickFormat(4, written) : written));
    lines.forEach((line) => {
      const i = phases.indexOf(line.phase);
      svg.append("path").datum(line.points).attr("fill", "none").attr("stroke", HEADS[i % HEADS.length])
        .attr("stroke-width", 2).attr("stroke-dasharray", i ? `${6 - i} 3` : null)
        .attr("d", d3.line((p) => x(p[0]), (p) => y(p[1])));
      svg.append("g").selectAll("circle").data(line.points).join("circle").attr("cx", (p) => x(p[0]))
        .attr("cy", (p) => y(p[1])).attr("r", 3).attr("fill", HEADS[i % HEADS.length]).append("title")
        .text((p) => `${line.phase}, step ${p[0]}: ${shown(p[1])}`);
      svg.append("text").attr("x", 56 + i * 110).attr("y", 186).attr("font-size", 11)
        .attr("fill", HEADS[i % HEADS.length]).text(line.phase);
    });
    return h("figure", {}, h("figcaption", {}, h("span", {}, title),
      saveButton(() => svg.node(), `${title.replace(/\W+/g, "-")}.svg`)), svg.node(),
      h("details", {}, h("summary", {}, "numbers"),
        h("ul", {}, points.map((p) => h("li", {}, `step ${p[0]}: ${shown(p[1])}`)))));
  }))];
}

// ---------------------------------------------------------------------------- 8. what this page is

/** The maps of the open layers whose weights are kept in this many bits. @param {Reading} written */
const mapsIn = (written, bits) => written.opened.map((layer) => [layer, MAPS.filter((map) =>
  written.bits(`${map}.${layer}`) === bits)]).filter(([, maps]) => maps.length)
  .map(([layer, maps]) => `layer ${layer} (${maps.length < MAPS.length ? maps.join(", ") : "all"})`).join(", ");

/** @param {any} app */
function aboutPanel(app) {
  const { facts } = app, rows = { ...facts.about, text: facts.text.join(" · "), ...facts.config };
  const live = app.facts.live && !app.facts.live.why ? [h("p", {},
      "For a sentence of your own, all numbers are computed in this page, in 32 bits, by a model whose weights ",
      "are integers of eight bits, with a scale for each row: ", differenceWords(facts.live.differences))] : [];
  return [h("p", {}, h("b", {}, "Attention is not explanation."),
      " A share says how much of a value was taken, not why the model answered as it did. ",
      "Other shares can give the same answer (Jain and Wallace 2019, arXiv:1902.10186); whether shares explain ",
      "anything depends on what is asked of an explanation (Wiegreffe and Pinter 2019, arXiv:1908.04626). ",
      "Values may be small where shares are large, as those of [SEP] often are (Kobayashi et al. 2020, ",
      "arXiv:2004.10102); the residual connections and the feed-forward bypass all shares."),
    h("p", {}, "For the text that the page was made with, shares in the map and the head view are kept in eight ",
      "bits, accurate to 0.002; states, queries, keys and values in half precision, three digits. ",
      "Weights of linear maps are in the page while there is room: ", [[16, "in half precision"],
        [8, "in eight bits, with a scale for each row"], [0, "not at all"]].map(([bits, how]) =>
        [how, mapsIn(app.written, bits)]).filter(([, maps]) => maps)
        .map(([how, maps]) => `${how}, those of ${maps}`).join("; "), "."), live,
    h("div", { class: "wide" }, h("table", { id: "provenance" }, h("tbody", {}, Object.entries(rows)
        .map(([key, value]) => h("tr", {}, h("th", {}, key),
        h("td", {}, typeof value === "object" ? JSON.stringify(value) : String(value))))))),
    h("details", {}, h("summary", {}, "The licence of d3, which draws lines and curves here"),
      h("p", { class: "text faint" }, document.getElementById("licence")?.textContent ?? ""))];
}

/** Every panel: id, title, the fact it needs, what of the state it shows, and how it is drawn. @type {any[][]} */
const PANELS = [
  ["live", "A sentence of your own", "live", ["reading"], livePanel],
  ["tokens", "From text to vectors", null, ["reading", "token", "word"], tokensPanel],
  ["map", "Every head of every layer", null, ["reading", "layer", "head", "sort", "map"], mapPanel],
  ["head", "Who asks whom", null,
    ["reading", "layer", "head", "heads", "pinned", "specials", "pairs", "threshold"], headPanel],
  ["steps", "One attention head, step by step", null, ["reading", "layer", "head", "token", "stage"], stepsPanel],
  ["words", "Which words it expects", null, ["reading", "token"], wordsPanel],
  ["teacher", "Beside its teacher", "teacher", ["reading", "map", "rule", "head", "layer"], teacherPanel],
  ["training", "How it was trained", "curves", [], trainingPanel],
  ["about", "What this page shows, and what it does not", null, [], aboutPanel],
];

if (typeof document !== "undefined") start(); // in Node the tests call the functions alone
