#!/usr/bin/env python3
"""Two hundred openings of children's stories for datasets/story-openings-200.json, all different, always the same bytes.

Usage: scripts/make-openings.py OUT.json      (writes OUT.toml beside it)
Ten sentence forms are filled from lists of simple words, in the vocabulary of the tiny story model that the end-to-end tests run.
"""
import hashlib
import json
import pathlib
import sys

FORMS = [
    "{Name} had a {colour} {thing}. {Name} took it to the {place} every day, but today",
    "A {size} {animal} lived near the {place}. One morning the {animal} saw a {colour} {thing} and",
    "{Name} and {Other} went to the {place}. They wanted to find a {thing}, so",
    "There was a {size} {animal} who was afraid of the {place}. Its friend {Name} said,",
    "It was a {weather} day. {Name} looked out and saw a {animal} with a {colour} {thing}. Then",
    "{Name} lost the {colour} {thing}. \"Where is it?\" {Name} asked the {animal}. The {animal}",
    "On a {weather} morning a {animal} came to the {place} and asked {Name} for a {thing}.",
    "{Name} wanted to give {Other} a {thing}. But at the {place} there was only a {size} {animal}, and",
    "The {colour} {thing} was very {size}. {Name} tried to carry it to the {place}. A {animal}",
    "{Name}'s {animal} was {size} and liked the {place}. When it was {weather}, the {animal}",
]
WORDS = {
    "Name": ["Tim", "Lily", "Sam", "Anna", "Tom", "Mia", "Max", "Sue", "Ben", "Lucy", "Jack"],
    "Other": ["Mum", "Dad", "Grandpa", "Amy", "Bob", "Jane", "Leo"],
    "animal": ["cat", "dog", "bird", "frog", "bear", "rabbit", "mouse", "duck", "fox", "cow", "fish", "pig", "hen"],
    "thing": ["ball", "hat", "box", "cup", "toy car", "kite", "book", "cake", "bell", "stick", "coat", "shell", "drum", "lamp", "pie", "rope", "key"],
    "colour": ["red", "blue", "green", "yellow", "pink"],
    "place": ["park", "garden", "lake", "forest", "farm", "beach", "hill", "shop", "school"],
    "size": ["little", "big", "tall", "round", "heavy", "tiny"],
    "weather": ["sunny", "cold", "windy", "rainy"],
}
BIAS = (
    "openings of children's stories from ten sentence forms and short word lists, without answers; they let a real model of 260 thousand "
    "parameters stop by itself, and say nothing about how people write to a chat model"
)


def opening(number):
    """Strides are prime to the lists' lengths, so that no two openings share all their words."""
    picked = {key: words[(number * (2 * place + 3) + number // 10) % len(words)] for place, (key, words) in enumerate(WORDS.items())}
    return FORMS[number % len(FORMS)].format(**picked)


def main():
    out = pathlib.Path(sys.argv[1])
    texts = [opening(number) for number in range(200)]
    assert len(set(texts)) == len(texts), "two openings are the same"
    rows = [
        json.dumps({"id": f"opening-{i:03}", "conversations": [{"from": "human", "value": text}]}, separators=(",", ":"))
        for i, text in enumerate(texts)
    ]
    data = ("[\n  " + ",\n  ".join(rows) + "\n]\n").encode()
    out.write_bytes(data)
    facts = {
        "file": out.name,
        "format": "sharegpt",
        "generator": f"scripts/make-openings.py {out.name}",
        "sha256": hashlib.sha256(data).hexdigest(),
        "n_rows": len(rows),
        "n_bytes": len(data),
        "licence": "CC0-1.0",
        "bias": BIAS,
    }
    out.with_suffix(".toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in facts.items()))


if __name__ == "__main__":
    main()
