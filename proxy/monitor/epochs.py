"""Keeps the standing epoch true to the arms: looks at them, and begins new evidence when the contract no longer holds.

What the watch sees is looked at twice before it is believed; what durable rows tell of the prompts wakes it at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from proxy.monitor.prompt_tokens import word_of
from proxy.monitor.rows import Ledger, Opening
from proxy.monitor.standing import Standing
from proxy.monitor.watch import CONFIRM_AFTER_S, ContractWatch, changes

_log = logging.getLogger(__name__)


class Caller(Protocol):
    """Makes a ledger call off the loop."""

    def __call__(self, function: Callable[..., Any], *arguments: object) -> Awaitable[Any]: ...


class EpochKeeper:
    """The only one that opens epochs. `refuse(True)` makes exchanges lost until the ledger knows the epoch they are of.

    Units:  `look_interval_s` seconds; `wall` seconds since the Unix epoch.
    """

    def __init__(
        self,
        watch: ContractWatch,
        standing: Standing,
        ledger: Ledger,
        call: Caller,
        wall: Callable[[], float],
        refuse: Callable[[bool], None],
        look_interval_s: float,
    ) -> None:
        self._watch = watch
        self._standing = standing
        self._ledger = ledger
        self._call = call
        self._wall = wall
        self._refuse = refuse
        self._look_interval_s = look_interval_s
        self._doubted = asyncio.Event()
        self._switching = False

    async def resume(self, began_unix_s: float) -> None:
        """The ledger's latest epoch when its contract still holds, else a new one. It begins with the monitor: what was
        sampled before met arms that nobody looked at.

        Raises:  LedgerError.
        """
        await self._watch.look()
        latest = await self._call(self._ledger.latest_epoch)
        contract = self._watch.contract(latest[1] if latest else None)
        why = "the first epoch of this ledger"
        if latest is not None:
            lines = changes(latest[1], contract)
            contract, why = (contract if lines else latest[1]), "; ".join(lines)
        epoch = await self._call(self._ledger.open_epoch, contract, why, began_unix_s)
        await self._call(self._standing.resume, self._ledger, epoch, contract)
        self.rows_folded()

    def rows_folded(self) -> None:
        """Durable rows came in: when they speak against the contract, the arms are looked at now. Never raises."""
        standing = self._standing
        if not self._switching and standing.prompts.word(standing.contract) != word_of(standing.contract):
            self._doubted.set()

    async def keep(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._look_interval_s):
                    await self._doubted.wait()
            except TimeoutError:
                pass  # the interval is over
            self._doubted.clear()
            await self._watch.look()
            if not self._now()[1]:
                self._stay()
                continue
            await asyncio.sleep(min(CONFIRM_AFTER_S, self._look_interval_s))
            await self._watch.look()
            contract, changed = self._now()
            if changed:
                await self._begin(contract, "; ".join(changed))
            else:
                self._stay()

    def _now(self) -> tuple[Mapping[str, Any], list[str]]:
        """The contract as it holds now, and how it differs from the standing one."""
        standing = self._standing
        by_rows = standing.prompts.word(standing.contract)
        contract = self._watch.contract(standing.contract, by_rows)
        lines = changes(standing.contract, contract)
        if len(lines) == 1 and by_rows == word_of(contract) != word_of(standing.contract):
            lines = [f"{lines[0]}: {standing.prompts.figures()}"]  # the arms are what they were: the rows said it
        return contract, lines

    def _stay(self) -> None:
        """The contract holds: a switch that the ledger did not take, and that is no longer needed, is called off."""
        if self._switching:
            _log.warning("the contract is again what it was; epoch %d goes on", self._standing.epoch)
            self._standing.hold("")
            self._switch(False)

    async def _begin(self, contract: Mapping[str, Any], why: str) -> None:
        """New evidence for what is new. Until the ledger knows the epoch, exchanges are lost: they belong to none."""
        _log.warning("the contract changed, a new epoch begins: %s", why)
        self._switch(True)
        opened_unix_s = self._wall()
        try:
            number = await self._call(self._ledger.open_epoch, contract, why, opened_unix_s)
        except Exception as error:  # noqa: BLE001  whatever the ledger says, the next look tries again
            _log.error("the new epoch could not be opened: %s", error)
            self._standing.hold("the contract changed and the ledger could not open a new epoch")
            return
        self._standing.begin(Opening(number, opened_unix_s, why), contract)
        self._switch(False)

    def _switch(self, switching: bool) -> None:
        self._switching = switching
        self._refuse(switching)
