"""The roofline against cases worked by hand and figures that others published, each with its source."""

from __future__ import annotations

import math

import pytest

from backends.recipes.hardware import CARDS, GIB
from backends.recipes.roofline import NoRoofline, overtakes, roofline
from backends.recipes.shapes import SIZES, Shape
from tests.unit.recipe_rig import AWQ, FP8, recipe

# --- published


@pytest.mark.parametrize(
    ("size", "tokens", "told_gb"),
    [
        ("8B", 1024, 0.125), ("8B", 16_000, 1.95), ("8B", 128_000, 15.62),
        ("70B", 1024, 0.313), ("70B", 16_000, 4.88), ("70B", 128_000, 39.06),
    ],
)  # fmt: skip
def test_the_cache_of_llama_3_1_as_hugging_face_gives_it(size: str, tokens: int, told_gb: float) -> None:
    """https://huggingface.co/blog/llama31#inference-memory-requirements; its GB are GiB, its 1k is 1,024.

    Its row for 405B is of the 16 KV heads that the model had before its revision; the shape here has 8.
    """
    roof = roofline(recipe(size, context_tokens=tokens), SIZES[size])
    assert roof.kv_bytes_per_sequence / GIB == pytest.approx(told_gb, abs=0.006)


def test_the_cache_of_opt_13b_as_the_paged_attention_paper_gives_it() -> None:
    """arXiv 2309.06180, section 3: "the KV cache of a single token demands 800 KB": 2 x 5120 x 40 x 2 bytes."""
    opt = Shape("OPT-13B", 40, 5120, 40, 40, 128, 20_480, 50_272)
    assert opt.kv_values_per_token * 2 == 800 * 1024


@pytest.mark.parametrize(("told_gib", "blocks"), [(3.81, 1952), (2.89, 1478)])
def test_the_blocks_of_vllm_on_an_rtx_3090(told_gib: float, blocks: int) -> None:
    """vLLM's own log, https://github.com/vllm-project/vllm/issues/10517: Llama-3.1-8B, blocks of 16 tokens."""
    roof = roofline(recipe("8B", hardware="rtx-3090"), SIZES["8B"])
    assert blocks * 16 * roof.kv_bytes_per_token / GIB == pytest.approx(told_gib, abs=0.005)


def test_the_weights_and_activations_of_vllm_on_an_rtx_3090() -> None:
    """The same log: weights 14.9888 GB; peaks of 17.06 and 17.98 GiB when profiled with 20,000 and 29,000 tokens."""
    roof = roofline(recipe("8B", hardware="rtx-3090"), SIZES["8B"])
    assert roof.weight_bytes / GIB == pytest.approx(14.9888, rel=0.005)
    measured = (17.98 - 17.06) * GIB / 9000
    logits = 8 * SIZES["8B"].vocabulary * 4
    assert (roof.activation_bytes - logits) / 8192 == pytest.approx(measured, rel=0.10)
    # 20,000 tokens were served and 29,000 were not, for the profile's batch was as long as the context there.
    assert roofline(recipe("8B", hardware="rtx-3090", context_tokens=20_000), SIZES["8B"]).fits


def test_the_ridge_of_an_a10_as_baseten_gives_it() -> None:
    """https://www.baseten.co/blog/llm-transformer-inference-guide/: 125 TFLOP/s at 600 GB/s, 208.3 ops a byte."""
    roof = roofline(recipe("7B", hardware="a10"), SIZES["7B"])
    assert roof.ridge == pytest.approx(208.3, abs=0.05)
    assert roof.bound == "memory"


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("1B", 1_235_814_400), ("3B", 3_212_749_824), ("7B", 7_248_023_552), ("8B", 8_030_261_248),
        ("13B", 13_015_864_320), ("70B", 70_553_706_496), ("405B", 405_853_388_800),
    ],
)  # fmt: skip
def test_parameters_are_those_of_the_model_cards(size: str, parameters: int) -> None:
    """The counts in the checkpoints' safetensors indices (Hugging Face model pages)."""
    assert SIZES[size].parameters == parameters


