"""Which of several hypotheses to list as false: e-BH over e-values (metrology 4.5).

A list is for people: it names the strata behind a failure. Whether the recipe fails is the judge's to say, by a
stricter rule that no stratum's neighbours can influence.

Source:  Wang and Ramdas, False discovery rate control with e-values (2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping


def e_bh(log10_e: Mapping[str, float], hypotheses: int, alpha: float) -> tuple[str, ...]:
    """The names whose hypotheses are rejected, in the mapping's order; the expected share of false ones is <= alpha.

    The k largest are rejected for the largest k at which the k-th of them is at least hypotheses / (k alpha). Holds
    under any dependence between the e-values and at any look. `hypotheses` counts those that were never seen, too:
    their e-value is 1.
    """
    ranked = sorted(log10_e.values(), reverse=True)
    least = math.inf
    for k, level in enumerate(ranked, start=1):
        if level >= math.log10(hypotheses / (k * alpha)):
            least = level
    return tuple(name for name, level in log10_e.items() if level >= least)
