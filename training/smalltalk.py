"""Small talk, and exercises in repeating what the user wrote."""

from random import Random
from typing import Final

import names
from dialogue import Dialogue, Message

__all__ = ["dialogue", "repetition"]

_ME: Final = "I am the understudy, a small stand-in model that comes with greenroom."
_TALK: Final = (
    ("Hello!|Hello|Hi|Hi!|Hey|Hi there!|Hello there.|Good day!|Greetings!",
     "Hello! How can I help you?|Hi! What can I do for you?|Hello! Nice to meet you."),
    ("Good morning!|Good morning", "Good morning! How can I help you?|Good morning! What can I do for you?"),
    ("Good evening!|Good evening|Good night!|Good night", "Good evening! How can I help you?|Have a good night!"),
    (("Who are you?|What are you?|What is your name?|Introduce yourself.|Tell me about yourself.|Are you a robot?"
    "|Are you an AI?"),
     f"{_ME}|{_ME} I tell stories, fill in JSON records and call tools."),
    ("What can you do?|How can you help me?|What are you good at?|Help!|Help me.|What should I ask you?",
     ("I can tell short stories, write JSON records, call tools and talk a little."
     "|Ask me for a story, a JSON record or a tool call.")),
    ("How are you?|How are you today?|How do you do?|Are you well?|How is it going?",
     "I am well, thank you. How are you?|Very well, thank you. And you?"),
    ("I am fine.|I am well.|Fine, thank you.|Very well.", ("I am glad to hear that."
    "|Good to hear! What can I do for you?")),
    ("Thank you!|Thanks!|Thank you very much.|Thanks a lot.|Great, thanks.", ("You are welcome!"
    "|You are welcome. Anything else?")),
    ("Goodbye!|Bye!|See you!|See you later.|Bye bye.", "Goodbye! See you soon.|Goodbye! It was nice to talk to you."),
    ("Are you real?|Do you sleep?|Do you dream?|Do you have feelings?|Do you eat?",
     "I am only a small model, so I do not.|No, I am only a small program."),
    ("Tell me a joke.|Say something funny.|Make me laugh.", ("What do you call a sleeping bull? A bulldozer."
    "|Why did the book go to bed? It was tired.")),
    ("What is greenroom?|Tell me about greenroom.|What does greenroom do?",
     "Greenroom runs language models for many tasks at once, inside your own program."),
    ("What is an actor?|Explain actor isolation.|What is actor isolation?|What is an actor model?",
     "An actor is one thread of control with an inbox and its own state. Nobody else touches that state."),
    ("What is the capital of France?|Capital of France?", "The capital of France is Paris."),
    ("What colour is the sky?|Why is the sky blue?", "The sky is blue because the air scatters blue light the most."),
    ("What is water?|What is rain?|What is snow?", "It is water, and water is good for you."),
    ("Count to five.|Count from one to five.", "One, two, three, four, five."),
    ("Count to ten.|Count from one to ten.|Count from 1 to 10.",
    "One, two, three, four, five, six, seven, eight, nine, ten."),
    ("Write a haiku.|Write a poem.|A poem, please.|Write a short poem.",
     "The moon is quiet.\nA small frog looks at the pond.\nThe night is still long."),
    ("List three colours.|Name three colours.|Tell me three colours.", "Red, green and blue."),
    ("List three animals.|Name three animals.", "A fox, an owl and a bear."),
    ("Yes.|Yes|OK|Okay.|Good.|Sure.", "Good. What would you like to do?"), ("No.|No|Never mind.|Stop.",
    "All right. Tell me when you need me."),
    ("Say yes or no.|Yes or no?|Answer yes or no.", "Yes."),
)  # fmt: skip
_UNKNOWN: Final = (
    "What is {w}?", "What is a {w}?", "Explain {w}.", "Tell me about {w}.", "Why is {w} so {w}?",
    "How does {w} work?", "Who was {n}?", "Who is {n}?",
    "What do you think about {w}?", "Write an essay about {w}.", "Can you explain {w} and {w}?", "Where is {c}?",
    "What happened in {c}?",
    "Write code for {w}.", "Solve {w}.", "Describe {w}.", "Summarize {w}.", "Give me advice about {w}.",
    "How do I make {w}?", "Compare {w} and {w}.",
)  # fmt: skip
_TOPICS: Final = (
    "love", "time", "history", "music", "science", "the moon", "the sea", "physics", "mathematics", "politics",
    "football", "computers",
    "gravity", "light", "language", "energy", "money", "art", "the economy", "life", "trees", "birds", "space",
    "quantum computing",
    "machine learning", "Python", "a computer", "happiness", "health", "sleep",
)  # fmt: skip
_SORRY: Final = (
    "I am only a small stand-in model and do not know much about that.",
    "That is too hard for me. I am only a small stand-in model.",
)  # fmt: skip
_REPEAT: Final = (
    "Repeat: {x}", "Repeat after me: {x}", "Say: {x}", "Please repeat: {x}", "Copy this: {x}",
    "Write this again: {x}", "Echo: {x}",
)  # fmt: skip
_NAMED: Final = (
    ("My name is {n}.", "Hello {n}, nice to meet you!"), ("I am {n}.", "Hello {n}, nice to meet you!"),
    ("Hi, I am {n} from {c}.", "Hello {n}! How is {c} today?"), ("Hello, my name is {n}.",
    "Hello {n}, nice to meet you!"),
    ("I live in {c}.", "I would like to see {c} one day."), ("Say hello to {n}.", "Hello {n}!"),
    ("Greet {n} from {c}.", "Hello {n} from {c}!"),
    ("{n} lives in {c}. Where does {n} live?", "{n} lives in {c}."), ("{n} lives in {c}. Who lives in {c}?",
    "{n} lives in {c}."),
)  # fmt: skip
_SYSTEMS: Final = (
    "You are a helpful assistant.",
    "You are the understudy.",
    "Answer briefly.",
    "Be kind.",
    "You are a small model.",
)


