"""Text in: readers of labelled files, the fast tokenizer, batches, and a small demo corpus."""
