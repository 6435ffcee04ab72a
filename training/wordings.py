"""More ways to ask for each tool, met in the second part of training: a wider vocabulary once copying works."""

from random import Random
from typing import Final

from phrasing import options

__all__ = ["BY_PURPOSE", "RECORD_OPENINGS", "dress"]

_TEXTS: Final = {
    "Get the weather in a city": "Should I take an umbrella to {0}?|Is the sky clear over {0}?"
    "|Is there snow in {0}?|Is it sunny in {0}?"
    "|Will I need a coat in {0}?|Do they have rain in {0} now?|What is the sky doing in {0}?|How cold is {0} today?",
    "Get the local time in a city": "What is on the clock in {0} now?|Look at the clock in {0}.|What hour is it in {0}?"
    "|Is it morning or evening in {0}?|Say what the clocks show in {0}.|Is it late in {0}?",
    "Send a message to a person": "I want {0} to know this: {1}|Let me tell {0} something: {1}|Write a line to {0}: {1}"
    "|Send a few lines to {0}: {1}|Inform {0}: {1}|Give {0} a note: {1}|{0} should know: {1}",
    "Start a timer": "Ring in {0} minutes.|Ring the bell after {0} minutes.|Count {0} minutes."
    "|Let me know when {0} minutes are gone."
    "|Tell me when {0} minutes are over.|I need {0} minutes on the clock.|Count back from {0} minutes.",
    "Add two numbers": "I have {0} and find {1} more. How many now?|If you get {1} and have {0}, what is the total?"
    "|Put {0} and {1} together."
    "|What do {0} and {1} make?|{0} + {1}|{0} and {1} more is how many?|Total of {0} and {1}?",
    "Multiply two numbers": "{0} * {1}|There are {0} bags of {1} each. How many?|How many are {0} rows of {1}?"
    "|{0} boxes with {1} in each: how many?"
    "|What do {0} times {1} make?|Take {0} times {1}.",
    "Book a table in a restaurant": "We want to eat in {0}, {1} of us.|{1} of us want dinner in {0}."
    "|Dinner in {0} for {1}, please.|I want to eat out in {0} with {1} people."
    "|We are {1} people and hungry in {0}.|Get us a table in {0}, we are {1}.",
    "Find the phone number of a person": "How do I reach {0}?|I want to phone {0}.|By which number can I reach {0}?"
    "|What number has {0}?"
    "|Which phone does {0} have?|Can I call {0}? Find the number.",
    "Add a meeting to the calendar": "I see {0} on {1}, note it.|Write down that I meet {0} on {1}."
    "|I will meet {0} on {1}, put it down.|{0} comes on {1}, write it in the calendar."
    "|Note: {0} on {1}.|Please note a meeting on {1} with {0}.",
    "Play music by an artist": "I would like to listen to {0}.|Let us hear {0}.|Listen to {0} now."
    "|Can we hear a song by {0}?"
    "|Some {0}, please, and loud.|Let the music of {0} play.",
    "Find the way between two cities": "Which way leads from {0} to {1}?|Which road goes from {0} to {1}?"
    "|What is the road from {0} to {1}?|I am in {0} and must go to {1}."
    "|Lead me from {0} to {1}.|From {0} I want to reach {1}.",
    "Get the population of a city": "How many inhabitants live in {0}?|Count the inhabitants of {0}."
    "|How many have their home in {0}?"
    "|Number of people in {0}?|How many citizens has {0}?",
    "Switch the light in a room": "The light in the {0} should be {1}.|I would like the {0} light {1}."
    "|Can the light in the {0} be {1}?|Lights {1} in the {0}, please."
    "|Let the {0} light be {1}.|Make the light in the {0} go {1}.",
    "Set the temperature of a room": "I want {1} degrees in the {0}.|Let the {0} have {1} degrees."
    "|Could the {0} be {1} degrees?|Bring the {0} to {1} degrees."
    "|The {0} should have {1} degrees.|Warm the {0} up to {1} degrees.",
    "Search the web": "What does the web say about this: {0}|See what you find about: {0}|Ask the web: {0}"
    "|What can you find on: {0}"
    "|Look on the web for: {0}|I want to read about: {0}",
    "Get the status of an order": "When does order {0} come?|When will my order {0} arrive?"
    "|Is order {0} on its way?|Will order {0} get here soon?"
    "|I still wait for order {0}.|Tell me about order {0}.",
    "Send money to a person": "I owe {0} {1} euros.|Settle my debt of {1} euros with {0}."
    "|{0} gets {1} euros from me.|Let {0} have {1} euros."
    "|I have to give {1} euros to {0}.|Please settle {1} euros with {0}.",
    "Translate a text": "What are the {1} words for this: {0}|Give me this in {1}: {0}|Say it in {1}: {0}"
    "|I need the {1} for: {0}|Put into {1}: {0}"
    "|The {1} words, please: {0}",
    "Set a reminder": "Do not let me forget this on {1}: {0}|I must remember this on {1}: {0}"
    "|On {1} I must not forget: {0}|Make me think of this on {1}: {0}"
    "|Keep this in mind for {1}: {0}|I forget things. On {1}: {0}",
    "": "Start {tool} with {arguments}.|Invoke {tool}: {arguments}.|{tool} with {arguments}, please."
    "|Let {tool} take {arguments}.|Try {tool} using {arguments}."
    "|Make {tool} work with {arguments}.|Apply {tool} to {arguments}.",
}  # fmt: skip
BY_PURPOSE: Final = {purpose: options(text) for purpose, text in _TEXTS.items()}

RECORD_OPENINGS: Final = (
    "Turn the text into JSON with the keys {schema}: {facts}",
    "Could you write JSON for me? The fields: {schema}. {facts}",
    "Put {schema} into a JSON object. {facts}", "{facts} Can I have this in JSON with {schema}?",
    "Convert to JSON ({schema}): {facts}",
    "{facts} I want {schema} as a JSON record.", "Prepare a JSON record from {schema}. {facts}",
    "Build JSON with {schema}: {facts}",
    "Kindly fill in {schema} from this text: {facts}", "{facts} Use {schema} and answer as JSON.",
    "Make an entry having {schema}. {facts}",
    "{facts} From this text, give {schema} in JSON.",
)  # fmt: skip
_BEFORE: Final = (
    "Please, ",
    "Hey, ",
    "Hello. ",
    "Hi! ",
    "One question: ",
    "Quick: ",
    "OK, ",
    "Now, ",
    "I have a wish. ",
    "Dear understudy, ",
)
_AFTER: Final = (" Thanks.", " Thank you!", " Please.", " It is urgent.", " I am in a hurry.", " That would be nice.")


def dress(rng: Random, request: str) -> str:
    """The request, sometimes with a word before or, where it ends in a mark of its own, after it."""
    if rng.random() < 0.15:
        return rng.choice(_BEFORE) + request
    if rng.random() < 0.12 and request[-1] in ".?!":
        return request + rng.choice(_AFTER)
    return request
