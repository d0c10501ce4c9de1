"""Rules for pods, of the chart's workloads and of the Jobs that Dagster makes at run time alike.

Each rule returns what breaks it.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from tests.support.chart import Pod

Wrong = list[tuple[str, str, Any]]  # container, what, as it is

_QUANTITY = re.compile(r"^(\d+(?:\.\d+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
_UNITS = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** n for n, unit in enumerate(["", "k", "M", "G", "T", "P"])},
    **{f"{unit}i": Decimal(1024) ** n for n, unit in enumerate(["", "K", "M", "G", "T", "P"]) if n},
}
_LOCKED = {
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "privileged": None,
}
# Where a process writes. Not DAGSTER_HOME: with its stores and logs elsewhere Dagster only reads.
_WRITTEN = ("RAIDHUB_HOME", "MANIFEST_DIR", "CHEAT_MODEL_DIR", "TMPDIR", "HOME")
_SECRET = re.compile(r"PASSWORD|PASS$|SECRET|TOKEN|API_KEY|WEBHOOK")


def amount(quantity: object) -> Decimal:
    """Cores or bytes. Fails for what the API server refuses (`1Gii`), which no schema does."""
    parts = _QUANTITY.match(str(quantity))
    assert parts is not None, f"{quantity!r} is no quantity"
    return Decimal(parts[1]) * _UNITS[parts[2] or ""]


def unlocked(pods: Iterable[Pod]) -> Wrong:
    """Of the `restricted` pod security standard, a root file system that only reads, and a user."""
    wrong: Wrong = []
    for pod in pods:
        shared = pod.spec.get("securityContext", {})
        for container in pod.containers:
            name = f"{pod}/{container['name']}"
            seen = {**shared, **container.get("securityContext", {})}
            wrong += [(name, k, seen.get(k)) for k, v in _LOCKED.items() if seen.get(k) != v]
            if not seen.get("runAsUser"):
                wrong.append((name, "runAsUser", seen.get("runAsUser")))
    return wrong


def unbounded(pods: Iterable[Pod]) -> Wrong:
    """Requests of cpu and memory, and a limit of memory not below."""
    wrong: Wrong = []
    for pod in pods:
        for container in pod.containers:
            resources = container.get("resources", {})
            requests, limits = resources.get("requests", {}), resources.get("limits", {})
            if (
                not {"cpu", "memory"} <= requests.keys()
                or "memory" not in limits
                or any(amount(requests.get(k, v)) > amount(v) for k, v in limits.items())
                or any(amount(quantity) <= 0 for quantity in requests.values())
            ):
                wrong.append((f"{pod}/{container['name']}", "resources", resources))
    return wrong


def unversioned(pods: Iterable[Pod]) -> Wrong:
    """An image is of one release: a tag that is not `latest`, or a digest."""
    wrong: Wrong = []
    for pod in pods:
        for container in pod.containers:
            image = container["image"]
            tag = image.rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in image and tag in ("", "latest"):
                wrong.append((f"{pod}/{container['name']}", "image", image))
    return wrong


def written_secrets(pods: Iterable[Pod]) -> Wrong:
    """Secrets come by reference; a manifest is kept in Helm's history and in people's terminals."""
    return [
        (f"{pod}/{container['name']}", variable["name"], variable["value"])
        for pod in pods
        for container in pod.containers
        for variable in container.get("env", [])
        if "value" in variable and _SECRET.search(variable["name"])
    ]


def unwritable(pods: Iterable[Pod]) -> Wrong:
    """Folders that a process is told to write to lie on a volume."""
    wrong: Wrong = []
    for pod in pods:
        for container in pod.containers:
            mounts = [
                mount["mountPath"]
                for mount in container.get("volumeMounts", [])
                if not mount.get("readOnly")
            ]
            for variable in container.get("env", []):
                path = variable.get("value", "")
                if variable["name"] in _WRITTEN and not any(
                    f"{path}/".startswith(f"{mount}/") for mount in mounts
                ):
                    wrong.append((f"{pod}/{container['name']}", variable["name"], path))
    return wrong
