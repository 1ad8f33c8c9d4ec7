"""A random source in, a domain invented on the spot out: parameters, functions and phrasings that exist in no file.

What ties a request to a specification here is a word that stands in both, or the kind of the value where no other parameter takes
such a value. Words are drawn anew for every domain, so only reading helps; hand-written domains teach what English means.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from distill.embedded.domains import Concept, Domain, Kind, Param
from distill.embedded.values import coined_word

NOUNS = (
    "account alarm alert anchor animal answer apple archive arrow artist atlas audience badge balcony ball banner barrel basket "
    "battery beacon bench bell binder bird block board boat bolt bonus book booth border bottle bowl box branch brand bridge broom "
    "brush bucket budget bundle button cabin cable cake camera campus candle canvas captain caption card cargo carpet carrier case "
    "castle category cell center chain chair channel chapter charge chart chest choir circle class client clock cloth club coach "
    "coast coin color column comment contest contract corner costume counter course court cover crane crew crop crowd crystal "
    "curtain customer cycle dance deadline dealer deck deposit depth desk detail device dial dish district diver doctor dome door "
    "draft drama drawer dress driver drum duty edge editor effect engine entry episode estate event exhibit expert fabric factory "
    "farm fashion fence field figure file film filter finish fire flag flavor fleet flight floor flower folder forest format frame "
    "fruit fuel gallery game garage garment gate gear ghost gift glass globe goal grade grain graph grid group guard guest guide "
    "guitar habit hall hammer handle harbor harvest hat heat height helmet hobby hook horse host image index insect island item "
    "jacket jar jewel joint journal judge juice jury kettle key kitchen knife label lake lamp lane layer leader leaf league "
    "lecture lens letter level library light limit liner link list load loan lobby locker lodge logo loop lot machine magnet mail "
    "manager map margin marker market mask master match material meal measure medal member memo menu message metal meter mirror "
    "mission mode model module monitor motor mount movie museum music name needle nest net night note notice number object offer "
    "office officer oil option orbit order organ origin outfit outlet oven owner package page paint pair palace panel paper parade "
    "parcel park part partner party pass patch path patient pattern payment peak pen people period permit person phase phone photo "
    "phrase piano picture piece pilot pipe place plan plane planet plant plate player plot pocket poem point policy pool port "
    "portion poster pot powder prize problem product profile program project prop proof puzzle quality quarter queue quota rack "
    "radio rail range rank rate ratio reader reason receipt recipe record region relay rental repair reply report rescue reserve "
    "result review reward ribbon rider ring river road robot rock role roof room root rope round route row rule runner sale sample "
    "scale scene scheme school scope score screen script sculpture season seat section sector segment sensor series service "
    "session set shade shape share sheet shelf shell shift ship shirt shoe shop show side sign signal site size sketch skill slide "
    "slot snack soil song sound source space spark speaker speed sport spot square staff stage stair stamp stand star state "
    "station status stem step stick stock stone storage store storm story stream street string studio style subject suit sum "
    "supply surface survey switch symbol system table tag tail tank target task team template tent term test text theme thread "
    "ticket tier tile timer tip title token tone tool topic torch total tour tower town toy trace track trade trail train tray "
    "treat tree trend trial trip trophy truck trunk tube tunnel type unit valley value valve vault vehicle vendor venue version "
    "vessel video view village visit visitor voice volume voter voucher wagon wall ward warehouse watch water wave wheel wind "
    "window wing winner wire witness wood word worker workshop world writer yard zone"
).split()
VERBS = (
    "add adjust apply approve arrange ask assign attach attend block book borrow bring build buy call cancel change check choose "
    "claim clean clear close collect combine compare compose confirm connect convert copy count create cut deliver design display "
    "divide download draw edit enter estimate exchange explain extend fetch file fill find fix fold follow gather generate get "
    "give guard hire hold hunt import improve inspect install invite issue join keep launch lease lend limit list load locate lock "
    "log look mark match measure mend merge mix monitor move mute note obtain offer open order organize pack paint park pause pick "
    "place plan play polish post predict prepare print protect publish purchase push put queue raise read record reduce refund "
    "register release remind remove rename rent repair replace report request rescue reserve reset resize restore retrieve return "
    "review ring run save scan schedule search secure select sell send serve set share ship show shut sign sort start stop store "
    "submit subscribe supply switch take test track trade train transfer translate turn unlock update upgrade upload validate "
    "verify view visit vote wash watch weigh wrap write"
).split()
SIDE_WORDS = (
    "main new first current final local public private daily full extra special chosen wanted given exact next second regular "
    "total"
).split()

TIED_PHRASES = (
    "with {v} as the {n}", "with {v} as {n}", "with the {n} {v}", "with {n} {v}", "with a {n} of {v}",
    "with the {n} being {v}", "where the {n} is {v}", "where {v} is the {n}", "and the {n} is {v}",
    "and {v} is the {n}", "the {n} being {v}", "for the {n} {v}", "for {n} {v}", "under {n} {v}", "using the {n} {v}",
    "using {v} as the {n}", "at the {n} {v}", "on the {n} of {v}", "in the {n} {v}", "from the {n} {v}",
    "to the {n} {v}", "by the {n} {v}", "choosing {v} as {n}", "choosing {v} for the {n}", "taking {v} as the {n}",
    "{n} {v}", "in {v} {n}", "with the {v} {n}", "{n}ed by {v}", "{n}ed at {v}", "for a {n} of {v}",
    "the {n} set to {v}", "when the {n} is {v}", "so that {v} is the {n}", "where the {n} is called {v}",
    "quoting {n} {v}", "for {v} {n}s", "and {n}s of {v}", "with {v} {n}", "of {n} {v}", "during the {v} {n}",
    "counting {v} in the {n}",
)  # fmt: skip
FREE_PHRASES = (
    "at {v}", "in {v}", "for {v}", "from {v}", "by {v}", "with {v}", "on {v}", "to {v}", "of {v}", "{w}ing {v}",
    "{w}ed {v}", "{w} {v}", "{w}ing to {v}", "with {w} {v}", "for the {w} {v}", "{w}ed for {v}",
)  # fmt: skip
ODD_TIED_PHRASES = (
    "{g} {f} the {n} {v}", "the {n} {g} {f} {v}", "{f} {v} {f} the {n}", "{g} {v} {f} our {n}", "{n} {g} {f} {v}",
    "{w} {v} {f} {n}", "{f} a {w} {n} {f} {v}", "{f} {v} {f} {n} {w}", "{g} a {w} {n} {f} {v}", "{v} {f} {n} {w}",
    "whose {n} {g} {v}", "{v} {g} {f} the {w} {n}", "{n} {w} {v}",
)  # fmt: skip
ODD_FREE_PHRASES = (
    "{g} {v}", "{g} {f} {v}", "{w} {f} {v}", "{f} {v} {w}", "the {w} {f} {v}", "{g} {v} {f} the {w}", "{f} {v} {g}",
    "{w}ed {f} {v} {f} the {w}", "{g} off {f} {v}", "{f} the {w} {v}", "{f} {v} {f} {w} {w}", "{w} {v} {w}",
)  # fmt: skip
JOINING_WORDS = (
    "at in for from by with on to of as into over under about near after before until through is being like all if so me my"
).split()
TRUE_PHRASES = (
    "with {n}", "with the {n}", "including the {n}", "and add the {n}", "{n} included", "making sure of the {n}",
    "and the {n} is wanted", "keeping the {n}", "as a {n}", "{n}s only",
)  # fmt: skip
FALSE_PHRASES = (
    "without {n}", "without the {n}", "leaving out the {n}", "no {n}", "skipping the {n}", "and the {n} is not needed",
    "not a {n}", "it need not be a {n}", "with no {n}",
)  # fmt: skip
PLAIN_DESCRIPTIONS = (
    "{N} of the {m}", "{N}", "The {n} that is meant", "Which {n} is wanted", "{N} for the {m}", "The {s} {n}",
    "What {n} to use",
)  # fmt: skip
DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "date": (
        "{N} of the {m}, YYYY-MM-DD",
        "Date of the {n}, YYYY-MM-DD",
        "Day of the {n} as YYYY-MM-DD",
        "{N} (YYYY-MM-DD)",
    ),
    "time": (
        "Clock time of the {n}, HH:MM",
        "Time of the {n}, 24-hour HH:MM",
        "{N} of the {m}, HH:MM",
        "When the {n} begins, HH:MM",
    ),
    "duration": (
        "Length of the {n} in minutes",
        "{N} in minutes",
        "How long the {n} lasts, in minutes",
        "{N} of the {m}, in minutes",
    ),
    "year": ("Year of the {n}", "{N} year", "Year in which the {n} was made"),
    "person": ("Full name of the {n}", "Person who is the {n}", "{N} of the {m}", "Name of the {n}"),
    "city": ("City of the {n}", "{N} city", "City where the {n} stands", "Town of the {n}"),
    "country": ("Country of the {n}", "{N} country", "Country the {n} comes from"),
    "language": ("Language of the {n}", "{N} language", "Language that the {n} speaks"),
    "company": ("Company behind the {n}", "{N} of the {m}", "Name of the {n}"),
    "title": ("Title of the {n}", "{N} from the {m}", "{N} of the {m}"),
    "name": ("Name of the {n}", "{N} of the {m}", "{N} that is meant"),
    "code": ("Code of the {n}", "Reference of the {n}", "{N} code", "Code printed on the {n}"),
    "email": ("Email address of the {n}", "Mail address for the {n}", "{N} email"),
    "int": ("Number of {n}s", "How many {n}s", "{N} number", "{N} count", "Count of the {n}s"),
    "float": ("{N} in euros", "Amount of the {n}", "{N} of the {m}", "Highest {n}"),
    "bool": (
        "Whether the {n} is wanted",
        "Whether {n} is added",
        "{N} or not",
        "Only with a {n}",
        "Whether it is a {n}",
    ),
    "list": ("{N}s of the {m}", "List of {n}s", "{N}s to include", "Names of the {n}s"),
}
FUNCTION_NAMES = (
    "{v}_{o}", "{v}_{m}_{o}", "{o}.{v}", "{v}{O}", "{o}_{v}", "{m}.{v}{O}", "{o}s.{v}", "{m}_{o}_{v}", "{m}.{v}_{o}",
    "{v}{M}{O}",
)  # fmt: skip
FUNCTION_DESCRIPTIONS = (
    "{V} a {o}", "{V} the {o} of a {m}", "{V} a {m} {o}", "{V} the {m} {o}", "{V} a {o} for the {m}",
    "{V} {o}s in the {m}", "{V} or {u} a {o}",
)  # fmt: skip
INTENTS = (
    "{v} a {o}", "{v} the {o}", "{v} a {m} {o}", "{u} a {o}", "{u} the {m} {o}", "{v} the {m} {o}",
    "{v} the {o} of a {m}", "{v} my {o}", "{u} a {o} of the {m}", "{v} some {o}s",
)  # fmt: skip
KINDS = (
    "date date time time duration year person person city city country language company title title name name code code "
    "email int int int float float bool bool enum enum enum enum enum enum list object"
).split()


def invent_domain(random: Random, num_concepts: int) -> Domain:
    """A domain of `num_concepts` functions over a handful of parameters that several of them share."""
    words = _fresh_words(random, 160)
    kinds = {f"p{index}": random.choice(KINDS) for index in range(random.randint(3, 5) + 2 * num_concepts)}
    concepts: list[Concept] = []
    taken: set[tuple[str, str]] = set()
    verb, noun = random.choice(VERBS), words()
    while len(concepts) < num_concepts:
        # neighbours often share the verb or the noun, so that both must be read
        verb = verb if random.random() < 0.3 else random.choice(VERBS)
        noun = noun if random.random() < 0.3 else words()
        concept = _invent_concept(f"c{len(concepts)}", verb, noun, list(kinds), words, random)
        if (verb, noun) not in taken and concept.names[0] not in {other.names[0] for other in concepts}:
            concepts.append(concept)
            taken.add((verb, noun))
    params = {key: _invent_param(kind, _is_alone(key, kinds, concepts), words, random) for key, kind in kinds.items()}
    return Domain.model_construct(domain="invented", params=params, concepts=concepts)


def _is_alone(key: str, kinds: Mapping[str, str], concepts: Sequence[Concept]) -> bool:
    """Whether the parameter's values are told by their look in every function that takes it."""
    family = _family(kinds[key])
    return all(
        [_family(kinds[other]) for other in (*concept.required, *concept.optional)].count(family) == 1
        for concept in concepts
        if key in (*concept.required, *concept.optional)
    )


