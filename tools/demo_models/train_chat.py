"""Trains the chat model: Llama's architecture, about two million parameters, on the processor.

The optimiser is Muon for the matrices of the layers and AdamW for the rest: with a few million tokens to learn from,
Muon learns to copy names within minutes, which AdamW alone does not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tools.demo_models.corpus import END_OF_TEXT
from tools.demo_models.progress import Progress, learning_rate_factor
from tools.demo_models.tokenizer import IM_END, IM_START, token_id

CONTEXT_TOKENS = 2048


@dataclass(frozen=True)
class Settings:
    """How long and how to train. The defaults made the models that lie in the repository."""

    seed: int = 0
    steps: int = 2600
    minutes_max: float = 13.0
    tokens_per_step: int = 2048
    document_tokens_max: int = 900
    matrix_learning_rate: float = 0.02
    other_learning_rate: float = 3e-3


@dataclass(frozen=True)
class Batch:
    """Documents of like length: `learned` says which of the targets count. Padding and what the user says do not."""

    inputs: torch.Tensor
    targets: torch.Tensor
    learned: torch.Tensor


def new_model(tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """The untrained model. Heads, layers and vocabulary are even, so that it can also be cut over two machines."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=[token_id(tokenizer, IM_END), token_id(tokenizer, END_OF_TEXT)],
        pad_token_id=token_id(tokenizer, END_OF_TEXT),
    )
    return LlamaForCausalLM(config)  # type: ignore[no-untyped-call]


def train(model: LlamaForCausalLM, tokenizer: Tokenizer, documents: Iterator[str], settings: Settings) -> Progress:
    """Train the model on the documents, each at most once; returns the progress with its last loss."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=settings.matrix_learning_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=settings.other_learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    rates = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    progress = Progress("chat model", settings.steps, settings.minutes_max * 60)
    model.train()
    for batch in _batches(tokenizer, documents, settings):
        if progress.share >= 1.0:
            break
        factor = learning_rate_factor(progress.share)
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        loss = _loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        progress.record(loss.item())
    model.train(False)
    return progress


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy (nats a token). Padding stands at the end, where causal attention needs no mask."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.inputs, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[batch.learned])
    return functional.cross_entropy(logits.float(), batch.targets[batch.learned])


def _batches(tokenizer: Tokenizer, documents: Iterator[str], settings: Settings) -> Iterator[Batch]:
    """Batches of documents of like length, so that little is padding; their order is shuffled."""
    rng = random.Random(settings.seed)
    pool: list[list[int]] = []
    pool_tokens = 0
    for document in documents:
        tokens = tokenizer.encode(document).ids[: settings.document_tokens_max]
        pool.append(tokens)
        pool_tokens += len(tokens)
        if pool_tokens >= 50 * settings.tokens_per_step:
            yield from _cut(pool, tokenizer, settings, rng)
            pool, pool_tokens = [], 0


def _cut(pool: list[list[int]], tokenizer: Tokenizer, settings: Settings, rng: random.Random) -> list[Batch]:
    """Sort the pool by length and cut it into batches of at most `tokens_per_step` tokens, padding included."""
    pool.sort(key=len)
    groups: list[list[list[int]]] = [[]]
    for tokens in pool:
        if (len(groups[-1]) + 1) * len(tokens) > settings.tokens_per_step:
            groups.append([])
        groups[-1].append(tokens)
    rng.shuffle(groups)
    return [_padded(group, tokenizer) for group in groups]


def _padded(group: list[list[int]], tokenizer: Tokenizer) -> Batch:
    padding = token_id(tokenizer, END_OF_TEXT)
    length = max(map(len, group))
    tokens = torch.full((len(group), length), padding, dtype=torch.long)
    learned = torch.zeros((len(group), length), dtype=torch.bool)
    for row, ids in enumerate(group):
        tokens[row, : len(ids)] = torch.tensor(ids)
        learned[row, : len(ids)] = torch.tensor(said_by_the_model(ids, tokenizer))
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), learned[:, 1:].contiguous())


def said_by_the_model(ids: list[int], tokenizer: Tokenizer) -> list[bool]:
    """True for what the assistant says, its end mark included, and for every token of bare text."""
    start, end = token_id(tokenizer, IM_START), token_id(tokenizer, IM_END)
    if start not in ids[:1]:
        return [True] * len(ids)
    opening = [start, *tokenizer.encode("assistant\n").ids]
    said: list[bool] = []
    speaking = False
    for place, token in enumerate(ids):
        speaking = speaking or ids[max(0, place - len(opening)) : place] == opening
        said.append(speaking)
        speaking = speaking and token != end
    return said
