"""A Kubernetes API in this process: it keeps what clients create and hands it out again.

It has no controllers and no admission: nothing starts, and what a schema would refuse is kept all
the same. `tests.support.chart` checks manifests against the schemas.
"""

import asyncio
import json
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from threading import Thread
from typing import Any, cast

import kmock
import yaml
from aiohttp.web import StreamResponse

_KUBECTL = Path(sys.executable).parent / "kubectl"
_VERBS = {"get", "list", "create", "patch", "delete"}
# Kinds of the operators that the chart speaks to; a cluster without them refuses their objects.
_CUSTOM = {
    "keda.sh/v1alpha1/scaledobjects": "ScaledObject",
    "keda.sh/v1alpha1/triggerauthentications": "TriggerAuthentication",
    "monitoring.coreos.com/v1/servicemonitors": "ServiceMonitor",
    "monitoring.coreos.com/v1/podmonitors": "PodMonitor",
    "monitoring.coreos.com/v1/prometheusrules": "PrometheusRule",
}


class _Emulator(kmock.KubernetesEmulator):
    """Remembers for itself only what is under way.

    It looks for each request among all that it remembers: 80 manifests took 18 s instead of 2.
    """

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.asked: list[kmock.Request] = []

    async def _handle(self, request: kmock.Request) -> StreamResponse:
        self.asked.append(request)
        try:
            return await super()._handle(request)
        finally:
            self._requests[:] = [other for other in self._requests if other is not request]


class Cluster:
    """The API server at `url`; `folder` holds the files that clients need."""

    def __init__(self, handler: _Emulator, url: str, folder: Path) -> None:
        self._handler = handler
        self.url = url
        self._folder = folder

    @property
    def kubeconfig(self) -> Path:
        """A file that leads clients here, without a login."""
        path = self._folder / "kubeconfig"
        named = {"name": "emulated"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{**named, "cluster": {"server": self.url}}],
            "users": [{**named, "user": {}}],
            "contexts": [{**named, "context": {"cluster": "emulated", "user": "emulated"}}],
            "current-context": "emulated",
        }
        path.write_text(yaml.safe_dump(config), "utf-8")
        return path

    def kubectl(self, *arguments: str, manifests: Iterable[Mapping[str, Any]]) -> list[str]:
        """The lines that kubectl says of `manifests`, its input; it succeeds."""
        told = "\n---\n".join(json.dumps(manifest) for manifest in manifests)
        done = subprocess.run(
            [_KUBECTL, *arguments, "--cache-dir", self._folder / "discovery", "-f", "-"],
            input=told,
            env={"HOME": str(self._folder), "KUBECONFIG": str(self.kubeconfig)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    def objects(self, plural: str, namespace: str) -> list[dict[str, Any]]:
        """What it holds of a resource, as URLs name it, in the order of creation."""
        return [
            kept.raw
            for (resource, where, _), kept in self._handler.objects.items()
            if (resource.plural, where) == (plural, namespace) and not kept.deleted
        ]

    def everything(self) -> dict[str, Any]:
        """All objects by resource, namespace and name, as they are now."""
        return {
            f"{resource.plural} {namespace}/{name}": deepcopy(kept.raw)
            for (resource, namespace, name), kept in self._handler.objects.items()
            if not kept.deleted
        }

    def asked(self) -> set[tuple[str, str, str]]:
        """Verb, API group and resource (`pods/log`) of all requests, as Roles name them."""
        return {
            (_verb(request), resource.group or "", _resource(resource.plural, request))
            for request in self._handler.asked
            if (resource := request.resource) is not None and resource.plural is not None
        }


def _verb(request: kmock.Request) -> str:
    if request.method == kmock.method.GET:
        return "list" if request.name is None else "get"
    return {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}[
        request.method.value
    ]


def _resource(plural: str, request: kmock.Request) -> str:
    return f"{plural}/{request.subresource}" if request.subresource else plural


@contextmanager
def emulated_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster without any object; it ends with the block."""
    handler = _handler()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        async with handler, kmock.Server(handler) as server:
            started.set_result((asyncio.get_running_loop(), stop, str(server.url).rstrip("/")))
            await stop.wait()

    thread = Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    loop, stop, url = started.result(timeout=30)
    try:
        yield Cluster(handler, url, folder)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)


def _handler() -> _Emulator:
    handler = _Emulator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of how the library reads its own file
        handler.resources.load_bundled()
    for resource, kind in _CUSTOM.items():
        handler.resources[resource] = kmock.ResourceInfo(
            kind=kind, singular=kind.lower(), namespaced=True, verbs=_VERBS
        )
    # Wider for who puts something in: it is looked up by other forms, too.
    known = cast("dict[kmock.resource, kmock.ResourceInfo]", dict(handler.resources))
    core = [
        {
            "name": resource.plural,
            "kind": info.kind,
            "singularName": info.singular,
            "namespaced": info.namespaced,
            "verbs": sorted(info.verbs),
        }
        for resource, info in known.items()
        if (resource.group, resource.version) == ("", "v1")
    ]
    # The emulator's own answer names the group version "/v1", and kubectl finds no kind in it.
    handler["get", "/api/v1"] << {
        "apiVersion": "v1",
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": core,
    }
    return handler
