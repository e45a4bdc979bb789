"""Tags: a class for every word of a sentence, also of words that were never seen.

    DET    ADJ     NOUN      VERB       a label at every step
     ^      ^       ^         ^
     h <->  h  <->  h   <->   h         one layer reads forward, another backward
     ^      ^       ^         ^
    the   brixly  maplen     zobs       a word is looked up whole, and so are its last letters

Every noun, verb and adjective of this language is made up. Some endings tell the class; "-er" is a noun or a
verb, which only the words around it tell. Prints two new sentences with the tags found, and the share of
words tagged rightly by the most frequent tag of each word, and by the network (at least 0.95).

    python examples/tags.py
"""

import random

import torch

from unrolled.data.tagged import TaggedSentence
from unrolled.tasks.labels import LabelTask
from unrolled.tasks.labels_config import TagsConfig
from unrolled.tasks.labels_data import Sentences

ENDINGS = {"NOUN": ("en", "er"), "VERB": ("obs", "er"), "ADJ": ("ly", "ish")}


def sentences(count: int, source: random.Random) -> list[TaggedSentence]:
    """The, up to two adjectives, a noun and a verb, once or twice."""
    found = []
    for _ in range(count):
        tags = []
        for _ in range(source.randint(1, 2)):
            tags += ["DET", *["ADJ"] * source.randint(0, 2), "NOUN", "VERB"]
        words = ["the" if tag == "DET" else _made_up(tag, source) for tag in tags]
        found.append(TaggedSentence((*words, "."), (*tags, "PUNCT")))
    return found


def _made_up(tag: str, source: random.Random) -> str:
    return "".join(source.choices(("bra", "ma", "zo", "pli", "ti"), k=2)) + source.choice(ENDINGS[tag])


def main(steps: int = 100) -> float:
    config = TagsConfig(hidden=16, embedding=16, endings=3, rate=0.01, warmup=0, steps=steps, holdout=0.4)
    task = LabelTask("tags", Sentences("made up", sentences(300, random.Random(0)), config), config)
    trainer = task.trainer()
    for _ in range(steps):
        trainer.advance()
    print("\n".join(task.show(steps).splitlines()[:2]))
    print(f"by the most frequent tag of each word: {task.baselines['most frequent tag'].share:.3f}")
    accuracy = task.scores().share
    print(f"words of new sentences tagged rightly: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small more threads are slower
    main()
