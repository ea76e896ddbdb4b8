"""Pretrained weights: downloads from a local hub through huggingface_hub, and local folders."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from reference import GPT, GPTConfig
from reference.checkpoints import pretrained
from reference.checkpoints.checkpoint import Checkpoint, CheckpointError, save
from reference.checkpoints.huggingface import hf_config, to_hf
from reference.checkpoints.pretrained import PUBLISHED, load_pretrained

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: the extra `parity`")

CONFIG = GPTConfig(block_size=6, vocab_size=13, n_layer=2, n_head=2, n_embd=8, dropout=0.1)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return GPT(CONFIG).state_dict()


def published_files() -> dict[str, bytes]:
    """Config and weights in the form that the published ones have had since 2019."""
    tensors = {name.removeprefix("transformer."): t for name, t in to_hf(weights(), CONFIG).items()}
    for layer in range(CONFIG.n_layer):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, CONFIG.block_size, CONFIG.block_size).tril()
    config = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 12,
        "embd_pdrop": 0.1,
        "eos_token_id": 12,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": CONFIG.block_size,
        "n_embd": CONFIG.n_embd,
        "n_head": CONFIG.n_head,
        "n_layer": CONFIG.n_layer,
        "n_positions": CONFIG.block_size,
        "resid_pdrop": 0.1,
        "summary_type": "cls_index",
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": CONFIG.vocab_size,
    }
    return {"config.json": json.dumps(config).encode(), "model.safetensors": to_bytes(tensors, {"format": "pt"})}


class Hub(ThreadingHTTPServer):
    """The part of huggingface.co that a download needs: answers with a commit and an ETag; weights are elsewhere."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = published_files()
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.status = 200
        self.silent = False
        self.over = threading.Event()  # set when a silent hub may answer
        self.cut = 0  # bytes that the storage loses of each file
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.storage = f"http://localhost:{self.server_port}/storage"  # another host, as the real one's


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        hub = self.server
        if not self.path.startswith("/api/"):  # the library has questions of its own
            hub.requests.append(f"{self.command} {self.path}")
        hub.tokens.append(self.headers["Authorization"])
        if hub.silent:
            hub.over.wait()
            self.close_connection = True
            return
        name = self.path.rsplit("/", 1)[-1]
        content = hub.files.get(name)
        if self.path.startswith("/storage/") and content is not None:
            content = content[: len(content) - hub.cut]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if with_body else b"")
            return
        found = content is not None and hub.status == 200
        away = found and name == "model.safetensors"
        self.send_response((302 if away else 200) if found else hub.status if content else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        if content is not None:
            tag = hashlib.sha256(content).hexdigest()
            self.send_header("ETag", f'"{tag}"')
            if away:
                self.send_header("Location", f"{hub.storage}/{name}")
                self.send_header("X-Linked-ETag", f'"{tag}"')
                self.send_header("X-Linked-Size", str(len(content)))
        body = content if found and not away else b""
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if with_body and body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the published files, at the address and with the cache that $HF_ENDPOINT and $HF_HOME would set.

    The library reads these once, when it is imported; a test below has a fresh process read them.
    """
    from huggingface_hub import constants

    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    huggingface_hub.close_session()
    yield hub
    hub.over.set()
    huggingface_hub.close_session()
    hub.shutdown()
    hub.server_close()
    thread.join()


def close(hub: Hub) -> None:
    """Make the address refuse connections from now on."""
    hub.shutdown()
    hub.server_close()
    huggingface_hub.close_session()


def assert_published(read: tuple[dict[str, Tensor], GPTConfig]) -> None:
    tensors, config = read
    assert config == CONFIG
    assert tensors.keys() == weights().keys()
    for name, tensor in weights().items():
        assert torch.equal(tensors[name], tensor), name
    GPT(config).load_state_dict(tensors)


def message_of(name_or_path: str | Path) -> str:
    """The one line with which loading fails."""
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the callers compare the message
        load_pretrained(name_or_path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_gpt2_is_downloaded_by_its_name_and_then_kept(hub: Hub, name: str) -> None:
    assert_published(load_pretrained(name))
    path = f"/openai-community/{name}/resolve/main"
    assert {request for request in hub.requests if request.startswith("GET")} == {
        f"GET {path}/config.json",
        "GET /storage/model.safetensors",
    }
    assert f"HEAD {path}/model.safetensors" in hub.requests
    hub.requests.clear()
    assert_published(load_pretrained(name))
    assert [request for request in hub.requests if request.startswith("GET")] == [], "downloaded again"
    close(hub)
    assert_published(load_pretrained(name))


def test_no_token_is_sent_since_an_expired_one_would_be_refused(hub: Hub) -> None:
    load_pretrained("gpt2")
    assert set(hub.tokens) == {None}


# Loads with the environment variables of each line of input, in turn: the library reads them when it is imported.
LOADER = """
import json, os, sys
from reference.checkpoints.pretrained import load_pretrained
for line in sys.stdin:
    os.environ.update(json.loads(line))
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]
    try:
        weights, config = load_pretrained("gpt2")
        print(config.n_embd, float(weights["wte.weight"].sum()), flush=True)
    except ValueError as error:
        print(f"error: {error}", flush=True)
