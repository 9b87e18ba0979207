"""One page that shows a model at work on one text: `minibert explain`.

`reading` computes what there is to see, `page` lays it into one file with `viewer.js`, `viewer.css`
and d3; `demo` trains a small model for whoever has none.
"""
