"""The forward pass against one written slowly in float64; the cache against recomputing; what each axis rounds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from backends.emulator.cache import CHUNK, Arena, Slot
from backends.emulator.calibrate import reach
from backends.emulator.checkpoint import read_shape
from backends.emulator.forward import Forward
from backends.emulator.network import Network, load, needs_reach, quantized
from backends.emulator.recipes import parsed
from backends.emulator.server import MODEL
from tests.unit.emulator_rig import CONFIG, LLAMA, tensors, write_model

IDS = [int(one) for one in np.random.default_rng(5).integers(3, 1000, 40)]


def bf16(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64).astype(ml_dtypes.bfloat16).astype(np.float64)


def slow_logits(config: dict[str, Any], ids: list[int], frequencies: tuple[float, ...]) -> np.ndarray:
    """The last position's logits: position by position, head by head, in float64, stored as BF16 where engines do."""
    w = {name: one.astype(np.float64) for name, one in tensors(config).items()}
    heads, kv_heads, head = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return bf16(bf16(x / math.sqrt(sum(one * one for one in x) / len(x) + config["rms_norm_eps"])) * weight)

    def turn(x: np.ndarray, position: int) -> np.ndarray:
        out, half = np.empty(head), head // 2
        for pair in range(half):
            cos, sin = bf16(math.cos(position * frequencies[pair])), bf16(math.sin(position * frequencies[pair]))
            out[pair] = x[pair] * cos - x[pair + half] * sin
            out[pair + half] = x[pair + half] * cos + x[pair] * sin
        return bf16(out)

    xs = [w["model.embed_tokens.weight"][one] for one in ids]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        keys: list[list[np.ndarray]] = []
        values: list[list[np.ndarray]] = []
        for position, x in enumerate(xs):
            y = norm(x, w[f"{at}.input_layernorm.weight"])
            q, k, v = (bf16(w[f"{at}.self_attn.{one}_proj.weight"] @ y).reshape(-1, head) for one in "qkv")
            if f"{at}.self_attn.q_norm.weight" in w:
                q = np.array([norm(one, w[f"{at}.self_attn.q_norm.weight"]) for one in q])
                k = np.array([norm(one, w[f"{at}.self_attn.k_norm.weight"]) for one in k])
            keys.append([turn(one, position) for one in k])
            values.append(list(v))
            seen = []
            for number in range(heads):
                query, group = turn(q[number], position), number // (heads // kv_heads)
                scores = [float(query @ past[group]) / math.sqrt(head) for past in keys]
                odds = [math.exp(one - max(scores)) for one in scores]
                seen.append(sum(odd * past[group] for odd, past in zip(odds, values, strict=True)) / sum(odds))
            x = bf16(x) + bf16(w[f"{at}.self_attn.o_proj.weight"] @ bf16(np.concatenate(seen)))
            y = norm(x, w[f"{at}.post_attention_layernorm.weight"])
            gate, up = (bf16(w[f"{at}.mlp.{one}_proj.weight"] @ y) for one in ("gate", "up"))
            y = bf16(bf16(np.array([g / (1 + math.exp(-g)) for g in gate])) * up)
            xs[position] = bf16(x) + bf16(w[f"{at}.mlp.down_proj.weight"] @ y)  # a norm reads it before it is rounded
    out = w["lm_head.weight" if "lm_head.weight" in w else "model.embed_tokens.weight"]
    return bf16(out @ norm(xs[-1], w["model.norm.weight"]))


def ready(directory: Path, recipe: str) -> Network:
    network = load(directory, parsed(recipe))
    return quantized(network, reach(network, [IDS]) if needs_reach(network.recipe) else None)


def slot_of(arena: Arena) -> Slot:
    slot = arena.take()
    assert slot is not None
    return slot


def filled(forward: Forward, slot: Slot, ids: list[int], chunk: int = CHUNK) -> np.ndarray:
    """The last position's logits after a prompt."""
    for start in range(0, len(ids), chunk):
        hidden = forward.prefill(slot, ids[start : start + chunk])
    return forward.logits(hidden[-1:])[0]


@pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["qwen3", "llama3"])
def test_it_is_the_model_that_the_config_describes(tmp_path: Path, config: dict[str, Any]) -> None:
    directory = write_model(tmp_path, config)
    network = load(directory, parsed("bf16"))
    wanted = slow_logits(config, IDS, read_shape(directory).rope_frequencies)
    got = filled(Forward(network), slot_of(Arena(network.shape)), IDS)
    # Sums in float32 and float64 round to neighbours in BF16 now and then. One point of rounding more or less, and only
    # some 8 to 25 % of the logits are equal.
    assert (got == wanted).mean() > 0.9


