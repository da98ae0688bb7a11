"""Captions as token ids of CLIP's vocabulary, and the small text encoder that reads them.

Pocket's captions use some hundred of the 49,408 tokens. Training keeps rows for those only, and
one shared row for every other token; `full_table` spreads them over the whole vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from core.pocket import draw

VOCABULARY: Final = 49408
START: Final = 49406
END: Final = 49407
LENGTH: Final = 77
WIDTH: Final = 128
LAYERS: Final = 4
HEADS: Final = 4
UNKNOWN: Final = 0

PREFIXES: Final = ("a photo of", "a picture of", "an image of", "a drawing of", "an emoji of")
FOLDER: Final = Path(__file__).parents[1] / "text" / "vocab"


def known_words() -> list[str]:
    """Every word (and the comma) that a caption may hold."""
    phrases = [",", "a an on and to gradient background grey", *PREFIXES, *draw.NUMBERS]
    phrases += [*draw.COLOURS, *draw.SIZES, *draw.PLACES]
    phrases += [scene.words for scene in draw.SCENES.values()]
    phrases += [*draw.SHAPES, *(draw.plural(name) for name in draw.SHAPES)]
    for concept in draw.CONCEPTS.values():
        phrases += [concept.name, draw.plural(concept.name)]
    return sorted({word for phrase in phrases for word in phrase.split()})


class Words:
    """Captions -> compact ids: 0 is any unknown token, the others stand for `tokens[i]`."""

    def __init__(self, folder: Path = FOLDER) -> None:
        tokenizer = CLIPTokenizer(
            vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")
        )
        self._ids = {word: tokenizer(word)["input_ids"][1:-1] for word in known_words()}
        used = {token for ids in self._ids.values() for token in ids} | {START, END}
        self.tokens = [-1, *sorted(used)]
        self._compact = {token: i for i, token in enumerate(self.tokens)}

    def ids(self, captions: list[str], unknown: list[int | None] | None = None) -> Tensor:
        """(b 77) compact ids; `unknown[i]` puts an unknown token at that place of caption i."""
        end = self._compact[END]
        table = torch.full((len(captions), LENGTH), end)
        for row, caption in enumerate(captions):
            words = caption.replace(",", " , ").split()
            ids = [self._compact[token] for word in words for token in self._ids[word]]
            if unknown and unknown[row] is not None:
                ids.insert(min(unknown[row] or 0, len(ids)), UNKNOWN)
            table[row, 0] = self._compact[START]
            table[row, 1 : 1 + len(ids)] = torch.tensor(ids, dtype=torch.long)
        return table

    def full_table(self, rows: Tensor) -> Tensor:
        """Compact embedding rows (len(tokens), d) -> (49408, d)."""
        table = rows[UNKNOWN].repeat(VOCABULARY, 1)
        table[self.tokens[1:]] = rows[1:]
        return table

    def rows(self, table: Tensor) -> Tensor:
        """The reverse of `full_table`: (49408, d) -> compact rows (len(tokens), d)."""
        unused = min(set(range(len(self.tokens) + 1)) - set(self.tokens))
        return table[[unused, *self.tokens[1:]]]


def text_encoder(vocabulary: int) -> CLIPTextModel:
    """A small CLIP text model (arXiv:2103.00020) with `vocabulary` embedding rows."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=vocabulary - 2,  # the last two rows, in CLIP's vocabulary and in ours
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    config._attn_implementation = "eager"
    return CLIPTextModel(config)
