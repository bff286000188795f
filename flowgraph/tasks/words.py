"""Words that tasks are made of; those that are not one token of a model are left out when they are drawn."""

from __future__ import annotations

NAMES = (
    "Mary", "John", "Tom", "James", "Anna", "Peter", "Paul", "Mark", "Sarah", "David", "Laura", "Kate", "Robert", "Michael", "Emily",
    "Daniel", "Jack", "Alice", "Charles", "George", "Emma", "William", "Henry", "Thomas", "Simon", "Martin", "Jane", "Alex", "Frank",
    "Lisa", "Susan", "Richard", "Joseph", "Elizabeth", "Rachel", "Adam", "Kevin", "Steven", "Andrew", "Chris",
)  # fmt: skip
PLACES = ("store", "park", "school", "office", "station", "garden", "museum", "library", "house", "hospital")
THINGS = ("drink", "book", "ring", "kiss", "basketball", "computer", "letter", "gift", "ticket", "flower")
IOI = (
    "When {A} and {B} went to the {place}, {S} gave a {thing} to",
    "Then, {A} and {B} went to the {place}. {S} gave a {thing} to",
    "After {A} and {B} had been at the {place} for a while, {S} handed a {thing} to",
    "While {A} and {B} were at the {place}, {S} decided to give a {thing} to",
)
SPANS = ("war", "drought", "project", "siege", "expedition", "famine", "reign", "strike", "voyage", "plague")
COLORS = ("red", "blue", "green", "black", "white", "yellow", "brown", "purple", "pink")
OBJECTS = ("pen", "cup", "book", "plate", "ball", "box", "key", "hat", "bag", "ring", "lamp", "bottle")
NOUNS = (
    "river", "mountain", "window", "music", "winter", "summer", "bread", "horse", "money", "paper", "stone", "water", "forest",
    "engine", "doctor", "teacher", "market", "bridge", "island", "planet",
)  # fmt: skip
SINGULAR_PLURAL = (
    ("key", "keys"), ("dog", "dogs"), ("book", "books"), ("teacher", "teachers"), ("doctor", "doctors"), ("car", "cars"),
    ("student", "students"), ("picture", "pictures"), ("house", "houses"), ("boy", "boys"), ("girl", "girls"), ("tree", "trees"),
)  # fmt: skip
VERBS = (("is", "are"), ("was", "were"), ("has", "have"))
AGREEMENT = ("The {noun} near the {other}", "The {noun} behind the {other}", "The {noun} next to the {other}")
CAPITALS = (
    ("Japan", "Tokyo"), ("France", "Paris"), ("Italy", "Rome"), ("Germany", "Berlin"), ("Spain", "Madrid"), ("Russia", "Moscow"),
    ("England", "London"), ("Greece", "Athens"), ("Egypt", "Cairo"), ("Austria", "Vienna"), ("Ireland", "Dublin"), ("Cuba", "Havana"),
    ("Portugal", "Lisbon"), ("Poland", "Warsaw"), ("Norway", "Oslo"), ("China", "Beijing"), ("Iran", "Tehran"), ("Peru", "Lima"),
)  # fmt: skip
CAPITAL_OF = (
    "The capital of {} is the city of",
    "The capital city of {} is called",
    "Everyone knows that the capital of {} is",
)
