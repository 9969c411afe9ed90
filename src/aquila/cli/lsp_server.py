"""A language server that does one thing: inline completion. JSON-RPC 2.0 over two pipes, no library.

One thread reads messages, in order; another completes, one request at a time, the newest first to be asked. A request
that is cancelled, or that a later one for the same document replaces, ends at its next token. Source: Language Server
Protocol 3.18, `textDocument/inlineCompletion`.
"""

import json
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from aquila import __version__
from aquila.cli.completer import Completer, Cursor, Settings
from aquila.cli.lsp_document import Document
from aquila.errors import AquilaError

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 << 20
OPEN_DOCUMENTS = 4  # other open documents that go along as context, the one changed last in the last place
EXTRA_CHARACTERS = 4000  # of each of them

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
NOT_INITIALIZED, REQUEST_FAILED, REQUEST_CANCELLED = -32002, -32803, -32800


@dataclass(eq=False)
class _Job:
    """One request for a completion."""

    request_id: int | str
    uri: str
    cursor: Cursor
    span: dict[str, Any]  # what the completion replaces
    typed: str  # what it begins with
    cancelled: threading.Event = field(default_factory=threading.Event)


class LanguageServer:
    """Serves one editor until it says `exit`, or its pipe ends.

    Args:
        reader: the editor's messages.
        writer: answers to them.
        make_completer: loads the model; called once, in the thread that completes.
        settings: how completions are drawn.
    """

    def __init__(
        self, reader: BinaryIO, writer: BinaryIO, make_completer: Callable[[], Completer], settings: Settings
    ) -> None:
        self._reader, self._writer = reader, writer
        self._make_completer = make_completer
        self._settings = settings
        self._write_lock = threading.Lock()
        self._documents: dict[str, Document] = {}  # the one changed last is the last
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pending: dict[int | str, _Job] = {}
        self._pending_lock = threading.Lock()
        self._initialized = False
        self._stopping = False
        self._requests: dict[str, Callable[[Any, dict[str, Any]], None]] = {
            "initialize": self._initialize,
            "shutdown": self._shutdown,
            "textDocument/inlineCompletion": self._inline_completion,
        }
        self._notifications: dict[str, Callable[[dict[str, Any]], None]] = {
            "textDocument/didOpen": self._did_open,
            "textDocument/didChange": self._did_change,
            "textDocument/didClose": self._did_close,
            "$/cancelRequest": self._cancel,
        }

    def run(self) -> int:
        """The exit code: 0 after `shutdown` and `exit`, else 1, as the protocol asks."""
        worker = threading.Thread(target=self._work, name="complete", daemon=True)
        worker.start()
        while (message := self._read()) is not None:
            if message.get("method") == "exit":
                break
            self._handle(message)
        self._cancel_all()
        self._jobs.put(None)
        return 0 if self._stopping else 1

    # --- messages ----------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any] | None:
        """The next message; None at the end of the pipe, and where nobody could tell where the next one begins."""
        while True:
            length = self._read_header()
            if length is None or length > MAX_MESSAGE_BYTES:
                return None
            data = self._reader.read(length)
            if len(data) < length:
                return None
            try:
                message = json.loads(data)
            except ValueError as error:
                self._fail(None, PARSE_ERROR, f"the message is not JSON: {error}")
                continue
            if isinstance(message, dict):
                return message
            self._fail(None, INVALID_REQUEST, "a message is one object")

    def _read_header(self) -> int | None:
        length = None
        while line := self._reader.readline(1024):
            if line in (b"\r\n", b"\n"):
                return length
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length" and value.strip().isdigit():
                length = int(value)
        return None

    def _handle(self, message: dict[str, Any]) -> None:
        method, request_id = message.get("method"), message.get("id")
        if not isinstance(method, str):
            return  # an answer of the editor; we ask it nothing
        params = message.get("params") or {}
        try:
            if request_id is None:
                if self._initialized and method in self._notifications:
                    self._notifications[method](params)
            elif method not in self._requests:
                self._fail(request_id, METHOD_NOT_FOUND, f"{method}: this server does inline completion only")
            elif self._stopping:
                self._fail(request_id, INVALID_REQUEST, "the server was told to shut down")
            elif not self._initialized and method != "initialize":
                self._fail(request_id, NOT_INITIALIZED, "initialize comes first")
            else:
                self._requests[method](request_id, params)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if request_id is not None:
                self._fail(request_id, INVALID_PARAMS, f"{method}: the parameters are not of its form ({error!r})")
            else:
                log.warning("%s: the parameters are not of its form (%r)", method, error)

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False, separators=(",", ":")).encode()
        with self._write_lock:
            try:
                self._writer.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
                self._writer.flush()
            except (OSError, ValueError):  # the editor is gone; its end of the other pipe will say so too
                log.debug("an answer found nobody")

    def _answer(self, request_id: int | str, result: Any) -> None:
        self._send({"id": request_id, "result": result})

    def _fail(self, request_id: int | str | None, code: int, message: str) -> None:
        self._send({"id": request_id, "error": {"code": code, "message": message}})

    # --- the life of a server and its documents -----------------------------------------------------------------------

    def _initialize(self, request_id: int | str, params: dict[str, Any]) -> None:
        self._initialized = True
        capabilities = {
            "positionEncoding": "utf-16",
            "textDocumentSync": {"openClose": True, "change": 2},  # 2: incremental
            "inlineCompletionProvider": True,
        }
        info = {"name": "aquila", "version": __version__}
        self._answer(request_id, {"capabilities": capabilities, "serverInfo": info})

    def _shutdown(self, request_id: int | str, params: dict[str, Any]) -> None:
        self._stopping = True
        self._cancel_all()
        self._answer(request_id, None)

    def _did_open(self, params: dict[str, Any]) -> None:
        document = params["textDocument"]
        self._documents[document["uri"]] = Document(document["uri"], document["text"], document.get("version", 0))

    def _did_change(self, params: dict[str, Any]) -> None:
        uri = params["textDocument"]["uri"]
        document = self._documents.pop(uri)
        self._documents[uri] = document
        document.change(params["contentChanges"], params["textDocument"].get("version") or 0)

    def _did_close(self, params: dict[str, Any]) -> None:
        self._documents.pop(params["textDocument"]["uri"], None)

    # --- completion ---------------------------------------------------------------------------------------------------

    def _inline_completion(self, request_id: int | str, params: dict[str, Any]) -> None:
        uri, position = params["textDocument"]["uri"], params["position"]
        # the entry chosen in an open list of words counts as typed: editors show nothing else beside it
        chosen = (params.get("context") or {}).get("selectedCompletionInfo")
        span, typed = (chosen["range"], chosen["text"]) if chosen else ({"start": position, "end": position}, "")
        if uri not in self._documents:
            self._fail(request_id, INVALID_PARAMS, f"{uri} is not open; send textDocument/didOpen first")
            return
        others = [each for each in self._documents.values() if each.uri != uri][-OPEN_DOCUMENTS:]
        extra = [(each.uri.rpartition("/")[2], each.text[:EXTRA_CHARACTERS]) for each in others]
        job = _Job(request_id, uri, self._documents[uri].cursor(span, typed, extra), span, typed)
        with self._pending_lock:
            for other in self._pending.values():
                if other.uri == uri:
                    other.cancelled.set()  # the cursor is elsewhere by now
            self._pending[request_id] = job
        self._jobs.put(job)

    def _cancel(self, params: dict[str, Any]) -> None:
        with self._pending_lock:
            job = self._pending.get(params["id"])
        if job is not None:
            job.cancelled.set()

    def _cancel_all(self) -> None:
        with self._pending_lock:
            for job in self._pending.values():
                job.cancelled.set()

    def _work(self) -> None:
        """The thread that completes: it owns the model."""
        completer: Completer | None = None
        while (job := self._jobs.get()) is not None:
            try:
                if job.cancelled.is_set():
                    self._finish(job, None)
                    continue
                completer = completer or self._make_completer()
                insertion = completer.complete(job.cursor, self._settings, job.cancelled.is_set)
                self._finish(job, None if insertion is None else insertion.text)
            except AquilaError as error:
                self._forget(job)
                self._fail(job.request_id, REQUEST_FAILED, str(error))
            except Exception as error:  # an editor must not lose its server to one request
                log.exception("a completion failed")
                self._forget(job)
                self._fail(job.request_id, REQUEST_FAILED, f"the completion failed: {error}")

    def _finish(self, job: _Job, text: str | None) -> None:
        self._forget(job)
        if text is None:
            self._fail(job.request_id, REQUEST_CANCELLED, "cancelled")
            return
        items = [{"insertText": job.typed + text, "range": job.span}] if text.strip() else []
        self._answer(job.request_id, {"items": items})

    def _forget(self, job: _Job) -> None:
        with self._pending_lock:
            self._pending.pop(job.request_id, None)
