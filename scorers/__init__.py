"""What two replies are worth beside each other: pure values and pure functions, nothing that waits.

    records.py      the words: DecodedRequest, DecodedReply, Pair, Score, Unscored, Reason
    decode.py       bytes -> DecodedRequest, DecodedReply, TeacherForced;  wire.py, stream.py its two back rooms
    tool_calls.py   the ladder; the reference's call is the answer key
    proof.py        whether a prefill shows that the reference would have said the same
    logprobs.py     aligned-prefix bucketed-tail KL and what goes with it
    recall.py       reference-grounded copy recall, planted needles
    text.py         finish reason, exact text, JSON validity, length
    schemas.py      clients' JSON Schemas, compiled once and kept harmless
    catalogue.py    every scorer and every score name; how a pair is scored
    evidence.py     running statistics;  judge.py  the verdict;  pattern.py, diagnose.py  the axis

No I/O, clock, randomness, logging, async or globals anywhere here: the same pair gives the same scores,
on any machine. Explanations hold no text of a prompt or a reply (bodies are kept and redacted elsewhere).
"""
