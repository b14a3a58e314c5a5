"""Trains the embedding model: BERT's architecture, under a million parameters, contrastively on pairs of texts.

The mean of the last layer's token vectors, scaled to length one, is the embedding; within a batch each text must find
its partner among all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import BertConfig, BertModel

from tools.demo_models.pairs import Pair
from tools.demo_models.progress import Progress, learning_rate_factor
from tools.demo_models.tokenizer import token_id

CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class Settings:
    """How long and how to train. The defaults made the model that lies in the repository."""

    seed: int = 0
    steps: int = 400
    minutes_max: float = 2.5
    pairs_per_step: int = 128
    tokens_max: int = 48
    temperature: float = 0.05
    learning_rate: float = 2e-3


def new_model(tokenizer: Tokenizer, seed: int) -> BertModel:
    """The untrained model; it has no pooler, since the mean of the tokens is used."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=CONTEXT_TOKENS,
        pad_token_id=token_id(tokenizer, "[PAD]"),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertModel(config, add_pooling_layer=False)  # type: ignore[no-untyped-call]


def train(tokenizer: Tokenizer, pairs: Iterator[Pair], settings: Settings) -> tuple[BertModel, Progress]:
    """Train on the pairs; returns the model and the progress with its last loss."""
    model = new_model(tokenizer, settings.seed)
    # Positions that the short training texts never reach keep their random start, so make that start small.
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.mul_(0.1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    progress = Progress("embedding model", settings.steps, settings.minutes_max * 60)
    model.train()
    while progress.share < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(progress.share, warm_up=0.05)
        first, second = zip(*islice(pairs, settings.pairs_per_step), strict=True)
        vectors = embed(model, tokenizer, [*first, *second], settings.tokens_max)
        scores = vectors[: len(first)] @ vectors[len(first) :].T / settings.temperature
        partners = torch.arange(len(first))
        loss = (functional.cross_entropy(scores, partners) + functional.cross_entropy(scores.T, partners)) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        progress.record(loss.item())
    model.train(False)
    return model, progress


def embed(model: BertModel, tokenizer: Tokenizer, texts: list[str], tokens_max: int = CONTEXT_TOKENS) -> torch.Tensor:
    """Unit vectors, shape (texts, hidden size)."""
    rows = [encoding.ids[:tokens_max] for encoding in tokenizer.encode_batch(texts)]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    summed = (hidden * mask.unsqueeze(-1)).sum(dim=1)
    return functional.normalize(summed, dim=-1)
