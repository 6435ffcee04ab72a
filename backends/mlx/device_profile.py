"""Constants that trade launches, copies, bytes and host time against each other, by the kind of device that they suit.

What is cheap on a CPU is dear on a GPU: there one more attention call is a product over fewer padded keys, here it is a
launch that costs more than reading them. None of these change what is computed, but for the rounding of other kernels.
A profile is chosen at load: by name, by the environment's `GREENROOM_DEVICE_PROFILE`, or else by the device that MLX
computes on. So every figure that is counted in a graph can be counted for a GPU on any machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from greenroom.backends.mlx.device import uses_cpu
from greenroom.errors import InvalidParameter
from greenroom.values import choice

__all__ = ["CPU", "CUDA", "METAL", "DeviceProfile", "choose_profile"]

_VARIABLE = "GREENROOM_DEVICE_PROFILE"


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One kind of device; beside each figure stands where it is from."""

    name: str
    attention_call_cost: int
    """What one more attention call costs, in tokens of KV that one row would read in the same time."""
    shared_least: int
    """Tokens: a beginning that rows have in common is held once if that saves so many, else copied for each of them."""
    expands_masks: bool
    """Whether attention copies a mask to every head at each call: then it is made for all of them, once a pass."""
    prompt_chunk: int
    """Tokens of a prompt that are run at once where nobody waits for the pass."""
    dispatch_blocks: bool
    """Whether handing a pass to the device waits for most of it."""
    computes_float32: bool
    """Whether weights that are not quantized are computed with in float32."""
    exponential_cost: int
    """Multiplications of a matrix product that take as long as one exponential."""
    draws_on_host: bool
    """Whether exponentials over the vocabulary, and the draw from them, are taken in numpy."""
    fuses_sampling: bool
    """Whether sampling is laid out for few launches: elementwise chains are compiled, and vocabularies sorted."""
    flattens_entries: bool
    """Whether entries of a packed pass are rows of one matrix to quantized layers: else they are n products there."""
    mask: Literal["caps", "kernel", "bools"]
    """How a mask that forbids many tokens is laid over logits."""
    compiles_late: bool
    """Whether kernels are compiled when they are first used: then that is at load, before a request waits for it."""


CPU = DeviceProfile(
    name="cpu",
    attention_call_cost=128,  # measured: two cores, `benchmarks/ragged.py`
    shared_least=256,  # measured: the same, `benchmarks/branches.py`
    expands_masks=False,
    prompt_chunk=512,  # measured: two cores, a prompt of 4,096 tokens; 1,024 and 2,048 are no faster and take memory
    dispatch_blocks=True,  # measured: `async_eval` returns once some tens of operations are left
    computes_float32=True,  # half-precision products do not use the BLAS
    exponential_cost=600,  # measured: 25 ns, at about 50 GFLOP/s
    draws_on_host=True,  # measured: MLX's exp takes 13 to 25 ns there, numpy's 1
    fuses_sampling=False,  # there a launch is a call, and sorting a vocabulary takes longer than thirty sweeps over it
    flattens_entries=False,
    mask="caps",  # measured: choosing by bools takes 4 ns a logit, the smaller of two numbers less than one
    compiles_late=False,
)
METAL = DeviceProfile(
    name="metal",
    attention_call_cost=1 << 16,  # read in MLX's source: its vector kernel does not read masked keys; a launch is 3 µs
    shared_least=4300,  # derived: eight more launches of 4 µs a layer, against 4 KB a token and layer at 400 GB/s
    expands_masks=True,  # read in MLX's source: its vector kernel takes one row of a mask for each head
    prompt_chunk=2048,  # mlx-lm's own; not measured: others report a fifth more tokens a second for mixtures of experts
    dispatch_blocks=False,  # read in MLX's source: commands are encoded, and not waited for
    computes_float32=False,
    exponential_cost=0,
    draws_on_host=False,
    fuses_sampling=True,  # counted: `benchmarks/launches.py`, a launch being 3 µs
    flattens_entries=False,  # read in MLX's source: it does so itself
    mask="kernel",
    compiles_late=True,  # read in MLX's source: a pipeline is made at the first launch of a kernel, some from source
)
CUDA = DeviceProfile(
    name="cuda",
    attention_call_cost=128,  # as on a CPU: its kernels read masked keys; not measured
    shared_least=4300,  # as on Metal: not measured
    expands_masks=False,  # not measured
    prompt_chunk=2048,  # mlx-lm's own; not measured
    dispatch_blocks=False,
    computes_float32=False,
    exponential_cost=0,
    draws_on_host=False,
    fuses_sampling=True,  # as on Metal: not measured
    flattens_entries=True,  # read in MLX's source: a product's rows are the last axis but one alone
    mask="bools",
    compiles_late=True,  # read in MLX's source: modules are compiled, and graphs made, at the first launch
)
_BY_NAME = {profile.name: profile for profile in (CPU, METAL, CUDA)}


def choose_profile(asked: DeviceProfile | str | None = None) -> DeviceProfile:
    """The profile that is asked for, by the caller or by the environment; else that of the device.

    Raises `InvalidParameter` for a name that is none.
    """
    if isinstance(asked, DeviceProfile):
        return asked
    if asked is not None:
        choice("device_profile", asked, list(_BY_NAME))
    name = asked or os.environ.get(_VARIABLE)
    if name:
        if name not in _BY_NAME:
            raise InvalidParameter("device_profile" if asked else _VARIABLE, name, " or ".join(map(repr, _BY_NAME)))
        return _BY_NAME[name]
    if uses_cpu():
        return CPU
    return METAL if mx.metal.is_available() else CUDA
