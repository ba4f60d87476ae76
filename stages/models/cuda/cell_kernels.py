"""Triton kernels of an LSTM's steps on a GPU, where launches and memory traffic cost as much as products.

`forward_step` is the recurrent product of a step and, on the tile that it leaves in registers, the cell of
`lstm_equations.py`: the product never reaches memory. A tile holds all four gates of the same units: weights (4H, H)
are read as (4, H, H), BLOCK_UNITS rows of each gate. Without a product (`HAS_STATE` false) it is the cell alone.
`backward_step` is the cell backward alone: its product, of four times the depth and a quarter of the width, is faster
by the library. `sum_over_time` makes the gradients of biases and peepholes of all steps in one pass; each program has
sums of its own, so that results are equal from run to run.

Shapes: G groups, T steps, B batch, H units, K = 4H gates (i, f, a, o), R runs of rows.
"""

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def _dot(left, right, total):
    """Adds left times right; float32 operands are not rounded to TF32."""
    if left.dtype == tl.float32:
        return tl.dot(left, right, total, input_precision="ieee")
    return tl.dot(left, right, total)


@triton.jit
def forward_step(
    h_rows,  # descriptor of the h before, as rows: (rows, H), tiles (BLOCK_ROWS, BLOCK_INNER)
    weights,  # descriptor of the recurrent weights: (4G, H, H), tiles (4, BLOCK_UNITS, BLOCK_INNER)
    gates,  # (G, B, 4H): the input's share of the pre-activations where HAS_INPUT; becomes the gates
    bias,  # (G, 4H)
    peephole,  # (G, 3, H)
    c_before,  # (G, B, H)
    c,  # (G, B, H)
    h,  # (G, B, H)
    num_rows,  # B
    rows_h,  # rows from group to group in h_rows and h
    rows_c_before,  # the same in c_before
    rows_now,  # the same in gates and c
    NUM_UNITS: tl.constexpr,
    HAS_STATE: tl.constexpr,  # multiply h_rows by weights
    HAS_CELL: tl.constexpr,  # there is a c before
    HAS_INPUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_UNITS: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
):
    num_row_blocks = tl.cdiv(num_rows, BLOCK_ROWS)
    row = (tl.program_id(0) % num_row_blocks) * BLOCK_ROWS
    unit = (tl.program_id(0) // num_row_blocks) * BLOCK_UNITS
    group = tl.program_id(1).to(tl.int64)
    total = tl.zeros((BLOCK_ROWS, 4 * BLOCK_UNITS), tl.float32)
    if HAS_STATE:
        h_row = (group * rows_h + row).to(tl.int32)
        for inner in tl.range(0, NUM_UNITS, BLOCK_INNER):
            h_tile = h_rows.load([h_row, inner])
            w_tile = weights.load([(4 * group).to(tl.int32), unit, inner])
            total = _dot(h_tile, tl.reshape(w_tile, (4 * BLOCK_UNITS, BLOCK_INNER)).T, total)
    # Gates are runs of columns, 2 * high + low; splitting runs moves no data between threads.
    low, high = tl.split(tl.permute(tl.reshape(total, (BLOCK_ROWS, 2, 2, BLOCK_UNITS)), (0, 3, 1, 2)))
    i, a = tl.split(low)
    f, o = tl.split(high)

    rows = row + tl.arange(0, BLOCK_ROWS)
    units = unit + tl.arange(0, BLOCK_UNITS)
    inside = (rows < num_rows)[:, None] & (units < NUM_UNITS)[None, :]
    in_units = units < NUM_UNITS
    rows = rows.to(tl.int64)
    gates += (group * rows_now + rows[:, None]) * (4 * NUM_UNITS) + units[None, :]
    at = (group * rows_now + rows[:, None]) * NUM_UNITS + units[None, :]
    bias += group * 4 * NUM_UNITS + units
    peephole += group * 3 * NUM_UNITS + units
    i += tl.load(bias, in_units)[None, :]
    f += tl.load(bias + NUM_UNITS, in_units)[None, :]
    a += tl.load(bias + 2 * NUM_UNITS, in_units)[None, :]
    o += tl.load(bias + 3 * NUM_UNITS, in_units)[None, :]
    if HAS_INPUT:
        i += tl.load(gates, inside).to(tl.float32)
        f += tl.load(gates + NUM_UNITS, inside).to(tl.float32)
        a += tl.load(gates + 2 * NUM_UNITS, inside).to(tl.float32)
        o += tl.load(gates + 3 * NUM_UNITS, inside).to(tl.float32)
    a = _tanh(a)
    if HAS_CELL:
        before = tl.load(c_before + (group * rows_c_before + rows[:, None]) * NUM_UNITS + units[None, :], inside)
        i = _sigmoid(i + before * tl.load(peephole, in_units)[None, :])
        f = _sigmoid(f + before * tl.load(peephole + NUM_UNITS, in_units)[None, :])
        c_now = f * before + i * a
    else:
        i = _sigmoid(i)
        f = _sigmoid(f)
        c_now = i * a
    o = _sigmoid(o + c_now * tl.load(peephole + 2 * NUM_UNITS, in_units)[None, :])
    small = gates.dtype.element_ty
    tl.store(gates, i.to(small), inside)
    tl.store(gates + NUM_UNITS, f.to(small), inside)
    tl.store(gates + 2 * NUM_UNITS, a.to(small), inside)
    tl.store(gates + 3 * NUM_UNITS, o.to(small), inside)
    tl.store(c + at, c_now, inside)
    h += (group * rows_h + rows[:, None]) * NUM_UNITS + units[None, :]
    tl.store(h, (o * _tanh(c_now)).to(small), inside)


@triton.jit
def backward_step(
    dh_after,  # (G, B, H) contiguous: what reaches h from the step after, where HAS_AFTER
    dh_above,  # (G, B, H): what reaches h from above, where HAS_ABOVE
    gates,  # (G, B, 4H)
    c_before,  # (G, B, H)
    c,  # (G, B, H)
    peephole,  # (G, 3, H)
    dc,  # (G, B, H) contiguous: what reaches c from the step after; becomes what reaches the c before
    d_gates,  # (G, B, 4H)
    num_rows,  # B
    rows_above,  # rows from group to group in dh_above
    rows_c_before,  # the same in c_before
    rows_now,  # the same in gates, c and d_gates
    NUM_UNITS: tl.constexpr,
    HAS_AFTER: tl.constexpr,
    HAS_ABOVE: tl.constexpr,
    HAS_CELL: tl.constexpr,  # there is a c before
    BLOCK_ROWS: tl.constexpr,
    BLOCK_UNITS: tl.constexpr,
):
    num_row_blocks = tl.cdiv(num_rows, BLOCK_ROWS)
    rows = (tl.program_id(0) % num_row_blocks) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    units = (tl.program_id(0) // num_row_blocks) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)
    group = tl.program_id(1).to(tl.int64)
    in_units = units < NUM_UNITS
    inside = (rows < num_rows)[:, None] & in_units[None, :]
    rows = rows.to(tl.int64)
    here = group * rows_now + rows[:, None]
    at = (group * num_rows + rows[:, None]) * NUM_UNITS + units[None, :]
    gates += here * (4 * NUM_UNITS) + units[None, :]
    d_gates += here * (4 * NUM_UNITS) + units[None, :]
    peephole += group * 3 * NUM_UNITS + units
    # All loads come first: none waits for a store.
    i = tl.load(gates, inside).to(tl.float32)
    f = tl.load(gates + NUM_UNITS, inside).to(tl.float32)
    a = tl.load(gates + 2 * NUM_UNITS, inside).to(tl.float32)
    o = tl.load(gates + 3 * NUM_UNITS, inside).to(tl.float32)
    tanh_c = _tanh(tl.load(c + here * NUM_UNITS + units[None, :], inside))
    dc_now = tl.load(dc + at, inside)
    dh = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), tl.float32)
    if HAS_AFTER:
        dh += tl.load(dh_after + at, inside).to(tl.float32)
    if HAS_ABOVE:
        above = dh_above + (group * rows_above + rows[:, None]) * NUM_UNITS + units[None, :]
        dh += tl.load(above, inside).to(tl.float32)
    if HAS_CELL:
        before = tl.load(c_before + (group * rows_c_before + rows[:, None]) * NUM_UNITS + units[None, :], inside)
    else:
        before = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), tl.float32)
    do = dh * tanh_c * o * (1.0 - o)
    dc_now += dh * o * (1.0 - tanh_c * tanh_c) + do * tl.load(peephole + 2 * NUM_UNITS, in_units)[None, :]
    di = dc_now * a * i * (1.0 - i)
    df = dc_now * before * f * (1.0 - f)
    da = dc_now * i * (1.0 - a * a)
    dc_before = dc_now * f + di * tl.load(peephole, in_units)[None, :]
    dc_before += df * tl.load(peephole + NUM_UNITS, in_units)[None, :]
    small = gates.dtype.element_ty
    tl.store(d_gates, di.to(small), inside)
    tl.store(d_gates + NUM_UNITS, df.to(small), inside)
    tl.store(d_gates + 2 * NUM_UNITS, da.to(small), inside)
    tl.store(d_gates + 3 * NUM_UNITS, do.to(small), inside)
    tl.store(dc + at, dc_before, inside)


