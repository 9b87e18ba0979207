"""Training: one loop, exact resume, and the two tasks that use it, `finetune` and `distil`."""
