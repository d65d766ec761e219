"""The compiled loops: arrays in, arrays out.

Separate because this is the only code that numba compiles. Sequential kernels that
release the GIL, so any number of threads may run them at once; parallel ones abort the
process when two threads start them. Know nothing of angles, events or handlers.

Arguments of both kernels, M being the rows to write: ``lower`` and ``upper`` (S, X)
uint16 or float32, the two planes that the rows lie between; ``voxels`` (M, 2), ``rows``
(M, 4) and ``weights`` (M, 4) of a :class:`~opm_engine.processing.taps.TapTable`;
``slabs`` (n,) uint64, the addresses of slabs of ``slab_rows`` rows along Y, in each of
which ``pitch`` rows lie from one z to the next. All contiguous. The caller keeps the
slabs alive.

The loops over pixels are written as LLVM vectors as long as a cache line, which LLVM
splits where the processor's are shorter. Their stores are *streamed*: they send whole
lines to memory without reading them first, which numba cannot say by itself.
``docs/decisions/0020`` tells what that is worth. Both halves are in one file because
numba's cache only notices that a kernel has to be compiled anew when its own file
changes.
"""
# mypy: disable-error-code="call-arg, no-untyped-def, no-untyped-call"
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import carray, njit, types, uint64  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

_compiled = njit(nogil=True, cache=True)

_LINE_BYTES = 64
_LINE = _LINE_BYTES // 2
"""Pixels of uint16 in a cache line."""

_U8, _U16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32 = ir.FloatType()

# Counts are summed from the middle of their range, which halves float32's rounding.
_MIDDLE = 32768.0
# A float32 of this size has no fraction: adding it rounds to nearest, and leaves the
# whole number in the low bits.
_ROUNDER = 2.0**23 + _MIDDLE

_N_AHEAD = 4
"""How many camera rows ahead both planes are fetched."""


@intrinsic
def _pointer(typing_context, address):
    """Take a uint64 for an address."""

    def emit(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), emit


@intrinsic
def _settle(typing_context):
    """Wait until all that was streamed has arrived, for whoever reads it next."""

    def emit(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), emit


@intrinsic
def _clear_lines(typing_context, out, start, stop):
    """Stream zeros to pixels start to stop of a row, whole lines."""

    def emit(context, builder, signature, arguments):
        out, start, stop = arguments
        with _pixels(builder, start, stop, _LINE) as (x, _):
            _store(builder, _all(_U16, _LINE, 0), _at(builder, out, x, 2), stream=True)
        return context.get_dummy_value()

    return types.none(types.uint64, types.uint64, types.uint64), emit


def _make_mix(name: str, width: int, stream: bool):
    """Make the loop that writes pixels of a row, ``width`` of them at a time."""

    def typed(typing_context, kind, rows, weights, out, raised, start, stop, ahead):
        """Write pixels ``start`` to ``stop`` of a row; return the highest.

        ``kind``: any number of the samples' type, uint16 or float32. ``rows``: the
        addresses of four rows of samples, of which ``weights`` is the share.
        ``out``: address of the row. ``raised``: addresses of rows that are raised to
        it. ``ahead``: distance in bytes to the samples that are fetched meanwhile.
        """

        def emit(context, builder, signature, arguments):
            rows, weights, raised = (
                cgutils.unpack_tuple(builder, arguments[n]) for n in (1, 2, 4)
            )
            out, start, stop, ahead = (arguments[n] for n in (3, 5, 6, 7))
            weights = [_spread(builder, weight, width) for weight in weights]
            sample = context.get_value_type(kind)
            highest = cgutils.alloca_once_value(builder, _all(_U16, width, 0))
            with _pixels(builder, start, stop, width) as (x, _):
                for row in (rows[1], rows[3]) if stream else ():
                    _fetch(builder, builder.add(row, ahead), x, sample, width)
                value = _mixed(builder, rows, weights, x, sample)
                _store(builder, value, _at(builder, out, x, 2), stream=stream)
                for row in raised:
                    address = _at(builder, row, x, 2)
                    before = _load(builder, address, value.type, 2)
                    _store(builder, _larger(builder, before, value), address)
                before = builder.load(highest)
                builder.store(_larger(builder, before, value), highest)
            return _call(
                builder,
                f"llvm.vector.reduce.umax.v{width}i16",
                _U16,
                [builder.load(highest)],
            )

        places = types.uint64, raised, types.uint64, types.uint64, types.uint64
        return types.uint16(kind, rows, weights, *places), emit

    typed.__name__ = typed.__qualname__ = name
    return intrinsic(typed)


