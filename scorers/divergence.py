"""D_S, TV_S, tail mass and top-1 disagreement of two sequences of top-k lists, step by step.

S = tokens listed on both sides at one step; everything else is one bucket. D_S(P||Q) <= KL(P||Q) and
TV_S <= TV for any S (data processing), which holds for no renormalised or floored list.

Source:  metrology, section 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scorers.grid import ABSENT, Floats, TokenGrid

FLOOR = 1e-12  # metrology 1: clamp here, and count
_LOG_FLOOR = float(np.log(FLOOR))


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What each compared step is worth.

    Shapes:  every array has one entry per step.
    Units:   kl in nats; tv and tail are masses in [0, 1]; disagree is 0 or 1; doubt is 1 - sum of p^2 over p's own
             list, in [0, 1]: the chance that two draws from p differ (the tail counts as draws that differ).
    """

    kl: Floats
    tv: Floats
    tail: Floats
    disagree: Floats
    doubt: Floats
    clamped: int

    def __len__(self) -> int:
        return len(self.kl)


def compare(p: TokenGrid, q: TokenGrid) -> Steps:
    """D_S(P||Q), TV_S, the tail 1 - pS and top-1 disagreement at each step.

    Two top-1 tokens disagree when no token is most likely on both sides (ties are common in BF16).

    Shapes:  p and q have the same number of steps; their k may differ.
    Units:   nats in, nats and masses out.
    """
    if not p.ids.size or not q.ids.size:
        return _nothing_known(len(p))
    log_q, common = _looked_up(p, q)
    log_p = p.logprobs
    both_top = common & (log_p == _row_max(log_p)) & (log_q == _row_max(q.logprobs))
    listed_p = np.exp(np.minimum(log_p, 0.0))
    log_p, log_q = np.where(common, log_p, -np.inf), np.where(common, log_q, -np.inf)
    low = common & ((log_p < _LOG_FLOOR) | (log_q < _LOG_FLOOR))
    gap = np.clip(log_p, _LOG_FLOOR, 0.0) - np.clip(log_q, _LOG_FLOOR, 0.0)
    mass_p, mass_q = np.where(common, listed_p, 0.0), np.exp(np.minimum(log_q, 0.0))
    inside = np.einsum("ij,ij->i", mass_p, gap)
    tail_p, tail_q = 1.0 - mass_p.sum(axis=1), 1.0 - mass_q.sum(axis=1)
    clamped = int(np.count_nonzero(low) + np.count_nonzero(tail_p < FLOOR) + np.count_nonzero(tail_q < FLOOR))
    tail_p, tail_q = np.clip(tail_p, FLOOR, 1.0), np.clip(tail_q, FLOOR, 1.0)
    spread = np.abs(mass_p - mass_q).sum(axis=1) + np.abs(tail_p - tail_q)
    return Steps(
        kl=np.maximum(inside + tail_p * np.log(tail_p / tail_q), 0.0),
        tv=np.clip(0.5 * spread, 0.0, 1.0),
        tail=tail_p,
        disagree=1.0 - both_top.any(axis=1),
        doubt=np.clip(1.0 - np.einsum("ij,ij->i", listed_p, listed_p), 0.0, 1.0),
        clamped=clamped,
    )


def joined_steps(parts: Sequence[Steps]) -> Steps:
    """The steps of several choices, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Steps(
        kl=np.concatenate([part.kl for part in parts] or [np.empty(0)]),
        tv=np.concatenate([part.tv for part in parts] or [np.empty(0)]),
        tail=np.concatenate([part.tail for part in parts] or [np.empty(0)]),
        disagree=np.concatenate([part.disagree for part in parts] or [np.empty(0)]),
        doubt=np.concatenate([part.doubt for part in parts] or [np.empty(0)]),
        clamped=sum(part.clamped for part in parts),
    )


def _nothing_known(count: int) -> Steps:
    """Steps without a list on one side: all mass is in the bucket, which is equal on both."""
    zeros, ones = np.zeros(count), np.ones(count)
    return Steps(kl=zeros, tv=zeros, tail=ones, disagree=ones, doubt=ones, clamped=0)


def _row_max(values: Floats) -> Floats:
    return np.asarray(values.max(axis=1, keepdims=True))


def _looked_up(p: TokenGrid, q: TokenGrid) -> tuple[Floats, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """For every entry of p, q's logprob of the same token and whether q lists it.

    Shapes:  both results as p.ids.
    """
    where = (p.ids[:, :, None] == q.ids[:, None, :]).argmax(axis=2)
    where += np.arange(len(q.ids))[:, None] * q.ids.shape[1]
    common = (q.ids.take(where) == p.ids) & (p.ids != ABSENT)
    return q.logprobs.take(where), common