@triton.jit
def sum_over_time(
    d_gates,  # (G, T * B, 4H)
    c_first,  # (G, B, H), where HAS_FIRST
    c,  # (G, T * B, H)
    sums,  # (G, R, 7, H): of each run of rows; biases of i, f, a, o, then peepholes to i, f, o
    batch,  # B
    num_rows,  # T * B
    num_blocks,  # of rows, a program
    NUM_UNITS: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_UNITS: tl.constexpr,
):
    group = tl.program_id(2).to(tl.int64)
    units = tl.program_id(0) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)
    in_units = units < NUM_UNITS
    nothing = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), tl.float32)
    sum_i, sum_f, sum_a, sum_o, to_i, to_f, to_o = nothing, nothing, nothing, nothing, nothing, nothing, nothing
    start = tl.program_id(1) * num_blocks * BLOCK_ROWS
    end = start + num_blocks * BLOCK_ROWS
    while start < end:
        rows = start + tl.arange(0, BLOCK_ROWS)
        inside = (rows < num_rows)[:, None] & in_units[None, :]
        rows = rows.to(tl.int64)
        d_tile = d_gates + (group * num_rows + rows[:, None]) * (4 * NUM_UNITS) + units[None, :]
        di = tl.load(d_tile, inside, other=0.0).to(tl.float32)
        df = tl.load(d_tile + NUM_UNITS, inside, other=0.0).to(tl.float32)
        da = tl.load(d_tile + 2 * NUM_UNITS, inside, other=0.0).to(tl.float32)
        do = tl.load(d_tile + 3 * NUM_UNITS, inside, other=0.0).to(tl.float32)
        c_tile = c + (group * num_rows + rows[:, None]) * NUM_UNITS + units[None, :]
        c_now = tl.load(c_tile, inside, other=0.0)
        later = inside & (rows >= batch)[:, None]
        before = tl.load(c_tile - batch * NUM_UNITS, later, other=0.0)
        if HAS_FIRST:
            c_at = c_first + (group * batch + rows[:, None]) * NUM_UNITS + units[None, :]
            before += tl.load(c_at, inside & (rows < batch)[:, None], other=0.0)
        sum_i += di
        sum_f += df
        sum_a += da
        sum_o += do
        to_i += di * before
        to_f += df * before
        to_o += do * c_now
        start += BLOCK_ROWS
    sums += (group * tl.num_programs(1) + tl.program_id(1)) * 7 * NUM_UNITS + units
    tl.store(sums, tl.sum(sum_i, 0), in_units)
    tl.store(sums + NUM_UNITS, tl.sum(sum_f, 0), in_units)
    tl.store(sums + 2 * NUM_UNITS, tl.sum(sum_a, 0), in_units)
    tl.store(sums + 3 * NUM_UNITS, tl.sum(sum_o, 0), in_units)
    tl.store(sums + 4 * NUM_UNITS, tl.sum(to_i, 0), in_units)
    tl.store(sums + 5 * NUM_UNITS, tl.sum(to_f, 0), in_units)
    tl.store(sums + 6 * NUM_UNITS, tl.sum(to_o, 0), in_units)
