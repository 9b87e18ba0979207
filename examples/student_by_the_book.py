"""A 4-layer, 128-wide student of a BERT, with Adam(1e-5, (0.9, 0.98), 1e-9) and cross-entropy.

    python examples/student_by_the_book.py [TEACHER_DIR]

A common snippet loads a pretrained model, sets `config.num_hidden_layers = 4` and
`config.hidden_size = 128`, and goes on training. That makes no student: a config describes
weights, it does not shape them. The first part shows this; the second builds and trains the
intended student. Without a folder the teacher is a small random one, so nothing is downloaded.
"""

import dataclasses
import sys

import torch

from minibert import Bert, BertConfig, encode
from minibert.heads import pooled, sequence_logits
from minibert.losses import cross_entropy
from minibert.optim import adam_form, adam_step, initial_adam_state
from minibert.parameters import BertWeights, flatten, named_tensors, views_of


def size(weights: BertWeights) -> str:
    total = sum(tensor.numel() for _, tensor in named_tensors(weights))
    return f"{len(weights.blocks)} layers, {total / 1e6:.2f} M parameters"


if len(sys.argv) > 1:
    teacher = Bert.from_pretrained(sys.argv[1], head="encoder")
else:
    sizes = BertConfig(vocab_size=1000, hidden_size=192, num_hidden_layers=6)
    teacher = Bert.from_config(sizes, "encoder")

# 1. Changing the config of a loaded model does nothing to the model.
wish = dataclasses.replace(
    teacher.config, num_hidden_layers=4, hidden_size=128, num_attention_heads=4,
    intermediate_size=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
changed = dataclasses.replace(teacher, config=wish)
print("teacher:                 ", size(teacher.weights))
print("after changing its config:", size(changed.weights), "- the same weights\n")

# 2. A student is made from a config: new weights, which have to learn everything.
student = Bert.from_config(wish, "classification", seed=0)
print("student:                 ", size(student.weights))

# A toy task that every token takes part in: is the sum of the ids even?
generator = torch.Generator().manual_seed(0)
ids_BS = torch.randint(5, 50, (32, 7), generator=generator)
labels_B = ids_BS.sum(1) % 2
keep_BS, types_BS = torch.ones_like(ids_BS, dtype=torch.bool), torch.zeros_like(ids_BS)

# Adam as the text has it: m/(√v + ε), no bias correction, and these three numbers.
adam = adam_form("momentum")._replace(beta1=0.9, beta2=0.98, eps=1e-9)
parameters_P = flatten(student.weights)
state = initial_adam_state(parameters_P)
print("\nstep  cross-entropy")
for step in range(60):
    parameters_P.requires_grad_()
    weights = views_of(parameters_P, student.weights)
    hidden_BSD = encode(ids_BS, keep_BS, types_BS, weights, wish)
    logits_BC = sequence_logits(pooled(hidden_BSD, weights.pooler), weights.classifier)
    loss = cross_entropy(logits_BC, labels_B)
    (gradient_P,) = torch.autograd.grad(loss, parameters_P)
    parameters_P, state = adam_step(parameters_P.detach(), gradient_P, state, 1e-5, adam)
    if step % 10 == 0 or step == 59:
        print(f"{step:4}  {loss.item():.4f}")
print("\nlr 1e-5 is slow for fresh weights: it is made for a model that already knows much.")
