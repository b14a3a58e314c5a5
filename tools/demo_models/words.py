"""The word lists that the generators draw from. Only data and drawing; no sentences are built here.

Lists are long where the model should learn to *copy* a word rather than remember it: with few cities it would answer
from memory, and a question about any other city would go wrong. Invented names widen the lists without end.
"""

from __future__ import annotations

import random

ANIMALS = (
    "fox cat dog mouse bear owl rabbit duck horse goat frog hedgehog squirrel wolf crow robin turtle whale penguin "
    "otter badger beaver deer donkey elephant giraffe goose hamster heron kitten lamb lion lizard monkey panda parrot "
    "pony puppy raven seal snail sparrow spider swan tiger toad weasel zebra bat bee ant crab dolphin dragon unicorn"
).split()

PEOPLE = (
    "girl boy baker sailor gardener painter teacher pilot farmer doctor engineer librarian knight wizard princess "
    "prince king queen tailor carpenter fisherman student astronaut detective shepherd pirate cook postman nurse "
    "programmer musician dancer clockmaker miller blacksmith scientist ranger captain inventor writer"
).split()

THINGS_ALIVE = (
    "robot computer lighthouse train tractor kite teapot lantern clock boat cloud river tree star moon snowman balloon "
    "bicycle bus printer server router cable keyboard piano violin umbrella candle pencil paper ship rocket satellite "
    "toaster kettle lamp mountain pumpkin acorn seed leaf statue doll puppet windmill bell key door chair spoon button"
).split()

PLACES = (
    "forest village valley meadow island harbour city garden desert castle farm library mountain river lake market "
    "office workshop school bakery tower bridge cave beach hill station museum orchard swamp field"
).split()

TREASURES = (
    "golden key|lost map|silver bell|magic seed|warm blanket|old book|red kite|blue stone|music box|paper boat|"
    "glass star|copper coin|green feather|little lamp|missing letter|new friend|quiet home|secret garden|"
    "wooden flute|bright lantern|honey cake|pair of shoes|round mirror|tiny crown"
).split("|")

ADJECTIVES = "small young old brave curious clever shy kind quiet cheerful lonely gentle sleepy proud tiny".split()

COLOURS = "red blue green yellow orange purple white black brown grey pink".split()

FOODS = (
    "bread cheese soup cake honey apples pears plums nuts berries porridge pancakes cookies pie tea rice noodles "
    "carrots pumpkins jam"
).split()

FRUITS = "apple banana pear plum cherry orange lemon grape peach mango melon strawberry fig apricot kiwi".split()

VEGETABLES = "carrot potato onion tomato pea bean cabbage pepper leek spinach turnip cucumber radish".split()

COUNTRY_CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "England": "London", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest", "Greece": "Athens",
    "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi", "Japan": "Tokyo", "China": "Beijing",
    "India": "New Delhi", "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasilia", "Peru": "Lima",
    "Chile": "Santiago", "Cuba": "Havana", "Russia": "Moscow", "Ukraine": "Kyiv", "Switzerland": "Bern",
    "Belgium": "Brussels", "Iceland": "Reykjavik", "Australia": "Canberra", "Thailand": "Bangkok",
    "Vietnam": "Hanoi", "Argentina": "Buenos Aires", "Scotland": "Edinburgh", "Wales": "Cardiff",
}  # fmt: skip