def _fresh_words(random: Random, count: int) -> Callable[[], str]:
    nouns = iter(random.sample(NOUNS, count))

    def word() -> str:
        coined = coined_word(random, random.choice((1, 2, 2)))
        return coined if random.random() < 0.4 else next(nouns, coined)

    return word


def _family(kind: str) -> str:
    """Kinds whose values look alike have one family."""
    if kind in ("name", "title", "company", "person", "city", "country", "language"):
        return "proper"
    return "number" if kind in ("int", "float", "year") else kind


def _invent_param(kind: str, alone: bool, words: Callable[[], str], random: Random) -> Param:
    noun, other = words(), words()
    value = _invent_kind(kind, words, random)
    names = _invent_name(noun, other, random)
    if kind == "object":
        return _invent_object(noun, value, names, random)
    templates = DESCRIPTIONS.get(kind, PLAIN_DESCRIPTIONS)
    descriptions = [_written(random.choice(templates), n=noun, m=other, s=random.choice(SIDE_WORDS))]
    if kind == "bool":
        return Param.model_construct(
            names=[names],
            descriptions=descriptions,
            value=value,
            default=False,
            phrases=[],
            phrases_true=[_written(text, n=noun) for text in random.sample(TRUE_PHRASES, 4)],
            phrases_false=[_written(text, n=noun) for text in random.sample(FALSE_PHRASES, 4)],
        )
    phrases = [_written(text, n=noun) for text in random.sample(TIED_PHRASES, 4)]
    phrases += [_odd(text, noun, words, random) for text in random.sample(ODD_TIED_PHRASES, 2)]
    if alone or kind == "enum":
        phrases += [_written(text, w=words()) for text in random.sample(FREE_PHRASES, 2)]
        phrases += [_odd(text, noun, words, random) for text in random.sample(ODD_FREE_PHRASES, 3)]
    return Param.model_construct(
        names=[names],
        descriptions=descriptions,
        value=value,
        default=_default(value, random),
        phrases=phrases,
        phrases_true=[],
        phrases_false=[],
    )


