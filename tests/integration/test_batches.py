"""Files and batches on real agents with simulated engines: third-party clients, other gateways, gRPC, and machines
killed in the middle of 2,000 lines.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.support.polling import wait_until
from tests.support.real_agents import SHARED_MODEL, AgentPool

from covey.demo.agent_process import AgentProcess, covey_command
from covey.errors import UserError
from covey_mesh.wire.v1 import batches_pb2 as wire
from covey_mesh.wire.v1 import batches_pb2_grpc

CHAT = "/v1/chat/completions"
LINES = 2000
FAST = ("--simulated-decode-tokens-per-s", "2000", "--simulated-prefill-tokens-per-s", "100000")
ENDED = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module")
def pool() -> Iterator[AgentPool]:
    """Tests leave it whole."""
    made = AgentPool(("anna", "ben", "carl"), FAST)
    try:
        made.start()
        yield made
    finally:
        made.close()


def sdk(agent: AgentProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://{agent.addresses.http}/v1", api_key="none", max_retries=0)


def line(number: int, **body: Any) -> bytes:
    messages = [{"role": "user", "content": f"Say something about the number {number}"}]
    content = {"model": SHARED_MODEL, "messages": messages, "max_tokens": 4, **body}
    return json.dumps({"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": content}).encode() + b"\n"


def lines(count: int) -> bytes:
    return b"".join(line(number) for number in range(count))


def start(client: openai.OpenAI, content: bytes) -> Any:
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


def ended(client: openai.OpenAI, batch_id: str, timeout_s: float = 60.0) -> Any:
    def look() -> Any:
        try:
            batch = client.batches.retrieve(batch_id)
        except (openai.APIConnectionError, openai.InternalServerError):
            return None
        return batch if batch.status in ENDED else None

    return wait_until(look, "the batch has ended", timeout_s)


def results(client: openai.OpenAI, batch: Any) -> tuple[list[Any], list[Any]]:
    """(output, errors)"""
    files = (batch.output_file_id, batch.error_file_id)
    output, errors = ([json.loads(each) for each in client.files.content(f).iter_lines()] if f else [] for f in files)
    return output, errors


def check_each_once(client: openai.OpenAI, batch: Any, count: int) -> None:
    output, errors = results(client, batch)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (
        count,
        count,
        0,
    )
    assert errors == []
    assert [each["custom_id"] for each in output] == [f"line-{number}" for number in range(count)]
    assert all(each["response"]["body"]["choices"][0]["message"]["content"] for each in output)
    assert len({each["response"]["request_id"] for each in output}) == count


# --- clients ----------------------------------------------------------------------------------------------------------


def test_openais_own_client_does_all_of_it(pool: AgentPool) -> None:
    client = sdk(pool.agents["anna"])
    bad = json.dumps({"custom_id": "bad", "method": "POST", "url": CHAT, "body": {"model": SHARED_MODEL, "n": -1}})
    content = lines(20) + bad.encode()
    file = client.files.create(
        file=("my lines.jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert (file.bytes, file.filename, file.purpose, file.status) == (
        len(content),
        "my lines.jsonl",
        "batch",
        "processed",
    )
    assert file.expires_at == file.created_at + 7200
    assert client.files.content(file.id).read() == content
    batch = client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"job": "nightly"}
    )
    assert batch.status == "validating"
    # Another, since this one may end at any moment.
    lasting = start(client, line(0, max_tokens=3000))
    with pytest.raises(openai.ConflictError):
        client.files.delete(lasting.input_file_id)
    client.batches.cancel(lasting.id)
    batch = ended(client, batch.id)
    assert (batch.status, batch.model, batch.metadata) == ("completed", SHARED_MODEL, {"job": "nightly"})
    assert (batch.request_counts.completed, batch.request_counts.failed) == (20, 1)
    assert batch.usage is not None
    assert batch.usage.output_tokens == 20 * 4
    output, errors = results(client, batch)
    assert [each["custom_id"] for each in output] == [f"line-{number}" for number in range(20)]
    assert errors[0]["custom_id"] == "bad"
    assert errors[0]["response"]["status_code"] == 400
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_pages_of_lists(pool: AgentPool) -> None:
    client = sdk(pool.agents["ben"])
    made = [client.files.create(file=(f"{n}.txt", b"x"), purpose="user_data").id for n in range(5)]
    listed = [file.id for file in client.files.list(limit=2, purpose="user_data")]
    assert sorted(listed) == sorted(made)
    first = client.files.list(limit=2, order="asc", purpose="user_data")
    assert first.has_more
    for file_id in made:
        client.files.delete(file_id)
    assert list(client.files.list(purpose="user_data")) == []


def test_mistakes_of_a_file_are_told_line_by_line(pool: AgentPool) -> None:
    client = sdk(pool.agents["anna"])
    batch = ended(client, start(client, line(1) + b"{\n" + line(1) + line(2, model="other") + line(3, stream=True)).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert [(e.line, e.code) for e in batch.errors.data] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "model_mismatch"),
        (5, "invalid_request"),
    ]


def test_a_file_larger_than_any_request_passes_through_another_machine(pool: AgentPool) -> None:
    anna, ben, _ = pool.agents.values()
    content = random.Random(7).randbytes(1024) * 50_000
    before = memory_bytes(anna), memory_bytes(ben)
    file = sdk(anna).files.create(file=("large.bin", content), purpose="user_data")
    assert sdk(ben).files.retrieve(file.id).bytes == len(content)
    assert sdk(ben).files.content(file.id).read() == content
    grown = memory_bytes(anna) - before[0], memory_bytes(ben) - before[1]
    assert max(grown) < len(content), "a file was held in memory"
    assert sdk(ben).files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk(anna).files.retrieve(file.id)


def memory_bytes(agent: AgentProcess) -> int:
    """The largest that the agent has been."""
    status = Path(f"/proc/{agent.pid}/status").read_text()
    return int(next(each for each in status.splitlines() if each.startswith("VmHWM")).split()[1]) * 1024


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(pool: AgentPool, tmp_path: Path) -> None:
    path = tmp_path / "big.bin"
    path.write_bytes(b"y" * 3_000_000)
    url = f"http://{pool.agents['anna'].addresses.http}/v1/files"
    for options in ((), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue")):
        form = ("-F", f"file=@{path}", "-F", "purpose=user_data")
        done = subprocess.run(["curl", "-sS", *options, *form, url], capture_output=True, check=True, timeout=30)
        assert json.loads(done.stdout)["bytes"] == 3_000_000
    bad = subprocess.run(["curl", "-sS", "-F", f"file=@{path}", url], capture_output=True, check=True, timeout=30)
    assert json.loads(bad.stdout)["error"]["param"] == "purpose"


def test_any_gateway_answers_for_a_batch(pool: AgentPool) -> None:
    anna, ben = sdk(pool.agents["anna"]), sdk(pool.agents["ben"])
    file = anna.files.create(file=("lines.jsonl", lines(30)), purpose="batch")
    batch = ben.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="1h")
    done = ended(ben, batch.id)
    assert done == anna.batches.retrieve(batch.id)
    assert done.model_extra is not None
    assert done.model_extra["covey"]["machine"] == "anna"
    check_each_once(ben, done, 30)
    with pytest.raises(openai.NotFoundError, match="No such batch"):
        ben.batches.retrieve(batch.id[:-4] + "0000")


def test_a_batch_can_be_cancelled(pool: AgentPool) -> None:
    client = sdk(pool.agents["anna"])
    content = b"".join(line(number, max_tokens=2000) for number in range(200))
    batch = start(client, content)
    wait_until(lambda: client.batches.retrieve(batch.id).status == "in_progress", "it runs")
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch.id)
    output, errors = results(client, batch)
    assert batch.status == "cancelled"
    assert Counter(each["custom_id"] for each in (*output, *errors)) == Counter(f"line-{n}" for n in range(200))


def test_grpc_does_all_of_it(pool: AgentPool) -> None:
    with grpc.insecure_channel(pool.agents["anna"].addresses.grpc) as channel:
        assert "covey.v1.Batches" in ProtoReflectionDescriptorDatabase(channel).get_services()
        stub = batches_pb2_grpc.BatchesStub(channel)  # type: ignore[no-untyped-call]
        content = lines(50)
        head = wire.UploadFileRequest(header=wire.FileHeader(filename="lines.jsonl"))
        parts = [wire.UploadFileRequest(content=content[at : at + 999]) for at in range(0, len(content), 999)]
        file = stub.UploadFile(iter([head, *parts]))
        assert (file.size_bytes, file.purpose) == (len(content), "batch")
        batch = stub.CreateBatch(wire.CreateBatchRequest(input_file_id=file.id, endpoint=CHAT, metadata={"a": "b"}))
        found = list(stub.StreamResults(wire.StreamResultsRequest(batch_id=batch.id)))
        assert Counter(each.custom_id for each in found) == Counter(f"line-{n}" for n in range(50))
        assert {each.status_code for each in found} == {200}
        assert json.loads(found[0].body_json)["choices"]
        last = found[-1].sequence
        assert list(stub.StreamResults(wire.StreamResultsRequest(batch_id=batch.id, after_sequence=last))) == []
        batch = stub.GetBatch(wire.GetBatchRequest(batch_id=batch.id))
        assert (batch.status, batch.lines_completed, batch.machine, batch.metadata["a"]) == (
            "completed",
            50,
            "anna",
            "b",
        )
        chunks = stub.DownloadFile(wire.DownloadFileRequest(file_id=batch.output_file_id))
        assert b"".join(chunk.content for chunk in chunks).count(b"\n") == 50
        assert batch.id in [each.id for each in stub.ListBatches(wire.ListBatchesRequest()).batches]
        assert file.id in [each.id for each in stub.ListFiles(wire.ListFilesRequest(purpose="batch")).files]
        assert stub.DeleteFile(wire.DeleteFileRequest(file_id=file.id)).deleted
        for call, request, code in (
            (stub.GetBatch, wire.GetBatchRequest(batch_id="x"), grpc.StatusCode.NOT_FOUND),
            (stub.CancelBatch, wire.CancelBatchRequest(batch_id=batch.id), grpc.StatusCode.INVALID_ARGUMENT),
            (stub.UploadFile, iter([parts[0]]), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request)
            assert caught.value.code() is code


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_can_be_interrupted_and_resumed(pool: AgentPool, tmp_path: Path) -> None:
    anna = pool.agents["anna"]
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"".join(line(number, max_tokens=100) for number in range(200)))
    command = covey_command(anna.state_dir, "batch", str(path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert running.stderr.readline().startswith("batch_"), "it says so once the batch runs"
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    resume = next(each for each in told.splitlines() if "--resume" in each).split("covey ")[1].split()
    done = subprocess.run(
        covey_command(anna.state_dir, *resume), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    output = (tmp_path / "lines.output.jsonl").read_text().splitlines()
    assert [json.loads(each)["custom_id"] for each in output] == [f"line-{number}" for number in range(200)]
    assert not list(tmp_path.glob("*.part"))


# --- kills ------------------------------------------------------------------------------------------------------------


def completed(agent: AgentProcess, batch_id: str) -> int:
    try:
        return int(agent.client.get(f"/v1/batches/{batch_id}")["request_counts"]["completed"])
    except UserError:
        return 0


def test_a_worker_killed_in_the_middle_costs_its_lines_a_second_try(pool: AgentPool) -> None:
    anna, ben, _ = pool.agents.values()
    client = sdk(anna)
    batch = start(client, lines(LINES))
    wait_until(lambda: completed(anna, batch.id) > LINES // 5, "a fifth is answered")
    ben.kill()
    assert completed(anna, batch.id) < LINES, "killed too late to show anything"
    check_each_once(client, ended(client, batch.id), LINES)
    ben.start()
    ben.wait_answering()
    pool.wait_whole()


def test_the_owner_killed_in_the_middle_goes_on_when_it_is_back(pool: AgentPool) -> None:
    anna, ben, _ = pool.agents.values()
    batch = start(sdk(anna), lines(LINES))
    wait_until(lambda: completed(anna, batch.id) > LINES // 5, "a fifth is answered")
    on_disk = anna.client.get(f"/v1/batches/{batch.id}/results?after=0")["data"]
    anna.kill()
    with pytest.raises(openai.InternalServerError, match="machine `anna`"):
        wait_until(lambda: not retrieved(sdk(ben), batch.id), "ben has noticed")
    anna.start()
    anna.wait_answering()
    done = ended(sdk(ben), batch.id)
    check_each_once(sdk(ben), done, LINES)
    output, _ = results(sdk(anna), done)
    asked = {each["custom_id"]: each["response"]["request_id"] for each in output}
    assert all(asked[each["custom_id"]] == each["response"]["request_id"] for each in on_disk), "asked again"


def retrieved(client: openai.OpenAI, batch_id: str) -> bool:
    """False never: raises once the owner is known to be away."""
    try:
        return bool(client.batches.retrieve(batch_id))
    except openai.APIConnectionError:
        return True
