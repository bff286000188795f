"""Words by their kind, and words that a prompt is held together by: what a word of a prompt can be exchanged for.

Words with a capital are proper names, the others are written as the word whose place they take.
"""

from __future__ import annotations

from . import words

_NAMES = (
    *words.NAMES, "Sam", "Ben", "Max", "Lucy", "Julia", "Maria", "Linda", "Karen", "Nancy", "Helen", "Sophie", "Grace", "Eva", "Clara",
    "Oliver", "Edward", "Arthur", "Albert", "Philip", "Brian", "Kenneth", "Matthew", "Luke", "Jason", "Eric", "Samuel", "Benjamin",
    "Margaret", "Barbara", "Catherine", "Victoria", "Amy", "Jessica", "Olivia", "Sophia", "Isabella", "Lucas", "Noah", "Leo", "Bob", "Tim",
    "Timmy", "Lily", "Jim", "Bill", "Joe", "Harry", "Ron", "Anne", "Ruth", "Vernon", "Walter", "Nina", "Oscar", "Victor",
)  # fmt: skip
_COUNTRIES = (
    "Japan", "France", "Italy", "Germany", "Spain", "Russia", "England", "Greece", "Egypt", "Austria", "Ireland", "Cuba", "Portugal",
    "Poland", "Norway", "China", "Iran", "Peru", "India", "Canada", "Mexico", "Brazil", "Sweden", "Denmark", "Finland", "Turkey", "Kenya",
    "Chile", "Argentina", "Australia", "Belgium", "Hungary", "Iraq", "Israel", "Korea", "Vietnam", "Thailand", "Scotland", "Nigeria",
    "Morocco", "Colombia", "Indonesia", "Pakistan", "Ukraine", "Romania", "Switzerland", "Netherlands", "Bulgaria", "Serbia", "Croatia",
    "Lebanon", "Syria", "Nepal", "Ethiopia", "Ghana", "Venezuela", "Bolivia", "Ecuador", "Iceland", "Malaysia", "Philippines", "America",
)  # fmt: skip
_CITIES = (
    "Tokyo", "Paris", "Rome", "Berlin", "Madrid", "Moscow", "London", "Athens", "Cairo", "Vienna", "Dublin", "Havana", "Lisbon", "Warsaw",
    "Oslo", "Beijing", "Tehran", "Lima", "Delhi", "Ottawa", "Stockholm", "Helsinki", "Copenhagen", "Prague", "Budapest", "Brussels",
    "Chicago", "Boston", "Seattle", "Houston", "Dallas", "Toronto", "Sydney", "Melbourne", "Mumbai", "Shanghai", "Amsterdam", "Milan",
    "Venice", "Florence", "Munich", "Hamburg", "Barcelona", "Istanbul", "Jerusalem", "Baghdad", "Kyoto", "Seoul", "Bangkok",
)  # fmt: skip
_PEOPLES = (
    "Japanese", "French", "Italian", "German", "Spanish", "Russian", "English", "Greek", "Egyptian", "Austrian", "Irish", "Cuban",
    "Portuguese", "Polish", "Norwegian", "Chinese", "Persian", "Indian", "Canadian", "Mexican", "Brazilian", "Swedish", "Danish", "Finnish",
    "Turkish", "Australian", "Dutch", "Hungarian", "Korean", "Vietnamese", "Thai", "Scottish", "American", "British", "Arabic", "Hebrew",
    "Latin", "Swiss", "Roman",
)  # fmt: skip

