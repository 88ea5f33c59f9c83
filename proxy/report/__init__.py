"""What can be told without a running monitor: from a ledger alone, and from a settings file before it runs.

recompute.py  the verdict that a ledger gives, in the shape of `/gate`
view.py       a verdict for people: the short page
explain.py    the long one: each budget's figures, gates, and the pairs at which they crossed
export.py     a ledger's rows as CSV or JSON Lines
knobs.py      what keeps a recipe from passing that turns several knobs at once
plan.py       what each budget needs before it can pass, in pairs, requests and time
"""