@pytest.mark.parametrize(
    "recipe", ["bf16", "kv=int4:tensor", "kv=int8:token-head", "weights=int8:channel,activations=int8"]
)
def test_the_cache_gives_what_recomputing_gives(tmp_path: Path, recipe: str) -> None:
    """At once, in chunks, or token by token: the same logits within BF16."""
    network = ready(write_model(tmp_path), recipe)
    forward, arena = Forward(network), Arena(network.shape)
    whole = filled(forward, slot_of(arena), IDS)
    pieces = filled(forward, slot_of(arena), IDS, chunk=7)
    slot = slot_of(arena)
    filled(forward, slot, IDS[:3])
    for one in IDS[3:]:
        steps = forward.decode([slot], [one])[0]
    assert slot.length == len(IDS)
    for other in (pieces, steps):
        assert float(np.abs(other - whole).max()) < 0.05 * float(np.abs(whole).max())
        assert other.argmax() == whole.argmax()


def test_a_sequence_does_not_notice_its_neighbours() -> None:
    """Bit for bit, whatever else is decoded in the same step and however long it is; at the shipped model's size, where
    a product of many rows sums in another order than one of a single row."""
    network = load(MODEL, parsed("bf16"))
    forward, arena = Forward(network), Arena(network.shape)
    alone, beside, other, third = (slot_of(arena) for _ in range(4))
    for slot, ids in ((alone, IDS), (beside, IDS), (other, IDS[:5]), (third, IDS[9:30])):
        filled(forward, slot, ids)
    for token in range(11, 40):
        single = forward.decode([alone], [token])[0]
        many = forward.decode([other, beside, third], [7, token, 9])[1]
        assert single.tolist() == many.tolist()
    np.testing.assert_array_equal(alone.values[:, :, : alone.length], beside.values[:, :, : beside.length])


def test_a_slot_that_was_used_leaves_no_trace(tmp_path: Path) -> None:
    network = ready(write_model(tmp_path), "bf16")
    forward, arena = Forward(network), Arena(network.shape, slots=1)
    slot = slot_of(arena)
    first = filled(forward, slot, IDS[:10])
    arena.give(slot)
    slot = slot_of(arena)
    filled(forward, slot, IDS)
    assert arena.take() is None
    arena.give(slot)
    assert filled(forward, slot_of(arena), IDS[:10]).tolist() == first.tolist()


PROMPT = tuple(int(one) for one in np.random.default_rng(9).integers(3, 1000, 2 * CHUNK + 60))


def read(forward: Forward, slot: Slot, prompt: tuple[int, ...]) -> np.ndarray:
    """A prompt as the engine reads it, from where the slot begins: the last position's logits."""
    while slot.length < len(prompt):
        hidden = forward.prefill(slot, prompt[slot.length : slot.length + CHUNK])
        slot.has_read(prompt)
    return forward.logits(hidden[-1:])[0]


@pytest.mark.parametrize("recipe", ["bf16", "kv=int4:token", "activations=int8:tensor"])
@pytest.mark.parametrize("given_back", [True, False])
@pytest.mark.parametrize(
    ("ids", "shared"),
    [
        (PROMPT, 2 * CHUNK),  # the same again
        ((*PROMPT[: 2 * CHUNK - 1], 5, *PROMPT[2 * CHUNK :]), CHUNK),  # other from the second chunk's last token on
        (PROMPT[: 2 * CHUNK], CHUNK),  # its last token is read for its logits
        (PROMPT[: CHUNK + 1], CHUNK),
        ((5, *PROMPT[1:]), 0),
    ],
)
def test_a_prefix_that_is_held_changes_no_bit(recipe: str, given_back: bool, ids: tuple[int, ...], shared: int) -> None:
    """Whether the slot itself is taken over, or copied from one that still runs and goes on differently."""
    network = ready(MODEL, recipe)
    forward = Forward(network)
    afresh = slot_of(Arena(network.shape))
    expected = read(forward, afresh, ids)
    arena = Arena(network.shape, slots=2)
    first = slot_of(arena)
    read(forward, first, PROMPT)
    forward.decode([first], [7])
    if given_back:
        arena.give(first)
    second = arena.take(ids)
    assert second is not None
    assert second.length == shared
    assert (second is first) == (given_back and shared > 0)
    if not given_back:
        for token in (11, 12):
            forward.decode([first], [token])
    assert read(forward, second, ids).tolist() == expected.tolist()
    end = second.length
    np.testing.assert_array_equal(second.keys[..., :end], afresh.keys[..., :end])
    np.testing.assert_array_equal(second.values[:, :, :end], afresh.values[:, :, :end])


