"""What an ordinary user does with the package, in a process of that user: `python ordinary.py STATE < steps.json`.

Each step is a method's name and its arguments; the answers go to stdout as JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from dms_executor import ExecResult, ExecutionResult, Executor, LogStreamRequest, Policy, Settings
from dms_executor.errors import ExecutorError
from dms_executor.types import decode_request, encode


async def _step(executor: Executor, engine: str, name: str, value: Any) -> Any:
    if name in ("run", "start"):
        return await getattr(executor, name)(decode_request(json.dumps(value).encode()))
    if name == "exec":
        return await executor.exec(*value)
    if name == "start together":
        asked = [decode_request(json.dumps(each).encode()) for each in value]
        await asyncio.gather(*(executor.start(each) for each in asked))
        return None
    if name == "kill shim":
        info = await executor.inspect(value)
        os.kill(int(info.engine_ids["shim"]), 9)
        return None
    if name == "said":
        return await _said(executor, *value)
    if name == "probe":
        return (await executor.probe(engine))[0]
    return await getattr(executor, name)(value)


async def _said(executor: Executor, execution_id: str, text: str) -> str | None:
    """Waits until the log has that; what it has where it ended without."""
    told = LogStreamRequest(execution_id=execution_id, follow=True)
    found = b""
    async with await executor.get_log_stream(told) as stream:
        async for chunk in stream:
            found += chunk
            if text.encode() in found:
                return None
    return found.decode(errors="replace")


def _plain(answer: Any) -> Any:
    if not isinstance(answer, msgspec.Struct):
        return answer
    plain = json.loads(encode(answer))
    if isinstance(answer, ExecutionResult | ExecResult):  # JSON has them as base64
        plain |= {"stdout": answer.stdout.decode(), "stderr": answer.stderr.decode()}
    return plain


async def main(state: str, asked: Any) -> list[Any]:
    for name, path in asked["pretended"].items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(f"dms_executor.devices.{module}"), constant, Path(path))
    policy = Policy(**asked["policy"]) if asked.get("policy") is not None else Policy.trusted()
    settings = Settings(engines={asked["engine"]: asked["settings"]})
    answers: list[Any] = []
    async with Executor.open(Path(state), policy=policy, settings=settings) as executor:
        for name, value in asked["steps"]:
            try:
                answers.append(_plain(await _step(executor, asked["engine"], name, value)))
            except ExecutorError as error:
                answers.append({"error": type(error).__name__, "message": error.message, "mend": error.mend})
    return answers


if __name__ == "__main__":
    json.dump(asyncio.run(main(sys.argv[1], json.load(sys.stdin))), sys.stdout)
