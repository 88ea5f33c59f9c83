"""What a scripted vLLM plays, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Script:
    """What the server plays. Everything in a reply follows from it and the request's bytes, unless `noise` is set or
    a sampled request carries no seed (`fresh_sampling` False makes that case repeatable too).

    `lacks` says what it cannot do, and how that shows (lacking.py); `most_top_logprobs` is where its lists end then.

    Units:  *_s seconds; `shift` nats (standard deviation of logits, `Drift`); `noise` share of calls that differ from
    run to run; `jitter` share by which a wait varies; `record` number of the latest requests kept.
    """

    model: str = "m"
    root: str = ""  # where its weights are; a name of a hub when empty
    max_model_len: int = 32_768
    version: str = "0.32.0"
    fingerprint: str = "vllm-0.32.0-5c217d01"
    created_unix_s: int = 1_767_225_600
    shift: float = 0.0
    noise: float = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    fresh_faults: bool = False
    fresh_sampling: bool = True
    lacks: Mapping[str, str] = field(default_factory=dict)
    most_top_logprobs: int = 5
    ttft_s: float = 0.0
    token_interval_s: float = 0.0
    jitter: float = 0.0
    record: int = 0

    def as_healthy_quantized(self) -> Script:
        """After a good quantization: KL near 0.002, 1 % other endings, 0.3 % other arguments. *choice*"""
        return replace(self, shift=0.2, faults={"tool_argument": 0.003, "phrase": 0.01, **self.faults})

    def as_noisy_reference(self) -> Script:
        """The same model on kernels that depend on the batch: 0.5 % of calls differ between runs. *choice*"""
        return replace(self, noise=0.005)
