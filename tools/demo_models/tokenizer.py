"""Trains the two tokenizers with the `tokenizers` library.

The chat model's splits text so that a name has the same tokens wherever it stands: a capitalised word never takes the
space before it, and every digit is a token. So ` London` in a question and `"London"` in a tool call are the same
tokens, and a model this small can copy them.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHAT_SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)
CHAT_MARKUP_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""One token each, but not special: a client that asks to skip special tokens still sees tool calls."""

_CHAT_WORDS = r" ?\p{Ll}+|\p{Lu}+\p{Ll}*|\p{N}| ?[^\s\p{L}\p{N}]+|\p{L}+| +(?= )|\s"


def train_chat_tokenizer(texts: Iterable[str], vocabulary_size: int = 2048) -> Tokenizer:
    """A byte-level BPE tokenizer: it can encode any text and decodes it to the same bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CHAT_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(CHAT_MARKUP_TOKENS),
        special_tokens=list(CHAT_SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    markup = (*CHAT_SPECIAL_TOKENS, *CHAT_MARKUP_TOKENS)
    tokenizer.train_from_iterator((_without(text, markup) for text in texts), trainer)
    tokenizer.add_tokens(list(CHAT_MARKUP_TOKENS))
    return tokenizer


def train_embedding_tokenizer(texts: Iterable[str], vocabulary_size: int = 3072) -> Tokenizer:
    """A lower-casing WordPiece tokenizer, as BERT models have; it frames each text with [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, token_id(tokenizer, token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The number of a token that must be there."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise KeyError(f"the tokenizer has no token {token!r}")
    return int(number)


def _without(text: str, markup: Iterable[str]) -> str:
    """The text with markup replaced by line breaks, so that no merge is learned across or from it."""
    for token in markup:
        text = text.replace(token, "\n")
    return text
