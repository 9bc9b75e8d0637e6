"""A fake Kubernetes API server for helm: it serves lookup, install and upgrade.

It stores the objects that helm sends, and starts no pod. It records patches in `changes` without
applying them, because tests look at the changes that an upgrade asks for. The exception is
server-side apply (helm 4), which sends whole objects: these are stored.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

Object = dict[str, Any]
PROTOBUF = b"k8s\0"
# The resources that the chart may contain: API group and version, plural, kind.
KINDS = [
    ("v1", "configmaps", "ConfigMap"),
    ("v1", "namespaces", "Namespace"),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    ("v1", "pods", "Pod"),
    ("v1", "secrets", "Secret"),
    ("v1", "serviceaccounts", "ServiceAccount"),
    ("v1", "services", "Service"),
    ("apps/v1", "deployments", "Deployment"),
    ("apps/v1", "statefulsets", "StatefulSet"),
    ("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    ("batch/v1", "cronjobs", "CronJob"),
    ("batch/v1", "jobs", "Job"),
    ("gateway.networking.k8s.io/v1", "httproutes", "HTTPRoute"),
    ("keda.sh/v1alpha1", "scaledobjects", "ScaledObject"),
    ("monitoring.coreos.com/v1", "servicemonitors", "ServiceMonitor"),
    ("networking.k8s.io/v1", "ingresses", "Ingress"),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
]


class Api:
    """The stored objects by path, and all requests that change something.

    A change is its method, path and body.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects: dict[str, Object] = {}
        self.changes: list[tuple[str, str, Any]] = []

    def of(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind, by name."""
        found = [each for each in self.objects.values() if each["kind"] == kind]
        return {each["metadata"]["name"]: each for each in found}

    def get(self, path: str, query: str) -> Object | None:
        stored = self.objects.get(path)
        return stored or self._discovery(path) or self._list(path, query)

    def _discovery(self, path: str) -> Object | None:
        if path == "/version":
            return {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": _groups()}
        resources = [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": kind != "Namespace",
                "verbs": ["create", "delete", "get", "list", "patch", "update"],
            }
            for version, plural, kind in KINDS
            if path == _root(version)
        ]
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if not resources:
            return None
        return {
            "kind": "APIResourceList",
            "groupVersion": version,
            "resources": resources,
        }

    def _list(self, path: str, query: str) -> Object | None:
        plural = path.rpartition("/")[2]
        for version, known, kind in KINDS:
            if known == plural and path.startswith(f"{_root(version)}/"):
                return {
                    "kind": f"{kind}List",
                    "apiVersion": version,
                    "items": self._selected(path, query),
                    "metadata": {},
                }
        return None

    def _selected(self, path: str, query: str) -> list[Object]:
        """Return the objects in a collection that have the labels in the query."""
        selector = dict(parse_qsl(query)).get("labelSelector", "")
        wanted = dict(parse_qsl(selector.replace(",", "&"))).items()
        return [
            each
            for at, each in self.objects.items()
            if at.rpartition("/")[0] == path
            and wanted <= each["metadata"].get("labels", {}).items()
        ]


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _groups() -> list[Object]:
    versions = dict.fromkeys(version for version, _, _ in KINDS if "/" in version)
    served = [
        {"groupVersion": each, "version": each.partition("/")[2]} for each in versions
    ]
    return [
        {
            "name": each["groupVersion"].partition("/")[0],
            "versions": [each],
            "preferredVersion": each,
        }
        for each in served
    ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body go into one packet. As two, each response takes 40 ms.
    wbufsize = -1
    api: Api

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self._respond(self.api.get(url.path, url.query))

    def do_POST(self) -> None:
        body = self._body()
        path = f"{urlsplit(self.path).path}/{body['metadata']['name']}"
        self._record_change("POST", path, body)
        if path in self.api.objects:
            self._respond(_status(409, "AlreadyExists"), 409)
        else:
            self._respond(self._store(path, body), 201)

    def do_PUT(self) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        self._record_change("PUT", path, body)
        self._respond(self._store(path, body))

    def do_PATCH(self) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        self._record_change("PATCH", path, body)
        if self.headers["Content-Type"] == "application/apply-patch+yaml":
            self._respond(self._store(path, body))
        else:
            self._respond(self.api.objects.get(path))

    def do_DELETE(self) -> None:
        self._text()
        path = urlsplit(self.path).path
        self._record_change("DELETE", path, None)
        self._respond(self.api.objects.pop(path, None))

    def _record_change(self, method: str, path: str, body: Any) -> None:
        self.api.changes.append((method, path, body))

    def _store(self, path: str, body: Object) -> Object:
        body["metadata"]["namespace"] = path.split("/namespaces/")[1].split("/")[0]
        if body["kind"] == "Secret" and "stringData" in body:
            raise AssertionError("this fake does not convert stringData to data")
        self.api.objects[path] = body
        return body

    def _body(self) -> Any:
        text = self._text()
        return _secret(text) if text.startswith(PROTOBUF) else yaml.safe_load(text)

    def _text(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _respond(self, body: Object | None, code: int = 200) -> None:
        if body is None:
            body, code = _status(404, "NotFound"), 404
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        """Log nothing: pytest shows the output of helm."""


def _secret(message: bytes) -> Object:
    """Decode a Secret in protobuf. helm sends its release records so.

    The field numbers are those of Kubernetes' generated.proto.
    """
    secret = _fields(_fields(message.removeprefix(PROTOBUF))[2][0])
    metadata = _fields(secret[1][0])
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": metadata[1][0].decode(),
            "labels": _strings(metadata.get(11, [])),
        },
        "type": secret[3][0].decode(),
        "data": {
            key: base64.b64encode(value).decode()
            for key, value in _pairs(secret.get(2, []))
        },
    }


def _strings(entries: list[bytes]) -> dict[str, str]:
    return {key: value.decode() for key, value in _pairs(entries)}


def _pairs(entries: list[bytes]) -> Iterator[tuple[str, bytes]]:
    for entry in map(_fields, entries):
        yield entry[1][0].decode(), entry[2][0]


def _fields(message: bytes) -> dict[int, list[bytes]]:
    """Return the byte fields of a protobuf message, by field number.

    helm's records contain fields of two wire types: varint, which is skipped, and bytes.
    """
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        size, at = _varint(message, at)
        if tag & 7 == 2:
            found.setdefault(tag >> 3, []).append(message[at : at + size])
            at += size
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
        if message[at - 1] < 0x80:
            return value, at


def _status(code: int, reason: str) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": code,
    }


@contextmanager
def serving() -> Iterator[Api]:
    """Run an empty server on a free port."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.api = Api(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield handler.api  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