_LISTS: dict[str, tuple[str, ...]] = {
    "names": _NAMES,
    "countries": _COUNTRIES,
    "cities": _CITIES,
    "languages and peoples": _PEOPLES,
    "continents": ("Europe", "Asia", "Africa", "America", "Australia", "Antarctica"),
    "states": (
        "California", "Texas", "Florida", "Ohio", "Georgia", "Virginia", "Washington", "Oregon", "Nevada", "Utah", "Colorado", "Kansas",
        "Iowa", "Illinois", "Indiana", "Michigan", "Wisconsin", "Minnesota", "Alabama", "Tennessee", "Kentucky", "Maryland", "Alaska", "Hawaii",
    ),
    "days": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "months": (
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
    ),
    "seasons": ("spring", "summer", "autumn", "winter", "fall"),
    "planets": ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune", "Pluto"),
    "scientists": (
        "Einstein", "Newton", "Darwin", "Galileo", "Curie", "Tesla", "Edison", "Hawking", "Pasteur", "Faraday", "Maxwell", "Bohr", "Kepler",
        "Copernicus", "Aristotle", "Plato", "Freud", "Marx", "Kant",
    ),
    "artists": (
        "Shakespeare", "Mozart", "Beethoven", "Bach", "Picasso", "Leonardo", "Michelangelo", "Dickens", "Homer", "Dante", "Goethe", "Tolstoy",
        "Chopin", "Wagner", "Monet", "Rembrandt", "Hemingway", "Kafka", "Austen", "Orwell",
    ),
    "companies": (
        "Apple", "Microsoft", "Google", "Amazon", "Facebook", "IBM", "Intel", "Sony", "Toyota", "Honda", "Ford", "BMW", "Nintendo", "Samsung",
        "Nokia", "Tesla", "Disney", "Netflix", "Boeing", "Adobe", "Oracle", "Nike",
    ),
    "religions": ("Christianity", "Islam", "Buddhism", "Hinduism", "Judaism"),
    "landmarks": ("Eiffel", "Colosseum", "Kremlin", "Louvre", "Parthenon", "Taj", "Acropolis", "Pentagon", "Vatican"),
    "colours": (
        *words.COLORS, "orange", "gray", "grey", "gold", "silver", "violet",
    ),
    "number words": (
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "twenty", "thirty", "forty",
        "fifty", "hundred", "thousand", "million",
    ),
    "ordinals": ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "last"),
    "animals": (
        "dog", "cat", "mouse", "horse", "cow", "pig", "sheep", "bird", "fish", "lion", "tiger", "bear", "wolf", "fox", "rabbit", "snake",
        "frog", "duck", "chicken", "elephant", "monkey", "whale", "shark", "bee", "spider", "goat", "owl", "eagle", "deer", "rat",
    ),
    "more animals": (
        "dogs", "cats", "mice", "horses", "cows", "pigs", "birds", "lions", "bears", "wolves", "rabbits", "snakes", "frogs", "ducks",
        "chickens", "elephants", "monkeys", "whales", "sharks", "bees", "spiders", "goats",
    ),
    "fruits and vegetables": (
        "apple", "banana", "orange", "lemon", "grape", "cherry", "peach", "pear", "plum", "strawberry", "tomato", "potato", "carrot", "onion",
        "corn", "pepper", "garlic", "lettuce", "apples", "bananas", "oranges", "lemons", "grapes", "tomatoes", "potatoes", "carrots",
    ),
    "food and drink": (
        "bread", "cheese", "milk", "water", "coffee", "tea", "wine", "beer", "juice", "rice", "meat", "soup", "cake", "pizza", "sugar",
        "salt", "butter", "honey", "chocolate", "egg", "pasta", "salad",
    ),
    "things": (*words.OBJECTS, *words.THINGS, "key", "table", "chair", "phone", "camera", "clock", "knife", "mirror", "umbrella", "candle"),
    "places": (
        *words.PLACES, "church", "hotel", "restaurant", "beach", "forest", "kitchen", "bank", "theater", "airport", "bakery", "university",
        "village", "factory", "farm", "market", "desert", "mountain", "river", "lake", "ocean", "island", "castle", "prison", "zoo",
    ),
    "people": (
        "man", "woman", "boy", "girl", "child", "baby", "king", "queen", "prince", "princess", "father", "mother", "brother", "sister", "son",
        "daughter", "uncle", "aunt", "husband", "wife", "friend", "neighbor", "grandmother", "grandfather",
    ),
    "more people": (
        "men", "women", "boys", "girls", "children", "kings", "queens", "fathers", "mothers", "brothers", "sisters", "sons", "daughters",
        "friends",
    ),
    "professions": (
        "doctor", "teacher", "nurse", "lawyer", "engineer", "farmer", "soldier", "sailor", "pilot", "chef", "cook", "artist", "writer",
        "singer", "actor", "scientist", "judge", "driver", "police", "student", "carpenter", "dentist", "baker", "painter", "poet",
    ),
    "parts of the body": (
        "head", "hand", "foot", "arm", "leg", "eye", "ear", "nose", "mouth", "heart", "brain", "stomach", "knee", "finger", "hair", "skin",
        "lungs", "liver", "eyes", "ears", "hands", "feet", "legs", "arms", "teeth",
    ),
    "materials": (
        "wood", "stone", "glass", "metal", "iron", "steel", "copper", "plastic", "paper", "leather", "cotton", "silk", "wool", "gold", "silver",
        "sand", "clay", "rubber", "concrete", "oxygen", "hydrogen", "carbon", "nitrogen", "helium", "sodium", "ice",
    ),
    "vehicles": ("car", "bus", "train", "plane", "boat", "ship", "bicycle", "truck", "taxi", "bike", "tram", "rocket", "tractor"),
    "clothes": ("shirt", "hat", "coat", "dress", "shoes", "jacket", "gloves", "scarf", "skirt", "socks", "boots", "pants", "tie"),
    "instruments": ("piano", "guitar", "violin", "drum", "flute", "trumpet", "cello", "harp", "organ"),
    "sports": ("football", "basketball", "tennis", "baseball", "hockey", "golf", "soccer", "swimming", "boxing", "cricket", "rugby", "chess"),
    "fields": (
        "physics", "chemistry", "biology", "mathematics", "history", "music", "art", "philosophy", "medicine", "law", "economics", "geography",
        "literature", "psychology", "astronomy", "politics",
    ),
    "weather": ("rain", "snow", "sun", "wind", "storm", "fog", "cloud", "thunder"),
    "attributes": ("capital", "language", "currency", "president", "population", "flag", "king", "leader", "history", "name"),
    "directions": ("north", "south", "east", "west"),
    "units": ("second", "minute", "hour", "day", "week", "month", "year", "century", "decade", "seconds", "minutes", "hours", "days", "weeks", "months", "years"),
    "measures": ("meter", "mile", "inch", "foot", "kilometer", "gram", "pound", "liter", "meters", "miles", "feet", "pounds", "degrees", "dollars", "euros"),
    "shapes": ("circle", "square", "triangle", "rectangle", "cube", "sphere", "line", "star"),
    "feelings": ("happy", "sad", "angry", "afraid", "tired", "hungry", "proud", "bored", "excited", "lonely", "surprised", "worried", "nervous"),
    "praise": ("great", "excellent", "wonderful", "brilliant", "amazing", "beautiful", "fantastic", "perfect", "good", "charming", "funny"),
    "blame": ("terrible", "awful", "horrible", "boring", "bad", "dull", "poor", "stupid", "ugly", "worst", "weak", "disappointing"),
    "spans of time": words.SPANS,
    "nouns": words.NOUNS,
    "more nouns": (
        *(plural for _, plural in words.SINGULAR_PLURAL), "windows", "pictures", "letters", "bottles", "flowers", "boxes", "players", "farmers",
        "managers", "nurses", "pilots", "writers", "lawyers", "soldiers", "buildings", "chairs", "lamps", "toys", "bridges", "villages",
    ),
    "adjectives": (
        "hot", "cold", "big", "small", "large", "tiny", "tall", "short", "long", "high", "low", "fast", "slow", "quick", "good", "bad",
        "happy", "sad", "old", "young", "new", "rich", "poor", "strong", "weak", "hard", "soft", "easy", "difficult", "light", "dark", "heavy",
        "bright", "wet", "dry", "clean", "dirty", "full", "empty", "early", "late", "wide", "narrow", "thick", "thin", "deep", "shallow",
        "loud", "quiet", "warm", "cool", "sweet", "sour", "safe", "dangerous", "right", "wrong", "cheap", "expensive", "beautiful", "ugly",
    ),
    "verbs": (
        "give", "take", "find", "buy", "sell", "lose", "leave", "see", "make", "keep", "open", "close", "walk", "run", "wait", "look", "ask",
        "tell", "write", "read", "eat", "drink", "cook", "clean", "build", "break", "pick", "drop", "watch", "play", "sing", "sleep", "catch",
        "throw", "cut", "paint", "carry", "push", "pull", "hold", "help", "follow", "learn", "teach", "wash",
    ),
    "verbs of the past": (
        "gave", "took", "found", "bought", "sold", "lost", "left", "saw", "made", "kept", "opened", "closed", "walked", "ran", "waited",
        "looked", "asked", "told", "wrote", "ate", "drank", "cooked", "cleaned", "built", "broke", "picked", "dropped", "watched", "played",
        "sang", "slept", "caught", "threw", "painted", "carried", "pushed", "pulled", "held", "helped", "followed", "learned", "washed",
    ),
}  # fmt: skip
LISTS = {name: tuple(dict.fromkeys(some)) for name, some in _LISTS.items()}
"""Name of a kind → its words. A word may stand in several."""

