"""The work of llm-compressor: the plan's modifiers, on the chosen prompts, into a folder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Tell = Callable[[int, int], None]


def versions() -> dict[str, str]:
    """The versions of what makes the checkpoint."""
    from importlib.metadata import version

    return {name: version(name) for name in ("llmcompressor", "compressed-tensors", "torch", "transformers")}


def tokenizer(model: Path) -> Any:
    """The model's own."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, local_files_only=True)


def make(job: Mapping[str, Any], samples: Sequence[Sequence[int]] | None, out: Path, tell: Tell) -> None:
    """Writes the checkpoint of `job["model"]` to the folder `out`; `tell` hears of layers and samples done.

    `samples` are token ids; None for a plan that calibrates nothing.
    """
    import torch
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM

    random.seed(job["seed"])
    torch.manual_seed(job["seed"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto", local_files_only=True)
    plan = [_modifier(one) for one in job["modifiers"]]
    loader = None if samples is None else _loader(samples)
    with unpinned_without_accelerator(), uncentred(model), _progress(model, len(samples or ()), len(plan), tell):
        oneshot(
            model=model, tokenizer=tokenizer(Path(job["model"])), recipe=plan, dataset=loader,
            num_calibration_samples=len(samples or ()) or 1, shuffle_calibration_samples=False,
        )  # fmt: skip
    model.save_pretrained(out, save_compressed=True)


def _modifier(one: Mapping[str, Any]) -> Any:
    """One of the plan's modifiers, with its own argument types. `one` has its name and its arguments."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
    from llmcompressor.modifiers.transform.spinquant import SpinQuantModifier

    known = {
        kind.__name__: kind
        for kind in (GPTQModifier, QuantizationModifier, AWQModifier, SmoothQuantModifier, SpinQuantModifier)
    }
    return known[one["name"]](**one["arguments"])


def _loader(samples: Sequence[Sequence[int]]) -> Any:
    """A loader of one sample a batch, in the order given: nothing is padded, cut or shuffled."""
    import torch
    from torch.utils.data import DataLoader

    def alone(batch: list[Sequence[int]]) -> dict[str, Any]:
        ids = torch.tensor([list(batch[0])], dtype=torch.long)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return DataLoader(list(samples), batch_size=1, shuffle=False, collate_fn=alone)


@contextmanager
def unpinned_without_accelerator() -> Iterator[None]:
    """Leaves host memory unpinned where there is no accelerator to copy to.

    AWQModifier (llm-compressor 0.14, modifiers/transform/awq/base.py, `_apply_smoothing`) pins its cached activations
    whatever the device, and torch refuses to pin without an accelerator. No argument avoids it: `offload_device` says
    where the cache lies, and a cache on the CPU is what is pinned. Pinning only makes later copies to an accelerator
    faster, so here it does nothing to leave out; llm-compressor's other two places ask `torch.accelerator` first
    (pipelines/cache.py `iter_prefetch`, datasets/utils.py). With an accelerator this changes nothing.
    """
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.accelerator.is_available():
        yield
        return
    pinning = IntermediatesCache.pin_memory
    IntermediatesCache.pin_memory = lambda self, batch_index, input_names=None: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = pinning


@contextmanager
def uncentred(model: Any) -> Iterator[None]:
    """Leaves embeddings as they are before a rotation, where the model's norms subtract no mean.

    SpinQuantModifier (llm-compressor 0.14, modifiers/transform/spinquant/base.py, `_center_embeddings`) takes the mean
    out of each embedding, always. That changes nothing before a LayerNorm, which subtracts it anyway; an RMSNorm does
    not, and there it is another model: 1.2e-4 nats of KL on the shipped one, in float32 and before any rounding,
    against 4e-9 without it. QuaRot (arXiv 2404.00456, section 4) folds the mean in for LayerNorm alone, too.
    """
    import torch
    from llmcompressor.modifiers.transform.spinquant import base

    if any(isinstance(one, torch.nn.LayerNorm) for one in model.modules()):
        yield
        return
    centring = base.center_embeddings
    base.center_embeddings = lambda embedding: None
    try:
        yield
    finally:
        base.center_embeddings = centring


@contextmanager
def _progress(model: Any, samples: int, modifiers: int, tell: Tell) -> Iterator[None]:
    """Tells of each sample that has gone through a layer: twice for each modifier that calibrates.

    The first pass feeds the observers, the second carries the damage on to the next layer. A search in between (AWQ's
    grid) calls parts of a layer, not layers, and is not counted; what does not calibrate tells nothing.
    """
    layers = next((one for one in model.modules() if type(one).__name__ == "ModuleList" and len(one) > 1), ())
    total, done = 2 * samples * len(layers) * modifiers, 0

    def passed(*_: Any) -> None:
        nonlocal done
        done = min(done + 1, total)
        tell(done, total)

    handles = [layer.register_forward_hook(passed) for layer in layers] if samples else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
