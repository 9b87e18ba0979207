"""Fast twins of book functions, proven equal by tests at every token that is kept.

Read them in this order:

- `products`: y = x Wᵀ + b, by the fastest way that the machine has
- `packing`: a ragged batch as one run of tokens
- `dropout`, `attention`, `linear`: the parts of a block, with hand-written gradients
- `quantized`: the same linear maps in 8-bit integers
- `encoder`: the whole, for training, inference, tracing and classifying
- `optim`: Adam and clipping in place
"""
