"""A hundred prompts of eight kinds with their answers, for studies of pictures; their counterfactuals are proposed by the model.

The prompts were chosen before any picture was made, so that SmolLM2's first token is an answer of the prompt's kind: a verb that agrees,
a colour, a word that is repeated. Another model need not know them all.
"""

from __future__ import annotations

_LASTED = "The {} lasted from the year {} to the year {}"

PROMPTS: dict[str, dict[str, str]] = {
    "facts": {
        "The capital of Japan is the city of": " Tokyo",
        "The capital of France is the city of": " Paris",
        "The capital of Egypt is the city of": " Cairo",
        "The capital of Italy is the city of": " Rome",
        "The capital of Germany is the city of": " Berlin",
        "The capital of Greece is the city of": " Athens",
        "The capital of Peru is the city of": " Lima",
        "The capital of China is the city of": " Beijing",
        "The capital of England is the city of": " London",
        "People in Germany speak a language called": " German",
        "People in Brazil speak a language called": " Portuguese",
        "People in Egypt speak a language called": " Arabic",
        "People in Spain speak a language called": " Spanish",
        "The opposite of hot is": " cold",
        "The opposite of big is": " small",
        "The opposite of fast is": " slow",
        "The opposite of wet is": " dry",
        "The Taj Mahal stands in the country of": " India",
        "The Eiffel Tower stands in the city of": " Paris",
        "The president of Russia is Vladimir": " Putin",
    },
    "names": {
        "When Mary and John went to the store, John gave a drink to": " Mary",
        "When Tom and Anna went to the park, Anna gave a ball to": " Tom",
        "When Paul and Lisa went to the school, Lisa gave a book to": " Paul",
        "When Peter and Sarah went to the house, Peter gave a ring to": " Sarah",
        "When Alice and David went to the office, Alice gave a pen to": " David",
        "Then, Mary and Tom had a long argument, and afterwards Tom said to": " Mary",
        "Then, Emma and James had a long argument, and afterwards Emma said to": " James",
        "After Laura and Mark went to the beach, Mark gave a shell to": " Laura",
        "While Kate and Simon were working at the garden, Simon gave a flower to": " Kate",
        "When Rachel and Daniel went to the hospital, Daniel gave a letter to": " Rachel",
        "When Susan and Robert got a snack at the station, Robert decided to give it to": " Susan",
        "When Julia and Andrew got a computer at the store, Julia decided to give it to": " Andrew",
    },
    "induction": {
        "Vernon Parker met Julia. Later, Vernon": " Parker",
        "Alice Miller met Robert. Later, Alice": " Miller",
        "Peter Jones met Julia. Later, Peter": " Jones",
        "Mr. Dursley lived here. Everybody knew Mr. D": "urs",
        "The black cat sat down. Then the black": " cat",
        "The green bird sang loudly. Then the green": " bird",
        "The tired farmer slept. Later the tired": " farmer",
        "The little dragon slept. Later the little": " dragon",
        "The secret word is lemon. I repeat, the secret word is": " lemon",
        "The password is tiger. I repeat, the password is": " tiger",
        "She sells sea shells. He buys sea": " shells",
        "North Carolina is warm. I moved to North": " Carolina",
    },
    "agreement": {
        "The keys to the cabinet": " are",
        "The key to the old cabinets": " was",
        "The dogs near the house": " were",
        "The pictures on the wall": " were",
        "The toys in the box": " are",
        "The toy in the boxes": " is",
        "I know that the dogs near the house": " are",
        "I know that the dog near the houses": " is",
        "He says that the picture on the walls": " is",
        "She thinks that the car in front of the houses": " is",
        "It is clear that the windows of the building": " are",
        "He thinks that the trees beside the river": " are",
    },
    "greater-than": {
        _LASTED.format(noun, year, year[:2]): answer
        for noun, year, answer in (
            ("war", "1732", "3"), ("war", "1645", "4"), ("war", "1871", "7"), ("plan", "1523", "2"), ("voyage", "1768", "7"),
            ("project", "1984", "8"), ("empire", "1389", "9"), ("strike", "1911", "1"), ("festival", "1954", "5"), ("treaty", "1815", "1"),
            ("drought", "1456", "5"), ("tour", "1977", "8"),
        )
    },
    "colours": {
        "On the desk there is a green book and a black lamp. The color of the lamp is": " black",
        "I see a yellow car and a white house. The color of the house is": " white",
        "She has a brown bag and a purple hat. The color of the hat is": " purple",
        "The pen is red and the cup is blue. Tom sees that the cup is": " blue",
        "The ball is red and the box is green. We all know that the box is": " green",
        "The coat is black and the shirt is white. We all know that the coat is": " black",
        "The flower is pink and the vase is yellow. We all know that the vase is": " yellow",
        "The door is green and the wall is white. We all know that the door is": " green",
    },
    "code": {
        "def add(a, b):\n    return a +": " b",
        "def area(width, height):\n    return width *": " height",
        "def subtract(x, y):\n    return x -": " y",
        "def power(base, exponent):\n    return base **": " exponent",
        "def larger(a, b):\n    if a > b:\n        return a\n    return": " b",
        "class Dog:\n    def __init__(self, name):\n        self.name =": " name",
        "class Point:\n    def __init__(self, left):\n        self.left =": " left",
        "import pandas as pd\ntable =": " pd",
        "for i in range(10):\n    print(": "i",
        "x = 5\ny = 7\nprint(x +": " y",
        "total = 0\nfor price in prices:\n    total +=": " price",
        "with open(path) as file:\n    text = file.": "read",
    },
    "free text": {
        "The old man walked slowly because his leg was": " broken",
        "The baby was crying, so the mother picked her": " up",
        "The doctor told him to stop smoking because it was bad for his": " health",
        "They went to the cinema to watch a": " movie",
        "The sun rises in the east and sets in the": " west",
        "The soup was too hot, so she waited for it to": " cool",
        "The pilot landed the plane at the": " airport",
        "The farmer milked the": " cows",
        "The teacher wrote the answer on the": " board",
        "She washed her hands with soap and": " water",
        "The bird built its nest in a": " tree",
        "He paid for the book with his credit": " card",
    },
}  # fmt: skip
"""Kind → prompt → the answer: SmolLM2's first token."""

MASKED: dict[str, tuple[str, int]] = {
    "antiberty": ("Q V Q L V Q S G V E V K K P G A S V K V S C K A S G Y T F T N Y Y M Y W V R Q A P G Q", 4),
    "rxnmapper": ("CC(=O)Cl.OCCc1ccccc1.CCN(CC)CC>>CC(=O)OCCc1ccccc1", 3),
}
"""Known masked model → a text, of which every so many tokens are masked in turn."""
