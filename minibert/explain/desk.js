/* The panel to type in: a sentence of your own, read by the model in the page.
 *
 * The fields are made once, so that the cursor stays where it is; everything else is redrawn.
 */
"use strict";

/** The model that is stored in the page, in integers of eight bits. @param {any} app */
function storedModel(app) {
  const tensors = [...document.querySelectorAll('script[id^="live."]')].map(({ id }) =>
    [id.slice("live.".length), app.block(id)]);
  return liveModel(app.facts.live, app.facts.config, Object.fromEntries(tensors));
}

/** How far weights of eight bits take it from the original model, as Python measured. @param {any} differences */
function differenceWords({ state, largest, share }) {
  return `on the text that the page was made with, its states are at most ${shown(state)} off (their largest `
    + `number is ${shown(largest)})${share === null ? "" : `, and the shares of its likeliest words at most `
    + `${(100 * share).toFixed(2)} points`}.`;
}

/** Fields for the text, and its tokens to click on; made once, so that the cursor stays. @param {any} app */
function makeDesk(app) {
  const { facts, written } = app, model = storedModel(app), mask = model.wordPiece.ids.get("[MASK]");
  const piecesOf = (tokens) => tokens.map((token) => token.piece);
  /** The pieces that were read last, and the places of those that a click has hidden. @type {Set<number>} */
  let hidden = new Set(), standing = piecesOf(written.tokens), waiting = 0, took = 0, why = "";
  const names = written.text.length > 1 ? ["sentence A", "sentence B"] : ["sentence"];
  const fields = written.text.map((text, i) => {
    const field = h("textarea", { id: `live-text-${i}`, rows: 2, maxlength: 4000, spellcheck: "false",
        "aria-describedby": "live-says",
      oninput: () => { clearTimeout(waiting); waiting = setTimeout(() => read(), 120); } });
    field.value = text;
    return field;
  });
  /** Read what stands in the fields, and hide or show the token that was clicked. */
  const read = (clicked = -1) => {
    clearTimeout(waiting);
    const text = fields.map((field) => field.value), found = liveTokens(model, text), before = performance.now();
    why = found.why ?? "";
    if (why) return draw();
    const pieces = piecesOf(found.tokens), moved = placesAfter(standing, pieces), place = moved[clicked] ?? -1;
    standing = pieces;
    hidden = new Set([...hidden].map((one) => moved[one]).filter((one) => one >= 0));
    if (place >= 0 && !hidden.delete(place)) hidden.add(place);
    const tokens = found.tokens.map((token, i) => hidden.has(i) ? { ...token, piece: "[MASK]", id: mask } : token);
    const reading = liveReading(model, text, found.steps, tokens);
    took = performance.now() - before;
    return app.show(reading, place >= 0 ? { token: place } : {});
  };
  const reset = () => {
    clearTimeout(waiting);
    hidden = new Set();
    standing = piecesOf(written.tokens);
    fields.forEach((field, i) => { field.value = written.text[i]; });
    why = "";
    app.show(written);
  };
  const row = h("p", { class: "tokens" }), says = h("p", { id: "live-says", role: "status" });
  const guesses = h("div", { class: "columns", id: "live-guesses" }), note = h("p", { class: "faint" });
  const chip = (piece, place) => h("button", { id: `live-${place}`, class: "token", onclick: () => read(place),
      "aria-pressed": piece === "[MASK]", disabled: why !== "" || ["[CLS]", "[SEP]"].includes(piece)
      || (piece === "[MASK]" && !hidden.has(place)), title: hidden.has(place) ? "click to show the word again"
      : piece === "[MASK]" ? "is part of the text" : "click to hide this word" },
    piece, hidden.has(place) ? [" ", h("s", {}, standing[place])] : null);
  const draw = () => {
    const { reading, pieces } = app, last = reading.layers.length;
    const masks = range(pieces.length).filter((place) => pieces[place] === "[MASK]"), some = masks.slice(0, 3);
    const best = (place) => reading.said(last, place).slice(0, 3)
      .map(([piece, share]) => `${piece} ${(100 * share).toFixed(1)} %`).join(", ");
    for (const field of fields) field.setAttribute("aria-invalid", String(why !== ""));
    row.replaceChildren(...pieces.map(chip));
    says.textContent = why ? `${why} The panels still show the previous text.`
      : !reading.said ? "This model has no head that names words; click a word to hide it and see the rest change."
      : masks.length === 0 ? "Click a word to hide it: the model then says what it expects there."
      : `${some.map((place) => `Position ${place}: ${best(place)}`).join("; ")}.`
      + (masks.length > 3 ? " Panel 5 has the others." : "");
    guesses.replaceChildren(...(reading.said && !why ? some : []).map((place) => h("div", {}, h("h3", {},
      `[MASK] at position ${place}${hidden.has(place) ? `, in place of ${standing[place]}` : ""}`),
      h("ol", { class: "guesses" }, reading.said(last, place).map(([piece, share]) => bar(piece, share))))));
    note.textContent = (reading.live ? `Computed in this page in ${took.toFixed(0)} ms, from weights of eight bits: `
      : "These are the numbers that Python computed when the page was made. Change a letter, or click a word, and "
      + "all panels are recomputed in this page, by a model with weights of eight bits: ")
      + differenceWords(facts.live.differences);
    document.documentElement.classList.toggle("follow", reading.live); // from now on it stays in view
  };
  const list = h("p", { class: "tokens tall" }), known = h("details", {}, h("summary", {},
    `The ${facts.live.pieces.length.toLocaleString("en")} pieces of its vocabulary`), list);
  known.addEventListener("toggle", () => { // thousands, so only when they are asked for
    if (!list.firstChild) list.append(...facts.live.pieces.map((piece) => h("code", {}, piece)));
  });
  const desk = h("div", { class: "desk" },
    h("div", { class: "fields" }, fields.map((field, i) => h("label", {}, names[i], field)),
      h("button", { id: "live-reset", onclick: reset }, "reset")), row, says);
  return { parts: [h("p", {}, "Type, or click a word to hide it, and see every panel change."), desk, guesses, known,
    note], draw };
}

/** @param {any} app */
function livePanel(app) {
  const { why } = app.facts.live;
  if (why) return [h("p", {}, `This page cannot read another text: ${why}. What it shows was computed by Python.`)];
  app.desk ??= makeDesk(app);
  app.desk.draw();
  return app.desk.parts;
}
