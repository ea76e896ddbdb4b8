"""Texts by name and by path, the download of tiny Shakespeare, and the split for training and validation."""

import ast
import gc
import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

import reference.data.embedded_texts
import reference.data.shakespeare
from reference.data.corpora import CORPORA, DEFAULT, load_text, split
from reference.data.shakespeare import shakespeare

SHAKESPEARE = Path(__file__).parents[4] / "shared" / "data" / "tinyshakespeare.txt"

# By name


def test_the_names_are_the_six_that_are_promised():
    assert list(CORPORA) == ["pydocs", "nursery", "counting", "stories", "code", "shakespeare"]
    assert DEFAULT in CORPORA


def test_the_embedded_texts_are_the_same_in_every_process():
    program = (
        "import hashlib, runpy, sys\n"
        "texts = runpy.run_path(sys.argv[1])\n"
        "for name in sys.argv[2:]:\n"
        "    print(name, hashlib.sha256(texts[name]().encode()).hexdigest())\n"
    )
    names = [name for name in CORPORA if name != "shakespeare"]
    arguments = [sys.executable, "-c", program, reference.data.embedded_texts.__file__, *names]
    expected = [f"{name} {hashlib.sha256(load_text(name).encode()).hexdigest()}" for name in names]
    for hash_seed in ("1", "2"):  # what would change the order of a set
        environment = {"PYTHONHASHSEED": hash_seed}
        ran = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
        assert ran.stdout.splitlines() == expected


def test_pydocs_is_the_help_text_of_this_python():
    text = load_text("pydocs")
    assert 400_000 < len(text) < 800_000
    if sys.version_info[:2] == (3, 11):
        assert len(text) == pytest.approx(465_000, rel=0.01)
    assert text.startswith('The "assert" statement\n**********************\n')
    assert "Assignment statements" in text
    assert len(set(text)) < 256


def test_pydocs_says_what_is_missing_where_python_comes_without_its_help(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match=r"'pydocs' is the help topics of Python .* lacks: choose another"):
        load_text("pydocs")


def test_nursery_is_sixteen_lines_each_with_its_end():
    text = load_text("nursery")
    lines = text.split(" <END>")
    assert len(lines) == 17
    assert lines[-1] == ""
    assert text.startswith("mary had a little lamb <END> little lamb little lamb <END> ")
    assert text.endswith("to see a lamb at school <END>")


def test_counting_counts_to_fifty_and_pairs_letters_to_nineteen():
    text = load_text("counting")
    assert text.startswith("Number 0 comes before 1. Number 1 comes before 2. ")
    assert "Number 49 comes before 50. A0B0C0. A1B1C1. " in text
    assert text.endswith("A19B19C19. ")
    assert text.count("Number") == 50


def test_stories_combine_every_name_animal_and_pastime():
    text = load_text("stories")
    for prompt in ("Once upon a time", "Alice", "The cat"):
        assert prompt in text
    assert text.count("The end.") == 125
    assert len(set(text.split("The end."))) == 126, "two stories are the same"


def test_code_is_valid_python_of_three_kinds():
    tree = ast.parse(load_text("code"))
    kinds = [type(node) for node in tree.body]
    assert [kinds.count(kind) for kind in (ast.FunctionDef, ast.For, ast.If)] == [19, 9, 14]
    for prompt in ("def ", "for i in range", "if x >"):
        assert prompt in load_text("code")


def test_an_unknown_name_is_answered_with_the_names_that_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="unknown corpus") as caught:
        load_text("shakespear")
    assert str(caught.value) == (
        "unknown corpus 'shakespear': neither a file nor one of pydocs, nursery, counting, stories, code, shakespeare"
    )


# By path


def test_any_text_file_is_a_corpus(tmp_path):
    path = tmp_path / "any.txt"
    path.write_bytes("tea\r\n☕\n".encode())
    assert load_text(path) == load_text(str(path)) == "tea\r\n☕\n"


def test_a_name_wins_over_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nursery").write_text("a file")
    assert load_text("nursery").startswith("mary")
    assert load_text("./nursery") == "a file"


def test_a_file_that_is_not_utf8_is_named_with_the_offset(tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes("ascii, then caf\u00e9 and more".encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8") as caught:
        load_text(path)
    assert str(caught.value) == (
        f"the file {str(path)!r} is not UTF-8: byte 0xe9 at offset 15 (invalid continuation byte); convert it to UTF-8"
    )


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.txt"
    path.touch()
    with pytest.raises(ValueError, match=r"empty\.txt' is empty"):
        load_text(path)


@pytest.mark.parametrize("where", [".", "a\x00b"])
def test_an_unreadable_file_is_one_line(where):
    with pytest.raises(ValueError, match="cannot read the text file") as caught:
        load_text(where)
    assert "\n" not in str(caught.value)


# Tiny Shakespeare, from a server on this machine

# pooch leaves the connection of an answer that it rejects to the garbage collector.
lax_about_sockets = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

GENUINE = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 200
TAMPERED = GENUINE.replace(b"hear me", b"fear me", 1)


class Play(BaseHTTPRequestHandler):
    """Answers with server.body, after promising server.promised bytes."""

    def do_GET(self):
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.promised))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args):
        pass