@pytest.mark.parametrize(
    ("size", "billions"), [("0.6B", 0.6), ("4B", 4.0), ("14B", 14.8), ("32B", 32.8), ("72B", 72.7)]
)
def test_parameters_of_qwen(size: str, billions: float) -> None:
    """The Qwen3 and Qwen2.5 model cards."""
    assert round(SIZES[size].parameters / 1e9, 1) == billions


def test_the_rates_are_those_of_the_knowledge_page() -> None:
    told = {
        "a100": (2.04, {"16-bit": 312, "int8": 624}),
        "h100": (3.35, {"16-bit": 990, "fp8": 1979}),
        "h200": (4.8, {"16-bit": 990, "fp8": 1979}),
        "l40s": (0.864, {"16-bit": 362, "fp8": 733}),
        "b200": (8.0, {"16-bit": 2250, "fp8": 4500, "fp4": 9000}),
    }
    for name, (bandwidth, rates) in told.items():
        assert CARDS[name].bandwidth == pytest.approx(bandwidth * 1e12)
        for family, rate in rates.items():
            assert CARDS[name].rates[family] == rate * 1e12  # type: ignore[index]


# --- by hand


def test_a_70b_at_bf16_on_two_h100() -> None:
    """Worked by hand, 4,096 tokens, batch 8.

    linear  80 x (8192 x 128 x (2 x 64 + 2 x 8) + 3 x 8192 x 28672)            = 68,451,041,280
    read    (linear + head 128,256 x 8192 + norms 161 x 8192) x 2 bytes        = 139,006,066,688
    cache   2 x 80 x 8 x 128 x 2 = 327,680 bytes a token; x 4096 x 8           = 10,737,418,240
    flop    2 x (linear + head) + 4 x 80 x 64 x 128 x 4096                     = 149,740,847,104 a sequence
    step    149,743,484,928 bytes / 6.7e12 bytes/s                             = 22.35 ms -> 358 tokens/s
    """
    roof = roofline(recipe(hardware="h100", gpus=2), SIZES["70B"])
    assert SIZES["70B"].linear == 68_451_041_280
    assert roof.weight_bytes_read == 139_006_066_688
    assert roof.kv_bytes_per_token == 327_680
    assert roof.decode_bytes == 149_743_484_928
    assert roof.decode_tokens_s == pytest.approx(8 / (149_743_484_928 / 6.7e12))
    assert roof.decode_flop == 8 * 149_740_847_104
    assert roof.bound == "memory"
    assert roof.ridge == pytest.approx(990 / 3.35)


def test_a_short_context_turns_compute_bound_where_the_arithmetic_says() -> None:
    """INT4 on an H200 at 512 tokens, by hand: with r FLOP a sequence and c cache bytes a sequence,
    compute-bound from b = (W / bandwidth) / (r / rate - c / bandwidth)."""
    chosen, shape = recipe(context_tokens=512, weights=AWQ), SIZES["70B"]
    flop = 2 * (shape.linear + 128_256 * 8192) + 4 * 80 * 64 * 128 * 512
    read = shape.linear * (4 + 20 / 128) / 8 + (128_256 * 8192 + 161 * 8192) * 2
    expected = math.ceil((read / 4.8e12) / (flop / 990e12 - 512 * 327_680 / 4.8e12))
    roof = roofline(chosen, shape)
    assert roof.ridge_batch == expected
    assert roofline(chosen, shape, expected - 1).bound == "memory"
    assert roofline(chosen, shape, expected + 1).bound == "compute"


def test_a_long_context_never_turns_compute_bound() -> None:
    """At 4,096 tokens one more sequence reads 1.34 GB (0.28 ms) and computes 150 GFLOP (0.15 ms)."""
    roof = roofline(recipe(weights=AWQ), SIZES["70B"])
    assert roof.ridge_batch is None
    assert roofline(recipe(weights=AWQ), SIZES["70B"], 100_000).bound == "memory"