OPPOSITES: tuple[tuple[str, str], ...] = (
    ("hot", "cold"), ("big", "small"), ("large", "tiny"), ("tall", "short"), ("long", "short"), ("high", "low"), ("fast", "slow"),
    ("quick", "slow"), ("good", "bad"), ("great", "terrible"), ("excellent", "awful"), ("wonderful", "horrible"), ("best", "worst"),
    ("better", "worse"), ("happy", "sad"), ("old", "young"), ("old", "new"), ("rich", "poor"), ("strong", "weak"), ("hard", "soft"),
    ("hard", "easy"), ("difficult", "easy"), ("light", "dark"), ("light", "heavy"), ("bright", "dark"), ("wet", "dry"), ("clean", "dirty"),
    ("full", "empty"), ("open", "closed"), ("early", "late"), ("wide", "narrow"), ("thick", "thin"), ("deep", "shallow"),
    ("loud", "quiet"), ("warm", "cool"), ("sweet", "sour"), ("safe", "dangerous"), ("true", "false"), ("True", "False"), ("right", "wrong"),
    ("right", "left"), ("alive", "dead"), ("cheap", "expensive"), ("beautiful", "ugly"), ("interesting", "boring"), ("brilliant", "stupid"),
    ("perfect", "terrible"), ("funny", "boring"), ("amazing", "awful"), ("love", "hate"), ("loved", "hated"), ("like", "hate"),
    ("liked", "hated"), ("enjoyed", "hated"), ("up", "down"), ("inside", "outside"), ("before", "after"), ("above", "below"), ("over", "under"),
    ("always", "never"), ("more", "less"), ("most", "least"), ("many", "few"), ("day", "night"), ("morning", "evening"), ("buy", "sell"),
    ("bought", "sold"), ("win", "lose"), ("won", "lost"), ("start", "end"), ("begin", "end"), ("first", "last"), ("came", "went"), ("come", "go"),
    ("push", "pull"), ("give", "take"), ("gave", "took"), ("borrow", "lend"), ("increase", "decrease"), ("maximum", "minimum"), ("max", "min"),
    ("larger", "smaller"), ("bigger", "smaller"), ("largest", "smallest"), ("biggest", "smallest"), ("older", "younger"), ("hotter", "colder"),
    ("taller", "shorter"), ("highest", "lowest"), ("fastest", "slowest"), ("friend", "enemy"), ("summer", "winter"), ("male", "female"),
    ("opposite", "synonym"), ("positive", "negative"), ("success", "failure"), ("add", "remove"), ("war", "peace"),
)  # fmt: skip
"""Pairs of words that mean the opposite."""

