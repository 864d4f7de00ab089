"""The tiny world's tokenizer: CLIP's, with a vocabulary made for the caption grammar.

Every word of the grammar is one token. Any other text falls apart into shorter pieces, at worst into bytes, so that
every prompt can be encoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

__all__ = ["MAX_LENGTH", "build_tokenizer", "merges_for"]

MAX_LENGTH = 24
"""Tokens per prompt, the start and the end token included."""

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"

Merge = tuple[str, str]


def build_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """A `CLIPTokenizer` that lower-cases and has one token for each word (or digit) of `captions`."""
    alphabet = sorted(ByteLevel.alphabet())
    symbols = alphabet + [symbol + _WORD_END for symbol in alphabet]
    merges = merges_for(_words(captions, symbols))
    return _tokenizer(symbols + list(dict.fromkeys(left + right for left, right in merges)), merges)


def merges_for(words: Iterable[str]) -> list[Merge]:
    """Byte-pair merges, in order of priority, under which each of `words` becomes one token.

    A later merge never disturbs an earlier word: on that word's way to one token there is always an earlier
    merge to apply, and earlier ones come first.
    """
    ranks: dict[Merge, int] = {}
    for word in words:
        pieces = _apply([*word[:-1], word[-1] + _WORD_END], ranks)
        while len(pieces) > 1:
            ranks.setdefault((pieces[0], pieces[1]), len(ranks))
            pieces = _apply(pieces, ranks)
    return list(ranks)


def _apply(pieces: list[str], ranks: dict[Merge, int]) -> list[str]:
    """Byte-pair encoding: the merge of highest priority first, until none applies."""
    while True:
        found = [ranks[pair] for pair in pairwise(pieces) if pair in ranks]
        if not found:
            return pieces
        best, merged, position = min(found), [], 0
        while position < len(pieces):
            pair = (pieces[position], pieces[position + 1]) if position + 1 < len(pieces) else None
            joins = pair is not None and ranks.get(pair) == best
            merged.append("".join(pieces[position : position + 2]) if joins else pieces[position])
            position += 2 if joins else 1
        pieces = merged


def _words(captions: Iterable[str], symbols: list[str]) -> list[str]:
    """The distinct words of `captions`, sorted, cut as the tokenizer itself cuts them."""
    backend = _tokenizer(symbols, []).backend_tokenizer
    cut = (backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(caption)) for caption in captions)
    return sorted({word for words in cut for word, _ in words})


def _tokenizer(tokens: list[str], merges: list[Merge]) -> CLIPTokenizer:
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )
