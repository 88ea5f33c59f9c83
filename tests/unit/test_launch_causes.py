"""vLLM's own last words -> the cause and the fix. The texts are vLLM 0.32.0's."""

from __future__ import annotations

import pytest

from proxy.launch_command.causes import ERROR_LINES, cause, error_lines

CORE = "(EngineCore pid=29722) ERROR 11-24 22:22:47 [core.py:133] "


@pytest.mark.parametrize(
    ("line", "what", "fix"),
    [
        (
            "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (3.1 GiB). Based on the available memory, the "
            "estimated maximum model length is 25392. Try increasing `gpu_memory_utilization`",
            "one sequence of 131,072 tokens needs 16.0 GiB, and 3.1 GiB are left; 25,392 tokens would fit",
            "context_tokens = 25392",
        ),
        (
            "ValueError: To serve at least one request with the model's max seq len (512), (1.0 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (0.1 GiB). Try increasing",
            "needs 1.0 GiB, and 0.1 GiB are left",
            "more cards",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
            "no memory for the cache",
            "more cards",
        ),
        (
            "ValueError: Free memory on device cuda:0 (30.1/79.1 GiB) on startup is less than desired GPU memory "
            "utilization (0.92, 72.77 GiB). Decrease GPU memory utilization",
            "30.1 of 79.1 GiB are free, and vLLM was to take 0.92, 72.77 GiB",
            "--cards",
        ),
        (
            "ValueError: Available memory on node 0 (3.0/14.84 GiB) on kv cache allocation is less than requested "
            "memory for kv (8.0 GiB). Decrease --kv-cache-memory-bytes",
            "3.0 of 14.84 GiB are free, and vLLM was to take 8.0 GiB",
            "end what else runs there",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            "ran out while it was",
            "more cards",
        ),
        (
            "ValueError: Failed to find a kernel that can implement the ScaledMM linear layer. Reasons: ",
            "no kernel for this format here (ScaledMM layers)",
            "parity recipe check",
        ),
        (
            "ValueError: Selected backend AttentionBackendEnum.FLASH_ATTN is not valid for this configuration. Reason: "
            "['kv_cache_dtype not supported']",
            "AttentionBackendEnum.FLASH_ATTN: ['kv_cache_dtype not supported']",
            "attention_backend",
        ),
        (
            "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89. "
            "Current capability: 80.",
            "capability 80, needed 89",
            "a newer card",
        ),
        (
            "ValueError: Model architectures ['MoonForCausalLM'] are not supported for now. Supported architectures: x",
            "does not know ['MoonForCausalLM']",
            "a newer vLLM",
        ),
        (
            "Value error, User-specified max_model_len (8192) is greater than the derived max_model_len "
            "(max_position_embeddings=5120 or model_max_length=None in model's config.json).",
            "made for 5,120 tokens, and the recipe asks for 8,192",
            "context_tokens = 5120",
        ),
        ("OSError: [Errno 98] Address already in use", "took its port", "--candidate-port"),
        ("api_server.py: error: unrecognized arguments: --no-such 3", "does not know --no-such 3", "0.32 or newer"),
        (
            "api_server.py: error: argument --kv-cache-dtype: invalid choice: 'int3' (choose from 'auto')",
            "does not take --kv-cache-dtype: invalid choice: 'int3'",
            "0.32 or newer",
        ),
        (
            "KeyError: 'invalid tool call parser: moon (chose from { hermes })'",
            'no tool parser "moon"',
            "--tool-call-parser",
        ),
        ("ValueError: fp8_e5m2 kv-cache is not supported with fp8 checkpoints.", "E5M2 cache", "fp8-e4m3"),
        (
            "RuntimeError: Failed to infer device type, please set the environment",
            "no card here",
            "CUDA_VISIBLE_DEVICES",
        ),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/m/x.safetensors'", "/m/x.safetensors", "again"),
        ("ModuleNotFoundError: No module named 'vllm'", "has no vllm", "--python"),
    ],
)
def test_known_causes(line: str, what: str, fix: str) -> None:
    found = cause(["INFO fine", CORE + line, "RuntimeError: Engine core initialization failed. See root cause above."])
    assert found is not None
    assert what in found.what
    assert fix in found.fix


def test_the_earliest_is_the_cause() -> None:
    lines = [CORE + "torch.OutOfMemoryError: CUDA out of memory.", "FileNotFoundError: /dev/shm/x"]
    found = cause(lines)
    assert found is not None
    assert "memory ran out" in found.what


def test_a_kill_without_words() -> None:
    found = cause(["INFO loading"], 137)
    assert found is not None
    assert "SIGKILL" in found.what
    assert cause(["INFO loading"], 1) is None
    assert cause([], None) is None


def test_the_lines_that_tell_of_an_error_come_once_and_without_their_prefix() -> None:
    lines = [f"{CORE}ValueError: {number}" for number in range(9)] + [f"{CORE}ValueError: 8", "INFO after"]
    told = error_lines(lines)
    assert told == [f"ValueError: {number}" for number in range(9 - ERROR_LINES, 9)]
    assert error_lines(["a", "b"]) == ["a", "b"]
    assert error_lines([]) == []
