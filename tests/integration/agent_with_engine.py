"""A small agent for the process tests: runs a Node with one vLLM until it is killed; prints JSON lines on its way.

python -m tests.integration.agent_with_engine RUNTIME_DIR MODEL_DIR
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

from covey_mesh.core.facts import NodeLoad
from covey_mesh.core.names import NodeId
from covey_node.core.settings import ModelSpec, NodeSettings
from covey_node.io.node import Node


def publish(load: NodeLoad) -> None:
    for model in load.models:
        line = {"state": model.state.value, "restarts": model.restarts, "detail": model.detail}
        print(json.dumps(line), flush=True)


async def main(runtime_dir: str, model_dir: str) -> None:
    spec = ModelSpec(name="m", path=model_dir, kv_cache_bytes=64 * 1024**2)
    settings = NodeSettings(models=(spec,), runtime_dir=runtime_dir)
    node = Node(settings, NodeId("0" * 32), 1, lambda: time.clock_gettime(time.CLOCK_BOOTTIME), publish)
    await node.start(lambda _: None)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
