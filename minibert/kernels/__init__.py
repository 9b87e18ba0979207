"""Fast twins of book functions, proven equal by tests at every token that is kept.

Read them in this order:

- `products`: y = x Wᵀ + b, by the fastest way that the machine has
- `packing`: a ragged batch as one run of tokens
- `dropout`, `attention`, `linear`: the parts of a block, with their gradients by hand
- `quantized`: the same linear maps in whole numbers of eight bits
- `encoder`: the whole, for training, inference, tracing and classifying
- `optim`: Adam and clipping in place
"""
