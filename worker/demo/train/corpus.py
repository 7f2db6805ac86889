#!/usr/bin/env python3
"""The text the demo model learns from, as a seeded stream of conversations.

Everything here is written for Forebay: facts (`facts.txt`), small talk (`dialogue.txt`) and generated
exercises (sums, echoing, JSON, a name told earlier in the chat, questions to decline). One *exchange* is a
question and its answer; one *conversation* is several exchanges in random order, so that the model learns
to answer the last question of a chat.

Held out: no question of `paraphrases.jsonl` or `paraphrases-blind.jsonl`, compared with case, punctuation
and spaces removed, is ever produced (nor contained in a longer question), and no word pair of an echo or
JSON item of any list is ever a payload. `Corpus.exchange` enforces both, and the hand-written files are
asserted clean on loading.

    python worker/demo/train/corpus.py --show 20        # look at some exchanges
    python worker/demo/train/corpus.py --check 200000   # assert that nothing held out is produced
"""

from __future__ import annotations

import argparse
import json
import random
import re
import string
from dataclasses import dataclass, field
from pathlib import Path

TRAIN_DIR = Path(__file__).resolve().parent
DEMO_DIR = TRAIN_DIR.parent

UNKNOWN = (
    "I am a very small demo model, so I do not know that. "
    "Ask me about Forebay, small sums, echoing or JSON."
)
TOO_BIG = "That is too big for me; I only do small sums."
SYSTEMS = [
    "You are a helpful assistant.",
    "You are the Forebay demo model.",
    "You are a helpful, honest and short assistant.",
    "Answer briefly.",
    "Be polite.",
    "Answer in one or two sentences.",
    "You are a friendly demo.",
    "You are an assistant that answers questions about Forebay.",
]


@dataclass(frozen=True)
class Exchange:
    """One question and the answer the model should give."""

    question: str
    answer: str


@dataclass
class Topic:
    """One block of `facts.txt` or `dialogue.txt`: one answer, many ways to ask for it."""

    answer: str
    asks: list[str] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)


def squash(text: str) -> str:
    """Lower case with everything but letters, digits and signs of arithmetic removed."""
    return re.sub(r"[^a-z0-9+*/=-]+", "", text.lower())


def read_topics(path: Path) -> list[Topic]:
    """Parses the block format described at the head of `facts.txt`."""
    topics: list[Topic] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("> "):
            topics.append(Topic(line[2:]))
        elif line.startswith("terms: "):
            topics[-1].terms = [t.strip() for t in line[7:].split("|")]
        else:
            topics[-1].asks.append(line)
    owner: dict[str, str] = {}
    for topic in topics:
        for ask in topic.asks:
            other = owner.setdefault(squash(ask), topic.answer)
            assert other == topic.answer, f"two answers for {ask!r}"
    return topics


