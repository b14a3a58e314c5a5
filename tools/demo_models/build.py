"""Builds the demo models: `python -m tools.demo_models.build --out DIR`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from tools.demo_models import pairs, save, tokenizer, train_chat, train_embed
from tools.demo_models.corpus import Corpus, Mix

CHAT_MODEL = "covey-demo-chat"
EMBEDDING_MODEL = "covey-demo-embed"
_TOKENIZER_DOCUMENTS = 20_000
_TOKENIZER_PAIRS = 20_000


def build_chat_model(out: Path, settings: train_chat.Settings, start_from: Path | None = None) -> None:
    """Tokenizer, training, and the finished directory; or only more training of a finished directory."""
    corpus = Corpus(settings.seed)
    if start_from is None:
        print("chat model: training the tokenizer", flush=True)
        typical = Corpus(settings.seed, Mix(copying_first=0))
        vocabulary = tokenizer.train_chat_tokenizer(islice(typical.documents(), _TOKENIZER_DOCUMENTS))
        model = train_chat.new_model(vocabulary, settings.seed)
    else:
        vocabulary = Tokenizer.from_file(str(start_from / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(start_from, dtype=torch.float32)
    progress = train_chat.train(model, vocabulary, corpus.documents(), settings)
    save.save_chat_model(model, vocabulary, out / CHAT_MODEL)
    print(f"chat model: finished, {progress.line()}: {out / CHAT_MODEL}", flush=True)


def build_embedding_model(out: Path, settings: train_embed.Settings) -> None:
    """Tokenizer, training, and the finished directory."""
    print("embedding model: training the tokenizer", flush=True)
    texts = (text for pair in islice(pairs.pairs(settings.seed), _TOKENIZER_PAIRS) for text in pair)
    vocabulary = tokenizer.train_embedding_tokenizer(texts)
    model, progress = train_embed.train(vocabulary, pairs.pairs(settings.seed), settings)
    save.save_embedding_model(model, vocabulary, out / EMBEDDING_MODEL)
    print(f"embedding model: finished, {progress.line()}: {out / EMBEDDING_MODEL}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    chat = replace(train_chat.Settings(), seed=options.seed, steps=options.chat_steps, minutes_max=options.chat_minutes)
    embedding = replace(
        train_embed.Settings(), seed=options.seed, steps=options.embed_steps, minutes_max=options.embed_minutes
    )
    try:
        if options.only in (None, "embed"):
            build_embedding_model(options.out, embedding)
        if options.only in (None, "chat"):
            build_chat_model(options.out, chat, options.start_from)
    except KeyboardInterrupt:
        print("stopped; models that were not finished are as they were before", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    chat, embedding = train_chat.Settings(), train_embed.Settings()
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo_models.build",
        description="Build covey's demo models from text on this machine. They demonstrate the plumbing, not quality.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that will hold the two model directories")
    parser.add_argument("--only", choices=("chat", "embed"), help="build one of the two models")
    parser.add_argument("--start-from", type=Path, help="finished chat model to train further, with another seed")
    parser.add_argument("--seed", type=int, default=chat.seed, help="of the corpus and of the first weights")
    parser.add_argument("--threads", type=int, default=2, help="processor threads of the training")
    parser.add_argument("--chat-steps", type=int, default=chat.steps, help="training steps of the chat model")
    parser.add_argument("--chat-minutes", type=float, default=chat.minutes_max, help="upper bound of its training time")
    parser.add_argument(
        "--embed-steps", type=int, default=embedding.steps, help="training steps of the embedding model"
    )
    parser.add_argument("--embed-minutes", type=float, default=embedding.minutes_max, help="upper bound of its time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
