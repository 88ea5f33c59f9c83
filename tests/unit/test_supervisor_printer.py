"""Lines are printed in order; a stalled output loses lines, counts them, and holds nobody up."""

from __future__ import annotations

import asyncio
import threading

from proxy.supervisor.printer import MAX_HELD_LINES, Printer


def test_lines_come_out_in_order_before_close_returns() -> None:
    lines: list[str] = []
    printer = Printer(lines.append)
    for number in range(100):
        printer.put(f"{number}\n")
    asyncio.run(printer.close())
    assert lines == [f"{number}\n" for number in range(100)]


def test_a_stalled_output_drops_lines_and_says_how_many() -> None:
    lines: list[str] = []
    stalled, go_on, drained = threading.Event(), threading.Event(), threading.Event()

    def output(line: str) -> None:
        stalled.set()
        go_on.wait(30)
        lines.append(line)
        if len(lines) == MAX_HELD_LINES + 1:
            drained.set()

    printer = Printer(output)
    printer.put("first\n")
    assert stalled.wait(30)
    for number in range(MAX_HELD_LINES + 500):
        printer.put(f"{number}\n")  # returns, though nothing is printed
    go_on.set()
    assert drained.wait(30)
    printer.put("last\n")
    asyncio.run(printer.close())
    assert lines[1 : MAX_HELD_LINES + 1] == [f"{number}\n" for number in range(MAX_HELD_LINES)]
    assert lines[MAX_HELD_LINES + 1 :] == ["[supervisor] 500 lines were dropped here\n", "last\n"]


def test_closing_does_not_wait_for_an_output_that_hangs() -> None:
    hang = threading.Event()
    printer = Printer(lambda line: hang.wait(30) and None)
    printer.put("x\n")

    async def close() -> None:
        async with asyncio.timeout(5):
            await printer.close()

    asyncio.run(close())
    hang.set()


def test_an_output_that_is_closed_ends_the_printing_only() -> None:
    def output(line: str) -> None:
        raise BrokenPipeError

    printer = Printer(output)
    for _ in range(2 * MAX_HELD_LINES):
        printer.put("x\n")
    asyncio.run(printer.close())