def test_the_arena_keeps_what_was_used_last_and_forgets_when_told(tmp_path: Path) -> None:
    network = ready(write_model(tmp_path), "bf16")
    arena = Arena(network.shape, slots=2)
    old, new = PROMPT[:CHUNK], PROMPT[CHUNK : 2 * CHUNK]
    for prompt in (old, new):
        slot = arena.take((*prompt, 1))
        assert slot is not None
        assert slot.length == 0
        slot.length = CHUNK
        slot.has_read(prompt)
        arena.give(slot)
    third = arena.take((9,) * 300)
    assert third is not None
    assert third.number == 0
    arena.give(third)
    held = arena.take((*new, 2))
    assert held is not None
    assert (held.length, held.number) == (CHUNK, 1)
    arena.give(held)
    arena.forget()
    again = arena.take((*new, 2))
    assert again is not None
    assert again.length == 0


@pytest.mark.parametrize(
    ("per", "shared"),
    [("tensor", (0, 1, 2)), ("head", (1, 2)), ("token", (0, 2)), ("token-head", (2,)), ("block8", None)],
)
def test_what_shares_a_scale_in_the_cache(tmp_path: Path, per: str, shared: tuple[int, ...] | None) -> None:
    """Values in the cache are whole steps of the largest magnitude among those that share a scale."""
    network = ready(write_model(tmp_path), f"kv=int4:{per}")
    slot = slot_of(Arena(network.shape))
    filled(Forward(network), slot, IDS)
    plain = ready(tmp_path, "bf16")
    exact = slot_of(Arena(plain.shape))
    filled(Forward(plain), exact, IDS)
    got, given = slot.values[0][:, : len(IDS)], exact.values[0][:, : len(IDS)]  # the first layer: nothing lost before
    if shared is None:
        got, given = (one.reshape(2, len(IDS), 2, 8) for one in (got, given))
        shared = (3,)
    scale = np.abs(given).max(axis=shared, keepdims=True) / 7.5
    steps = got / scale
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert np.abs(got - given).max() > 0
    assert (np.abs(got - given) <= scale * 0.502).mean() > 0.97  # 7.5 steps up become 7: half a step more is lost


def test_fp8_without_calibration_has_scale_one(tmp_path: Path) -> None:
    network = ready(write_model(tmp_path), "kv=fp8-e4m3:one")
    slot = slot_of(Arena(network.shape))
    filled(Forward(network), slot, IDS)
    held = slot.keys[1][:, :, : len(IDS)]
    assert held.astype(ml_dtypes.float8_e4m3fn).astype(np.float32).tolist() == held.tolist()


@pytest.mark.parametrize("axes", ["fp8-e4m3:token", "fp8-e4m3:tensor", "int8:token", "int8:tensor", "fp4-e2m1:token"])
def test_activations_are_rounded_at_every_linear_layer(tmp_path: Path, axes: str) -> None:
    network = ready(write_model(tmp_path), f"activations={axes}")
    plain = ready(tmp_path, "bf16")
    x = np.random.default_rng(2).standard_normal((1, 3, 64)).astype(np.float32)
    for layer, bare in zip(network.layers, plain.layers, strict=True):
        assert bare.round_inputs == (None,) * 4
        assert layer.round_keys is None
        for rounding in layer.round_inputs:
            assert rounding is not None
            assert np.abs(rounding(x) - x).max() > 0
    one = filled(Forward(network), slot_of(Arena(network.shape)), IDS)
    other = filled(Forward(plain), slot_of(Arena(plain.shape)), IDS)
    assert 0 < np.abs(one - other).max() < 0.8 * np.abs(other).max()


def test_a_token_s_scale_is_its_own(tmp_path: Path) -> None:
    """A loud token beside a quiet one costs the quiet one nothing."""
    rounding = ready(write_model(tmp_path), "activations=int8:token").layers[0].round_inputs[0]
    assert rounding is not None
    quiet = np.random.default_rng(2).standard_normal((1, 1, 64)).astype(np.float32)
    both = rounding(np.concatenate([quiet * 1_000, quiet], 1))
    assert both[:, 1:].tolist() == rounding(quiet).tolist()


def test_calibration_keeps_the_largest_of_every_prompt(tmp_path: Path) -> None:
    network = load(write_model(tmp_path), parsed("kv=int4:head"))
    one, other, both = reach(network, [IDS[:9]]), reach(network, [IDS[9:]]), reach(network, [IDS[:9], IDS[9:]])
    assert both.keys.tolist() == np.maximum(one.keys, other.keys).tolist()
    assert both.values.tolist() == np.maximum(one.values, other.values).tolist()
    assert both.inputs.tolist() == np.maximum(one.inputs, other.inputs).tolist()
    assert both.keys.shape == (2, 2)
    assert both.inputs.min() > 0


def test_digests_name_weights_and_recipe(tmp_path: Path) -> None:
    first, same = (load(write_model(tmp_path / name), parsed("bf16")).digest for name in ("a", "b"))
    other = load(write_model(tmp_path / "c", seed=2), parsed("bf16")).digest
    assert first == same
    assert len({first, other, load(tmp_path / "a", parsed("kv=int8")).digest}) == 3