@pytest.fixture
def genuine(monkeypatch):
    """Make the SHA-256 of GENUINE the right one, and remove the user's settings."""
    monkeypatch.setattr(reference.data.shakespeare, "SHA256", hashlib.sha256(GENUINE).hexdigest())
    monkeypatch.delenv("PARITYGPT_SHAKESPEARE", raising=False)
    monkeypatch.delenv("PARITYGPT_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield
    gc.collect()


@pytest.fixture
def server(genuine):
    with ThreadingHTTPServer(("127.0.0.1", 0), Play) as server:
        server.status, server.body, server.promised, server.requests = 200, GENUINE, len(GENUINE), 0
        server.url = f"http://127.0.0.1:{server.server_port}/input.txt"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_shakespeare_is_downloaded_once(server, tmp_path):
    for _ in range(2):
        assert shakespeare(data_dir=tmp_path, url=server.url) == GENUINE.decode()
    assert server.requests == 1
    assert [file.name for file in tmp_path.iterdir()] == ["tinyshakespeare.txt"]


def test_the_data_folder_can_come_from_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PARITYGPT_DATA", str(tmp_path / "new" / "folder"))
    assert shakespeare(url=server.url) == GENUINE.decode()
    assert (tmp_path / "new" / "folder" / "tinyshakespeare.txt").read_bytes() == GENUINE


def refuse(message, tmp_path, url):
    with pytest.raises(ValueError, match=message) as caught:
        shakespeare(data_dir=tmp_path, url=url)
    assert str(caught.value).startswith(f"the corpus 'shakespeare' could not be fetched from {url} to {tmp_path} (")
    assert str(caught.value).endswith("; try again, or let PARITYGPT_SHAKESPEARE name a copy of the file")
    assert "\n" not in str(caught.value)


@lax_about_sockets
def test_a_tampered_download_is_refused_and_leaves_nothing(server, tmp_path):
    server.body = TAMPERED
    refuse("ValueError: SHA256 hash of downloaded file", tmp_path, server.url)
    assert server.requests == 1
    assert list(tmp_path.iterdir()) == []


@lax_about_sockets
def test_a_download_that_breaks_off_is_refused_and_leaves_nothing(server, tmp_path):
    server.body = GENUINE[: len(GENUINE) // 2]
    refuse("ChunkedEncodingError", tmp_path, server.url)
    assert list(tmp_path.iterdir()) == []


@lax_about_sockets
def test_a_short_download_that_claims_to_be_whole_is_refused_and_leaves_nothing(server, tmp_path):
    server.body = GENUINE[:-1]
    server.promised -= 1
    refuse("ValueError: SHA256 hash of downloaded file", tmp_path, server.url)
    assert list(tmp_path.iterdir()) == []


@lax_about_sockets
def test_an_answer_that_is_an_error_page_is_refused_and_leaves_nothing(server, tmp_path):
    server.status = 404
    refuse("HTTPError: 404", tmp_path, server.url)
    assert list(tmp_path.iterdir()) == []


@lax_about_sockets
def test_a_refused_connection_is_one_error_and_leaves_nothing(genuine, tmp_path):
    refuse("ConnectionError", tmp_path, "http://127.0.0.1:9/input.txt")
    assert list(tmp_path.iterdir()) == []


@lax_about_sockets
def test_a_damaged_file_in_the_data_folder_is_fetched_again_and_never_used(server, tmp_path):
    kept = tmp_path / "tinyshakespeare.txt"
    kept.write_bytes(TAMPERED)
    refuse("ConnectionError", tmp_path, "http://127.0.0.1:9/input.txt")
    assert shakespeare(data_dir=tmp_path, url=server.url) == GENUINE.decode()
    assert kept.read_bytes() == GENUINE


def test_a_copy_is_used_instead_of_a_download(genuine, tmp_path, monkeypatch):
    copy = tmp_path / "copy.txt"
    copy.write_bytes(GENUINE)
    assert shakespeare(copy) == GENUINE.decode()
    monkeypatch.setenv("PARITYGPT_SHAKESPEARE", str(copy))
    assert load_text("shakespeare") == GENUINE.decode()


def test_the_argument_wins_over_the_environment(genuine, tmp_path, monkeypatch):
    copy = tmp_path / "copy.txt"
    copy.write_bytes(GENUINE)
    monkeypatch.setenv("PARITYGPT_SHAKESPEARE", str(tmp_path / "missing.txt"))
    assert shakespeare(copy) == GENUINE.decode()


def test_a_copy_that_differs_or_is_missing_is_refused_by_name(genuine, tmp_path, monkeypatch):
    copy = tmp_path / "copy.txt"
    monkeypatch.setenv("PARITYGPT_SHAKESPEARE", str(copy))
    with pytest.raises(ValueError, match=r"cannot read the copy of tiny Shakespeare at .*copy\.txt: No such file"):
        load_text("shakespeare")
    copy.write_bytes(TAMPERED)
    found = hashlib.sha256(TAMPERED).hexdigest()
    with pytest.raises(ValueError, match=rf"copy\.txt is not tiny Shakespeare: its SHA-256 is {found}, expected "):
        load_text("shakespeare")


def test_the_real_file_is_accepted_under_the_published_hash():
    if not SHAKESPEARE.exists():
        pytest.skip("needs tinyshakespeare.txt beside the repository, in ../shared/data")
    text = shakespeare(SHAKESPEARE)
    assert len(text) == 1_115_394
    assert text.startswith("First Citizen:\n")


# Training and validation


@pytest.mark.parametrize(
    "tokens",
    [torch.arange(105), np.arange(105, dtype=np.uint16), list(range(105))],
    ids=["torch", "numpy", "list"],
)
def test_nine_tenths_are_for_training_and_the_rest_for_validation(tokens):
    training, validation = split(tokens)
    assert (len(training), len(validation)) == (94, 11)
    assert [int(token) for part in (training, validation) for token in part] == list(range(105))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_zero_to_one_is_named(fraction):
    with pytest.raises(ValueError, match=f"the training fraction {fraction} is not between 0 and 1"):
        split([1, 2, 3], fraction)