def _odd(template: str, noun: str, words: Callable[[], str], random: Random) -> str:
    """A clause in which only the noun, or not even that, says what the value is; the words around it mean nothing."""

    def drawn(mark: re.Match[str]) -> str:
        match mark.group():
            case "{n}":
                return noun
            case "{f}":
                return random.choice(JOINING_WORDS)
            case "{g}":
                return random.choice(VERBS).removesuffix("e") + "ing"
            case _:
                return words()

    return re.sub(r"\{[nfgw]\}", drawn, template)


def chatter(text: str, random: Random) -> str:
    """The request with words before it or behind it that say nothing: what is no argument must be left alone."""
    said = " ".join(
        random.choice(
            (random.choice(JOINING_WORDS), random.choice(NOUNS), random.choice(VERBS), coined_word(random, 1))
        )
        for _ in range(random.randint(1, 5))
    )
    if random.random() < 0.5:
        return f"{said.capitalize()}{random.choice((',', ':', '.', ''))} {text}"
    return f"{text[:-1]}{random.choice((',', '', ''))} {said}{text[-1]}"


def _default(value: Kind, random: Random) -> object:
    if value.enum is not None:
        return random.choice(list(value.enum))
    return value.int_range[0] if value.int_range is not None else None


def _invent_name(noun: str, other: str, random: Random) -> str:
    """Mostly with the noun that requests use; in one of four only the description has it."""
    shapes = (
        noun,
        f"{noun}_{other}",
        f"{other}_{noun}",
        f"{noun}{other.capitalize()}",
        f"{other}{noun.capitalize()}",
        f"{noun}s",
        other,
    )
    return random.choices(shapes, weights=(4, 2, 2, 2, 1, 1, 4))[0]


