"""A stand-in for Cloud Storage on this machine: the part of its JSON API that our libraries use, in memory.

Objects have generations, and conditions on them (ifGenerationMatch, ifGenerationNotMatch) hold, which checkpoints and
locks are built on. It is no more than that: one bucket space without rights, quotas, encodings or folders, and nothing
here shows how fast or how reliable the real service is. Of the packages, gcp-storage-emulator 2026.7.19 was tried: it
takes no notice of conditions and returns no generations, so two writers overwrite each other.
API: https://cloud.google.com/storage/docs/json_api/v1
"""

import base64
import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import json
import re
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OBJECTS = re.compile(r"(?:/upload|/download)?/storage/v1/b/([^/]+)/o")
OBJECT = re.compile(OBJECTS.pattern + r"/([^/]+)(?:/(rewriteTo|copyTo|moveTo)(?:/b/([^/]+))?/o/([^/]+))?")


@dataclasses.dataclass(frozen=True)
class Stored:
    """One generation of an object."""

    data: bytes
    generation: int
    time: str


class Refused(Exception):
    """An answer that is an error: its status."""


class ObjectStore(ThreadingHTTPServer):
    """Serves any bucket on a free port of this machine.

    Attributes:
      objects: {(bucket, name): Stored}.
      requests: "METHOD path?query" of all so far; ranges: of bytes that each of them asked for, or "".
      failing: statuses that the next requests are answered with (503, 429), before anything is done.
      failing_bucket: only requests about it fail, not what an earlier test has left under way; "": all.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("localhost", 0), _Handler)
        self.objects: dict[tuple[str, str], Stored] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.failing: list[int] = []
        self.failing_bucket = ""
        self.lock = threading.RLock()
        self.uploads: dict[str, tuple[str, str, dict, bytearray]] = {}
        self.generations = itertools.count(1_700_000_000_000_001)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead gcsfs, tensorstore and ArrayRecord here instead of to the cloud."""
        url = f"http://localhost:{self.server_address[1]}"
        names = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT")
        # gcsfs would ask Google's control service, which is not here, for the kind of the bucket.
        return dict.fromkeys(names, url) | {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

    def handle_error(self, request, client_address) -> None:
        """Clients that go without a word are no error: readers that have enough, and processes that were killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Names of the objects of a bucket, in order."""
        with self.lock:
            return sorted(name for b, name in self.objects if b == bucket and name.startswith(prefix))

    def read(self, bucket: str, name: str) -> bytes:
        return self.objects[bucket, name].data

    def put(self, bucket: str, name: str, data: bytes, conditions: dict | None = None) -> Stored:
        """Stores a new generation, if the conditions (a query) hold."""
        with self.lock:
            self.check(bucket, name, conditions or {})
            time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            stored = self.objects[bucket, name] = Stored(data, next(self.generations), time)
            return stored

    def check(self, bucket: str, name: str, conditions: dict) -> Stored | None:
        """The object, None where there is none; Refused where a condition on its generation does not hold."""
        stored = self.objects.get((bucket, name))
        generation = stored.generation if stored else 0
        if "ifGenerationMatch" in conditions and int(conditions["ifGenerationMatch"]) != generation:
            raise Refused(412)
        if "ifGenerationNotMatch" in conditions and int(conditions["ifGenerationNotMatch"]) == generation:
            raise Refused(304)
        return stored


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A store that serves during the block."""
    store = ObjectStore()
    thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ObjectStore

    def log_message(self, *args) -> None: ...

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_PUT(self) -> None:
        self._serve(self._post)

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def _serve(self, work) -> None:
        body = self._body()
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.server.requests.append(f"{self.command} {self.path}")
        self.server.ranges.append(self.headers.get("Range", ""))
        try:
            if self.server.failing and self.server.failing_bucket in self.path:
                raise Refused(self.server.failing.pop(0))
            work(url.path, query, body)
        except Refused as refused:
            status = refused.args[0]
            message = {"error": {"code": status, "message": f"{status} (stand-in)"}}
            self._answer(b"" if status == 304 else json.dumps(message).encode(), status)

    def _get(self, path: str, query: dict, body: bytes) -> None:
        if re.fullmatch(r"/storage/v1/b/[^/]+", path):
            self._json({"kind": "storage#bucket", "name": path.rpartition("/")[2]})
        elif found := OBJECT.fullmatch(path):
            bucket, name = _unquoted(found, 1, 2)
            stored = self.server.check(bucket, name, query)
            if stored is None or int(query.get("generation", stored.generation)) != stored.generation:
                raise Refused(404)
            if query.get("alt") == "media" or path.startswith("/download"):
                self._media(stored)
            else:
                self._json(_resource(bucket, name, stored))
        elif found := OBJECTS.fullmatch(path):
            self._list(found[1], query)
        else:
            raise Refused(501)

    def _media(self, stored: Stored) -> None:
        headers = {"x-goog-generation": str(stored.generation), "x-goog-stored-content-length": str(len(stored.data))}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self._answer(stored.data, 200, headers | {"x-goog-hash": _hash(stored.data)})
            return
        size, (first, last) = len(stored.data), wanted.groups()
        start, stop = (int(first), int(last or size) + 1) if first else (max(0, size - int(last)), size)
        stop = min(stop, size)
        if start >= size:
            raise Refused(416)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._answer(stored.data[start:stop], 206, headers)

    def _list(self, bucket: str, query: dict) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset", "")
        entries: dict[str, bool] = {}  # name or common prefix: whether it is a prefix
        for name in self.server.names(bucket, prefix):
            if name < start or (end and name >= end):
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            entries[name if cut < 0 else name[: cut + len(delimiter)]] = cut >= 0
        page = sorted(name for name in entries if name > query.get("pageToken", ""))
        most = int(query.get("maxResults", 1000))
        with self.server.lock:
            items = [
                _resource(bucket, name, self.server.objects[bucket, name])
                for name in page[:most]
                if not entries[name] and (bucket, name) in self.server.objects
            ]
        answer = {"kind": "storage#objects", "items": items, "prefixes": [n for n in page[:most] if entries[n]]}
        self._json(answer | ({"nextPageToken": page[most - 1]} if len(page) > most else {}))

    def _post(self, path: str, query: dict, body: bytes) -> None:
        if "upload_id" in query:
            self._upload_part(query["upload_id"], body)
        elif path.startswith("/upload") and (found := OBJECTS.fullmatch(path)):
            self._upload(_unquoted(found, 1)[0], query, body)
        elif (found := OBJECT.fullmatch(path)) and found[3]:
            self._copy(found, query)
        else:
            raise Refused(501)

    def _upload(self, bucket: str, query: dict, body: bytes) -> None:
        kind, name = query.get("uploadType"), query.get("name")
        if kind == "resumable":
            upload = str(len(self.server.uploads))
            name = name or json.loads(body)["name"]
            self.server.uploads[upload] = (bucket, name, query, bytearray())
            self._answer(b"", 200, {"Location": f"http://{self.headers['Host']}{self.path}&upload_id={upload}"})
            return
        if kind == "multipart":
            about, body = _parts(body, self.headers["Content-Type"])
            name = name or json.loads(about)["name"]
        self._json(_resource(bucket, name, self.server.put(bucket, name, body, query)))

    def _upload_part(self, upload: str, body: bytes) -> None:
        bucket, name, query, so_far = self.server.uploads[upload]
        part = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers.get("Content-Range", "bytes */*"))
        if part[1]:
            del so_far[int(part[1]) :]
        so_far += body
        if part[3] != "*" and len(so_far) == int(part[3]):
            self._json(_resource(bucket, name, self.server.put(bucket, name, bytes(so_far), query)))
        else:
            self._answer(b"", 308, {"Range": f"bytes=0-{len(so_far) - 1}"} if so_far else {})

    def _copy(self, found: re.Match, query: dict) -> None:
        bucket, name, target = _unquoted(found, 1, 2, 5)
        into = urllib.parse.unquote(found[4] or found[1])
        with self.server.lock:
            if (bucket, name) not in self.server.objects:
                raise Refused(404)
            stored = self.server.put(into, target, self.server.objects[bucket, name].data, query)
            if found[3] == "moveTo":
                del self.server.objects[bucket, name]
        resource = _resource(into, target, stored)
        size = str(len(stored.data))
        rewritten = {"done": True, "totalBytesRewritten": size, "objectSize": size, "resource": resource}
        self._json(rewritten if found[3] == "rewriteTo" else resource)

    def _delete(self, path: str, query: dict, body: bytes) -> None:
        found = OBJECT.fullmatch(path)
        if not found:
            raise Refused(501)
        bucket, name = _unquoted(found, 1, 2)
        with self.server.lock:
            if self.server.check(bucket, name, query) is None:
                raise Refused(404)
            del self.server.objects[bucket, name]
        self._answer(b"", 204)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = bytearray()
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)

    def _json(self, content: dict) -> None:
        self._answer(json.dumps(content).encode(), 200, {"Content-Type": "application/json"})

    def _answer(self, body: bytes, status: int, headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # readers leave when they have enough
            self.wfile.write(body)


def _unquoted(found: re.Match, *groups: int) -> list[str]:
    return [urllib.parse.unquote(found[group]) for group in groups]


def _parts(body: bytes, kind: str) -> tuple[bytes, bytes]:
    """The two parts of a multipart body: what is said of the object, and its bytes as they are."""
    line = b"--" + re.search(r'boundary="?([^";]+)', kind)[1].encode()
    first = body.index(line)
    second, last = body.index(line, first + len(line)), body.rindex(line)
    end = b"\r\n" if b"\r\n" in body[second : second + 200].partition(b"\n")[0] + b"\n" else b"\n"
    return tuple(part.partition(2 * end)[2].removesuffix(end) for part in (body[first:second], body[second:last]))


def _hash(data: bytes) -> str:
    return "md5=" + base64.b64encode(hashlib.md5(data).digest()).decode()


def _resource(bucket: str, name: str, stored: Stored) -> dict:
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{stored.generation}",
        "bucket": bucket,
        "name": name,
        "generation": str(stored.generation),
        "metageneration": "1",
        "size": str(len(stored.data)),
        "contentType": "application/octet-stream",
        "md5Hash": _hash(stored.data).removeprefix("md5="),
        "timeCreated": stored.time,
        "updated": stored.time,
    }
