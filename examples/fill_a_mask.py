"""Teach a small BERT some capitals by masking words, save it, load it as anyone would, and ask it.

    python examples/fill_a_mask.py [MODEL_DIR]

Given the folder of a masked language model (bert-base-uncased, say), it only asks. Without one it
first pretrains a 2-layer model for a few seconds on 48 sentences: of the chosen words 80 % become
[MASK], 10 % become a random word, 10 % stay, and only the chosen words count in the loss.
"""

import sys
import tempfile

import torch

from minibert import Bert, BertConfig, encode
from minibert.data.batches import collate
from minibert.data.tokenizer import SPECIALS, Tokenizer
from minibert.heads import mlm_logits
from minibert.losses import mlm_loss
from minibert.masking import mask_tokens
from minibert.optim import adam_form, linear_schedule
from minibert.training.trainable import Trainable

CAPITALS = {
    "france": "paris", "italy": "rome", "spain": "madrid", "portugal": "lisbon",
    "austria": "vienna", "norway": "oslo", "greece": "athens", "egypt": "cairo",
    "japan": "tokyo", "kenya": "nairobi", "peru": "lima", "cuba": "havana",
}  # fmt: skip
TEMPLATES = (
    "{city} is the capital of {country} .",
    "the capital of {country} is {city} .",
    "they live in {city} , {country} .",
    "who rules {country} lives in {city} .",
)
ASKED = ["paris is the capital of [MASK] .", "the capital of [MASK] is [MASK] .",
         "they live in [MASK] , japan ."]  # fmt: skip
STEPS = 250


def pretrained(folder: str) -> str:
    """A masked-language model of the 48 sentences, saved to a folder."""
    texts = [t.format(city=c, country=land) for land, c in CAPITALS.items() for t in TEMPLATES]
    tokenizer = Tokenizer.from_vocabulary([*SPECIALS, *sorted(set(" ".join(texts).split()))])
    encodings = tokenizer.encode(texts)
    config = BertConfig(
        vocab_size=len(tokenizer.pieces), hidden_size=64, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=256, max_position_embeddings=16,
        initializer_range=0.1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = Bert.from_config(config, "mlm", tokenizer, seed=0)
    trainable = Trainable(model.weights)
    generator = torch.Generator().manual_seed(0)
    batch = collate(encodings, range(len(texts)), tokenizer.pad_id)
    for step in range(STEPS):
        ids_BS, labels_BS = batch.ids_BS.clone(), torch.full_like(batch.ids_BS, -100)
        for b, length in enumerate(batch.keep_BS.sum(1).tolist()):
            # every word is its own group, but [CLS] at the front and [SEP] at the end have none
            groups_S = torch.arange(length) - 1
            groups_S[-1] = -1
            ids_BS[b, :length], labels_BS[b, :length] = mask_tokens(
                ids_BS[b, :length], groups_S, config.vocab_size, tokenizer.mask_id, generator
            )
        weights = trainable.weights(torch.float32)
        hidden_BSD = encode(ids_BS, batch.keep_BS, batch.types_BS, weights, config, generator)
        logits_BSV = mlm_logits(hidden_BSD, weights.mlm, weights.embeddings.word_VD, config)
        loss = mlm_loss(logits_BSV, labels_BS)
        trainable.gradient_P.zero_()
        loss.backward()
        trainable.update(3e-3 * linear_schedule(step, 20, STEPS), adam_form("adamw"))
        if step % 100 == 0 or step == STEPS - 1:
            print(f"step {step:3}: masked-word loss {loss.item():.3f}")
    model.weights = trainable.finished_weights()
    model.save_pretrained(folder)
    return folder


with tempfile.TemporaryDirectory() as scratch:
    model = Bert.from_pretrained(sys.argv[1] if len(sys.argv) > 1 else pretrained(scratch))

for text in ASKED:
    print(f"\n{text}")
    for guesses in model.fill_mask(text, top=5):
        print("  [MASK] =", ", ".join(f"{piece} {chance:.2f}" for piece, chance in guesses))
print("\nOne mask has one answer; with both words hidden, several pairs fit and share the chance.")
