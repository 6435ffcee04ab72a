"""What tools can do: nineteen skills, each with the names it may go by, its parameters, and ways to ask for it."""

from dataclasses import dataclass
from typing import Final

import wordings
from phrasing import Phrasings, options

__all__ = ["SKILLS", "Skill"]


@dataclass(frozen=True)
class Skill:
    """What a tool does: its names, its parameters as (names, type, kind of value), and requests with `{slots}`."""

    names: tuple[str, ...]
    purpose: str
    parameters: tuple[tuple[tuple[str, ...], str, str], ...]
    requests: Phrasings


def _skill(names_: str, purpose: str, parameters: str, train: str, held_out: str = "") -> Skill:
    """Read a skill from `a|b` lists; parameters as `city|place:string:city; …`."""
    triples = (part.strip().split(":") for part in parameters.split(";"))
    read = tuple((options(keys), type_, kind) for keys, type_, kind in triples)
    requests = Phrasings(options(train), options(held_out), wordings.BY_PURPOSE[purpose])
    return Skill(options(names_), purpose, read, requests)


SKILLS: Final = (
    _skill("get_weather|weather|current_weather|check_weather|weather_in|fetch_weather", "Get the weather in a city",
           "city|location|place|town:string:city",
           "What is the weather in {0}?|What's the weather like in {0}?|How is the weather in {0}?"
           "|Weather in {0}, please."
           "|Tell me the weather in {0}.|Is it raining in {0}?|Will it rain in {0} today?|Check the weather for {0}."
           "|Weather for {0}|I am going to {0}. What is the weather there?|How warm is it in {0}?",
           "Do I need an umbrella in {0}?|What does the sky look like in {0}?"),
    _skill("get_time|current_time|local_time|time_in|what_time", "Get the local time in a city",
           "city|place|location:string:city",
           "What time is it in {0}?|What is the time in {0}?|Tell me the local time in {0}.|Time in {0}, please."
           "|Current time in {0}?"
           "|Do you know the time in {0}?|How late is it in {0}?", "What does the clock say in {0}?"),
    _skill("send_message|message|text_message|send_text|send_sms", "Send a message to a person",
           "recipient|to|person|contact:string:person;text|message|body|content:string:phrase",
           "Send a message to {0}: {1}|Send {0} this message: {1}|Text {0}: {1}|Message {0}: {1}|Tell {0}: {1}"
           "|Write to {0}: {1}"
           "|Please send a message to {0} saying: {1}|Send a text to {0}: {1}", "Let {0} know: {1}"
           "|Drop {0} a line: {1}"),
    _skill("set_timer|start_timer|timer|countdown", "Start a timer", "minutes|duration|length:integer:small",
           "Set a timer for {0} minutes.|Start a timer for {0} minutes.|Timer for {0} minutes, please."
           "|Set a {0} minute timer."
           "|Start a {0} minute countdown.|Wake me in {0} minutes.", "Ring when {0} minutes are over."
           "|Count down {0} minutes."),
    _skill("add|add_numbers|sum|sum_numbers|plus", "Add two numbers", "a|x|first|left:integer:number;b|y|second"
    "|right:integer:number",
           "What is {0} plus {1}?|Add {0} and {1}.|What is {0} + {1}?|Compute {0} + {1}.|Calculate {0} plus {1}."
           "|Sum {0} and {1}."
           "|How much is {0} plus {1}?|What is the sum of {0} and {1}?",
           "If I have {0} and get {1} more, how many is that?"),
    _skill("multiply|times|product|multiply_numbers", "Multiply two numbers",
           "a|x|first|left:integer:number;b|y|second|right:integer:number",
           "What is {0} times {1}?|Multiply {0} by {1}.|What is {0} * {1}?|Compute {0} times {1}.|Multiply {0} and {1}."
           "|What is the product of {0} and {1}?", "How much are {0} boxes of {1} each?"),
    _skill("book_table|reserve_table|table_booking|restaurant", "Book a table in a restaurant",
           "city|place:string:city;people|guests|seats:integer:small",
           "Book a table in {0} for {1} people.|Reserve a table for {1} in {0}.|I need a table for {1} people in {0}."
           "|Please book a table for {1} in {0}.|Table in {0} for {1} guests, please."
           "|Find a restaurant in {0} for {1} people.",
           "We are {1} and want to eat out in {0}."),
    _skill("find_contact|lookup_contact|get_contact|contact|phone_number", "Find the phone number of a person",
           "name|person|who:string:person",
           "What is the phone number of {0}?|Find the number of {0}.|Find the contact {0}.|Look up {0} in my contacts."
           "|Give me the phone number of {0}.|I need to call {0}. What is the number?",
           "How can I reach {0} by phone?"),
    _skill("create_event|add_event|schedule|schedule_meeting|new_meeting", "Add a meeting to the calendar",
           "person|with|guest|attendee:string:person;day|date|weekday:string:day",
           "Schedule a meeting with {0} on {1}.|Add a meeting with {0} on {1}.|Plan a meeting with {0} for {1}."
           "|Meet {0} on {1}."
           "|Put a meeting with {0} on {1} in my calendar.|Set up a meeting with {0} on {1}."
           "|On {1} I meet {0}. Add it.",
           "I will see {0} on {1}, write that down."),
    _skill("play_music|play|play_song|music|start_music", "Play music by an artist", "artist|musician"
    "|singer:string:person",
           "Play music by {0}.|Play something by {0}.|Play songs by {0}.|I want to hear {0}.|Put on some music by {0}."
           "|Start the music of {0}.", "Let me listen to {0}."),
    _skill("find_route|route|directions|navigate|get_directions", "Find the way between two cities",
           "start|origin|from_city|source:string:city;destination|end|to_city|target:string:city",
           "How do I get from {0} to {1}?|Find a route from {0} to {1}.|Directions from {0} to {1}."
           "|Show the way from {0} to {1}."
           "|I want to drive from {0} to {1}.|Navigate from {0} to {1}.|What is the way to {1} from {0}?",
           "Which road leads from {0} to {1}?"),
    _skill("get_population|population|count_people|population_of", "Get the population of a city", "city|place"
    "|town:string:city",
           "How many people live in {0}?|What is the population of {0}?|Population of {0}?"
           "|Tell me the population of {0}."
           "|How big is {0}?", "How many inhabitants has {0}?"),
    _skill("set_light|light|lights|switch_light|lamp", "Switch the light in a room",
           "room|where:string:room;on|state|enabled:boolean:switch",
           "Turn the light in the {0} {1}.|Turn {1} the light in the {0}.|Switch {1} the lights in the {0}."
           "|Light {1} in the {0}."
           "|Please turn {1} the {0} light.|Switch the {0} light {1}.", "I want the light in the {0} to be {1}."),
    _skill("set_temperature|heating|thermostat|set_heating", "Set the temperature of a room",
           "room|where:string:room;degrees|temperature|value:integer:small",
           "Set the {0} to {1} degrees.|Make the {0} {1} degrees warm.|Heat the {0} to {1} degrees."
           "|Set the temperature in the {0} to {1}.|Temperature in the {0}: {1} degrees.",
           "I would like {1} degrees in the {0}."),
    _skill("search|web_search|search_web|find|lookup", "Search the web", "query|q|text|terms:string:phrase",
           "Search the web for: {0}|Search for: {0}|Look this up: {0}|Find on the web: {0}|Search: {0}"
           "|Please search for: {0}",
           "See what the web says about: {0}"),
    _skill("get_order|order_status|track_order|order", "Get the status of an order", "order_id|id|number:integer:id",
           "Where is my order {0}?|What is the status of order {0}?|Track order {0}.|Check order {0}."
           "|Status of order {0}, please."
           "|Has order {0} been sent?", "When will order {0} get here?"),
    _skill("transfer|send_money|pay|transfer_money", "Send money to a person",
           "recipient|to|person:string:person;amount|euros|sum:integer:number",
           "Send {1} euros to {0}.|Pay {0} {1} euros.|Transfer {1} euros to {0}.|Give {0} {1} euros."
           "|Please pay {1} euros to {0}.",
           "I owe {0} {1} euros, please settle that."),
    _skill("translate|translate_text|translation", "Translate a text", "text|phrase|content:string:phrase;language"
    "|to|target:string:language",
           "Translate into {1}: {0}|Translate to {1}: {0}|Translate this into {1}: {0}|How do you say this in {1}: {0}"
           "|In {1}, please: {0}", "Give me the {1} words for: {0}"),
    _skill("remind|set_reminder|add_reminder|reminder", "Set a reminder", "text|what|task:string:phrase;day|when"
    "|date:string:day",
           "Remind me on {1}: {0}|Set a reminder for {1}: {0}|Reminder for {1}: {0}|On {1} remind me: {0}"
           "|Add a reminder on {1}: {0}",
           "I must not forget this on {1}: {0}"),
)  # fmt: skip