CITIES = (
    "London|Paris|Berlin|Rome|Madrid|Lisbon|Dublin|Oslo|Stockholm|Helsinki|Copenhagen|Warsaw|Vienna|Budapest|Athens|"
    "Ankara|Cairo|Nairobi|Tokyo|Beijing|New Delhi|Ottawa|Mexico City|Lima|Santiago|Havana|Moscow|Kyiv|Bern|Brussels|"
    "Reykjavik|Canberra|Bangkok|Hanoi|Buenos Aires|Edinburgh|Cardiff|New York|Boston|Chicago|Seattle|San Francisco|"
    "Los Angeles|Denver|Austin|Dallas|Houston|Miami|Atlanta|Toronto|Montreal|Vancouver|Sydney|Melbourne|Perth|Brisbane|"
    "Auckland|Wellington|Singapore|Hong Kong|Shanghai|Seoul|Osaka|Kyoto|Taipei|Manila|Jakarta|Mumbai|Delhi|Chennai|"
    "Kolkata|Bangalore|Karachi|Lahore|Dhaka|Kathmandu|Colombo|Dubai|Doha|Riyadh|Tehran|Baghdad|Amman|Beirut|Jerusalem|"
    "Tel Aviv|Istanbul|Izmir|Sofia|Bucharest|Belgrade|Zagreb|Ljubljana|Sarajevo|Skopje|Tirana|Prague|Bratislava|"
    "Krakow|Gdansk|Vilnius|Riga|Tallinn|Minsk|Hamburg|Munich|Cologne|Frankfurt|Stuttgart|Leipzig|Dresden|Zurich|"
    "Geneva|Basel|Salzburg|Graz|Milan|Turin|Naples|Venice|Florence|Bologna|Genoa|Palermo|Barcelona|Valencia|Seville|"
    "Bilbao|Porto|Lyon|Marseille|Nice|Toulouse|Bordeaux|Nantes|Lille|Strasbourg|Antwerp|Ghent|Amsterdam|Rotterdam|"
    "Utrecht|The Hague|Luxembourg|Manchester|Liverpool|Leeds|Bristol|Oxford|Cambridge|Glasgow|Belfast|Cork|Galway|"
    "Bergen|Malmo|Gothenburg|Aarhus|Turku|Lagos|Accra|Dakar|Tunis|Algiers|Rabat|Casablanca|Addis Ababa|Kampala|"
    "São Paulo|Zürich|Göttingen|Málaga|Düsseldorf|Kraków|Kuala Lumpur|Saint Petersburg|"
    "Cape Town|Durban|Harare|Lusaka|Maputo|Quito|Bogota|Caracas|Montevideo|Rio|Recife|Salvador|La Paz|Panama|Kingston"
).split("|")

FIRST_NAMES = (
    "Ada Alan Alice Amir Anna Anton Ben Bella Boris Carla Carlos Chen Clara Daniel David Diana Dora Edgar Ella Emil "
    "Emma Erik Eva Fatima Felix Finn Frank Freya George Grace Greta Hana Hans Hugo Ida Igor Ines Iris Ivan Jack Jane "
    "Joe John Julia Kai Karl Kate Kim Lars Laura Leo Lena Lily Lina Lucas Lucy Luna Maria Mark Martin Max Maya Mia "
    "Milo Mina Nadia Nina Noah Nora Olga Oliver Omar Oscar Otto Paul Petra Pia Pip Priya Rosa Ruby Sam Sara Sofia Sven "
    "Tara Theo Tim Tina Tom Uma Vera Victor Wanda Wei Yara Yuki Zoe"
).split()

SKIES = (
    "sunny|cloudy|rainy|windy|foggy|snowy|clear|stormy|light rain|heavy rain|clear sky|partly cloudy|overcast|"
    "light snow|sunshine|drizzle|thunder|hazy|mild and dry|cold and wet"
).split("|")

_STARTS = "B C D F G H J K L M N P R S T V W Z Br Ch Dr Fl Gr Kr Pl Sh St Th Tr Bl Cl Gl Sk Sn Sw".split()
_MIDDLES = "b d f g k l m n p r s t v z nd rk st ll rt mb nk ss th".split()
_VOWELS = "a e i o u a e o ai ea ou".split()
_ENDS = ("", "", "", "n", "r", "l", "s", "m", "x", "ton", "burg", "ville", "ford", "field", "na", "ra", "ka", "by")


def invented_name(rng: random.Random) -> str:
    """A pronounceable capitalised name that no list holds, so that it can only be answered by copying it."""
    name = rng.choice(_STARTS) + rng.choice(_VOWELS)
    for _ in range(rng.choice((0, 1, 1, 2))):
        name += rng.choice(_MIDDLES) + rng.choice(_VOWELS)
    return name + rng.choice(_ENDS)


def city(rng: random.Random) -> str:
    """A city: one of two is real, the other invented."""
    return rng.choice(CITIES) if rng.random() < 0.5 else invented_name(rng)


def person(rng: random.Random) -> str:
    """A first name: two of three are common, the others invented."""
    return rng.choice(FIRST_NAMES) if rng.random() < 0.65 else invented_name(rng)


def article(noun: str) -> str:
    """The noun with "a" or "an", judged by its first letter."""
    return ("an " if noun[0].lower() in "aeiou" and not noun.startswith(("uni", "use")) else "a ") + noun