def _invent_kind(kind: str, words: Callable[[], str], random: Random) -> Kind:
    if kind == "int":
        low = random.randint(0, 3)
        return _kind(int_range=[low, low + random.choice((5, 9, 20, 90, 500))])
    if kind == "float":
        low = random.randint(1, 20)
        return _kind(float_range=[low, low * random.choice((3, 10, 40)), random.choice((1, 2, 2))])
    if kind == "enum":
        return _kind(enum=_invent_enum(words, random))
    if kind == "list":
        item = _kind(named=random.choice(("person", "city", "name", "code", "country", "language")))
        if random.random() < 0.5:
            item = _kind(words=[f"{words()} {words()}" if random.random() < 0.4 else words() for _ in range(4)])
        return _kind(item=item, size=(2, 3))
    if kind == "object":
        return _kind(fields_by_name={})
    return _kind(named=kind)


def _invent_enum(words: Callable[[], str], random: Random) -> dict[str, list[str]]:
    style, unlike, prefix = random.randrange(4), random.random() < 0.35, _letters(random)
    members: dict[str, list[str]] = {}
    for index in range(random.randint(2, 5)):
        first = words()
        forms = [f"{first} {words()}" if random.random() < 0.5 else first]
        if random.random() < 0.7:
            forms.append(
                random.choice(
                    (
                        f"{random.choice(SIDE_WORDS)} {first}",
                        f"the {first} one",
                        f"{words()} {first}",
                        f"{random.choice(VERBS)} {random.choice(JOINING_WORDS)} {first}",
                        f"{words()} {random.choice(JOINING_WORDS)} {first} {words()}",
                    )
                )
            )
        shapes = (
            first,
            first.upper(),
            first[: random.randint(2, 4)].upper(),
            f"{first[:2].upper()}{random.randint(1, 99)}",
        )
        code = shapes[style] if random.random() < 0.85 else f"{first.upper()}_{index}"
        if unlike:
            code = random.choice((f"{prefix}{index}", _letters(random), f"{_letters(random)}{random.randint(1, 99)}"))
        members.setdefault(code, forms)
    return members


