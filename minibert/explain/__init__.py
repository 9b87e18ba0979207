"""One page that shows a model at work on one text: `minibert explain`.

`reading` computes what there is to see, `live` writes the weights in eight bits, `page` lays both
into one file with our scripts, `viewer.css` and d3; `demo` trains a small model for whoever has
none. In the page `wordpiece.js` and `live.js` are the book once more, `reading.js` makes of any
text what `reading` makes, `numbers.js` says how each number came about, `desk.js` is where one
types, and `viewer.js` draws it.
"""
