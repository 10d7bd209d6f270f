"""`fwt doctor`: what is installed here, on which devices, and what to install."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import Any

from fwt import environment
from fwt.cli import options


def report() -> dict[str, Any]:
    """Every backend of the registry: its versions and devices, or why it is not there."""
    from fwt import backends
    from fwt.fwcore.errors import BackendError

    found: dict[str, Any] = {}
    for name in backends.BACKENDS:
        try:
            backend = backends.load(name)
            found[name] = {
                "ready": True,
                **backend.versions(),
                "devices": backend.devices(),
                "fused": backend.fused(),
                "memory_gib": round(backend.memory_bytes("auto") / 2**30, 1),
            }
        except BackendError as error:
            found[name] = {"ready": False, "why": str(error)}
    return {
        "fwt": version("fwt"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": environment.commit(),
        "precision": "highest: float32 products in float32, TF32 off",
        "backends": found,
    }


def doctor(as_json: options.AsJson = False, debug: options.Debug = False) -> None:
    """Say what is installed, on which device and in which precision, and what to install."""
    facts = report()
    if as_json:
        print(json.dumps(facts))
        return
    print(f"fwt    {facts['fwt']}  commit {facts['commit'] or 'none'}")
    print(f"python {facts['python']}  {facts['platform']}")
    print(f"precision {facts['precision']}")
    for name, backend in facts["backends"].items():
        if not backend["ready"]:
            print(f"{name:<6} missing: {backend['why']}")
            continue
        devices = ", ".join(backend["devices"])
        print(f"{name:<6} {backend[name]}  devices: {devices}  memory {backend['memory_gib']} GiB")
        for device, kernel in backend["fused"].items():
            print(f"       fused core on {device}: {kernel}")
