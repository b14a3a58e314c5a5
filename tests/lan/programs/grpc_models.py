"""Asks a gateway's gRPC endpoint for its models: HOST:PORT [KEY]; prints the status and the names."""

from __future__ import annotations

import sys

import grpc
from tests.lan.programs.lines import emit

from covey_mesh.wire.v1 import inference_pb2 as wire
from covey_mesh.wire.v1 import inference_pb2_grpc

TIMEOUT_S = 10.0


def main(address: str, key: str) -> None:
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    with grpc.insecure_channel(address) as channel:
        try:
            stub = inference_pb2_grpc.InferenceStub(channel)
            found = stub.ListModels(wire.ListModelsRequest(), timeout=TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            emit("answer", status=error.code().name, models=[])
        else:
            emit("answer", status="OK", models=sorted(model.model for model in found.models))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
