"""The emulator on a socket: vLLM's routes, and controls of its own.

GET  /_emulator/recipe     the recipe in force        POST  {"recipe": NAME}: another one, once what runs has ended
GET  /_emulator/recipes    all named ones             GET   /_emulator/stats: counts, waiting, running
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from backends.dialect.ask import Refused, error_body, read_ask
from backends.dialect.identity import COMPLETIONS, Identity, Routes, answer_plain
from backends.dialect.listener import Listener
from backends.dialect.wire import Connection, Request
from backends.emulator.checkpoint import ModelError
from backends.emulator.delivery import Delivery
from backends.emulator.engine import ENGINE, MAX_WAITING, Busy, Closed, Engine
from backends.emulator.recipes import RECIPES, Recipe, RecipeError, parsed

MODEL = Path(__file__).with_name("model")
"""The model that the project ships."""


class EmulatorServer:
    """One emulator on a socket of its own."""

    def __init__(
        self,
        recipe: Recipe,
        directory: Path = MODEL,
        *,
        model: str = "m",
        host: str = "127.0.0.1",
        port: int = 0,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Loads the model, which takes a moment. Raises: ModelError, RecipeError."""
        self.model = model
        self.engine = Engine(directory, recipe, max_waiting=max_waiting)
        self._listener = Listener(self._answer, host, port)
        identity = Identity(
            model, str(directory.resolve().name), self.engine.context, ENGINE, int(time.time()), self.engine.vocabulary
        )
        self._routes: Routes = {
            **identity.routes(),
            "/_emulator/recipe": {"GET": self._recipe},
            "/_emulator/recipes": {"GET": self._recipes},
            "/_emulator/stats": {"GET": self._stats},
        }

    @property
    def url(self) -> str:
        return self._listener.url

    @property
    def in_flight(self) -> int:
        return self._listener.in_flight

    async def start(self) -> None:
        """Listening from here on; `url` is known. Raises: OSError when the port is taken."""
        await self._listener.start()
        self.engine.start()

    async def aclose(self) -> None:
        """The port closed, every connection and the engine's thread ended."""
        await self._listener.aclose()
        await asyncio.to_thread(self.engine.close)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _answer(self, connection: Connection, request: Request) -> bool:
        path = request.target.partition("?")[0]
        if request.method == "POST" and path in COMPLETIONS:
            engine = self.engine
            ask = read_ask(
                COMPLETIONS[path],
                request.body,
                request.header(b"content-type"),
                self.model,
                engine.context,
                engine.vocabulary,
            )
            return await Delivery(engine, connection, request, ask).send()
        if request.method == "POST" and path == "/_emulator/recipe":
            status, body = await self._switch(request)
        else:
            status, body = answer_plain(self._routes, request)
        await connection.reply(status, body, close=not request.keeps_alive)
        return True

    async def _switch(self, request: Request) -> tuple[int, bytes]:
        try:
            wanted = orjson.loads(request.body)
            if not isinstance(wanted, dict) or not isinstance(wanted.get("recipe"), str):
                raise ValueError('{"recipe": NAME} is wanted')
            recipe = await asyncio.wrap_future(self.engine.switch(parsed(wanted["recipe"])))
        except (ModelError, RecipeError, ValueError) as error:
            return 400, error_body(400, str(error), "BadRequestError")
        except (Busy, Closed) as error:
            raise Refused(503, str(error), "ServiceUnavailableError") from error
        return 200, orjson.dumps(recipe.as_dict())

    def _recipe(self, request: Request) -> tuple[int, bytes]:
        return 200, orjson.dumps({**self.engine.recipe.as_dict(), "system_fingerprint": self.engine.fingerprint})

    def _recipes(self, request: Request) -> tuple[int, bytes]:
        return 200, orjson.dumps([recipe.as_dict() for recipe in RECIPES.values()])

    def _stats(self, request: Request) -> tuple[int, bytes]:
        return 200, orjson.dumps({**self.engine.stats, **self._listener.stats, **self.engine.load})
