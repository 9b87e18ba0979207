"""One page that shows a model at work on one text: `minibert explain`.

`reading` computes what the page shows, `live` converts the weights to eight bits, `page` puts both
into one file with our scripts, `viewer.css` and d3; `demo` trains a small model if none is given.
In the page, `wordpiece.js` and `live.js` are the book once more, `reading.js` does for any text
what `reading` does, `numbers.js` says how each number came about, `desk.js` is the panel to type
in, and `viewer.js` draws it all.
"""
