"""An API server that stores what helm gives it, and answers what it asks: for lookup, install, upgrade.

It starts no pod. Patches are recorded in `changes` and not carried out (but for helm 4's server-side
apply, which sends whole objects): what an upgrade would change is what a test looks at.
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
# What the chart may contain: API group and version, plural, kind.
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
    """The objects by their path, and all that was asked of the server that changes something."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects: dict[str, Object] = {}
        self.changes: list[tuple[str, str, Any]] = []  # method, path, body

    def of(self, kind: str) -> dict[str, Object]:
        """The objects of a kind by their name."""
        found = [each for each in self.objects.values() if each["kind"] == kind]
        return {each["metadata"]["name"]: each for each in found}

    def get(self, path: str, query: str) -> Object | None:
        return (
            self.objects.get(path) or self._discovery(path) or self._list(path, query)
        )

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
        wanted = dict(
            parse_qsl(dict(parse_qsl(query)).get("labelSelector", "").replace(",", "&"))
        ).items()
        for version, known, kind in KINDS:
            if known == plural and path.startswith(f"{_root(version)}/"):
                below = [
                    each
                    for at, each in self.objects.items()
                    if at.rpartition("/")[0] == path
                ]
                items = [
                    each
                    for each in below
                    if wanted <= each["metadata"].get("labels", {}).items()
                ]
                return {
                    "kind": f"{kind}List",
                    "apiVersion": version,
                    "items": items,
                    "metadata": {},
                }
        return None


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
    wbufsize = -1  # head and body in one packet, or each answer takes 40 ms
    api: Api

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self._answer(self.api.get(url.path, url.query))

    def do_POST(self) -> None:
        body = self._body()
        path = f"{urlsplit(self.path).path}/{body['metadata']['name']}"
        self._changed("POST", path, body)
        if path in self.api.objects:
            self._answer(_status(409, "AlreadyExists"), 409)
        else:
            self._answer(self._store(path, body), 201)

    def do_PUT(self) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        self._changed("PUT", path, body)
        self._answer(self._store(path, body))

    def do_PATCH(self) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        self._changed("PATCH", path, body)
        if self.headers["Content-Type"] == "application/apply-patch+yaml":
            self._answer(self._store(path, body))
        else:
            self._answer(self.api.objects.get(path))

    def do_DELETE(self) -> None:
        self._text()
        path = urlsplit(self.path).path
        self._changed("DELETE", path, None)
        self._answer(self.api.objects.pop(path, None))

    def _changed(self, method: str, path: str, body: Any) -> None:
        self.api.changes.append((method, path, body))

    def _store(self, path: str, body: Object) -> Object:
        body["metadata"]["namespace"] = path.split("/namespaces/")[1].split("/")[0]
        if body["kind"] == "Secret" and "stringData" in body:
            raise AssertionError(
                "the API server would turn stringData into data: this one does not"
            )
        self.api.objects[path] = body
        return body

    def _body(self) -> Any:
        text = self._text()
        return _secret(text) if text.startswith(PROTOBUF) else yaml.safe_load(text)

    def _text(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, body: Object | None, code: int = 200) -> None:
        if body is None:
            body, code = _status(404, "NotFound"), 404
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        """Nothing: pytest shows what helm says."""


def _secret(message: bytes) -> Object:
    """A Secret as helm sends its own records: in protobuf, in the fields of Kubernetes' generated.proto."""
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
    """The fields of a protobuf message by number; of its kinds only numbers and bytes occur here."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        size, at = _number(message, at)
        if tag & 7 == 2:
            found.setdefault(tag >> 3, []).append(message[at : at + size])
            at += size
    return found


def _number(message: bytes, at: int) -> tuple[int, int]:
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
    """A server on a free port, empty."""
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
