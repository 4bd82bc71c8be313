"""3x3 convolutions by discrete Fourier transforms of small tiles.

A tile of 8 x 8 cells has 64 frequencies: 4 that are real and 30 that are complex, each with its
conjugate beside. The complex products take three real ones, by Gauss: 94 products for 36 outputs,
where the sum over the kernel takes 324. Rounding errors are no larger than there, as the transforms
keep lengths. "FFT convolutions are faster than Winograd on modern CPUs", arXiv 1809.07851.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

_PERIOD = 8  # of the transforms, along each side


class _Tiling(NamedTuple):
    """How a map is cut.

    Attributes:
      step: outputs along a side of a tile.
      halo: cells that a tile reads beyond its outputs, on each side.
      rows: tiles from top to bottom.
      columns: from left to right.
    """

    step: int
    halo: int
    rows: int
    columns: int


def num_tiles(height: int, width: int) -> int:
    """Tiles of a map: what the transform of the kernel is shared by."""
    tiling = _tile(height, width)
    return tiling.rows * tiling.columns


def _tile(height: int, width: int) -> _Tiling:
    if max(height, width) < _PERIOD:
        return _Tiling(_PERIOD - 1, 0, 1, 1)  # beyond the map is zero, which needs no cells
    step = _PERIOD - 2
    return _Tiling(step, 1, -(-height // step), -(-width // step))


def conv3x3(maps: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """What `tf.nn.conv2d` with stride 1 and padding "SAME" gives, up to rounding.

    On a CPU it takes about half of the time where there are hundreds of tiles and of channels: RoI
    crops, or the large maps of a pyramid. Accelerators have better ways of their own.

    Args:
      maps: [b, h, w, c], h and w known.
      kernel: [3, 3, c, k] of the same dtype.

    Returns:
      [b, h, w, k].
    """

    height, width, channels = maps.shape[1:]
    tiling = _tile(height, width)
    read, of_kernel, written = (tf.constant(form, maps.dtype) for form in _bilinear_form(tiling))

    def factors_of(kernel: tf.Tensor) -> tf.Tensor:
        return _linear(of_kernel, tf.reshape(kernel, [9, channels, -1]))  # [f, c, k]

    @tf.custom_gradient
    def convolution(
        maps: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        # Not before the maps are there: the transforms of all kernels would be kept until then.
        with tf.control_dependencies([maps]):
            factors = factors_of(kernel)
        frequencies: list[tf.Tensor] = []
        outputs: list[tf.Tensor] = []
        cells, parts = _cut(maps, tiling, tiling.halo)
        for tiles in parts:
            with tf.control_dependencies(outputs[-1:]):
                frequencies.append(_linear(read, tf.gather(cells, tiles)))  # [f, n, c]
                outputs.append(_linear(written, tf.matmul(frequencies[-1], factors)))
        # Twice as much as the map: worth it where a map takes half of what it takes in float32.
        kept = frequencies if maps.dtype.size < 4 else None

        def gradient(of_outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.control_dependencies([of_outputs]):
                factors = factors_of(kernel)
            of_maps: list[tf.Tensor] = []
            of_kernels: list[tf.Tensor] = []
            cells, parts = _cut(maps, tiling, tiling.halo)
            of_cells, of_parts = _cut(of_outputs, tiling, 0)
            for i, (tiles, of_tiles) in enumerate(zip(parts, of_parts, strict=True)):
                # One after the other: what each needs meanwhile is larger than the maps.
                with tf.control_dependencies(of_maps[-1:] or [of_outputs]):
                    of_products = _linear(tf.transpose(written), tf.gather(of_cells, of_tiles))
                    frequencies = kept[i] if kept else _linear(read, tf.gather(cells, tiles))
                    of_factors = tf.matmul(frequencies, of_products, transpose_a=True)  # [f, c, k]
                    of_kernels.append(_linear(tf.transpose(of_kernel), of_factors))
                with tf.control_dependencies(of_kernels[-1:]):
                    of_frequencies = tf.matmul(of_products, factors, transpose_b=True)  # [f, n, c]
                    of_maps.append(_linear(tf.transpose(read), of_frequencies))
            of_kernel_ = tf.reshape(tf.add_n(of_kernels), kernel.shape)
            return _join(of_maps, tiling, tiling.halo, height, width), of_kernel_

        return _join(outputs, tiling, 0, height, width), gradient

    return convolution(maps, kernel)


def _linear(matrix: tf.Tensor, tiles: tf.Tensor) -> tf.Tensor:
    """[m, n] of [n, tiles, c] to [m, tiles, c]."""
    results = tf.matmul(matrix, tf.reshape(tiles, [matrix.shape[1], -1]))
    return tf.reshape(results, [matrix.shape[0], -1, tiles.shape[-1]])


def _cut(maps: tf.Tensor, tiling: _Tiling, halo: int) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Cells [n, c] of maps [b, h, w, c], and which of them tiles with a halo consist of.

    That is int32 [cells of a tile, tiles], some tiles after the other: frequencies of all would be
    several times as large as the maps. In 16 bits they are small enough.
    """
    _, height, width, channels = maps.shape
    step, _, rows, columns = tiling
    pads = [(halo, rows * step + halo - height), (halo, columns * step + halo - width)]
    if np.any(pads):
        maps = tf.pad(maps, [(0, 0), *pads, (0, 0)])
    b, (height, width) = tf.shape(maps)[0], maps.shape[1:3]
    inside = np.arange(step + 2 * halo)
    y = inside[:, None] + np.arange(rows) * step  # [cells, rows]
    x = inside[:, None] + np.arange(columns) * step
    index = y[:, None, :, None] * width + x[None, :, None, :]  # [cells, cells, rows, columns]
    index = index.reshape(len(inside) ** 2, 1, -1) + tf.range(b)[:, None] * (height * width)
    index = tf.reshape(index, [len(inside) ** 2, -1])
    num_parts = 1 if maps.dtype.size < 4 else 4
    ends = [i * tf.shape(index)[1] // num_parts for i in range(num_parts + 1)]
    parts = [index[:, start:end] for start, end in itertools.pairwise(ends)]
    return tf.reshape(maps, [-1, channels]), parts


def _join(parts: list[tf.Tensor], tiling: _Tiling, halo: int, height: int, width: int) -> tf.Tensor:
    """Maps [b, h, w, c] of the tiles that `_cut` takes: sums of those that overlap."""
    step, _, rows, columns = tiling
    side, channels = step + 2 * halo, parts[0].shape[-1]
    tiles = tf.reshape(tf.concat(parts, axis=1), [side, side, -1, rows, columns, channels])
    tiles = tf.transpose(tiles, [2, 3, 0, 4, 1, 5])  # [b, rows, side, columns, side, c]
    if halo:
        for cells in (2, 4):
            tiles = _add_overlaps(tiles, cells, step)
        rows, columns = rows + 1, columns + 1
    maps = tf.reshape(tiles, [-1, rows * step, columns * step, channels])
    return maps[:, halo : halo + height, halo : halo + width]


def _add_overlaps(tiles: tf.Tensor, axis: int, step: int) -> tf.Tensor:
    """Adds cells of a tile beyond `step` to the first of the next, of which there is one more."""
    own, beyond = tf.split(tiles, [step, -1], axis)
    pads = [[(0, 0)] * 6, [(0, 0)] * 6]
    pads[0][axis - 1] = (0, 1)
    pads[1][axis - 1] = (1, 0)
    pads[1][axis] = (0, step - beyond.shape[axis])
    return tf.pad(own, pads[0]) + tf.pad(beyond, pads[1])


@functools.cache
def _bilinear_form(tiling: _Tiling) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices of a convolution's bilinear form, f products being its rank.

    Returns:
      [f, read cells], [f, 9] and [outputs, f]: those of a tile and of the kernel, whose results are
      multiplied one by one, and that of the products, which gives the tile's outputs.
    """
    step, halo = tiling.step, tiling.halo
    of_tile, of_kernel, of_outputs = (
        _frequencies(cells)
        for cells in (np.arange(step + 2 * halo), 1 - np.arange(3), halo + np.arange(step))
    )
    read, kernel, written = [], [], []
    for row in range(_PERIOD):
        for column in range(_PERIOD):
            conjugate = (-row % _PERIOD, -column % _PERIOD)
            if conjugate < (row, column):
                continue
            x, w, y = (table[row, column] for table in (of_tile, of_kernel, of_outputs))
            y = y.conj() / _PERIOD**2
            if conjugate == (row, column):
                read.append(x.real)
                kernel.append(w.real)
                written.append(y.real)
                continue
            # (a + bi)(c + di) = c(a + b) - b(c + d) + (c(a + b) + a(d - c))i
            read += [x.real + x.imag, x.real, x.imag]
            kernel += [w.real, w.imag - w.real, w.real + w.imag]
            real, imaginary = 2 * y.real, -2 * y.imag  # this frequency's share and its conjugate's
            written += [real + imaginary, imaginary, -real]
    return np.array(read), np.array(kernel), np.array(written).T


def _frequencies(cells: np.ndarray) -> np.ndarray:
    """Complex [period, period, cells^2]: what each cell of a square adds to each frequency."""
    waves = np.exp(-2j * np.pi * np.outer(np.arange(_PERIOD), cells) / _PERIOD)  # [period, cells]
    return np.einsum("py,qx->pqyx", waves, waves).reshape(_PERIOD, _PERIOD, -1)
