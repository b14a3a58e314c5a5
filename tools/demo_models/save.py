"""Writes a model as a Hugging Face directory, the form in which vLLM loads any model.

A directory appears whole or not at all: it is written beside its place and then moved there, so that stopping a build
leaves the old model untouched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import BertModel, LlamaForCausalLM

from tools.demo_models import train_chat, train_embed
from tools.demo_models.corpus import CHAT_TEMPLATE_PATH
from tools.demo_models.tokenizer import END_OF_TEXT, IM_END, token_id

_CARDS = Path(__file__).with_name("cards")


def save_chat_model(model: LlamaForCausalLM, tokenizer: Tokenizer, place: Path) -> None:
    """Weights in bfloat16, tokenizer, chat template and sampling defaults."""
    with _new_directory(place) as folder:
        _save_weights(model, folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        shutil.copy(CHAT_TEMPLATE_PATH, folder / "chat_template.jinja")
        _write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": IM_END,
                "pad_token": END_OF_TEXT,
                "clean_up_tokenization_spaces": False,
                "model_max_length": train_chat.CONTEXT_TOKENS,
            },
        )
        end_tokens = [token_id(tokenizer, IM_END), token_id(tokenizer, END_OF_TEXT)]
        _write_json(
            folder / "generation_config.json",
            {
                "do_sample": True,
                "temperature": 0.6,
                "top_p": 0.9,
                "eos_token_id": end_tokens,
                "pad_token_id": token_id(tokenizer, END_OF_TEXT),
            },
        )
        shutil.copy(_CARDS / "chat.md", folder / "MODEL_CARD.md")
        shutil.copy(_CARDS / "chat.json", folder / "covey.json")


def save_embedding_model(model: BertModel, tokenizer: Tokenizer, place: Path) -> None:
    """Weights in bfloat16, tokenizer, and the files that tell sentence-transformers and vLLM how to pool."""
    with _new_directory(place) as folder:
        _save_weights(model, folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        _write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "pad_token": "[PAD]",
                "unk_token": "[UNK]",
                "cls_token": "[CLS]",
                "sep_token": "[SEP]",
                "mask_token": "[MASK]",
                "model_max_length": train_embed.CONTEXT_TOKENS,
            },
        )
        steps = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
        _write_json(
            folder / "modules.json",
            [
                {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for idx, (path, kind) in enumerate(steps)
            ],
        )
        _write_json(
            folder / "1_Pooling" / "config.json",
            {
                "word_embedding_dimension": model.config.hidden_size,
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": False,
                "pooling_mode_mean_sqrt_len_tokens": False,
            },
        )
        _write_json(
            folder / "sentence_bert_config.json",
            {"max_seq_length": train_embed.CONTEXT_TOKENS, "do_lower_case": False},
        )
        shutil.copy(_CARDS / "embed.md", folder / "MODEL_CARD.md")
        shutil.copy(_CARDS / "embed.json", folder / "covey.json")


def _save_weights(model: LlamaForCausalLM | BertModel, folder: Path) -> None:
    model.bfloat16().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    (folder / "generation_config.json").unlink(missing_ok=True)


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _new_directory(place: Path) -> Iterator[Path]:
    """An empty directory that replaces `place` when the block ends well, and vanishes when it does not."""
    folder = place.with_name(f".{place.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        shutil.rmtree(place, ignore_errors=True)
        folder.rename(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