def read_jsonl(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


# ---------------------------------------------------------------- ways to ask for a fact

TERM_TEMPLATES = [
    "What is {t}?", "What's {t}?", "What is {t}", "Explain {t}.", "Define {t}.", "Describe {t}.",
    "Tell me what {t} is.", "Tell me about {t}.", "Can you explain {t}?", "Could you explain {t}?",
    "Please explain {t}.", "What does {t} mean?", "What do you mean by {t}?", "What is meant by {t}?",
    "What exactly is {t}?", "Do you know what {t} is?", "Can you tell me what {t} is?", "{t}?", "{t}",
    "Can you tell me about {t}?", "I want to know what {t} is.", "I do not know what {t} is.",
    "I would like to know more about {t}.", "Give me a definition of {t}.", "Definition of {t}",
    "What is the meaning of {t}?", "What can you tell me about {t}?", "What do you know about {t}?",
    "Say something about {t}.", "Help me understand {t}.", "Teach me about {t}.", "Give me a short answer: what is {t}?",
    "How do you define {t}?", "How do you explain {t}?", "I read about {t}. What is it?", "I heard of {t}, what is that?",
    "{t}, what is that?", "{t}: what is it?", "What should I know about {t}?", "Why do people talk about {t}?",
    "What is this thing called {t}?", "In Forebay, what is {t}?", "What is {t} in Forebay?", "Clarify {t} for me.",
    "I do not understand {t}.", "Remind me what {t} is.", "What was {t} again?", "Who or what is {t}?",
    "Someone asked me about {t}.", "Explain to me what {t} is.", "Explain what {t} means.", "What is the idea of {t}?",
    "What is {t} about?", "What is {t} for?", "What does {t} do?", "What is the point of {t}?", "Why is there {t}?",
    "When do I need {t}?", "What is the use of {t}?", "Let me hear about {t}.", "Could you define {t} for me?",
    "I keep seeing {t}. What does it mean?", "The docs mention {t}. What is that?", "How would you explain {t}?",
    "What would you say {t} is?", "Could you tell me what {t} is?", "What do we call {t}?", "What happens in {t}?",
    "Is there anything to know about {t}?", "Give me the basics of {t}.", "Summarise {t}.", "Talk about {t}.",
]
# (pattern, replacements): each matching pattern is applied with some probability.
REWRITES: list[tuple[str, list[str]]] = [
    (r"^What is (the .+)\?$", [r"Tell me \1.", r"I need to know \1.", r"Give me \1.", r"Do you know \1?",
                               r"Can you tell me \1?", r"What would be \1?", r"What might \1 be?", r"I forgot \1.",
                               r"Remind me of \1.", r"I am looking for \1."]),
    (r"^What does (.+) (do|mean|measure|show|hold|look like|stand for)\?$", [
        r"Tell me what \1 \2s.", r"Can you tell me what \1 \2s?", r"Explain what \1 \2s.", r"What would \1 \2?",
        r"I want to know what \1 \2s.", r"Do you know what \1 \2s?", r"What can \1 \2?", r"What will \1 \2?"]),
    (r"^What does (.+) do\?$", [
        r"What happens when I run \1?", r"What is \1 good for?", r"Why would I use \1?", r"When should I use \1?",
        r"What is the effect of \1?", r"What do I get from \1?", r"If I run \1, what happens?", r"What is the use of \1?",
        r"What would I use \1 for?", r"What is \1 responsible for?", r"How does \1 help me?"]),
    (r"^(Which|What) command (.+)\?$", [
        r"Is there a command that \2?", r"Tell me the command that \2.", r"I need the command that \2.",
        r"What is the command that \2?", r"What should I type so that it \2?", r"Give me a command that \2."]),
    (r"^(Which|What) (part|crate) (.+)\?$", [
        r"What is the \2 that \3?", r"Name the \2 that \3.", r"Tell me which \2 \3.", r"What \3?", r"Who \3?",
        r"Which component \3?", r"I look for the \2 that \3."]),
    (r"^How do I (.+)\?$", [
        r"How can I \1?", r"How to \1?", r"How would I \1?", r"How should I \1?", r"Show me how to \1.",
        r"Tell me how to \1.", r"I want to \1.", r"I need to \1.", r"What do I do to \1?", r"How does one \1?",
        r"What is the way to \1?", r"Is there a way to \1?", r"I would like to \1, how?", r"What should I type to \1?",
        r"Which command do I use to \1?", r"Can you show me how to \1?", r"Can I \1?", r"I want to \1, what now?",
        r"What is the best way to \1?", r"Do you know how to \1?", r"How could I \1?", r"Help me to \1.",
        r"What must I do to \1?", r"Where do I start to \1?", r"How might one \1?"]),
    (r"^Where (is|are) (.+)\?$", [
        r"Where can I find \2?", r"Where do I find \2?", r"Tell me where \2 \1.", r"Where would I look for \2?",
        r"Where do I see \2?", r"In which place \1 \2?", r"I am looking for \2.", r"Do you know where \2 \1?",
        r"Where should I look for \2?", r"I cannot find \2.", r"How do I find \2?", r"Where does one find \2?"]),
    (r"^What happens (when|if) (.+)\?$", [
        r"What will happen if \2?", r"What if \2?", r"What do you do when \2?", r"What is done when \2?",
        r"Tell me what happens if \2.", r"Suppose \2. What happens?", r"And if \2?", r"What happens after \2?",
        r"What can I expect when \2?", r"What does Forebay do when \2?", r"What follows when \2?"]),
    (r"^(Can|May) I (.+)\?$", [
        r"Is it possible to \2?", r"Am I able to \2?", r"Could I \2?", r"Is there a way to \2?", r"May I \2?",
        r"Would I be able to \2?", r"I want to \2. Can I?", r"Am I allowed to \2?"]),
    (r"^Does (Forebay|it) (.+)\?$", [
        r"Can Forebay \2?", r"Will Forebay \2?", r"Do you \2?", r"Does this platform \2?", r"Would Forebay \2?",
        r"Is it true that Forebay can \2?", r"Tell me, does it \2?"]),
    (r"^(Are|Is) (.+)\?$", [r"Tell me: \1 \2?", r"Can you tell me: \1 \2?", r"I wonder, \1 \2?"]),
    (r"^Which (.+) are there\?$", [
        r"List the \1.", r"Name the \1.", r"What \1 exist?", r"What are the \1?", r"Tell me the \1.",
        r"Give me a list of the \1.", r"Show me the \1.", r"Which \1 do you have?", r"Enumerate the \1."]),
    (r"^Why (.+)\?$", [r"What is the reason why \1?", r"For what reason \1?", r"How come \1?", r"Tell me why \1."]),
]
SYNONYMS: dict[str, list[str]] = {
    "start": ["launch", "bring up", "begin", "fire up"], "download": ["fetch", "get", "pull", "obtain"],
    "shows": ["displays", "prints", "tells me"], "server": ["instance", "service", "process"],
    "port": ["TCP port", "port number", "network port"], "default": ["standard", "usual", "normal"],
    "check": ["validate", "inspect", "examine", "make sure of"], "called": ["named", "known as"],
    "make": ["create", "produce", "build", "generate"], "remove": ["delete", "drop", "evict", "erase"],
    "clean": ["empty", "tidy", "clear"], "machine": ["computer", "laptop", "box", "host"],
    "use": ["work with", "take advantage of", "have"], "job": ["task", "duty", "responsibility", "work"],
    "role": ["function", "place", "task"], "folder": ["directory"], "endpoint": ["path", "route", "URL"],
    "logged": ["recorded", "written to a log", "saved", "kept in a log"], "prompts": ["messages", "inputs", "questions"],
    "crashes": ["goes down", "breaks", "stops working", "dies"], "dies": ["goes away", "breaks", "is killed"],
    "fails": ["breaks", "has an error", "goes wrong", "crashes"], "client": ["caller", "user", "program"],
    "full": ["overloaded", "busy", "at its limit", "out of room"], "written": ["coded", "developed", "implemented", "built"],
    "memory": ["RAM", "main memory"], "supported": ["available", "allowed"], "Explain": ["Describe", "Clarify", "Spell out"],
    "part": ["component", "piece", "module"], "picks": ["chooses", "selects", "decides on"], "big": ["large", "huge"],
    "size": ["length", "dimension"], "load": ["bring in", "open", "read"], "find": ["see", "get", "locate"],
    "setup": ["installation", "environment", "set-up", "system"], "problem": ["fault", "issue", "error", "trouble"],
    "problems": ["faults", "issues", "errors", "mistakes"], "kept": ["stored", "held", "saved"],
    "stored": ["kept", "held", "placed", "put"], "happens": ["goes on", "takes place", "occurs"],
    "reads": ["looks at", "takes in", "processes"], "copied": ["duplicated", "moved"], "copy": ["duplicate"],
    "talk": ["speak", "chat", "type"], "terminal": ["shell", "console window", "command line"], "list": ["show", "see", "get", "print"],
    "kinds": ["types", "sorts", "forms"], "measure": ["quantify", "time", "evaluate"], "send": ["post", "pass", "submit"],
    "convert": ["transform", "change", "translate"], "hit": ["reach", "run into", "exceed"], "quota": ["limit", "allowance"],
    "gap": ["pause", "delay", "wait"], "time": ["delay", "duration"], "works": ["functions"], "work": ["function", "run"],
    "internet": ["web", "network", "net"], "clouds": ["cloud providers"], "config": ["configuration", "settings"],
    "follow": ["obey", "have"], "request": ["call", "query"], "bounded": ["limited", "capped"], "tests": ["checks"],
    "alive": ["up", "running"], "model": ["LLM"], "answer": ["reply", "response"], "help": ["assist"], "just": ["only", "nothing but"],
    "only": ["just", "nothing but"], "together": ["at once"], "checked": ["tested", "validated", "compared"],
}
BEFORE = [
    "Please tell me: ", "Hi, ", "Hey, ", "Hello! ", "Quick question: ", "In one sentence: ", "Briefly: ", "Just curious: ",
    "I wonder: ", "Can you tell me: ", "Ok, ", "So, ", "And ", "Tell me, ", "Now, ", "Another question: ", "Please answer: ",
    "One more thing: ", "Um, ", "Well, ", "I am new here. ", "I am confused. ", "Sorry, ", "Thanks. ", "For my notes: ",
    "Question: ", "Q: ", "About Forebay: ", "In Forebay, ", "With Forebay, ", "As a beginner, ", "Dear model, ", "Good. ",
    "Next question. ", "I have a question: ", "My colleague asks: ", "For a talk: ", "Let me ask: ", "Honestly, ", "Say, ",
    "I am reading the docs. ", "I forgot: ", "Maybe you know: ", "Let us see. ", "Alright, ", "Oh, ", "By the way, ", "Then ",
    "Could you please tell me: ", "I would like to know: ", "Somebody asked me: ", "Help: ", "Once more: ", "Hmm, ",
]
AFTER = [
    " please", ", please?", " Thanks.", " in one sentence", " briefly", " in short", " exactly", " again", " for a beginner",
    " in simple words", " in Forebay", " here", " right now", " then", " actually", " by the way", ", do you know?", " I forgot.",
    " for me", " with Forebay", " Any idea?", " I am curious.", " these days", " usually", " Tell me.", " at all", " really",
    " I need it for a talk.", " for my team", " on my machine", " normally", " when using Forebay", ", if I may ask?", " now",
]
STOP_WORDS = set(
    "what which is are the a an of do does i in to for it how can you me my on who when there be that this and or tell please".split()
)


def with_synonyms(rng: random.Random, text: str, p: float) -> str:
    """Replaces each word that has synonyms with one of them, with probability `p`."""

    def swap(match: re.Match[str]) -> str:
        word = match.group(0)
        choices = SYNONYMS.get(word)
        return rng.choice(choices) if choices and rng.random() < p else word

    return re.sub(r"[A-Za-z]+", swap, text)


def lower_first(text: str) -> str:
    """Lower-cases the first letter unless the first word is an acronym or a name."""
    word = text.split(" ", 1)[0]
    keep = word.startswith("Forebay") or (len(word) > 1 and word[1:2].isupper()) or word in ("I", "I'm")
    return text if keep else text[:1].lower() + text[1:]


def with_typo(rng: random.Random, text: str) -> str:
    """Drops, doubles, swaps or replaces one letter somewhere after the first."""
    if len(text) < 6:
        return text
    i = rng.randrange(1, len(text) - 2)
    kind = rng.randrange(4)
    if kind == 0:
        return text[:i] + text[i + 1:]
    if kind == 1:
        return text[:i] + text[i] + text[i:]
    if kind == 2:
        return text[:i] + text[i + 1] + text[i] + text[i + 2:]
    return text[:i] + rng.choice(string.ascii_lowercase) + text[i + 1:]


# ---------------------------------------------------------------- generated exercises

NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
SUM_TEMPLATES = {
    "+": ["{a} + {b}", "{a}+{b}", "What is {a} + {b}?", "What is {a}+{b}?", "What's {a} + {b}?", "{a} + {b} = ?", "{a} + {b} =", "{a}+{b}=",
          "Calculate {a} + {b}.", "Compute {a} + {b}", "How much is {a} + {b}?", "Add {a} and {b}.", "Add {a} to {b}.", "{a} plus {b}",
          "What is {a} plus {b}?", "How much is {a} plus {b}?", "What is the sum of {a} and {b}?", "Sum of {a} and {b}", "Can you add {a} and {b}?",
          "Tell me {a} plus {b}.", "What do you get for {a} plus {b}?", "Solve {a} + {b}", "Please add {a} and {b}.", "{a} and {b} make what?",
          "What does {a} + {b} equal?", "What does {a} plus {b} make?", "I have {a} and add {b}. What is it?", "{a} and {b} together",
          "If I add {a} and {b}, what do I have?", "Find {a} + {b}.", "Work out {a} + {b}.", "What is the total of {a} and {b}?",
          "What is the result of {a} + {b}?", "Give me {a} + {b}.", "Do the sum {a} + {b}.", "What number is {a} plus {b}?",
          "I have {a} {n} and get {b} more. How many {n} do I have?", "There are {a} {n} and {b} more come. How many {n} are there?",
          "Ada has {a} {n} and Ben has {b}. How many {n} together?", "I buy {a} {n} and then {b} {n}. How many is that?",
          "You have {a} {n}, I give you {b} {n}. How many now?", "Take {a} and add {b}.", "Do you know {a} plus {b}?", "Adding {a} and {b} gives what?",
          "Tom picks {a} {n} and then {b} more. How many does he have?", "On the table lie {a} {n}, and {b} more are put there. How many lie there?",
          "A bag holds {a} {n}. I put in {b} more. How many are inside?", "Could you tell me what {a} + {b} is?", "How much do {a} and {b} make?"],
    "-": ["{a} - {b}", "{a}-{b}", "What is {a} - {b}?", "What is {a}-{b}?", "What's {a} - {b}?", "{a} - {b} = ?", "{a} - {b} =", "{a}-{b}=",
          "Calculate {a} - {b}.", "Compute {a} - {b}", "How much is {a} - {b}?", "Subtract {b} from {a}.", "Take {b} from {a}.", "{a} minus {b}",
          "What is {a} minus {b}?", "How much is {a} minus {b}?", "What is the difference of {a} and {b}?", "Take {b} away from {a}.",
          "Tell me {a} minus {b}.", "What do you get for {a} minus {b}?", "Solve {a} - {b}", "Please subtract {b} from {a}.", "{a} less {b}",
          "What does {a} - {b} equal?", "{a} take away {b}", "If I take {b} from {a}, what is left?", "Find {a} - {b}.", "Work out {a} - {b}.",
          "What is the result of {a} - {b}?", "Give me {a} - {b}.", "What is left of {a} after taking {b}?", "What number is {a} minus {b}?",
          "I have {a} {n} and give away {b}. How many {n} are left?", "There are {a} {n} and {b} leave. How many {n} remain?",
          "Ada has {a} {n} and eats {b}. How many {n} are left?", "I had {a} {n} and lost {b}. How many do I have now?", "Do you know {a} minus {b}?",
          "On the table lie {a} {n}. I remove {b}. How many stay?", "A shop sells {b} of its {a} {n}. How many are left?",
          "I drop {b} of my {a} {n}. How many do I still have?", "Of {a} {n}, {b} are gone. How many are left?", "Could you tell me what {a} - {b} is?", "Begin with {a} and take away {b}."],
    "*": ["{a} * {b}", "{a}*{b}", "What is {a} * {b}?", "What is {a}*{b}?", "{a} x {b}", "What is {a} x {b}?", "{a} * {b} =", "{a} * {b} = ?",
          "Calculate {a} * {b}.", "Compute {a} * {b}", "How much is {a} * {b}?", "Multiply {a} by {b}.", "Multiply {a} and {b}.", "{a} times {b}",
          "What is {a} times {b}?", "What's {a} times {b}?", "How much is {a} times {b}?", "What is the product of {a} and {b}?", "Tell me {a} times {b}.",
          "What do you get for {a} times {b}?", "Solve {a} * {b}", "Please multiply {a} by {b}.", "What does {a} times {b} make?", "{a} multiplied by {b}",
          "What is {a} multiplied by {b}?", "Product of {a} and {b}", "Work out {a} * {b}.", "Find {a} times {b}.", "What is the result of {a} * {b}?",
          "I have {a} bags with {b} {n} each. How many {n} are there?", "Could you tell me what {a} * {b} is?", "Do you know {a} times {b}?", "Give me {a} x {b}."],
    "/": ["{a} / {b}", "{a}/{b}", "What is {a} / {b}?", "Divide {a} by {b}.", "{a} divided by {b}", "What is {a} divided by {b}?",
          "How much is {a} / {b}?", "Calculate {a} / {b}.", "How often does {b} go into {a}?", "{a} / {b} ="],
}
THINGS = "apples pears coins books cards pens stones eggs stars balls cats dogs trees cups boxes shells birds fish shoes keys nuts cakes".split()

WORDS = (
    "river stone table window garden yellow orange purple silver golden copper candle mirror pocket winter summer spring autumn morning evening "
    "night bright quiet loud gentle simple clever brave happy sad tired hungry thirsty cold warm hot cool dry wet soft hard round square tall short "
    "long wide narrow deep shallow heavy light fast slow early late young old new fresh clean dirty empty full open closed broken whole sharp blunt "
    "smooth rough sweet sour bitter salty blue green red black white brown pink grey teal violet apple pear plum cherry lemon melon grape peach berry "
    "banana carrot potato tomato onion garlic pepper salt sugar honey butter bread cheese milk water coffee tea juice soup rice pasta bean corn nut "
    "cake pie cookie dog cat horse cow sheep goat pig duck goose hen fox wolf bear deer rabbit mouse rat bird eagle owl crow robin swan fish whale "
    "shark crab frog toad snake lizard turtle bee ant spider fly moth butterfly tree leaf root branch flower rose tulip lily grass moss fern forest "
    "hill mountain valley field meadow lake pond sea ocean beach island harbor bridge road street path gate door wall roof floor house cabin castle "
    "tower church school market shop bank farm mill barn kitchen cellar attic room bed chair desk lamp clock bell book page letter word story song "
    "music drum flute violin piano guitar paint brush paper pencil ink map globe compass ship boat sail anchor train wagon wheel engine motor car "
    "truck bicycle plane rocket moon sun star planet comet cloud rain snow wind storm thunder fog ice fire smoke ash sand mud clay rock iron tin zinc "
    "gold lead glass wood wool cotton silk leather rope thread needle button shirt coat hat scarf glove boot shoe sock belt ring crown coin purse bag "
    "box basket bottle cup plate bowl spoon fork knife kettle oven stove pot pan jar lid key lock hammer nail saw drill ladder bucket broom shovel "
    "king queen prince knight doctor baker farmer sailor teacher singer painter writer runner dancer friend brother sister mother father uncle aunt "
    "child baby guest stranger neighbor walk run jump swim fly climb fall rise sing dance read write draw paint build break open close push pull "
    "carry throw catch hold drop eat drink sleep wake dream think know learn teach ask answer call speak listen hear see look watch find lose keep "
    "give take buy sell send bring cut cook bake wash dry fold hang plant grow pick dig pour fill mix stir shake turn spin roll slide stop begin end "
    "wait hurry stay leave arrive return visit travel wander follow lead hide seek play work rest laugh cry smile shout whisper one two three four "
    "five six seven eight nine ten many few some every other another first second third last next under over near far behind between beside inside "
    "outside above below across around against along toward always never often seldom today tomorrow yesterday soon again almost only very quite too "
    "and or but with without from into upon my your his her our their the a this that these those lantern marble velvet maple cedar willow birch oak "
    "pine acorn pebble canyon desert tundra jungle prairie glacier volcano crater lagoon reef tide wave shore cliff cave tunnel mine quarry orchard "
    "vineyard pasture stable kennel nest hive burrow den web shell feather fur claw tail horn hoof paw beak wing fin scale seed pit rind peel crust "
    "crumb slice loaf dozen pair bunch stack pile heap row line circle triangle corner edge center middle top bottom side front back left right north "
    "south east west server token kernel tensor weight memory cache worker router loader batch prompt model layer number letter signal circuit switch "
    "cable socket screen mouse keyboard printer robot laser magnet battery sensor radio camera film photo picture frame poster ticket stamp envelope "
    "parcel package journal diary novel poem chapter verse rhyme rhythm melody chorus concert theater stage curtain actor clown circus parade festival "
    "holiday birthday wedding picnic dinner lunch breakfast supper snack feast recipe sauce spice vanilla cinnamon ginger mint basil thyme saffron "
    "almond walnut hazel chestnut raisin apricot mango papaya coconut kiwi fig date olive pumpkin squash cabbage lettuce spinach celery radish turnip"
).split()
NAMES = (
    "Ada Ben Carl Dora Emil Fay Gus Hana Ivan Jane Kai Lena Max Nora Otto Pia Quinn Rosa Sam Tess Uma Vera Will Xena Yara Zoe Alan Bella Cora Dan Ella Finn "
    "Gina Hugo Iris Jack Karl Lily Mona Nils Olga Paul Rita Sara Tom Ursula Victor Wanda Anna Boris Clara David Eva Frank Greta Henry Ida Jonas Kira Leo Mary "
    "Nina Oscar Peter Ruth Simon Theo Grace Linus Alice Bob Eve Mallory Ravi Mei Omar Aisha Yuki Chen Diego Lucia Ahmed Fatima Sven Astrid Pavel Irina Ingrid"
).split()
CITIES = (
    "Paris Rome Berlin Madrid London Vienna Prague Lisbon Dublin Athens Cairo Delhi Tokyo Seoul Lima Quito Boston Denver Austin Seattle Toronto Sydney Perth "
    "Nairobi Lagos Accra Bergen Turin Milan Porto Basel Bern Zurich Geneva Lyon Nice Ghent Delft Leeds York Bath Derby Oslo Riga Vilnius Tallinn Malmo Kyoto"
).split()
COLORS = "red blue green yellow black white pink grey brown orange purple teal silver gold violet navy".split()
ANIMALS = "dog cat horse cow fox wolf bear owl duck frog crab swan goat hen bee mouse whale robin eagle rabbit".split()
FRUITS = "apple pear plum cherry lemon melon grape peach banana mango fig kiwi olive orange berry apricot".split()
STATES = "open closed ready waiting new done busy idle active paused failed running".split()

TECH = (
    "Docker|Linux|Windows|Python|Java|a transistor|blockchain|Bitcoin|a browser|the internet|a database|SQL|HTML|a compiler|an operating system|a neural network|"
    "deep learning|a virus|electricity|a laser|a satellite|Terraform|Ansible|Jenkins|Redis|Kafka|PostgreSQL|a spreadsheet|an email|a password manager|Bluetooth"
).split("|")
ECHO_LEADS = ["", "", "", "Please ", "Can you ", "Could you ", "Now ", "Just ", "I want you to ", "You must ", "Will you ", "Would you ", "Simply ", "Kindly ",
              "Next, ", "Hey, ", "Ok, ", "Your task: ", "Would you please ", "I need you to ", "Let us ", "Try to ", "Do "]
ECHO_VERBS = ["say", "repeat", "echo", "copy", "write", "print", "type", "output", "reply with", "answer with", "say back", "repeat back", "give me",
              "echo back", "write down", "tell me", "speak", "recite", "send back", "reproduce"]
ECHO_OBJECTS = ["", "", "", "", " this", " after me", " the words", " the phrase", " the following", " this text", " exactly", " these words", " this line",
                " the text", " the sentence", " this phrase", " the following words", " the following text", " back to me", " exactly this", " only",
                " what I say", " my words", " the next words", " verbatim", " word for word", " this back to me", " this without changes", " these words back"]
ECHO_FIXED = ["Repeat after me: {x}", "Echo: {x}", "Say: {x}", "Repeat: {x}", "Say {x}", "Echo this: {x}", "Repeat this: {x}", "Copy: {x}", "Echo {x}", "Repeat {x}",
              "Please repeat: {x}", "Say \"{x}\"", "Repeat \"{x}\"", "Echo \"{x}\"", "Please say \"{x}\"", "{x} - repeat that", "Repeat the words {x}", "Say the words {x}",
              "The phrase is {x}. Repeat it.", "The words are: {x}. Say them.", "My text is \"{x}\". Echo it.", "\"{x}\" - say it back", "Your answer should be: {x}",
              "Answer only: {x}", "After me: {x}", "Can you say \"{x}\"?", "Can you repeat \"{x}\"?", "Say \"{x}\" please", "Here is a text: {x}. Copy it."]


def cap(text: str) -> str:
    return text[:1].upper() + text[1:]


class Corpus:
    """A seeded source of exchanges and conversations."""

    #: share of each kind of exercise in the stream
    MIX = {"fact": 0.38, "sum": 0.25, "echo": 0.16, "json": 0.08, "talk": 0.07, "unknown": 0.05, "name": 0.01}

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.facts = read_topics(TRAIN_DIR / "facts.txt")
        self.talk = read_topics(TRAIN_DIR / "dialogue.txt")
        held = read_jsonl(DEMO_DIR / "paraphrases.jsonl") + read_jsonl(DEMO_DIR / "paraphrases-blind.jsonl")
        self.held_out = {squash(item["question"]) for item in held}
        self.held_pairs: set[tuple[str, str]] = set()
        for item in held + read_jsonl(DEMO_DIR / "questions.jsonl"):
            if item.get("kind") in ("echo", "json"):
                self.held_pairs |= pairs(item["answers"][0])
        known = {w for topic in self.facts for t in topic.terms for w in re.findall(r"[a-z]+", t.lower())}
        self.foreign = [w for w in WORDS if w not in known]
        for topic in self.facts + self.talk:
            for ask in topic.asks:
                assert not self.is_held_out(ask), f"held-out question in the corpus: {ask!r}"

    def is_held_out(self, question: str) -> bool:
        flat = squash(question)
        return flat in self.held_out or any(len(h) > 12 and h in flat for h in self.held_out)

    # ---- exchanges

    def exchange(self, kind: str | None = None) -> Exchange:
        """One random exchange; never a held-out question or payload."""
        while True:
            chosen = kind or self.rng.choices(list(self.MIX), list(self.MIX.values()))[0]
            made: Exchange = getattr(self, f"make_{chosen}")()
            if self.is_held_out(made.question):
                continue
            if chosen in ("echo", "json") and pairs(made.answer) & self.held_pairs:
                continue
            return made

    def make_fact(self) -> Exchange:
        rng = self.rng
        topic = rng.choice(self.facts)
        if topic.terms and rng.random() < 0.35:
            question = cap(rng.choice(TERM_TEMPLATES).format(t=rng.choice(topic.terms)))
        else:
            question = rng.choice(topic.asks)
            if rng.random() < 0.45:
                question = self.rewritten(question)
            if rng.random() < 0.45:
                question = with_synonyms(rng, question, 0.4)
        roll = rng.random()
        if roll < 0.07:
            question = self.telegram(question)
        elif roll < 0.22:
            question = self.noisy(question)
        return Exchange(self.dressed(question), topic.answer)

    def make_talk(self) -> Exchange:
        topic = self.rng.choice(self.talk)
        question = self.rng.choice(topic.asks)
        if self.rng.random() < 0.2:
            question = self.rewritten(question)
        if self.rng.random() < 0.1 and " " in question:
            question = self.noisy(question)
        return Exchange(self.dressed(question, wrap=0.25), topic.answer)

    def rewritten(self, question: str) -> str:
        """Applies one matching rewrite, if any."""
        options = [(p, r) for p, r in REWRITES if re.match(p, question)]
        if not options:
            return question
        pattern, replacements = self.rng.choice(options)
        return re.sub(pattern, self.rng.choice(replacements), question)

    def telegram(self, question: str) -> str:
        """The content words alone, as typed into a search box."""
        words = [w for w in question.rstrip("?.").split() if w.lower() not in STOP_WORDS]
        if len(words) < 2:
            return question
        if self.rng.random() < 0.3:
            self.rng.shuffle(words)
        return " ".join(words)

    def noisy(self, question: str) -> str:
        """Puts a foreign word in, or in the place of a stop word: what matters is the words that are left."""
        rng = self.rng
        words = question.split()
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(words))
            if rng.random() < 0.5 and words[at].lower() in STOP_WORDS:
                words[at] = rng.choice(self.foreign)
            elif rng.random() < 0.5 and words[at].lower() in STOP_WORDS and len(words) > 3:
                del words[at]
            elif len(words) > 1:
                words.insert(at, rng.choice(self.foreign))
        return " ".join(words)

    def dressed(self, question: str, wrap: float = 0.3) -> str:
        """Adds what people add: politeness, lower case, missing marks, typing errors."""
        rng = self.rng
        if rng.random() < wrap:
            if rng.random() < 0.6:
                before = rng.choice(BEFORE)
                question = before + (lower_first(question) if rng.random() < 0.7 else question)
            else:
                mark = question[-1:] if question[-1:] in "?." else ""
                tail = rng.choice(AFTER)
                question = question.rstrip("?.") + (tail if tail[-1] in ".?" else tail + mark)
        if rng.random() < 0.25:
            question = question.rstrip("?.!")
        if rng.random() < 0.25:
            question = question.lower()
        elif rng.random() < 0.01:
            question = question.upper()
        if rng.random() < 0.1:
            question = with_typo(rng, question)
        return question

    def make_sum(self) -> Exchange:
        rng = self.rng
        op = rng.choices("+-*/", (34, 35, 20, 11))[0]
        if rng.random() < 0.03:
            a, b = rng.randint(50, 9999), rng.randint(50, 9999)
            return Exchange(self.dressed(rng.choice(SUM_TEMPLATES[op][:12]).format(a=a, b=b, n="apples"), 0.1), TOO_BIG)
        if op == "+":
            a, b = rng.randint(0, 20), rng.randint(0, 20)
            c = a + b
        elif op == "-":
            a, b = rng.randint(0, 20), rng.randint(0, 20)
            if a < b and rng.random() < 0.6:
                a, b = b, a
            c = a - b
        elif op == "*":
            a, b = rng.randint(0, 10), rng.randint(0, 10)
            c = a * b
        else:
            b, c = rng.randint(1, 10), rng.randint(0, 10)
            a = b * c
        text = rng.choice(SUM_TEMPLATES[op])
        left, right = str(a), str(b)
        if rng.random() < 0.3 and max(a, b) <= 20 and not re.search(r"}[-+*/]{", text):
            left, right = NUMBER_WORDS[a], NUMBER_WORDS[b]
        question = self.dressed(cap(text.format(a=left, b=right, n=rng.choice(THINGS))), wrap=0.15)
        return Exchange(question, f"{a} {op} {b} = {c}.")

    def word(self) -> str:
        rng = self.rng
        if rng.random() < 0.25:
            return "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiouy") + rng.choice(["", "", "n", "r", "l", "s", "x", "k"])
                           for _ in range(rng.randint(1, 3)))
        return rng.choice(WORDS)

    def make_echo(self) -> Exchange:
        rng = self.rng
        words = [self.word() for _ in range(rng.choices(range(1, 9), (10, 22, 22, 18, 12, 8, 5, 3))[0])]
        if rng.random() < 0.15:  # words that also stand in facts, so that they do not call up an answer
            topic = rng.choice(self.facts)
            source = re.sub(r"[^\w ]", "", rng.choice([topic.answer, rng.choice(topic.asks)])).split()
            at = rng.randrange(len(source))
            words = source[at : at + rng.randint(1, 6)] if rng.random() < 0.6 else rng.choices(source, k=rng.randint(1, 5))
        roll = rng.random()
        if roll < 0.1:
            words = [cap(w) for w in words]
        elif roll < 0.2:
            words[0] = cap(words[0])
        elif roll < 0.24:
            words = [w.upper() for w in words]
        if rng.random() < 0.12:
            words[rng.randrange(len(words))] = str(rng.randint(0, 9999))
        if rng.random() < 0.06:
            words[rng.randrange(len(words))] = rng.choice(NAMES + CITIES)
        x = " ".join(words)
        if rng.random() < 0.06:
            x = x.replace(" ", ", ", 1)
        if rng.random() < 0.45:
            lead = rng.choice(ECHO_FIXED)
        else:
            sep = rng.choice([": {x}", ": {x}", ": {x}", " {x}", ' "{x}"', ': "{x}"', " '{x}'"])
            lead = cap(rng.choice(ECHO_LEADS) + rng.choice(ECHO_VERBS) + rng.choice(ECHO_OBJECTS)) + sep
            if lead.startswith(("Can ", "Could ", "Will ", "Would ")) and rng.random() < 0.5:
                lead += "?" if ":" not in lead else ""
            elif rng.random() < 0.08:
                lead += rng.choice([", please", " please", " for me"]) if '"{x}"' in lead else ""
        if rng.random() < 0.2:
            lead = lead[:1].lower() + lead[1:]
        return Exchange(lead.replace("{x}", x), x)

    def json_pair(self) -> tuple[str, object]:
        """A key and a value that suit each other, or now and then two random words."""
        rng = self.rng
        makers = [
            lambda: ("name", rng.choice(NAMES)), lambda: ("age", rng.randint(1, 99)), lambda: ("city", rng.choice(CITIES)),
            lambda: ("color", rng.choice(COLORS)), lambda: ("count", rng.randint(0, 99)), lambda: ("animal", rng.choice(ANIMALS)),
            lambda: ("fruit", rng.choice(FRUITS)), lambda: ("price", rng.randint(1, 500)), lambda: ("id", rng.randint(1, 999)),
            lambda: ("year", rng.randint(1950, 2030)), lambda: ("size", rng.randint(1, 99)), lambda: ("status", rng.choice(STATES)),
            lambda: (rng.choice(["ok", "ok", "ready", "open", "done", "active"]), rng.random() < 0.5), lambda: (rng.choice(["user", "friend", "owner", "author"]), rng.choice(NAMES)),
            lambda: (rng.choice(["port", "level", "score", "speed", "weight", "height", "total"]), rng.randint(0, 999)),
            lambda: (rng.choice(["key", "word", "kind", "type", "title", "model", "food", "tool"]), self.word()),
            lambda: (self.word(), self.word()), lambda: (self.word(), rng.randint(0, 99)),
            lambda: (self.word(), rng.choice(COLORS)), lambda: (rng.choice(["color", "city", "name", "status"]), self.word()),
        ]
        return rng.choice(makers)()

    def make_json(self) -> Exchange:
        rng = self.rng
        if rng.random() < 0.25:
            pool = rng.choice([COLORS, ANIMALS, FRUITS, NAMES, CITIES, WORDS, WORDS])
            items: list[object] = list(rng.sample(pool, rng.randint(2, 4)))
            if rng.random() < 0.2:
                items = [rng.randint(0, 99) for _ in items]
            shown = [str(i) for i in items]
            joined = ", ".join(shown) if rng.random() < 0.5 else ", ".join(shown[:-1]) + " and " + shown[-1]
            kind = rng.choice(["list", "list", "array"])
            text = rng.choice(["Make a JSON {k} of {x}", "JSON {k}: {x}", "Give me a JSON {k} with {x}", "Write {x} as a JSON {k}", "Turn {x} into a JSON {k}",
                               "Format as a JSON {k}: {x}", "Put {x} in a JSON {k}", "Create a JSON {k} from {x}", "I want a JSON {k} of {x}", "A JSON {k} of {x}, please",
                               "Can you make a JSON {k} with {x}?", "JSON {k} of {x}", "Convert to a JSON {k}: {x}", "{x} as JSON {k}", "Return a JSON {k} holding {x}"])
            return Exchange(self.json_case(text).format(k=kind, x=joined), json.dumps(items))
        pairs_made: dict[str, object] = {}
        for _ in range(rng.choices((1, 2, 3), (25, 55, 20))[0]):
            key, value = self.json_pair()
            pairs_made[key] = value
        style = rng.choice(["{k} {v}", "{k} {v}", "{k} {v}", "{k} {v}", "{k}={v}", "{k}: {v}", "{k} = {v}", "{k} is {v}", "the {k} is {v}", "the {k} {v}", "{k} set to {v}", "{k} as {v}",
                            "{k} equal to {v}", "{k} must be {v}", "my {k} is {v}", "{k} being {v}", "a {k} of {v}", '{k} "{v}"'])
        shown = [style.format(k=k, v=json.dumps(v) if isinstance(v, bool) else v) for k, v in pairs_made.items()]
        joined = ", ".join(shown[:-1]) + rng.choice([" and ", " and ", ", ", ", and "]) + shown[-1] if len(shown) > 1 else shown[0]
        if " is " in style or " must be " in style:
            leads = ["Make JSON where {x}", "Give me JSON where {x}", "Write a JSON object where {x}", "Write JSON in which {x}", "JSON: {x}", "Make a JSON object. {x}", "As JSON: {x}",
                     "Can you make JSON where {x}?", "Turn this into JSON: {x}", "I need JSON where {x}", "{x}. Write that as JSON.", "Create JSON such that {x}", "In JSON: {x}"]
        else:
            leads = ["Make JSON with {x}", "Make a JSON object with {x}", "Give me JSON with {x}", "Write JSON with {x}", "Write a JSON object with {x}", "JSON: {x}", "JSON with {x}",
                     "Format as JSON: {x}", "Turn {x} into JSON", "Return JSON with {x}", "Convert to JSON: {x}", "{x} as JSON", "Create a JSON object with {x}", "As JSON: {x}",
                     "Can you write JSON with {x}?", "Please make JSON with {x}", "I need JSON with {x}", "Show {x} as JSON", "Write {x} in JSON", "JSON for {x}", "Build JSON from {x}",
                     "Output JSON with {x}", "Generate JSON with {x}", "Put {x} into JSON", "Could you give me JSON with {x}?", "Encode as JSON: {x}", "I want a JSON object with {x}", "JSON object: {x}",
                     "Make an object in JSON with {x}", "Translate into JSON: {x}", "Answer in JSON: {x}"]
        return Exchange(self.json_case(rng.choice(leads)).format(x=joined), json.dumps(pairs_made))

    def json_case(self, text: str) -> str:
        roll = self.rng.random()
        if roll < 0.15:
            return text[:1].lower() + text[1:]
        if roll < 0.3:
            return text + "."
        if roll < 0.36:
            return "Please " + text[:1].lower() + text[1:] if text[0] != "{" else text
        return text

    def make_unknown(self) -> Exchange:
        rng = self.rng
        w, v, n, c = rng.choice(self.foreign), rng.choice(self.foreign), rng.choice(NAMES), rng.choice(CITIES)
        text = rng.choice([
            f"Who is {n}?", f"What is the capital of {c}?", f"Where is {c}?", f"How do I cook {w}?", f"How do I bake {w} {v}?", f"Write a poem about {w}.",
            f"Write a story about a {w} and a {v}.", f"What is the weather in {c}?", "Will it rain tomorrow?", f"Who won the {w} game?", f"How far is it to {c}?",
            f"What is a {w}?", f"What is {w} {v}?", f"Why is the {w} so {v}?", f"Translate {w} into French.", f"Who wrote the {w} book?", "What is the meaning of life?",
            f"How many {w}s are in the world?", f"Explain {w}.", f"Tell me about {c}.", f"Tell me about {w}.", f"What do you think of {n}?", f"Is {w} better than {v}?",
            "Who is the president?", "Who is the king?", f"How old is {n}?", "What is quantum physics?", f"What should I eat for dinner, {w} or {v}?", "Sing a song.", "Write a song.",
            f"Give me a recipe with {w} and {v}.", "Which film should I watch?", f"How do I fix my {w}?", f"Where can I buy a {w}?", f"How do I get from {c} to {rng.choice(CITIES)}?",
            "What is the speed of light?", "How high is the highest mountain?", "Who painted this?", f"What does the {w} eat?", "Write code for me.", "Write a Python program.",
            "How do I learn to swim?", f"When was {c} built?", f"What is the population of {c}?", "Who invented the telephone?", "What is the stock price today?",
            f"What is your opinion on {w}?", "Solve my homework.", f"What rhymes with {w}?", f"Define {w}.", f"What is {w} made of?", f"Is {n} at home?", f"Call {n}.",
            "Play some music.", "Set an alarm.", "Book a flight.", f"Book a table in {c}.", "What is the news?", f"Do you like {w}?", f"How do you spell {w}?", f"What colour is the {w}?",
            f"Give me advice about {w}.", "Should I invest in gold?", "How do I become rich?", "What is love?", "Am I ill?", "What is photosynthesis?", "Who discovered America?",
            f"What language do they speak in {c}?", f"Tell me the history of {c}.", "What is an atom?", "How does a plane fly?", f"Draw a {w}.", f"Who is {n} from {c}?", f"Compare {w} and {v}.",
            "Is there life on Mars?", "How many planets are there?", "What is the largest animal?", "Who wrote Hamlet?", f"Can you {w} a {v}?", f"Why do {w}s {v}?", f"How heavy is a {w}?",
            "What is machine learning?", "Which phone should I buy?", f"Recommend a hotel in {c}.", "What is the square root of two?", "Tell me a story.", "Tell me a secret.",
            *(t.format(rng.choice(TECH)) for t in ("What is {}?", "How does {} work?", "Explain {}.", "Tell me about {}.", "How do I install {}?", "Who invented {}?")),
        ])
        return Exchange(self.dressed(text, wrap=0.2), UNKNOWN)

    def make_name(self) -> Exchange:
        return Exchange(self.dressed(self.rng.choice(ASK_NAME), wrap=0.0), "You have not told me your name.")

    # ---- conversations

    def conversation(self, turns: int) -> tuple[str | None, list[Exchange]]:
        """A system message (three in ten) and `turns` exchanges in random order."""
        rng = self.rng
        system = rng.choice(SYSTEMS) if rng.random() < 0.3 else None
        exchanges: list[Exchange] = []
        told: str | None = None
        for _ in range(turns):
            if rng.random() < 0.02:
                told = rng.choice(NAMES)
                text = rng.choice(["My name is {n}.", "I am {n}.", "Call me {n}.", "I'm {n}", "Hi, my name is {n}", "Hello, I am {n}.", "my name is {n}"])
                exchanges.append(Exchange(text.format(n=told), f"Nice to meet you, {told}."))
            elif told and rng.random() < 0.1:
                exchanges.append(Exchange(self.dressed(rng.choice(ASK_NAME), wrap=0.0), f"Your name is {told}."))
            else:
                made = self.exchange()
                if told and made.answer == "You have not told me your name.":
                    made = Exchange(made.question, f"Your name is {told}.")
                exchanges.append(made)
        return system, exchanges


ASK_NAME = ["What is my name?", "Do you know my name?", "What's my name?", "Who am I?", "Tell me my name.", "How am I called?", "Do you remember my name?", "Say my name."]


def pairs(text: str) -> set[tuple[str, str]]:
    """Neighbouring words of a payload; a lone word pairs with itself."""
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:])) or {(w, w) for w in words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N exchanges")
    parser.add_argument("--check", type=int, default=0, metavar="N", help="make N exchanges and assert that none is held out")
    args = parser.parse_args()
    corpus = Corpus(args.seed)
    for _ in range(args.show):
        made = corpus.exchange()
        print(f"{made.question!r} -> {made.answer!r}")
    for _ in range(args.check):
        assert not corpus.is_held_out(corpus.exchange().question)
    if args.check:
        print(f"{args.check} exchanges, {len(corpus.facts)} facts: none held out")


if __name__ == "__main__":
    main()
