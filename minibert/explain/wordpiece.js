/* WordPiece: from a string to the pieces of a vocabulary. minibert/wordpiece.py once more, same names.
 *
 * A word is a list of characters, since a string of JavaScript counts halves of some. The categories of Unicode
 * are those of version 8.0, as in the book: what came later is told by `gained` and `changed`, which are the book's.
 */
"use strict";

const CATEGORIES = ["Z", "P", "Mn", "Cc", "Cf", "Co"].map((name) => /** @type {[string, RegExp]} */
  ([name, new RegExp(`\\p{${name}}`, "u")]));

/**
 * A word of a text: as it stands there, as it is read, what was looked up for each piece, its pieces, and from
 * where to where in the text each of them comes from.
 * @typedef {{text: string, word: string, tries: string[][], pieces: string[], spans: number[][]}} Word
 * All that Python knows comes from there; `longest` counts the characters of a word that is looked up at all.
 * @param {{pieces: string[], specials: string[], longest: number, lowercase: boolean, gained: string,
 *          changed: Record<string, string>, chinese: string}} rules
 */
function makeWordPiece({ pieces, specials, longest, lowercase, gained, changed, chinese }) {
  const ids = new Map(pieces.map((piece, id) => [piece, id]));
  const later = new RegExp(gained, "u"), ideograph = new RegExp(chinese, "u");

  /** The general category in Unicode 8.0, as far as WordPiece asks. @param {string} character */
  const category = (character) => later.test(character) ? "Lo"
    : changed[character] ?? CATEGORIES.find(([, pattern]) => pattern.test(character))?.[0] ?? "Lo";
  const isSpace = (character) => "\t\n\r".includes(character) || category(character) === "Z";
  const isDropped = (character) => character === "\ufffd" || ["Cc", "Cf", "Co"].includes(category(character));
  const isPunctuation = (character) => character < "\x7f" ? character > " " && !/[0-9A-Za-z]/.test(character)
    : category(character).startsWith("P");
  const isAlone = (character) => isPunctuation(character) || ideograph.test(character);

  /** Canonical decomposition, each character with: does it open a character of the text? @param {string[]} text */
  function decompose(text) {
    /** Of each part, in the order of the text. @type {Record<string, boolean[]>} */
    const opens = {};
    for (const character of text)
      [...character.normalize("NFD")].forEach((part, place) => (opens[part] ??= []).push(place === 0));
    return [...text.join("").normalize("NFD")].map((part) =>  // the same parts, but marks are sorted
      ({ part, opens: opens[part].shift() }));
  }

  /** Clean, strip accents, lower-case; of each character the place of the one it came from. @param {string[]} text */
  function normalise(text) {
    const kept = [...text.keys()].filter((place) => isSpace(text[place]) || !isDropped(text[place]));
    const cleaned = kept.map((place) => (isSpace(text[place]) ? " " : text[place]));
    if (!lowercase) return { characters: cleaned, origins: kept };
    const characters = [], origins = [];
    let opened = -1;
    for (const { part, opens } of decompose(cleaned)) {
      if (opens) opened += 1;
      if (category(part) === "Mn") continue;
      for (const lowered of part.toLowerCase()) {
        characters.push(lowered);
        origins.push(kept[opened]);
      }
    }
    return { characters, origins };
  }

  /** From where to where each word goes; punctuation and ideographs stand alone. @param {string[]} text */
  function splitWords(text) {
    const spans = [];
    let start = 0;
    [...text, " "].forEach((character, place) => {
      if (character !== " " && !isAlone(character)) return;
      if (start < place) spans.push([start, place]);
      if (character !== " ") spans.push([place, place + 1]);
      start = place + 1;
    });
    return spans;
  }

  /** Again and again the longest piece that the rest of the word begins with. @param {string[]} word */
  function longestMatch(word) {
    const found = [], tries = [];
    let start = 0;
    while (start < word.length && word.length <= longest) {
      const rests = [];
      for (let end = word.length; end > start; end--) rests.push((start ? "##" : "") + word.slice(start, end).join(""));
      const place = rests.findIndex((piece) => ids.has(piece));
      if (place < 0) return { tries: [...tries, rests], pieces: ["[UNK]"] };
      tries.push(rests.slice(0, place + 1));
      found.push(rests[place]);
      start = word.length - place;
    }
    return { tries, pieces: start < word.length ? ["[UNK]"] : found };
  }

  /** The words of a part without specials, which begins at a character of the text. */
  function wordsOf(part, offset) {
    const { characters, origins } = normalise(part);
    return splitWords(characters).map(([from, to]) => {
      const word = characters.slice(from, to), { tries, pieces: found } = longestMatch(word), ends = [from];
      for (const piece of found) {
        const length = [...piece].length - (ends.length > 1 ? 2 : 0); // without its ##
        ends.push(piece === "[UNK]" ? to : ends[ends.length - 1] + length);
      }
      const spans = found.map((_, i) => [offset + origins[ends[i]], offset + origins[ends[i + 1] - 1] + 1]);
      const text = part.slice(origins[from], origins[to - 1] + 1).join("");
      return { text, word: word.join(""), tries, pieces: found, spans };
    });
  }

  /** Every word of a text; a literal special is a word. @param {string} text @returns {Word[]} */
  function words(text) {
    const literal = specials.map((special) => special.replace(/[[\]]/g, "\\$&")).join("|");
    let offset = 0;
    return text.split(new RegExp(`(${literal})`)).flatMap((string, i) => {
      const part = [...string], start = offset;
      offset += part.length;
      if (i % 2 === 0) return wordsOf(part, start);
      return [{ text: string, word: string, tries: [[string]], pieces: [string], spans: [[start, offset]] }];
    });
  }
  return { ids, words };
}
