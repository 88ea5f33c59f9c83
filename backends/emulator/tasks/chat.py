"""Short chat and arithmetic: one question, one short answer."""
# ruff: noqa: E501 - tables of wording read best in rows

from __future__ import annotations

from backends.emulator.tasks import words
from backends.emulator.tasks.draw import Draw
from backends.emulator.tasks.item import SYSTEM_PROMPTS, Item, Message, says, user

_FIXED: list[tuple[tuple[str, ...], str]] = [
    (("Hello", "Hi", "Hey there", "Good morning", "Good evening", "Hi there!", "hello!", "Hey"), "Hello! How can I help you?"),
    (("Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "Tell me about yourself."),
     "I am a small language model."),
    (("Thanks!", "Thank you.", "Thanks a lot", "Thank you very much!", "That helped, thanks."), "You are welcome."),
    (("Goodbye", "Bye!", "See you later", "That is all, bye.", "Good night"), "Goodbye!"),
    (("How are you?", "How are you doing?", "How is it going?", "Are you well?"), "I am fine, thank you."),
    (("What can you do?", "How can you help me?", "What are you able to do?", "Help"),
     "I can call tools, find facts in a text and do small sums."),
    (("Are you there?", "Can you hear me?", "ping", "Are you online?"), "Yes, I am here."),
    (("Say hello.", "Say hello", "Please say hello", "Say hi to everyone"), "Hello!"),
]  # fmt: skip

UNKNOWN = "I do not know that."

_TOPICS = ("Write a poem about the {}", "Tell me a joke about a {}", "Explain how a {} works", "Why is the {} {a}?",
           "What do you think of my {}?", "Who invented the {}?", "I feel {a} today", "Tell me a story about a {a} {}",
           "What is the meaning of life?", "Summarize the history of the {}", "Do you like the {}?", "Should I be {a}?",
           "Tell me a joke", "Sing a song", "What is love?", "Give me advice on my {}", "Which {} is the best?")  # fmt: skip


def off_topic(d: Draw) -> str:
    """Returns a question that this model has no answer to."""
    return d.pick(_TOPICS).replace("{}", d.word(words.NOUNS)).replace("{a}", d.of(words.ADJECTIVES))


def sums(d: Draw) -> tuple[str, str, str]:
    """Returns an expression, its words and its result."""
    while True:
        op = d.pick(("+", "+", "-", "-", "*"))
        high = 10 if op == "*" else d.pick((10, 20, 99, 99, 99, 99, 999))
        a, b = d.randint(0, high), d.randint(0, high)
        if op == "-" and a < b:
            a, b = b, a
        if high <= 10 or d.mine(f"{a}{op}{b}"):  # the tables up to ten are learned by heart: both splits have them
            result = a + b if op == "+" else a - b if op == "-" else a * b
            return f"{a} {op} {b}", {"+": "plus", "-": "minus", "*": "times"}[op], str(result)


def arithmetic(d: Draw) -> tuple[list[Message], list[str]]:
    """Returns a sum with its answer, and what the answer must contain."""
    text, spoken, result = sums(d)
    a, op, b = text.split()
    said = d.pick((text, text, f"{a} {spoken} {b}", f"{a}{op}{b}"))
    ask = d.pick((
        f"What is {said}?", f"what is {said}", f"Compute {said}.", f"{said} = ?", f"{said}", f"Calculate {said}", f"How much is {said}?",
        f"What's {said}?", f"Please work out {said}.", f"Tell me the result of {said}.", f"Solve {said}", f"{said}?",
        f"What does {said} equal?", f"Can you compute {said}?", f"What is the result of {said}?",
    ))  # fmt: skip
    return [user(ask), says(f"{text} = {result}")], [result]


def exchange(d: Draw) -> tuple[list[Message], list[str]]:
    """Returns a question with its short answer, and what the answer must contain."""
    kind = d.random()
    if kind < 0.35:
        return arithmetic(d)
    if kind < 0.55:
        asks, answer = d.pick(_FIXED)
        return [user(d.pick(asks)), says(answer)], [answer]
    if kind < 0.65:
        country = d.pick(list(words.CAPITALS))
        ask = d.pick(
            (
                "What is the capital of {}?",
                "Which city is the capital of {}?",
                "Name the capital of {}.",
                "Capital of {}?",
                "What's the capital city of {}?",
            )
        )
        return [user(ask.format(country)), says(f"The capital of {country} is {words.CAPITALS[country]}.")], [
            words.CAPITALS[country]
        ]
    if kind < 0.75:
        word = d.pick(list(words.OPPOSITES))
        ask = d.pick(
            (
                "What is the opposite of {}?",
                "Opposite of {}?",
                "Tell me the opposite of {}.",
                "What's the opposite of the word {}?",
            )
        )
        return [user(ask.format(word)), says(f"The opposite of {word} is {words.OPPOSITES[word]}.")], [
            words.OPPOSITES[word]
        ]
    if kind < 0.9:
        text = d.phrase(1, 4) if d.chance(0.6) else d.ident()
        ask = d.pick(
            (
                "Repeat: {}",
                'Say "{}".',
                "Repeat after me: {}",
                'Please repeat "{}"',
                "Echo {}",
                "Say {}",
                'Write "{}"',
                'Repeat the words "{}".',
            )
        )
        return [user(ask.format(text)), says(text)], [text]
    a, b = d.integer(), d.integer()
    if a == b:
        b += 1
    bigger = d.chance(0.5)
    ask = d.pick(("Which is {w}, {a} or {b}?", "Which number is {w}: {a} or {b}?", "What is {w}, {a} or {b}?"))
    result = max(a, b) if bigger else min(a, b)
    word = d.pick(("larger", "bigger", "greater")) if bigger else d.pick(("smaller", "lower"))
    return [user(ask.format(w=word, a=a, b=b)), says(f"{result} is {word}.")], [str(result)]


def chat_item(d: Draw, many: bool = False) -> Item:
    """Returns a short chat of one or a few turns; with `many`, half of them are long runs of sums."""
    messages: list[Message] = []
    drill = d.chance(0.5)
    for _ in range(d.pick((2, 4, 8, 12)) if drill and many else d.pick((1, 1, 1, 2, 3))):
        if drill and many:
            turn, contains = arithmetic(d)
        elif d.chance(0.05):
            turn, contains = [user(off_topic(d)), says(UNKNOWN)], [UNKNOWN]
        else:
            turn, contains = exchange(d)
        messages += turn
    system = [{"role": "system", "content": d.pick(SYSTEM_PROMPTS)}] if d.chance(0.5) else []
    kind = "arithmetic" if " = " in messages[-1]["content"] else "chat"
    return Item(kind, [*system, *messages], {"contains": contains})
