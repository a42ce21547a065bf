"""What lines ask of the inside of a job."""

from __future__ import annotations

from .bench import Bench

__all__ = ["none_left", "processes", "sh"]


def sh(script: str) -> list[str]:
    """The command that runs it."""
    return ["sh", "-c", script]


async def processes(bench: Bench, execution_id: str, word: str) -> int:
    """How many processes of the job have `word` in their command line."""
    script = (
        f"for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f 2>/dev/null; echo; done | grep -c '[{word[0]}]{word[1:]}'"
    )
    return int((await bench.executor.exec(execution_id, sh(script))).stdout)


async def none_left(bench: Bench, execution_id: str, word: str) -> None:
    """Of a client that was killed: nobody is told when the shim has done it."""
    for _ in range(1000):
        if not await processes(bench, execution_id, word):
            return
    raise AssertionError(f"{word} lives on")
