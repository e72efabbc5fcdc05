"""What is raised in a thread reaches whoever awaits it, whatever it is."""

from __future__ import annotations

import asyncio

import pytest

from processes import PATIENCE_S
from turbo_fetch.fetch.threads import AwaitedThreads


@pytest.mark.parametrize("error", [StopIteration(), StopAsyncIteration(), OSError("full"), SystemExit(3)])
def test_what_is_raised_in_a_thread_ends_the_wait(error: BaseException) -> None:
    def work() -> None:
        raise error

    async def wait() -> None:
        with AwaitedThreads(1) as threads:
            await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(threads, work), PATIENCE_S)

    expected = RuntimeError if isinstance(error, StopIteration) else type(error)
    with pytest.raises(expected) as raised:
        asyncio.run(wait())
    assert raised.value is error or raised.value.__cause__ is error
