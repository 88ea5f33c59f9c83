"""llama.cpp's own tools, where they are installed: a model at 16 bits to GGUF, and GGUF to a K-quant."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import ParityError

CONVERT, QUANTIZE = "convert_hf_to_gguf.py", "llama-quantize"


class GgufError(ParityError):
    """The tools are not there, or one of them failed; str() says what to do."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Where they are."""

    convert: Path
    quantize: Path

    def versions(self) -> dict[str, str]:
        """They tell no version that could be relied on, so what they are: the start of their SHA-256."""
        return {
            one.name: "sha256:" + hashlib.sha256(one.read_bytes()).hexdigest()[:16]
            for one in (self.convert, self.quantize)
        }


def tools() -> Tools:
    """Raises: GgufError naming what to install."""
    found = {name: shutil.which(name) for name in (CONVERT, QUANTIZE)}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise GgufError(
            f"K-quants are made by llama.cpp's own tools, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not on PATH. Build llama.cpp (cmake -B build && cmake --build "
            f"build --target {QUANTIZE}), install the Python packages that {CONVERT} needs, and put both on PATH; or "
            'take weights.format = "int4" with method = "awq" for vLLM'
        )
    return Tools(*(Path(place) for place in found.values() if place is not None))


def make(found: Tools, model: Path, kind: str, work: Path, out: Path, log: Path, phase: Callable[[str], None]) -> None:
    """Writes the folder `out` with one GGUF file of `kind`, such as Q4_K_M. Raises: GgufError."""
    plain = work / f"{model.name}-BF16.gguf"
    aside = out.with_name(out.name + ".writing")
    aside.mkdir(exist_ok=True)
    phase("convert")
    _run([str(found.convert), str(model), "--outfile", str(plain), "--outtype", "bf16"], log)
    phase("quantize")
    _run([str(found.quantize), str(plain), str(aside / f"{model.name}-{kind}.gguf"), kind], log)
    plain.unlink()
    aside.rename(out)


def _run(argv: list[str], log: Path) -> None:
    with log.open("ab") as sink:
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True)
        except OSError as error:
            raise GgufError(f"{argv[0]} cannot be started: {error.strerror or error}") from error
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code != 0:
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
        raise GgufError(
            f"{Path(argv[0]).name} ended with {code}. The end of its log, {log}:\n" + "\n".join(f"  {x}" for x in last)
        )