def _mixed(builder, rows, weights, x, sample):
    """Weighted sum of samples, rounded to nearest; float samples are clipped."""
    width = weights[0].type.count
    is_float = sample == _F32
    size = 4 if is_float else 2
    total = _all(_F32, width, -_MIDDLE)
    for row, weight in zip(rows, weights, strict=True):
        address = _at(builder, row, x, size)
        value = _load(builder, address, ir.VectorType(sample, width), size)
        if not is_float:
            value = builder.uitofp(value, total.type)
        name = f"llvm.fmuladd.v{width}f32"
        total = _call(builder, name, total.type, [value, weight, total])
    if is_float:
        low, high = (_all(_F32, width, bound) for bound in (-_MIDDLE, _MIDDLE - 1))
        total = builder.select(builder.fcmp_ordered(">", total, low), total, low)
        total = builder.select(builder.fcmp_ordered("<", total, high), total, high)
    total = builder.fadd(total, _all(_F32, width, _ROUNDER))
    halves = builder.bitcast(total, ir.VectorType(_U16, 2 * width))
    low_halves = ir.Constant(ir.VectorType(_I32, width), [*range(0, 2 * width, 2)])
    return builder.shuffle_vector(halves, halves, low_halves)


def _pixels(builder, start, stop, width):
    """Loop over x, which is given to the body, from start on, before stop."""
    step = ir.Constant(_I64, width)
    return cgutils.for_range_slice(builder, start, stop, step, inc=True)


def _at(builder, address, x, size):
    return builder.add(address, builder.mul(x, ir.Constant(_I64, size)))


def _fetch(builder, address, x, sample, width):
    """Fetch samples that are needed soon. Any address will do."""
    size = 4 if sample == _F32 else 2
    for offset in range(0, width * size, _LINE_BYTES):
        place = builder.add(_at(builder, address, x, size), ir.Constant(_I64, offset))
        to_read, to_keep, data = (ir.Constant(_I32, n) for n in (0, 3, 1))
        place = builder.inttoptr(place, _U8.as_pointer())
        arguments = [place, to_read, to_keep, data]
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), arguments)


def _load(builder, address, kind, align):
    loaded = builder.load(builder.inttoptr(address, kind.as_pointer()))
    loaded.align = align
    return loaded


def _store(builder, value, address, *, stream=False):
    place = builder.inttoptr(address, value.type.as_pointer())
    stored = builder.store(value, place, align=_LINE_BYTES if stream else 2)
    if stream:
        one = builder.module.add_metadata([ir.Constant(_I32, 1)])
        stored.set_metadata("nontemporal", one)


def _larger(builder, one, other):
    return builder.select(builder.icmp_unsigned(">", one, other), one, other)


def _all(kind, width, value):
    return ir.Constant(ir.VectorType(kind, width), [value] * width)


def _spread(builder, value, width):
    """Fill a vector with one value."""
    empty = ir.Constant(ir.VectorType(value.type, width), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, empty, _all(_I32, width, 0))


def _call(builder, name, returned, arguments):
    kind = ir.FunctionType(returned, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, arguments)


_mix_pixels = _make_mix("_mix_pixels", 1, stream=False)
_mix_line = _make_mix("_mix_line", _LINE, stream=False)
_stream_lines = _make_mix("_stream_lines", _LINE, stream=True)


@_compiled
def _pixels_to_line(address):
    """Return how many pixels of uint16 lie before the next beginning of a line."""
    return (uint64(0) - address) % uint64(_LINE_BYTES) // uint64(2)


@_compiled
def _mix_row(kind, rows, weights, out, raised, n_x, ahead):
    """Write a row of n_x pixels; return the highest. Arguments as in `_make_mix`."""
    none, line = uint64(0), uint64(_LINE)
    if n_x < line:
        return _mix_pixels(kind, rows, weights, out, raised, none, n_x, ahead)
    start = _pixels_to_line(out)
    stop = start + (n_x - start) // line * line
    highest = _stream_lines(kind, rows, weights, out, raised, start, stop, ahead)
    # Pixels outside of whole lines; some next to them are written once more.
    if start > none:
        value = _mix_line(kind, rows, weights, out, raised, none, line, ahead)
        highest = max(highest, value)
    if stop < n_x:
        value = _mix_line(kind, rows, weights, out, raised, n_x - line, n_x, ahead)
        highest = max(highest, value)
    return highest


