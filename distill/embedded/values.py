"""A value kind and a random source in, one value out: how people say it, and how a call writes it.

Open values (names, titles, cities, codes) are split into two pools by a hash of their text: `seen` ones may stand in training,
`new` ones only in the test set of new tools.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from random import Random
from typing import Literal

from distill.augmentation.located import DATE_FORMS
from distill.records import JsonValue

Pool = Literal["seen", "new"]

FIRST_NAMES = (
    "Nora Elias Mira Jonas Ines Tarek Lena Oskar Priya Mateo Yuki Amara Felix Greta Hugo Ivy Kofi Lina Marco Nadia "
    "Omar Paula Quinn Rosa Sven Tessa Uma Viktor Wanda Ximena Yara Zane Alba Boris Clara Dario Edith Farid Gwen Hana "
    "Igor Julia Karim Laila Milo Noemi Orla Pavel"
).split()
LAST_NAMES = (
    "Lund Okafor Brandt Silva Tanaka Novak Rossi Haddad Keller Moreau Ivanov Castro Berg Patel Nguyen Walsh Duarte "
    "Fischer Larsen Mbeki Santos Weber Kimura Adler Bianchi Costa Dvorak Eriksen Ferro Gruber Holm Ito Jansen Kaya "
    "Lopez Marsh Nilsen Ortiz Park Reyes Sato Torres"
).split()
CITIES = (
    "Oslo Bergen Lisbon Porto Madrid Seville Vienna Graz Prague Brno Warsaw Krakow Berlin Hamburg Munich Paris Lyon "
    "Nantes Rome Milan Turin Athens Cairo Nairobi Lagos Accra Tunis Delhi Mumbai Pune Tokyo Osaka Kyoto Seoul Busan "
    "Hanoi Manila Sydney Perth Toronto Montreal Boston Chicago Denver Dallas Austin Seattle Portland Miami Lima Quito "
    "Bogota Santiago"
).split()
COUNTRIES = (
    "Norway Sweden Denmark Finland Iceland Ireland Portugal Spain France Italy Greece Austria Poland Germany Belgium "
    "Turkey Egypt Morocco Kenya Ghana Nigeria India Japan Vietnam Thailand Indonesia Australia Canada Mexico Peru "
    "Chile Brazil Argentina Colombia"
).split()
LANGUAGES = (
    "English Spanish French German Italian Portuguese Dutch Swedish Norwegian Polish Czech Greek Turkish Arabic Hindi "
    "Bengali Tamil Japanese Korean Mandarin Vietnamese Thai Swahili Finnish Danish Hungarian"
).split()
TITLE_ADJECTIVES = (
    "Silent Golden Broken Hidden Distant Crimson Frozen Paper Hollow Burning Gentle Electric Lonely Wild Velvet "
    "Falling Northern Endless Little Secret Second Last First Blue Bright Quiet Strange Hungry Salty Wooden"
).split()
TITLE_NOUNS = (
    "Harbor River Garden Winter Letter Mirror Station Orchard Forest Shadow Lantern Bridge Island Kingdom Summer "
    "Engine Window Ocean Valley Thunder Feather Compass Market Painter Captain Daughter Machine Meadow Signal Voyage "
    "Crown Kitchen Circle Planet"
).split()
COMPANY_ENDINGS = ("Labs", "Group", "Partners", "Foods", "Systems", "Media", "Trading", "Works", "Holdings", "Studio")
NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w y z".split()
VOWELS = "a e i o u ai ea ee oo ou".split()
CODAS = ("", "", "", "l", "n", "r", "s", "m", "x", "nd", "rk", "lt", "sh", "th")


@dataclass(frozen=True, slots=True)
class Value:
    """`spoken` stands in the request, `written` in the call under the normal form, `verbatim` in a call that copies what was said."""

    spoken: str
    written: JsonValue
    verbatim: JsonValue


def draw_open_value(kind: str, random: Random, pool: Pool) -> Value:
    """A value of a kind that has a name of its own, such as `city` or `date`. Raises KeyError for an unknown kind."""
    if kind in STRUCTURED:
        return STRUCTURED[kind](random)
    maker = OPEN_TEXT[kind]
    for _ in range(200):
        text = maker(random)
        if pool_of(text) == pool:
            return Value(spoken=text, written=text, verbatim=text)
    raise AssertionError(f"no value of kind {kind} in pool {pool}")


def pool_of(text: str) -> Pool:
    """Which pool an open value belongs to: one in five is `new`."""
    return "new" if hashlib.sha256(text.encode()).digest()[0] % 5 == 0 else "seen"


def integer(random: Random, low: int, high: int) -> Value:
    """A whole number, now and then in words."""
    number = random.randint(low, high)
    spoken = NUMBER_WORDS[number] if 0 < number < len(NUMBER_WORDS) and random.random() < 0.2 else str(number)
    return Value(spoken=spoken, written=number, verbatim=number)


def decimal(random: Random, low: float, high: float, digits: int) -> Value:
    """A decimal number with exactly `digits` digits after the point, the last of them not zero."""
    scale = 10**digits
    number = random.randint(round(low * scale), round(high * scale))
    if number % 10 == 0:
        number += 5 if number + 5 <= round(high * scale) else -5
    return Value(spoken=f"{number / scale:.{digits}f}", written=number / scale, verbatim=number / scale)


def coined_word(random: Random, syllables: int | None = None) -> str:
    """A pronounceable word that means nothing, in lower case."""
    count = syllables if syllables is not None else random.choice((2, 2, 2, 3))
    return "".join(random.choice(ONSETS) + random.choice(VOWELS) + random.choice(CODAS) for _ in range(count))


def _person(random: Random) -> str:
    first = random.choice(FIRST_NAMES) if random.random() < 0.6 else coined_word(random, 2).capitalize()
    last = random.choice(LAST_NAMES) if random.random() < 0.6 else coined_word(random, 2).capitalize()
    return f"{first} {last}"


def _city(random: Random) -> str:
    if random.random() < 0.5:
        return random.choice(CITIES)
    return random.choice(("", "", "New ", "San ", "Port ")) + coined_word(random, 2).capitalize()


def _country(random: Random) -> str:
    return random.choice(COUNTRIES) if random.random() < 0.8 else coined_word(random, 2).capitalize() + "ia"


def _language(random: Random) -> str:
    return random.choice(LANGUAGES) if random.random() < 0.8 else coined_word(random, 2).capitalize() + "ish"


def _company(random: Random) -> str:
    return f"{coined_word(random, 2).capitalize()} {random.choice(COMPANY_ENDINGS)}"


def _title(random: Random) -> str:
    noun = random.choice(TITLE_NOUNS) if random.random() < 0.7 else coined_word(random, 2).capitalize()
    adjective = random.choice(TITLE_ADJECTIVES)
    shapes = (f"The {adjective} {noun}", f"{adjective} {noun}", f"{noun} of {random.choice(TITLE_NOUNS)}", f"A {adjective} {noun}",
              f"{coined_word(random).capitalize()}'s {noun}")  # fmt: skip
    return random.choices(shapes, weights=(4, 4, 3, 2, 1))[0]


def _name(random: Random) -> str:
    first = coined_word(random).capitalize()
    return first if random.random() < 0.6 else f"{first} {random.choice(TITLE_NOUNS)}"


def _code(random: Random) -> str:
    letters = "".join(random.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(random.choice((2, 2, 3))))
    return f"{letters}{random.choice(('-', '-', ''))}{random.randint(10**2, 10**5 - 1)}"


def _email(random: Random) -> str:
    person = f"{random.choice(FIRST_NAMES)}.{random.choice(LAST_NAMES)}".lower()
    return f"{person}@{coined_word(random, 2)}.{random.choice(('com', 'org', 'net'))}"


def _date(random: Random) -> Value:
    day = date(random.randint(2023, 2029), random.randint(1, 12), random.randint(1, 28))
    spoken = random.choice((day.isoformat(), *(say(day) for say in DATE_FORMS)))
    return Value(spoken=spoken, written=day.isoformat(), verbatim=spoken)


def _time(random: Random) -> Value:
    hour, minute = random.randint(7, 22), random.choice((0, 0, 15, 30, 45))
    written = f"{hour:02d}:{minute:02d}"
    half = "am" if hour < 12 else "pm"
    twelve = hour if hour <= 12 else hour - 12
    said = f"{twelve} {half}" if minute == 0 else f"{twelve}:{minute:02d} {half}"
    spoken = random.choices((written, said), weights=(1, 2))[0]
    return Value(spoken=spoken, written=written, verbatim=spoken)


def _duration(random: Random) -> Value:
    hours, minutes = random.choice(
        ((0, 20), (0, 30), (0, 45), (0, 50), (1, 0), (1, 15), (1, 30), (1, 45), (2, 0), (2, 30), (3, 0), (4, 0))
    )
    total = 60 * hours + minutes
    said_hours = "1 hour" if hours == 1 else f"{hours} hours"
    said = f"{minutes} minutes" if hours == 0 else said_hours if minutes == 0 else f"{said_hours} {minutes} minutes"
    spoken = random.choices((f"{total} minutes", said), weights=(1, 2))[0]
    return Value(spoken=spoken, written=total, verbatim=spoken)


def _year(random: Random) -> Value:
    return integer(random, 1960, 2029)


OPEN_TEXT = {
    "person": _person,
    "city": _city,
    "country": _country,
    "company": _company,
    "title": _title,
    "name": _name,
    "code": _code,
    "email": _email,
    "language": _language,
}
STRUCTURED = {"date": _date, "time": _time, "duration": _duration, "year": _year}