def test_intensity_against_the_ridge_is_the_bound() -> None:
    for batch in (1, 64, 200, 400, 4000):
        for chosen in (
            recipe(context_tokens=256, weights=AWQ),
            recipe(context_tokens=256, weights=FP8, activations=FP8),
        ):
            roof = roofline(chosen, SIZES["70B"], batch)
            assert (roof.bound == "memory") == (roof.intensity <= roof.ridge)


def test_a_cache_at_128k_outweighs_the_weights() -> None:
    """precision: "at 128K its read can exceed the weights'"."""
    roof = roofline(recipe(weights=AWQ, context_tokens=131_072), SIZES["70B"])
    assert roof.kv_bytes_per_sequence > roof.weight_bytes_read


def test_bits_with_their_scales() -> None:
    """INT4 group 128: 4 + 16/128, and 4/128 more for AWQ's zero points; MX: 8/32; NV: 8/16; per token-head: 32/128."""
    shape = SIZES["70B"]
    rest = (shape.parameters - shape.linear) * 2
    for weights, bits in (
        (AWQ, 4.15625),
        ({"format": "int4", "method": "gptq"}, 4.125),
        ({"format": "int4", "method": "gptq", "group_size": 32}, 4.5),
        ({"format": "mxfp4"}, 4.25),
        ({"format": "nvfp4"}, 4.5),
        ({"format": "q5_k_m"}, 5.5),
        (FP8, 8),
    ):
        roof = roofline(recipe(hardware="b200", weights=weights), shape)
        assert roof.weight_bytes == pytest.approx(shape.linear * bits / 8 + rest)
    for cache, bits in (
        ({"format": "fp8-e4m3"}, 8),
        ({"format": "int4", "per": "token-head"}, 4.25),
        ({"format": "nvfp4"}, 4.5),
    ):
        assert roofline(recipe(kv_cache=cache), shape).kv_bytes_per_token == pytest.approx(163_840 * bits / 8)


def test_skipped_layers_stay_at_16_bits() -> None:
    cache = {"format": "fp8-e4m3", "skipped_layers": [str(layer) for layer in range(20)] + ["500"]}
    roof = roofline(recipe(kv_cache=cache), SIZES["70B"])
    assert roof.kv_bytes_per_token == pytest.approx(163_840 * (0.75 + 0.25 * 2))


def test_int4_storage_gains_no_arithmetic_and_fp8_does() -> None:
    plain, int4, fp8 = (
        roofline(recipe(context_tokens=1024, **axes), SIZES["70B"])
        for axes in ({}, {"weights": AWQ}, {"weights": FP8, "activations": FP8})
    )
    assert int4.prefill_tokens_s == pytest.approx(plain.prefill_tokens_s)
    assert fp8.prefill_tokens_s / plain.prefill_tokens_s == pytest.approx(2.0, rel=0.03)
    assert (int4.computes_in, fp8.computes_in) == ("16-bit", "fp8")


def test_what_is_emulated_is_computed_at_16_bits() -> None:
    assert roofline(recipe(hardware="a100", weights=FP8, activations=FP8), SIZES["70B"]).computes_in == "16-bit"


def test_int4_is_ahead_at_32_and_fp8_past_the_ridge() -> None:
    int4, fp8 = recipe(context_tokens=512, weights=AWQ), recipe(context_tokens=512, weights=FP8, activations=FP8)
    when = overtakes(int4, fp8, SIZES["70B"])
    assert when is not None
    assert when > 32
    ahead = [roofline(one, SIZES["70B"], when).decode_tokens_s for one in (int4, fp8)]
    behind = [roofline(one, SIZES["70B"], when - 1).decode_tokens_s for one in (int4, fp8)]
    assert ahead[0] < ahead[1]
    assert behind[0] >= behind[1]


def test_no_card_no_roofline() -> None:
    with pytest.raises(NoRoofline, match="CPU"):
        roofline(recipe("0.6B", hardware="cpu"), SIZES["0.6B"])