"""


@pytest.mark.slow
def test_environment_variables_name_the_hub_and_the_cache_and_switch_it_off(hub: Hub, tmp_path: Path) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", LOADER], cwd=Path(__file__).parents[3], **pipes) as process:

        def load(home: str, **variables: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / home), **variables}
            process.stdin.write(json.dumps(settings) + "\n")
            process.stdin.flush()
            return str(process.stdout.readline())

        expected = f"{CONFIG.n_embd} {float(weights()['wte.weight'].sum())}\n"
        assert load("home", HF_HUB_OFFLINE="0") == expected
        assert (tmp_path / "home" / "hub" / "models--openai-community--gpt2").is_dir()
        hub.requests.clear()
        assert load("empty", HF_HUB_OFFLINE="1") == (
            f"error: 'gpt2' could not be downloaded from 127.0.0.1:{hub.server_port} (HF_HUB_OFFLINE is set) and is "
            "not in the cache: try again with a connection, or give a local folder instead\n"
        )
        assert hub.requests == []


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the library's address look-ups, connections and pauses between attempts."""
    tried: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        usual = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            tried[name] += 1
            return usual(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(socket, "getaddrinfo")
    counted(socket.socket, "connect")
    monkeypatch.setattr("time.sleep", lambda seconds: tried.update(["sleep"]))
    return tried


def test_without_connection_it_is_one_line_after_one_attempt(hub: Hub, tried: Counter[str]) -> None:
    close(hub)
    message = message_of("gpt2-medium")
    assert message.startswith(f"'gpt2-medium' could not be downloaded from 127.0.0.1:{hub.server_port} (")
    assert "Connection refused" in message
    assert message.endswith(") and is not in the cache: try again with a connection, or give a local folder instead")
    assert (tried["connect"], tried["sleep"]) == (1, 0), "the library's own retries take half a minute"


def test_without_name_resolution_it_is_one_line_after_one_attempt(
    hub: Hub, tried: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    def unresolved(*args: Any, **kwargs: Any) -> Any:
        tried.update(["getaddrinfo"])
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        "https://huggingface.co/{repo_id}/resolve/{revision}/{filename}",
    )
    message = message_of("gpt2")
    assert message.startswith("'gpt2' could not be downloaded from huggingface.co (")
    assert "Name or service not known" in message
    assert tried == {"getaddrinfo": 1}


def test_a_hub_that_never_answers_is_given_up_after_one_attempt(
    hub: Hub, tried: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.silent = True
    monkeypatch.setattr(pretrained, "PATIENCE", 0.3)
    assert "timed out" in message_of("gpt2")
    assert len(hub.requests) == 1, f"asked again: {hub.requests}"
    assert tried["sleep"] == 0


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_hub_that_refuses_is_told_by_its_status_and_not_asked_again(
    hub: Hub, tried: Counter[str], status: int
) -> None:
    hub.status = status
    assert f"(HTTP status {status}) and is not in the cache" in message_of("gpt2")
    assert len(hub.requests) == 1, f"asked again: {hub.requests}"
    assert tried["sleep"] == 0


def test_a_download_that_ends_early_is_refused_and_leaves_nothing_to_be_taken_for_it(hub: Hub) -> None:
    hub.cut = 100
    size = len(hub.files["model.safetensors"])
    assert f"should be of size {size} but has size {size - 100}" in message_of("gpt2")
    hub.cut = 0
    assert_published(load_pretrained("gpt2"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_download_of_something_else_is_refused_by_the_name_of_the_file(hub: Hub, name: str) -> None:
    hub.files[name] = b"<html>log in to the wireless network</html>"
    assert message_of("gpt2").startswith(f"gpt2: {name}: ")


def test_without_huggingface_hub_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert message_of("gpt2") == (
        "'gpt2' has to be downloaded, and huggingface_hub is not installed: "
        "pip install huggingface_hub, or give a local folder"
    )


def test_a_folder_named_like_a_published_model_is_pointed_out_and_read_by_its_path(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(hub)
    folder(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    assert message_of("gpt2").endswith("or give the folder ./gpt2 here instead")
    assert_published(load_pretrained("./gpt2"))
    assert_published(load_pretrained(Path.cwd() / "gpt2"))


def folder(path: Path, without: tuple[str, ...] = (), **files: bytes) -> Path:
    """A folder with the published files, without some, and with others whose dots are written __."""
    path.mkdir()
    for name, content in (published_files() | {n.replace("__", "."): c for n, c in files.items()}).items():
        if name not in without:
            (path / name).write_bytes(content)
    return path


def test_a_local_folder_is_read_and_a_pickle_beside_is_not(tmp_path: Path) -> None:
    assert_published(load_pretrained(folder(tmp_path / "here", pytorch_model__bin=b"\x80\x04not a pickle.")))
    assert_published(load_pretrained(str(tmp_path / "here")))


def test_the_type_of_the_file_is_kept(tmp_path: Path) -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        tensors = {name: tensor.to(dtype) for name, tensor in to_hf(weights(), CONFIG).items()}
        path = folder(
            tmp_path / str(dtype),
            model__safetensors=to_bytes(tensors),
            config__json=json.dumps(hf_config(CONFIG, dtype)).encode(),
        )
        read, _ = load_pretrained(path)
        assert torch.equal(read["wte.weight"], weights()["wte.weight"].to(dtype))
        assert {tensor.dtype for tensor in read.values()} == {dtype}


@pytest.mark.parametrize(
    "without, files, message",
    [
        (
            ("model.safetensors",),
            {"model__safetensors__index__json": b"{}"},
            "model.safetensors missing; the weights are split over several files, and model.safetensors is one: "
            'in transformers, save_pretrained(folder, max_shard_size="100GB") writes it',
        ),
        (
            ("model.safetensors",),
            {"pytorch_model__bin": b"\x80\x04N."},
            "model.safetensors missing; pytorch_model.bin is a pickle, which can run any code when opened, and "
            "stays closed: in transformers, save_pretrained(folder) writes model.safetensors",
        ),
        (
            ("model.safetensors",),
            {},
            "model.safetensors missing; give a folder with config.json and model.safetensors, or a checkpoint",
        ),
        (
            ("config.json",),
            {},
            "config.json missing; give a folder with config.json and model.safetensors, or a checkpoint",
        ),
        (
            ("config.json", "model.safetensors"),
            {},
            "config.json and model.safetensors missing; "
            "give a folder with config.json and model.safetensors, or a checkpoint",
        ),
        (
            (),
            {"config__json": b'{"model_type": "llama"}'},
            "config.json: Hugging Face config: model_type = 'llama', GPT-2 has 'gpt2'; "
            "give a GPT-2 as transformers saves it",
        ),
        (
            (),
            {"config__json": json.dumps({**hf_config(CONFIG), "n_layer": 3}).encode()},
            "model.safetensors: Hugging Face state dict: 'transformer.h.2.ln_1.weight' is missing; "
            "give a GPT-2 as transformers saves it",
        ),
    ],
)
def test_a_folder_that_lacks_something_is_told_which_file(
    tmp_path: Path, without: tuple[str, ...], files: dict[str, bytes], message: str
) -> None:
    path = folder(tmp_path / "here", without, **files)
    assert message_of(path) == f"{path}: {message}"


def test_a_source_that_is_neither_name_nor_folder_is_refused_with_the_names(tmp_path: Path) -> None:
    assert message_of("gpt3") == (
        "'gpt3' is neither a folder nor a published GPT-2: give one of gpt2, gpt2-medium, gpt2-large, gpt2-xl, "
        "or a folder with config.json and model.safetensors"
    )
    (tmp_path / "file").touch()
    assert "is neither a folder nor" in message_of(tmp_path / "file")


def test_our_checkpoints_and_runs_are_read_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        model = {name: tensor + step for name, tensor in weights().items()}
        save(tmp_path / "run", Checkpoint(step, CONFIG, model, {}, {}, {}))
    for path, step in {"run": 2, "run/step-000001": 1}.items():
        tensors, config = load_pretrained(tmp_path / path)
        assert config == CONFIG
        assert torch.equal(tensors["ln_f.bias"], weights()["ln_f.bias"] + step)
    (tmp_path / "run" / "step-000002" / "model.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        tensors, _ = load_pretrained(tmp_path / "run")
    assert torch.equal(tensors["ln_f.bias"], weights()["ln_f.bias"] + 1)
    assert "step-000002: model.safetensors: has 0 bytes" in caplog.text
    with pytest.raises(CheckpointError, match=r"model\.safetensors: has 0 bytes"):
        load_pretrained(tmp_path / "run" / "step-000002")
