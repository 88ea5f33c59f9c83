"""Trains the tokenizer: byte-level BPE in which a word has the same tokens wherever it stands.

    python3 -m training.tokenizer --out DIR

A model this small copies names and values from a request into JSON. ` Paris` and `"Paris` would be cut differently by
the usual pattern, in which the space belongs to the word. Here the space is its own token, and digits stand alone.
Function words keep their space: they are never copied, and it halves the spaces.
"""
# ruff: noqa: SIM905 - a list of words reads best as a text

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from backends.emulator.tasks import domains, words
from backends.emulator.tasks.draw import Draw
from backends.emulator.tasks.requests import requests
from training.data import draw_item
from training.render import TEMPLATE, render

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ADDED = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>")
STOP_WORDS = """the of and to a an in is it for on with was that by as at from be are this which were has have had its
not but or their you your me my we they he she his her if what please will can do does i so no all about into""".split()
_FOLLOWS = r"(?![\p{L}\p{N}_\-'])"
PATTERN = "|".join((
    rf" (?:{'|'.join(STOP_WORDS)}){_FOLLOWS}",
    r"\p{Lu}?\p{Ll}+", r"\p{Lu}+(?!\p{Ll})", r"\p{L}+", r"\p{N}",
    r"[^\s\p{L}\p{N}]+(?: [^\s\p{L}\p{N}]+)*", r"\s",
))  # fmt: skip


def texts(count: int) -> Iterator[str]:
    """Yields the texts that the vocabulary is learned from: training items, and the word lists for good measure."""
    d = Draw("tokenizer", "train")
    for _ in range(count):
        item = draw_item(d, 10**12)
        text = render(item.messages, item.tools)
        for token in SPECIAL + ADDED:
            text = text.replace(token, "\n")
        yield text[:3000]
    for _ in range(count // 20):
        yield " ".join(words.VERBS + words.NOUNS + words.ADJECTIVES + words.PARAMS + words.PAST_VERBS)
        yield domains.spec(d).demand(d)[0]


def train(vocabulary: int, count: int = 12000) -> Tokenizer:
    """Returns a trained tokenizer of `vocabulary` entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(ADDED),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(count), trainer)
    tokenizer.add_tokens([added(t) for t in ADDED])
    return tokenizer


def added(text: str) -> AddedToken:
    """Returns `text` as an added token that skipping special tokens keeps: a tool parser must see it."""
    return AddedToken(text, special=False, normalized=False)


def save(tokenizer: Tokenizer, out: Path, context: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "chat_template.jinja").write_text(TEMPLATE.read_text())
    decoder = {
        str(tokenizer.token_to_id(t)): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                                        "single_word": False, "special": t in SPECIAL}
        for t in SPECIAL + ADDED
    }  # fmt: skip
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": decoder,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": TEMPLATE.read_text(),
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    """Trains, writes, and prints how many characters of filler one token holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--context", type=int, default=5120)
    args = parser.parse_args()
    tokenizer = train(args.vocabulary)
    save(tokenizer, args.out, args.context)
    for kind, bucket in (("tool_one", None), ("needle_list", None), ("needle_text", 2048)):
        made = [render(r["messages"], r["tools"], True) for r in requests(1, "heldout", 200, (kind,), bucket)]
        ratios = sorted(len(t) / len(tokenizer.encode(t).ids) for t in made)
        lengths = sorted(len(tokenizer.encode(t).ids) for t in made)
        print(kind, "characters per token: median", round(ratios[100], 2), "5%", round(ratios[10], 2),
              "tokens: median", lengths[100], "5%", lengths[10], "most", lengths[-1])  # fmt: skip


if __name__ == "__main__":
    main()