IDENTIFIERS = (
    "a", "b", "c", "d", "i", "j", "k", "m", "n", "p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z", "value", "total", "count", "name",
    "index", "data", "result", "size", "item", "node", "key", "text", "list", "width", "height", "left", "right", "start", "end", "user", "price",
    "num", "number", "first", "second", "line", "file", "path", "point", "area", "color", "string", "array", "sum", "length",
)  # fmt: skip
"""Names of variables and functions in code."""

_FUNCTION_WORDS = """
    a an the this that these those some any each every no all both either neither such same another other
    i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we us our ours ourselves
    they them their theirs themselves who whom whose which what where when why how
    and or but nor so yet if then else than as because although though while since until unless whether
    of in on at by for with from to into onto upon about against between among through during without within along across behind
    beyond near next off out around toward towards per via
    am is are was were be been being have has had having do does did done doing will would shall should can could may might must
    not don doesn didn isn aren wasn weren haven hasn hadn wouldn couldn shouldn mustn
    s t re ve ll d m there here just only also too very own let lets
    however therefore thus hence moreover meanwhile perhaps maybe yes again still even now ever already
    mr mrs ms dr st etc
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that hold a sentence together; they are never exchanged, and nothing is exchanged for them."""

_FUNCTION_WORDS_OF = {
    "German": """der die das den dem des ein eine einen einem einer und oder aber denn weil dass wenn als wie ob ist sind war waren sein wird
        werden hat haben hatte ich du er sie es wir ihr mein dein sein ihr unser nicht kein keine auch noch nur schon so zu zum zur von vom in im
        an am auf aus bei beim mit nach vor unter durch gegen um bis seit was wer wo wann warum dieser diese dieses""",
    "French": """le la les un une des du de d l et ou mais donc car que qui quoi dont quand comme si est sont était être a ont avait avoir je tu
        il elle on nous vous ils elles mon ma mes ton ta tes son sa ses notre votre leur leurs ne pas plus en au aux dans sur sous par pour avec
        sans chez entre ce cet cette ces se s n c j m t qu y""",
    "Spanish": """el la los las un una unos unas de del y o pero porque que quien cuando como si es son era eran ser está están ha han había yo tú
        él ella nosotros ellos ellas mi tu su sus nuestro no en a al por para con sin sobre entre hasta desde este esta estos estas se lo le les más
        muy donde""",
    "Italian": """il lo la i gli le un uno una di del dello della dei delle e o ma perché che chi quando come se è sono era essere ha hanno aveva io
        tu lui lei noi voi loro mio tuo suo non in nel nella a al alla da dal dalla per con su sul sulla tra fra questo questa si ci più dove""",
    "Portuguese": """o a os as um uma de do da dos das e ou mas porque que quem quando como se é são era ser está tem têm eu tu ele ela nós eles elas
        meu seu sua não em no na nos nas ao à por para com sem sobre entre até este esta isso mais onde""",
    "Dutch": """de het een en of maar want omdat dat die als hoe is zijn was waren wordt worden heeft hebben had ik jij je hij zij ze wij we mijn jouw
        haar ons niet geen ook nog van in op aan uit bij met naar voor door tegen om tot sinds wat wie waar wanneer deze dit te er""",
}
FUNCTION_WORDS_OF = {language: frozenset(some.split()) for language, some in _FUNCTION_WORDS_OF.items()}
"""The same of some other languages."""

_KEYWORDS = """
    def return import from as class for while if elif else in is not and or with try except finally raise lambda yield pass break
    continue none true false self print range len int str float bool list dict set tuple var let const function new this null
    public private static void double char string select where order by group insert update delete values use fn mut impl
    struct include define std end begin do then switch case default
"""
KEYWORDS = frozenset(_KEYWORDS.split())
"""Words of programming languages, which are not a name that the program has chosen."""