def _letters(random: Random) -> str:
    return "".join(random.choices(string.ascii_uppercase, k=random.randint(1, 4)))


def _invent_object(noun: str, value: Kind, name: str, random: Random) -> Param:
    fields = random.sample(("person", "city", "int", "code", "time"), 2)
    named = {
        (
            "recipient" if field == "person" else "town" if field == "city" else "number" if field == "int" else field
        ): _kind(named=field) if field != "int" else _kind(int_range=[1, 40])
        for field in fields
    }
    first, second = named
    phrases = [
        f"with the {noun} {first} {{{first}}} and {second} {{{second}}}",
        f"where the {noun} has {first} {{{first}}} and {second} {{{second}}}",
        f"for the {noun} of {first} {{{first}}} with {second} {{{second}}}",
    ]
    return Param.model_construct(
        names=[name],
        descriptions=[f"{noun.capitalize()} with {first} and {second}"],
        value=value.model_copy(update={"fields_by_name": named}),
        default=None,
        phrases=phrases,
        phrases_true=[],
        phrases_false=[],
    )


def _invent_concept(
    key: str, verb: str, noun: str, params: list[str], words: Callable[[], str], random: Random
) -> Concept:
    fillers = {"v": verb, "u": random.choice(VERBS), "o": noun, "m": words()}
    chosen = random.sample(params, min(len(params), random.randint(1, 4)))
    required = random.randint(1, min(3, len(chosen)))
    return Concept.model_construct(
        key=key,
        names=[_written(random.choice(FUNCTION_NAMES), **fillers)],
        descriptions=[_written(random.choice(FUNCTION_DESCRIPTIONS), **fillers)],
        intents=[_written(text, **fillers) for text in random.sample(INTENTS, 4)],
        required=chosen[:required],
        optional=chosen[required:],
    )


def _kind(**given: Any) -> Kind:
    """A kind without the checks that files need: domains are invented by the thousand."""
    empty = dict.fromkeys(("named", "int_range", "float_range", "enum", "words", "item", "size", "fields_by_name"))
    return Kind.model_construct(None, **{**empty, **given})


def _written(template: str, **words: str) -> str:
    """The template with its words filled in; a capital placeholder capitalizes. `{v}` of a phrase stays when no `v` is given."""
    for mark, word in words.items():
        template = template.replace(f"{{{mark}}}", word)
        template = template.replace(f"{{{mark.upper()}}}", word.capitalize())
    return template
