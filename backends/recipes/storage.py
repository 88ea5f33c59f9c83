"""A checkpoint's `quantization_config`, in a recipe's words: one reader for each form that engines read.

What cannot be understood is an error, never a default.

Source:  compressed-tensors 0.19 `quantization/quant_args.py`; vLLM 0.32.0 `layers/quantization/*.py: from_config`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backends.recipes.formats import BLOCKED

READ = ("compressed-tensors", "awq", "gptq", "fp8", "modelopt", "mxfp4")


class StorageError(ValueError):
    """It does not say what it is. str() is one line."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one kind of tensor is stored, in a recipe's words where it has them.

    per:      tensor, channel, group, block, token, head; None where the format brings its own scales, or has none.
    dynamic:  whether scales are found as values come; None where that means nothing.
    """

    format: str
    per: str | None = None
    group: int | None = None
    symmetric: bool | None = None
    dynamic: bool | None = None

    def __str__(self) -> str:
        per = (
            f" per {self.per}" + (f" of {self.group}" if self.per == "group" and self.group else "") if self.per else ""
        )
        scales = {True: ", scales found at run time", False: "", None: ""}[self.dynamic]
        return f"{self.format}{per}{scales}"


PLAIN = Scheme("bf16")


@dataclass(frozen=True, slots=True)
class Storage:
    """What is stored, on the three axes. `method` is the form ("none": not quantized).

    kv_cache None: it says nothing of the cache. `ignored` are its own words. `head_kept`: the form never reaches the
    output head. `mixed`: why it has no one scheme. `made_by`: the algorithm, where the form tells it.
    """

    method: str
    weights: Scheme = PLAIN
    activations: Scheme = PLAIN
    kv_cache: Scheme | None = None
    ignored: tuple[str, ...] = ()
    head_kept: bool = True
    mixed: str | None = None
    made_by: str | None = None


def understood(said: object) -> Storage:
    """What a `quantization_config` says; None is a model that is not quantized.

    Raises:  StorageError.
    """
    if said is None:
        return Storage("none")
    if not isinstance(said, dict):
        raise StorageError(f"quantization_config is {type(said).__name__}, not a table")
    named = said.get("quant_method")
    method = _ALSO.get(str(named), str(named))
    if method not in _READERS:
        raise StorageError(
            f"quant_method is {named!r}, and what is read here is {', '.join(READ)}; "
            "`parity quantize` makes a checkpoint that can be checked"
        )
    return _READERS[method](said)


_ALSO = {"auto_awq": "awq", "auto_gptq": "gptq", "modelopt_fp4": "modelopt", "modelopt_mxfp8": "modelopt"}


def _compressed_tensors(said: Mapping[str, Any]) -> Storage:
    where = "quantization_config"
    groups = said.get("config_groups")
    if not isinstance(groups, dict):
        raise StorageError(f"{where}.config_groups is missing or no table")
    schemes, whole = [], True
    for name, group in groups.items():
        if not isinstance(group, dict):
            raise StorageError(f"{where}.config_groups.{name} is no table")
        targets = group.get("targets")
        if not isinstance(targets, list) or not all(isinstance(one, str) for one in targets):
            raise StorageError(f"{where}.config_groups.{name}.targets is no list of names")
        whole = whole and "Linear" in targets
        pair = tuple(
            _scheme(group.get(key), f"{where}.config_groups.{name}.{key}") or PLAIN
            for key in ("weights", "input_activations")
        )
        if pair not in schemes:
            schemes.append(pair)
    cache = _scheme(said.get("kv_cache_scheme"), f"{where}.kv_cache_scheme")
    weights, activations = schemes[0] if schemes else (PLAIN, PLAIN)
    mixed = None
    if len(schemes) > 1:
        mixed = "its layers have several schemes: " + "; ".join(f"{first}, {second}" for first, second in schemes)
    elif schemes and not whole:
        mixed = "its scheme is for named layers alone: the rest stays at 16 bits"
    return Storage("compressed-tensors", weights, activations=activations, kv_cache=cache, mixed=mixed,
        ignored=_names(said.get("ignore"), f"{where}.ignore"), head_kept=False,
    )  # fmt: skip


_INTS = {2: "int2", 3: "int3", 4: "int4", 8: "int8"}
_PER = {
    "tensor": "tensor", "channel": "channel", "group": "group", "tensor_group": "group", "block": "block",
    "token": "token", "attn_head": "head",
}  # fmt: skip


def _scheme(said: Any, where: str) -> Scheme | None:
    """One QuantizationArgs of compressed-tensors; None where there is none."""
    if said is None:
        return None
    if not isinstance(said, dict):
        raise StorageError(f"{where} is {type(said).__name__}, not a table")
    bits, kind, strategy = said.get("num_bits"), said.get("type", "int"), said.get("strategy")
    group, dynamic = said.get("group_size"), said.get("dynamic", False)
    if type(bits) is not int or kind not in ("int", "float") or dynamic not in (True, False, "local"):
        raise StorageError(f"{where}: num_bits {bits!r}, type {kind!r}, dynamic {dynamic!r} is no scheme")
    if strategy is None:  # compressed-tensors' own default
        strategy = "tensor" if group is None else "channel" if group == -1 else "group"
    if strategy not in _PER or (group is not None and type(group) is not int):
        raise StorageError(f"{where}: strategy {strategy!r} with group_size {group!r} is no scheme")
    if kind == "int":
        name = _INTS.get(bits, f"int{bits}")
    elif bits == 8:
        name = "mxfp8" if strategy == "group" and group == 32 else "fp8-e4m3"
    elif bits == 4:
        name = {("tensor_group", 16): "nvfp4", ("group", 32): "mxfp4"}.get((strategy, group or 0), "fp4-e2m1")
    else:
        name = f"float{bits}"
    own = name in BLOCKED
    per = None if own else _PER[strategy]
    return Scheme(name, per, group if per == "group" else None, bool(said.get("symmetric", True)), bool(dynamic))


def _awq(said: Mapping[str, Any]) -> Storage:
    where = "quantization_config"
    bits, group = _whole(said, ("bits", "w_bit"), where), _whole(said, ("group_size", "q_group_size"), where)
    ignored = _names(said.get("modules_to_not_convert"), f"{where}.modules_to_not_convert")
    weights = _grouped(bits, group, not said.get("zero_point", True))
    return Storage("awq", weights, ignored=ignored, head_kept=not said.get("lm_head", False), made_by="awq")


def _gptq(said: Mapping[str, Any]) -> Storage:
    where = "quantization_config"
    bits, group = _whole(said, ("bits",), where), _whole(said, ("group_size",), where)
    mixed = "it has rules for single layers (dynamic)" if said.get("dynamic") else None
    weights = _grouped(bits, group, bool(said.get("sym", True)))
    return Storage("gptq", weights, head_kept=not said.get("lm_head", False), mixed=mixed)


def _fp8(said: Mapping[str, Any]) -> Storage:
    where = "quantization_config"
    scheme, block = said.get("activation_scheme"), said.get("weight_block_size")
    if scheme not in ("dynamic", "static"):
        raise StorageError(f"{where}.activation_scheme is {scheme!r}; it is dynamic or static")
    weights = Scheme("fp8-e4m3", "tensor" if block is None else "block", symmetric=True)
    # vLLM takes dynamic scales per token where its kernel can, with blocks per 128 values of one.
    activations = Scheme("fp8-e4m3", "tensor" if scheme == "static" else "token", dynamic=scheme == "dynamic")
    ignored = said.get("ignored_layers") or said.get("modules_to_not_convert")
    return Storage("fp8", weights, activations=activations, ignored=_names(ignored, f"{where}.ignored_layers"))


def _mxfp4(said: Mapping[str, Any]) -> Storage:
    where = "quantization_config"
    ignored = _names(said.get("modules_to_not_convert"), f"{where}.modules_to_not_convert")
    return Storage("mxfp4", Scheme("mxfp4"), ignored=ignored)


_TOKEN8, _TENSOR8 = Scheme("fp8-e4m3", "token", dynamic=True), Scheme("fp8-e4m3", "tensor", dynamic=False)
_MODELOPT: Mapping[str, tuple[Scheme, Scheme]] = {
    "FP8": (Scheme("fp8-e4m3", "tensor", symmetric=True), _TENSOR8),
    "FP8_PER_CHANNEL_PER_TOKEN": (Scheme("fp8-e4m3", "channel", symmetric=True), _TOKEN8),
    "FP8_PB_WO": (Scheme("fp8-e4m3", "block", symmetric=True), PLAIN),
    "NVFP4": (Scheme("nvfp4"), Scheme("nvfp4", dynamic=True)),
    "NVFP4_AWQ": (Scheme("nvfp4"), Scheme("nvfp4", dynamic=True)),
    "W4A16_NVFP4": (Scheme("nvfp4"), PLAIN),
    "MXFP8": (Scheme("mxfp8"), Scheme("mxfp8", dynamic=True)),
}


def _modelopt(said: Mapping[str, Any]) -> Storage:
    inner = said.get("quantization", said)
    where = "modelopt's quantization"
    if not isinstance(inner, dict):
        raise StorageError(f"{where} is {type(inner).__name__}, not a table")
    named = str(inner.get("quant_algo", "")).upper()
    group = inner.get("group_size") if type(inner.get("group_size")) is int else 128
    if named in ("W4A16_AWQ", "W4A8_AWQ"):
        pair = (Scheme("int4", "group", group, True), PLAIN if named == "W4A16_AWQ" else _TENSOR8)
    elif named in _MODELOPT:
        pair = _MODELOPT[named]
    else:
        raise StorageError(f"{where}: quant_algo {named!r} is none of W4A16_AWQ, W4A8_AWQ, {', '.join(_MODELOPT)}")
    kv = inner.get("kv_cache_quant_algo", inner.get("kv_cache_scheme", said.get("kv_cache_scheme")))
    caches = {"FP8": Scheme("fp8-e4m3", "tensor", symmetric=True, dynamic=False), "NVFP4": Scheme("nvfp4")}
    if kv is None or isinstance(kv, dict):
        cache = _scheme(kv, f"{where}.kv_cache_scheme")
    elif str(kv).upper() in caches:
        cache = caches[str(kv).upper()]
    else:
        raise StorageError(f"{where}: kv_cache_quant_algo {kv!r} is neither FP8 nor NVFP4")
    ignored = _names(inner.get("exclude_modules", inner.get("ignore")), f"{where}.exclude_modules")
    return Storage("modelopt", pair[0], activations=pair[1], kv_cache=cache, ignored=ignored, head_kept=False)


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Storage]] = {
    "compressed-tensors": _compressed_tensors, "awq": _awq, "gptq": _gptq, "fp8": _fp8, "modelopt": _modelopt,
    "mxfp4": _mxfp4,
}  # fmt: skip


def _grouped(bits: int, group: int, symmetric: bool) -> Scheme:
    name = _INTS.get(bits, f"int{bits}")
    return Scheme(name, "channel" if group == -1 else "group", None if group == -1 else group, symmetric)


def _whole(said: Mapping[str, Any], keys: tuple[str, ...], where: str) -> int:
    found = next((said[key] for key in keys if key in said), None)
    if type(found) is not int:
        raise StorageError(f"{where}.{keys[0]} is {found!r}, not a whole number")
    return found


def _names(said: Any, where: str) -> tuple[str, ...]:
    if said is None:
        return ()
    if not isinstance(said, list) or not all(isinstance(one, str) for one in said):
        raise StorageError(f"{where} is no list of names")
    return tuple(said)
