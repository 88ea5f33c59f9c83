"""What the shipped model was trained to do, as seeded generators of requests with their right answers. Plain Python.

requests.py                       OpenAI-shaped requests, and the judge of a reply
item.py  draw.py  words.py        one item; seeded draws that know their split; word lists
schemas.py  everyday.py  domains.py  tools.py    invented tools, everyday tools, and requests for them
filler.py  needles.py             text to hide facts in; facts and questions
chat.py                           short chat and arithmetic
"""
