"""The machine, what is installed on it, and what MLX computes on; only the last two checks import MLX."""

from __future__ import annotations

import importlib.metadata
import os
import platform

from greenroom.backends.host import is_mac, physical_memory, sysctl
from greenroom.doctor.findings import Figure, Finding

__all__ = ["check_device", "check_machine", "check_masks"]

_PACKAGES = ("greenroom", "mlx", "mlx-metal", "mlx-cuda-13", "mlx-cuda-12", "mlx-lm", "transformers", "numpy")
_PACKAGES_BESIDE = ("llguidance", "anyio", "trio")
_LEAST_MACOS = 14


def check_machine() -> Finding:
    """Versions and kinds. Wrong is a Mac on which MLX has no Metal: an old macOS, or a Python of another processor."""
    is_translated = bool(sysctl("sysctl.proc_translated"))
    figures: dict[str, Figure] = {
        "system": _system(),
        "architecture": platform.machine(),
        "is_translated": is_translated,
        "cores": os.cpu_count(),
        "memory_bytes": physical_memory(),
        "wired_limit_mb": sysctl("iogpu.wired_limit_mb"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for package in (*_PACKAGES, *_PACKAGES_BESIDE):
        if (found := _version(package)) is not None:
            figures[package] = found
    named = ", ".join(f"{name} {figures[name]}" for name in ("greenroom", "mlx", "mlx-lm") if name in figures)
    summary = f"{figures['system']}, {figures['architecture']}, {figures['python']}, {named}"
    if problem := _problem(is_translated=is_translated):
        return Finding(check="machine", status="wrong", summary=f"{problem} ({summary})", figures=figures)
    return Finding(check="machine", status="ok", summary=summary, figures=figures)


def _problem(*, is_translated: bool) -> str | None:
    if not is_mac():
        return None
    if is_translated or platform.machine() != "arm64":
        return "this Python is not arm64 (it runs under Rosetta, or on an Intel Mac): MLX needs an arm64 one"
    version = platform.mac_ver()[0]
    if int(version.partition(".")[0] or _LEAST_MACOS) < _LEAST_MACOS:
        return f"macOS {version} is too old: MLX needs macOS {_LEAST_MACOS} or newer"
    return None


def _system() -> str:
    if is_mac():
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_device() -> Finding:
    """What MLX computes on. Raises where it cannot be imported."""
    from greenroom.backends.mlx.diagnostics.hardware import describe_hardware

    found = describe_hardware()
    remarks = []
    if found.has_metal and found.kind == "cpu":
        remarks.append("MLX computes on the CPU, though there is Metal")
    if found.blas in {"absent", "off", "too_late"} and found.kind == "cpu":
        remarks.append(f"OpenBLAS is {found.blas}: products on this CPU are slow")
    summary = f"{found.kind} ({found.name}), profile {found.profile}"
    if found.recommended:
        summary += f", {found.recommended / 1e9:.1f} GB recommended"
    return Finding(
        check="device",
        status="note" if remarks else "ok",
        summary="; ".join([summary, *remarks]),
        figures={
            "name": found.name,
            "kind": found.kind,
            "profile": found.profile,
            "blas": found.blas,
            "recommended_bytes": found.recommended,
            "memory_bytes": found.memory,
        },
    )


def check_masks() -> Finding:
    """Metal's mask kernel beside the portable way, where it is used."""
    from greenroom.backends.mlx.diagnostics.hardware import describe_hardware, find_wrong_masks

    hardware = describe_hardware()
    if not hardware.has_metal or hardware.kind == "cpu":
        return Finding(check="masks", status="skipped", summary="Metal's mask kernel is not used here")
    if wrong := find_wrong_masks():
        widths = ", ".join(map(str, wrong))
        return Finding(check="masks", status="wrong", summary=f"Metal's kernel is wrong at a vocabulary of {widths}")
    return Finding(check="masks", status="ok", summary="Metal's kernel lays masks as the portable way does")
