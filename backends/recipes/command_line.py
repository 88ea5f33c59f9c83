"""A recipe's arm as vLLM's own command line, as data: flags with the reason for each that is not obvious.

The arms differ in what the recipe says and in nothing else: length, batch, dtype, attention backend and tool parser are
the candidate's on both. Two flags are the reference's own: its memory (placement.py), and no prefix cache, because a
noise run that reads the cached prefix of the run before it measures too small a floor.

Source:  vLLM 0.32.0, `engine/arg_utils.py`; `tests/e2e/test_launch.py` has its own parser read every command here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from backends.recipes.finding import Finding
from backends.recipes.formats import SIXTEEN_BIT
from backends.recipes.placement import Placed
from backends.recipes.recipe import KvCache, Recipe
from backends.recipes.serving import backend_for, kv_dtype, refuses
from backends.recipes.tool_parsers import tool_parser

Side = Literal["candidate", "reference"]


@dataclass(frozen=True, slots=True)
class Flag:
    """One option of vLLM. `why` is for a reader, where the option does not say it itself."""

    name: str
    values: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm as it will be served. `recipe` is what it serves; `model` the folder of its
    weights, or a name that vLLM knows."""

    side: Side
    recipe: Recipe
    model: str
    port: int
    placed: Placed


@dataclass(frozen=True, slots=True)
class Common:
    """What both arms share. `recipe` is the candidate's, whichever arm is being written; `parser` None: no tools."""

    recipe: Recipe
    name: str
    host: str
    parser: str | None
    top_logprobs: int


@dataclass(frozen=True, slots=True)
class Command:
    """One arm's command line without the program: its flags, and what its environment must say."""

    side: Side
    model: str
    host: str
    port: int
    flags: tuple[Flag, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def head(self, program: Sequence[str]) -> list[str]:
        """What stands before the flags: `vllm serve MODEL`, or the module and `--model MODEL`."""
        return [*program, *([] if program[-1] == "serve" else ["--model"]), self.model]

    def argv(self, program: Sequence[str]) -> list[str]:
        """All its words."""
        return [*self.head(program), *(word for flag in self.flags for word in (flag.name, *flag.values))]


def command(arm: Arm, common: Common) -> Command:
    """The arm's command line."""
    environment = {}
    if arm.placed.cards is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, arm.placed.cards))
    return Command(arm.side, arm.model, common.host, arm.port, tuple(_flags(arm, common)), environment)


def attention_backend(recipe: Recipe) -> str | None:
    """The backend that both arms must take: the recipe's, else the one that its low cache would be given; else None.

    At 16 bits vLLM chooses the same for both, because the choice looks at the cache and the card, not at the weights.
    """
    if recipe.attention_backend is not None or recipe.kv_cache.format in SIXTEEN_BIT:
        return recipe.attention_backend
    return backend_for(recipe.kv_cache, recipe.card)


def compute_dtype(recipe: Recipe) -> str:
    """--dtype: what is computed in where nothing is low; FP16 only where the recipe names it."""
    return "float16" if "fp16" in (recipe.weights.format, recipe.activations.format) else "bfloat16"


def online_flag(recipe: Recipe) -> Flag | Finding | None:
    """--quantization for weights that vLLM rounds at load; what vLLM would do instead where it does not do this."""
    weights, activations = recipe.weights, recipe.activations
    if weights.made_by != "online":
        return None
    source = "vLLM 0.32.0, layers/quantization/online"
    if weights.format in ("int8", "nvfp4"):
        return Finding(
            "error", "weights.method",
            f"vLLM's online {weights.format} reaches the experts of a mixture alone: a dense model would be served at "
            "16 bits, and every score would praise it",
            'method = "rtn" and a checkpoint (parity quantize)', "online", source,
        )  # fmt: skip
    if activations.format != weights.format:
        return Finding(
            "error", "activations.format",
            f"vLLM's online {weights.format} rounds the activations too, whatever the recipe says",
            f'[activations] format = "{weights.format}", or a checkpoint with 16-bit activations', "online", source,
        )  # fmt: skip
    named = {
        ("fp8-e4m3", "tensor"): "fp8_per_tensor", ("fp8-e4m3", "channel"): "fp8_per_channel", ("mxfp8", None): "mxfp8",
    }.get((weights.format, weights.granularity))  # fmt: skip
    if named is None or (weights.format == "fp8-e4m3" and activations.granularity != "token"):
        return Finding(
            "error", "weights.per",
            f"vLLM rounds nothing online to {weights} with activations {activations}",
            'per = "channel" or "tensor", and activations per = "token"', "online", source,
        )  # fmt: skip
    return Flag("--quantization", (named,), "rounded at load: there is no checkpoint whose bytes could be pinned")