@_compiled
def _memory(array):
    """Return where an array (n, X) begins, and how many bytes its rows take."""
    return uint64(array.ctypes.data), uint64(array.shape[1] * array.itemsize)


@_compiled
def _address_in(slabs, z, y, pitch, slab_rows, n_x):
    """Return where the row (X,) of voxels z, y begins."""
    row = uint64(z) * uint64(pitch) + uint64(y) % uint64(slab_rows)
    return slabs[uint64(y) // uint64(slab_rows)] + row * uint64(2 * n_x)


@_compiled
def _row_at(z, y, slabs, pitch, slab_rows, n_x):
    """Return the row (X,) of voxels z, y as an array."""
    address = _address_in(slabs, z, y, pitch, slab_rows, n_x)
    return carray(_pointer(address), (n_x,), np.uint16)


@_compiled
def _ahead(rows, plane):
    """Return the distance in bytes to the camera row that is fetched meanwhile.

    Rows are sorted along Z, so they go one way through the planes, of which the newer
    may not have come nearer than memory.
    """
    n_bytes = _N_AHEAD * plane.shape[1] * plane.itemsize
    falls = rows.shape[0] > 0 and rows[-1, 3] < rows[0, 3]
    return uint64(-n_bytes if falls else n_bytes)


# In the loops below arrays are only read and written element by element. What handles
# an array, or a part of one, counts references by locked instructions, each of which
# waits for all that was streamed.


@_compiled
def mix_rows(lower, upper, voxels, rows, weights, slabs, pitch, slab_rows):
    """Write the rows of a volume that lie between two planes."""
    n_x, ahead = uint64(lower.shape[1]), _ahead(rows, upper)
    (below, step), (above, _) = _memory(lower), _memory(upper)
    for i in range(voxels.shape[0]):
        z, y = uint64(voxels[i, 0]), uint64(voxels[i, 1])
        row = z * uint64(pitch) + y % uint64(slab_rows)
        out = slabs[y // uint64(slab_rows)] + row * n_x * uint64(2)
        a, b, c, d = rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3]
        taps = below + a * step, below + b * step, above + c * step, above + d * step
        shares = weights[i, 0], weights[i, 1], weights[i, 2], weights[i, 3]
        _mix_row(lower[0, 0], taps, shares, out, (), n_x, ahead)
    _settle()


@_compiled
def mix_rows_and_project(
    lower, upper, voxels, rows, weights, slabs, pitch, slab_rows, xy, xz, yz
):
    """Write the rows between two planes, and raise the maximum projections to them.

    ``xy`` (Y, X), ``xz`` (Z, X) and ``yz`` (Z, Y), uint16, are updated in place.
    """
    n_x, ahead = uint64(lower.shape[1]), _ahead(rows, upper)
    (below, step), (above, _) = _memory(lower), _memory(upper)
    (xy_memory, xy_step), (xz_memory, _) = _memory(xy), _memory(xz)
    for i in range(voxels.shape[0]):
        z, y = uint64(voxels[i, 0]), uint64(voxels[i, 1])
        row = z * uint64(pitch) + y % uint64(slab_rows)
        out = slabs[y // uint64(slab_rows)] + row * n_x * uint64(2)
        a, b, c, d = rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3]
        taps = below + a * step, below + b * step, above + c * step, above + d * step
        shares = weights[i, 0], weights[i, 1], weights[i, 2], weights[i, 3]
        raised = xy_memory + y * xy_step, xz_memory + z * xy_step
        yz[z, y] = _mix_row(lower[0, 0], taps, shares, out, raised, n_x, ahead)
    _settle()


@_compiled
def darken(volume, start, dark):
    """Write 0 to the rows of a volume (Z, Y, X) that a mask (Z, y) from start marks."""
    n_x, line = uint64(volume.shape[2]), uint64(_LINE)
    base = uint64(volume.ctypes.data)
    for z in range(dark.shape[0]):
        for y in range(dark.shape[1]):
            if dark[z, y]:
                row = uint64(z) * uint64(volume.shape[1]) + uint64(start + y)
                out = base + row * n_x * uint64(2)
                first = min(n_x, _pixels_to_line(out))
                last = first + (n_x - first) // line * line
                _clear_lines(out, first, last)
                for x in range(first):
                    volume[z, start + y, x] = 0
                for x in range(last, n_x):
                    volume[z, start + y, x] = 0
    _settle()