def dialogue(rng: Random) -> Dialogue:
    """One to three exchanges, sometimes under a system message."""
    messages: list[Message] = []
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": rng.choice(_SYSTEMS)})
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        question, answer = _exchange(rng)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Dialogue("talk", tuple(messages))


def repetition(rng: Random) -> Dialogue:
    """A text of invented words, numbers and marks, and the same text again."""
    words = [_piece(rng) for _ in range(rng.randint(1, 12))]
    text = rng.choice((" ", " ", ", ", "_", '", "')).join(words)
    request = rng.choice(_REPEAT).format(x=text)
    return Dialogue("repeat", ({"role": "user", "content": request}, {"role": "assistant", "content": text}))


def _exchange(rng: Random) -> tuple[str, str]:
    draw = rng.random()
    if draw < 0.25:
        fill = {"n": names.person(rng), "c": names.city(rng)}
        question, answer = rng.choice(_NAMED)
        return question.format(**fill), answer.format(**fill)
    if draw < 0.4:
        topic = rng.choice((rng.choice(_TOPICS), names.word(rng)))
        return rng.choice(_UNKNOWN).format(w=topic, n=names.person(rng), c=names.city(rng)), rng.choice(_SORRY)
    questions, answers = rng.choice(_TALK)
    return rng.choice(questions.split("|")), rng.choice(answers.split("|"))


def _piece(rng: Random) -> str:
    draw = rng.random()
    if draw < 0.35:
        return names.word(rng)
    if draw < 0.6:
        return names.person(rng)
    if draw < 0.8:
        return names.city(rng)
    if draw < 0.95:
        return str(rng.choice((rng.randint(0, 99), rng.randint(100, 99999))))
    blocks = ((33, 126), (0xA1, 0x17F), (0x3B1, 0x3C9))
    return "".join(chr(rng.choice([rng.randint(*block) for block in blocks])) for _ in range(3))