def servable(recipe: Recipe) -> list[Finding]:
    """What stands against writing a command line at all, beyond the recipe's own check."""
    found: list[Finding] = []
    if recipe.engine != "vllm":
        found.append(
            Finding("error", "engine", f"parity launch starts vLLM; the recipe asks for {recipe.engine}",
                    'engine = "vllm", or start it yourself and name its url in the settings', "engine")
        )  # fmt: skip
    backend = attention_backend(recipe)
    why = None if backend is None else refuses(backend, KvCache(), recipe.card)
    if why:
        found.append(Finding("error", "attention_backend", f"the reference cannot have it: {why}",
                             "another KV format, or another backend that both hold", "vllm-kv"))  # fmt: skip
    online = online_flag(recipe)
    if isinstance(online, Finding):
        found.append(online)
    return found


def _flags(arm: Arm, common: Common) -> Iterator[Flag]:
    shared, own, placed = common.recipe, arm.recipe, arm.placed
    yield Flag("--served-model-name", (common.name,), "one name on both arms: a served request is never edited")
    yield Flag("--host", (common.host,))
    yield Flag("--port", (str(arm.port),))
    yield Flag("--dtype", (compute_dtype(shared),))
    yield Flag("--max-model-len", (str(shared.context_tokens),))
    yield Flag("--max-num-seqs", (str(shared.concurrency),), "the recipe's concurrency, on both arms")
    yield Flag("--tensor-parallel-size", (str(own.gpus),))
    online = online_flag(own)
    if isinstance(online, Flag):
        yield online
    yield from _cache(own, compute_dtype(shared))
    backend = attention_backend(shared)
    if backend is not None:
        said = "the recipe's" if shared.attention_backend else f"what vLLM takes for the candidate's {shared.kv_cache}"
        yield Flag("--attention-backend", (backend,), f"{said}, on both arms: a score must not measure two kernels")
    if arm.side == "reference":
        yield Flag(
            "--no-enable-prefix-caching",
            why="a noise run must not read the prefix that the run before it cached: the floor would be too small",
        )
    if placed.kv_bytes is not None:
        yield Flag(
            "--kv-cache-memory-bytes", (str(placed.kv_bytes),),
            "what the concurrency needs; by itself vLLM takes most of the memory, for each arm. Where it is set, "
            "VLLM_CPU_KVCACHE_SPACE wins over this: unset it",
        )  # fmt: skip
        yield Flag("--enforce-eager", why="compiled graphs fuse otherwise on each arm, and take minutes on a CPU")
    if placed.utilization is not None:
        yield Flag("--gpu-memory-utilization", (f"{placed.utilization:g}",), "this arm's share of each card")
    yield Flag("--max-logprobs", (str(common.top_logprobs),), "what the monitor asks for at every step")
    if common.parser is not None:
        yield Flag("--enable-auto-tool-choice")
        yield Flag(
            "--tool-call-parser", (common.parser,), "the same on both: another parser looks like damaged weights"
        )


def _cache(own: Recipe, dtype: str) -> Iterator[Flag]:
    cache = own.kv_cache
    if cache.format in SIXTEEN_BIT:
        yield Flag(
            "--kv-cache-dtype", (dtype,), 'said, not "auto": auto takes FP8 wherever the checkpoint carries KV scales'
        )
        return
    scales = {
        "one": "scale 1.0",
        "token-head": "scales found at each write",
    }.get(cache.granularity or "", "its scales come from the checkpoint")
    yield Flag("--kv-cache-dtype", (kv_dtype(cache) or "",), f"{cache}: {scales}")
    if cache.skipped_layers:
        yield Flag("--kv-cache-dtype-skip-layers", cache.skipped_layers, "these stay at 16 bits")


def parser_for(model_type: str | None, name: str) -> tuple[str | None, Finding | None]:
    """The tool parser, and what to know where there is none."""
    known = tool_parser(model_type, name)
    if known is not None:
        return known, None
    return None, Finding(
        "warning", "model",
        f'no tool parser is known for "{model_type or name.strip()}": both arms are served without tool calls',
        "--tool-call-parser NAME, as the model's card says", "tool-parser",
    )  # fmt: skip
