"""The kernels of window attention, on tokens in the order of the map.

A program takes one block of queries (or keys) of one head in one window. The position of the window
on the map is computed, so that border windows and maps of any size need no index. The biases of a
query and a row of keys are contiguous in the table of offsets, whose last axis is reversed for
this, and are read in vectors. There is one copy of the table for each element of a vector, each
shifted by one more element, so that one copy is aligned for any query. The copies fit into the
caches, which an N x N bias would not. Softmax is computed block by block in base 2, and the
logarithm of its sum is kept for backward, which recomputes the scores (Dao et al., FlashAttention,
https://arxiv.org/abs/2205.14135).

Maps of fewer than three axes get leading axes of one token.
"""

import math

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(math.log2(math.e))
_TINY = tl.constexpr(1e-10)  # a vector whose squared length is smaller has no direction
# Sizes change from image to image, so kernels are not specialized for them.
SIZES = ('n0', 'n1', 'n2', 'f0', 'f1', 'f2', 'heads', 'tokens')
OFFSETS = ('t0', 't1', 't2')


@triton.jit
def _axis(place, n, m, f):
    """Start and size of a window along an axis; f: tokens that the first window lacks."""
    start = tl.maximum(place * m - f, 0)
    return start, tl.minimum(place * m - f + m, n) - start


@triton.jit
def _window(
    w, n0, n1, n2, f0, f1, f2, M0: tl.constexpr, M1: tl.constexpr, LAST: tl.constexpr
):  # fmt: skip
    """First token of window w of all maps, and the window's size along each axis.

    Tokens are counted in 32 bits: 2**31 tokens need 100 GB or more.
    """
    c0, c1, c2 = tl.cdiv(n0 + f0, M0), tl.cdiv(n1 + f1, M1), tl.cdiv(n2 + f2, LAST)
    w1 = w // c2
    start2, s2 = _axis(w - w1 * c2, n2, LAST, f2)
    w0 = w1 // c1
    start1, s1 = _axis(w1 - w0 * c1, n1, M1, f1)
    if M0 == 1:  # 2-D, or one frame: each frame is a map of its own
        plane, s0 = w0, 1
    else:
        image = w0 // c0
        start0, s0 = _axis(w0 - image * c0, n0, M0, f0)
        plane = image * n0 + start0
    return (plane * n1 + start1) * n2 + start2, s0, s1, s2


@triton.jit
def _indices(i, M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr):
    """Places of the tokens i of a window along its axes.

    Tokens are numbered as in a whole window. A row has LAST tokens and M2 numbers, LAST rounded up
    to a multiple of RUN. So all divisors are constants, and RUN numbers are of one row. A number
    past the window is past the end of axis 0, or of axis 1 if M0 is 1.
    """
    i = i.to(tl.uint32)  # the division of which takes fewer instructions
    row = (i // M2).to(tl.int32)
    i0 = row * 0 if M0 == 1 else (i // (M1 * M2)).to(tl.int32)
    return i0, row - i0 * M1, (i % M2).to(tl.int32)


@triton.jit
def _places(
    rows, i, s0, s1, s2, n1, n2, M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr
):  # fmt: skip
    """Offsets on the map of the tokens i after the first `rows` rows, and whether they exist."""
    i0, i1, i2 = _indices(i, M0, M1, M2)
    exists = (i0 < s0) & (i1 < s1 - rows) & (i2 < s2)
    return (i0 * n1 + i1) * n2 + i2, exists


@triton.jit
def _block(
    begin, first, s0, s1, s2, n1, n2,
    SIZE: tl.constexpr, M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr,
):  # fmt: skip
    """The tokens ``begin, ..., begin + SIZE - 1`` of a window whose first token is `first`.

    They are given as rows to skip, first token after these rows, tokens after these rows, their
    offsets from the first one on the map, and whether they exist. Where each block consists of
    whole rows, the tokens are the same for all blocks, so that the compiler moves what depends on
    them out of the loop. Elsewhere no rows are skipped.
    """
    if M0 == 1 and (SIZE % M2 == 0 and M1 * M2 % SIZE == 0):  # Triton 3.2 takes no chain of three
        rows = begin // M2
        i = tl.arange(0, SIZE)
    else:
        rows = 0
        i = begin + tl.arange(0, SIZE)
    offsets, exists = _places(rows, i, s0, s1, s2, n1, n2, M0, M1, M2)
    return rows, first + rows * n2, i, offsets, exists


@triton.jit
def _row_size(M2: tl.constexpr, RUN: tl.constexpr):
    """Elements in a row of offsets of the aligned table, padding included."""
    return (2 * M2 - 1 + RUN - 1 + RUN - 1) // RUN * RUN


@triton.jit
def _aligned_size(M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr, RUN: tl.constexpr):
    """Elements in one head's part of the aligned table."""
    return (2 * M0 - 1) * ((2 * M1 - 1) * RUN * _row_size(M2, RUN))


@triton.jit
def _query_at(i, M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr, RUN: tl.constexpr):
    """Index of the first bias of the queries i in a head's part; past the window, some index.

    Each skipped row of queries, see `_block`, adds `_row_size`; each one of keys subtracts it.
    """
    i0, i1, i2 = _indices(i, M0, M1, M2)
    row = tl.minimum((i0 + M0 - 1) * (2 * M1 - 1) + i1 + M1 - 1, (2 * M0 - 1) * (2 * M1 - 1) - 1)
    place = M2 - 1 - i2
    copy = place % RUN
    at = (copy * (2 * M0 - 1) * (2 * M1 - 1) + row) * _row_size(M2, RUN) + place - copy
    return tl.multiple_of(at, RUN)


@triton.jit
def _key_at(j, M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr, RUN: tl.constexpr):
    """Index of the keys j relative to `_query_at`; RUN keys are contiguous."""
    j0, j1, j2 = _indices(j, M0, M1, M2)
    row = tl.minimum(j0 * (2 * M1 - 1) + j1, (M0 - 1) * (2 * M1 - 1) + M1 - 1)
    return tl.max_contiguous(tl.multiple_of(j2 - row * _row_size(M2, RUN), RUN), RUN)


@triton.jit
def _numbered(s0, s1, M1: tl.constexpr, M2: tl.constexpr):
    """Exclusive upper bound of the token numbers in a window, see `_places`."""
    return ((s0 - 1) * M1 + s1) * M2


@triton.jit
def _program(
    n0, n1, n2, f0, f1, f2, M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr,
    LAST: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """First token, size and number of tokens of this program's window, and start of its block."""
    blocks = tl.cdiv(_numbered(tl.minimum(n0, M0), tl.minimum(n1, M1), M1, M2), SIZE)
    w = tl.program_id(0) // blocks
    first, s0, s1, s2 = _window(w, n0, n1, n2, f0, f1, f2, M0, M1, LAST)
    return first, s0, s1, s2, _numbered(s0, s1, M1, M2), tl.program_id(0) % blocks * SIZE


@triton.jit
def _load(pointer, first, tokens, valid, d, stride, HEAD: tl.constexpr):
    """Vectors of one head, of the tokens after the first one; zeros where there is no token."""
    there = valid[:, None] & (d < HEAD)[None, :]
    pointer += first.to(tl.int64) * stride
    at = pointer + (tokens.to(tl.int64) * stride)[:, None] + d[None, :]
    return tl.load(at, mask=there, other=0.0)


@triton.jit
def _store(pointer, first, tokens, valid, d, stride, values, HEAD: tl.constexpr):
    there = valid[:, None] & (d < HEAD)[None, :]
    pointer += first.to(tl.int64) * stride
    at = pointer + (tokens.to(tl.int64) * stride)[:, None] + d[None, :]
    tl.store(at, values, mask=there)


@triton.jit
def _directions(x, length=1.0):
    """Vectors of a length, in float32, and 1 / (length of x)."""
    x = x.to(tl.float32)
    square = tl.sum(x * x, 1)
    inverse = tl.where(square < _TINY, 0.0, tl.rsqrt(tl.maximum(square, _TINY)))
    return x * (inverse * length)[:, None], inverse


@triton.jit
def _through_direction(grad, unit, inverse):
    """Gradient of a vector, given that of its direction."""
    return (grad - unit * tl.sum(grad * unit, 1)[:, None]) * inverse[:, None]


@triton.jit
def _load_keys(
    qkv, bias, bias_q, begin, first, s0, s1, s2, n1, n2, d, C, HEAD: tl.constexpr,
    RUN: tl.constexpr, BK: tl.constexpr, M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr,
):  # fmt: skip
    """A block of keys: their directions, values, biases for all queries, and tokens on the map.

    Biases are -inf where there is no key.
    """
    rows, first, j, keys, exists = _block(begin, first, s0, s1, s2, n1, n2, BK, M0, M1, M2)
    k, _inverse = _directions(_load(qkv + C, first, keys, exists, d, 3 * C, HEAD))
    v = _load(qkv + 2 * C, first, keys, exists, d, 3 * C, HEAD)
    at = bias_q[:, None] + _key_at(j, M0, M1, M2, RUN)[None, :]
    b = (
        tl.load(bias - rows * _row_size(M2, RUN) + at)
        + tl.where(exists, 0.0, -float('inf'))[None, :]
    )
    return k.to(v.dtype), v, b, first + keys


@triton.jit
def _kept(seed, queries, keys, heads, head, tokens, dropout):
    """1 / (1 - dropout) for the probabilities that stay, 0 for those that are dropped.

    Every kernel gets the same value for the same pair of tokens of the map.
    """
    dropout = tl.cast(dropout, tl.float32)  # compiled graphs hand over float64
    pair = (queries.to(tl.int64)[:, None] * heads + head) * tokens + keys[None, :]
    return tl.where(tl.rand(tl.load(seed), pair) < dropout, 0.0, 1.0 / (1.0 - dropout))


@triton.jit(do_not_specialize=(*OFFSETS, 'numbers'))
def align_table(
    table, aligned, t0, t1, t2, numbers,
    M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr, RUN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Make RUN shifted copies of each head's table, scaled to base 2; 0 outside of the table."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head, i = at // _aligned_size(M0, M1, M2, RUN), at % _aligned_size(M0, M1, M2, RUN)
    rows, row = (2 * M0 - 1) * (2 * M1 - 1), i // _row_size(M2, RUN)
    place = i % _row_size(M2, RUN) + row // rows  # along the last axis, reversed
    d0 = row % rows // (2 * M1 - 1) - M0 + 1 + t0 // 2
    d1 = row % rows % (2 * M1 - 1) - M1 + 1 + t1 // 2
    d2 = M2 - 1 - place + t2 // 2
    there = (d0 >= 0) & (d0 < t0) & (d1 >= 0) & (d1 < t1) & (d2 >= 0) & (d2 < t2)
    b = tl.load(
        table + ((head * t0 + d0) * t1 + d1) * t2 + d2, mask=there & (at < numbers), other=0.0
    )
    tl.store(aligned + at, b * _LOG2_E, mask=at < numbers)


@triton.jit(do_not_specialize=SIZES)
def attend_forward(
    qkv, aligned, scale, seed, out, lse, dropout,
    n0, n1, n2, f0, f1, f2, heads, tokens,
    M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr, LAST: tl.constexpr,
    HEAD: tl.constexpr, WIDTH: tl.constexpr, RUN: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """A program: (block of queries, window), head."""
    first, s0, s1, s2, n, start = _program(n0, n1, n2, f0, f1, f2, M0, M1, M2, LAST, BQ)
    head = tl.program_id(1)
    if start >= n:  # a border window has fewer tokens
        return
    C = heads * HEAD
    qkv += head * HEAD
    d = tl.arange(0, WIDTH)
    rows_q, first_q, i, queries, i_there = _block(start, first, s0, s1, s2, n1, n2, BQ, M0, M1, M2)
    row = _load(qkv, first_q, queries, i_there, d, 3 * C, HEAD)
    q, _inverse_q = _directions(row, tl.load(scale + head) * _LOG2_E)
    q = q.to(row.dtype)
    bias = aligned + head * _aligned_size(M0, M1, M2, RUN) + rows_q * _row_size(M2, RUN)
    bias_q = _query_at(i, M0, M1, M2, RUN)
    largest = tl.full([BQ], -float('inf'), tl.float32)
    total = tl.zeros([BQ], tl.float32)
    acc = tl.zeros([BQ, WIDTH], tl.float32)
    for begin in range(0, n, BK):
        k, v, b, keys = _load_keys(
            qkv, bias, bias_q, begin, first, s0, s1, s2, n1, n2, d, C, HEAD, RUN, BK, M0, M1, M2
        )
        scores = tl.dot(q, tl.trans(k), b, input_precision=PRECISION)
        new = tl.maximum(largest, tl.max(scores, 1))
        p = tl.exp2(scores - new[:, None])
        shrunk = tl.exp2(largest - new)
        total = total * shrunk + tl.sum(p, 1)
        if DROP:
            p *= _kept(seed, first_q + queries, keys, heads, head, tokens, dropout)
        acc = acc * shrunk[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        largest = new
    _store(out + head * HEAD, first_q, queries, i_there, d, C, acc / total[:, None], HEAD)
    tl.store(lse + head * tokens + first_q + queries, largest + tl.log2(total), mask=i_there)


@triton.jit(do_not_specialize=SIZES)
def attend_backward_q(
    qkv, aligned, scale, seed, out, lse, grad, d_qkv, d_scale, delta, dropout,
    n0, n1, n2, f0, f1, f2, heads, tokens,
    M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr, LAST: tl.constexpr,
    HEAD: tl.constexpr, WIDTH: tl.constexpr, RUN: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """A program: (block of queries, window), head; stores sum(grad * out) for the other kernels."""
    first, s0, s1, s2, n, start = _program(n0, n1, n2, f0, f1, f2, M0, M1, M2, LAST, BQ)
    head = tl.program_id(1)
    part = d_scale + head * tl.num_programs(0) + tl.program_id(0)
    if start >= n:
        tl.store(part, 0.0)
        return
    C = heads * HEAD
    qkv += head * HEAD
    d = tl.arange(0, WIDTH)
    rows_q, first_q, i, queries, i_there = _block(start, first, s0, s1, s2, n1, n2, BQ, M0, M1, M2)
    row = _load(qkv, first_q, queries, i_there, d, 3 * C, HEAD)
    s = tl.load(scale + head)
    q, _inverse_q = _directions(row, s * _LOG2_E)
    q = q.to(row.dtype)
    g = _load(grad + head * HEAD, first_q, queries, i_there, d, C, HEAD)
    o = _load(out + head * HEAD, first_q, queries, i_there, d, C, HEAD)
    products = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
    at_q = head * tokens + first_q + queries
    tl.store(delta + at_q, products, mask=i_there)
    log_sum = tl.load(lse + at_q, mask=i_there, other=float('inf'))
    bias = aligned + head * _aligned_size(M0, M1, M2, RUN) + rows_q * _row_size(M2, RUN)
    bias_q = _query_at(i, M0, M1, M2, RUN)
    acc = tl.zeros([BQ, WIDTH], tl.float32)
    for begin in range(0, n, BK):
        k, v, b, keys = _load_keys(
            qkv, bias, bias_q, begin, first, s0, s1, s2, n1, n2, d, C, HEAD, RUN, BK, M0, M1, M2
        )
        scores = tl.dot(q, tl.trans(k), b, input_precision=PRECISION)
        p = tl.exp2(scores - log_sum[:, None])
        d_p = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        if DROP:
            d_p *= _kept(seed, first_q + queries, keys, heads, head, tokens, dropout)
        d_scores = p * (d_p - products[:, None])
        acc += tl.dot(d_scores.to(k.dtype), k, input_precision=PRECISION)
    # loaded again, not kept in registers throughout the loop
    unit, inverse = _directions(_load(qkv, first_q, queries, i_there, d, 3 * C, HEAD))
    tl.store(part, tl.sum(tl.sum(unit * acc, 1), 0))
    d_q = _through_direction(acc * s, unit, inverse)
    _store(d_qkv + head * HEAD, first_q, queries, i_there, d, 3 * C, d_q, HEAD)


@triton.jit(do_not_specialize=SIZES)
def attend_backward_kv(
    qkv, aligned, scale, seed, lse, grad, d_qkv, delta, dropout,
    n0, n1, n2, f0, f1, f2, heads, tokens,
    M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr, LAST: tl.constexpr,
    HEAD: tl.constexpr, WIDTH: tl.constexpr, RUN: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """A program: (block of keys, window), head; scores are [queries, keys]."""
    first, s0, s1, s2, n, start = _program(n0, n1, n2, f0, f1, f2, M0, M1, M2, LAST, BK)
    head = tl.program_id(1)
    if start >= n:
        return
    C = heads * HEAD
    qkv += head * HEAD
    grad += head * HEAD
    d = tl.arange(0, WIDTH)
    rows_k, first_k, j, keys, j_there = _block(start, first, s0, s1, s2, n1, n2, BK, M0, M1, M2)
    row = _load(qkv + C, first_k, keys, j_there, d, 3 * C, HEAD)
    k, _inverse_k = _directions(row)
    k = k.to(row.dtype)
    v = _load(qkv + 2 * C, first_k, keys, j_there, d, 3 * C, HEAD)
    s = tl.load(scale + head)
    bias = aligned + head * _aligned_size(M0, M1, M2, RUN) - rows_k * _row_size(M2, RUN)
    bias_k = _key_at(j, M0, M1, M2, RUN)
    d_k = tl.zeros([BK, WIDTH], tl.float32)
    d_v = tl.zeros([BK, WIDTH], tl.float32)
    for begin in range(0, n, BQ):
        rows_q, first_q, i, queries, i_there = _block(
            begin, first, s0, s1, s2, n1, n2, BQ, M0, M1, M2
        )
        row_q = _load(qkv, first_q, queries, i_there, d, 3 * C, HEAD)
        q, _inverse_q = _directions(row_q, s * _LOG2_E)
        q = q.to(k.dtype)
        g = _load(grad, first_q, queries, i_there, d, C, HEAD)
        at_q = head * tokens + first_q
        products = tl.load(delta + at_q + queries, mask=i_there, other=0.0)
        log_sum = tl.load(lse + at_q + queries, mask=i_there, other=float('inf'))
        bias_q = _query_at(i, M0, M1, M2, RUN) + rows_q * _row_size(M2, RUN)
        b = tl.load(bias + (bias_q[:, None] + bias_k[None, :]))
        scores = tl.dot(q, tl.trans(k), b, input_precision=PRECISION)
        p = tl.exp2(scores - log_sum[:, None])  # 0 where there is no query
        d_p = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        shown = p
        if DROP:
            kept = _kept(seed, first_q + queries, first_k + keys, heads, head, tokens, dropout)
            d_p *= kept
            shown = p * kept
        d_v += tl.dot(tl.trans(shown.to(g.dtype)), g, input_precision=PRECISION)
        d_scores = p * (d_p - products[:, None])
        d_k += tl.dot(tl.trans(d_scores.to(q.dtype)), q, input_precision=PRECISION)
    # loaded again, as above; without a barrier the compiler would keep the first copy
    tl.debug_barrier()
    unit, inverse = _directions(_load(qkv + C, first_k, keys, j_there, d, 3 * C, HEAD))
    d_k = _through_direction(d_k * (1.0 / _LOG2_E), unit, inverse)
    d_qkv += head * HEAD
    _store(d_qkv + C, first_k, keys, j_there, d, 3 * C, d_k, HEAD)
    _store(d_qkv + 2 * C, first_k, keys, j_there, d, 3 * C, d_v, HEAD)


@triton.jit(do_not_specialize=(*SIZES, *OFFSETS, 'windows', 'first_head'))
def attend_backward_pairs(
    qkv, aligned, scale, seed, lse, grad, pairs, delta, dropout,
    n0, n1, n2, f0, f1, f2, heads, tokens, t0, t1, t2, windows, first_head,
    M0: tl.constexpr, M1: tl.constexpr, M2: tl.constexpr, LAST: tl.constexpr,
    HEAD: tl.constexpr, WIDTH: tl.constexpr, RUN: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """A program: tile of (queries, keys) of the largest window, head, share of the windows.

    It sums the gradients of its scores over its windows, into `pairs` ``(shares, heads, n, n)``.
    """
    tile, share, shares = tl.program_id(0), tl.program_id(2), tl.num_programs(2)
    head = first_head + tl.program_id(1)
    e0, e1, e2 = (t0 + 1) // 2, (t1 + 1) // 2, (t2 + 1) // 2
    n, C = _numbered(e0, e1, M1, M2), heads * HEAD
    d = tl.arange(0, WIDTH)
    i = tile // tl.cdiv(n, BK) * BQ + tl.arange(0, BQ)
    j = tile % tl.cdiv(n, BK) * BK + tl.arange(0, BK)
    queries, _i_whole = _places(0, i, e0, e1, e2, n1, n2, M0, M1, M2)
    keys, _j_whole = _places(0, j, e0, e1, e2, n1, n2, M0, M1, M2)
    qkv += head * HEAD
    at = _query_at(i, M0, M1, M2, RUN)[:, None] + _key_at(j, M0, M1, M2, RUN)[None, :]
    b = tl.load(aligned + head * _aligned_size(M0, M1, M2, RUN) + at)
    s = tl.load(scale + head)
    acc = tl.zeros([BQ, BK], tl.float32)
    for w in range(share, windows, shares):
        first, s0, s1, s2 = _window(w, n0, n1, n2, f0, f1, f2, M0, M1, LAST)
        _i_in, i_there = _places(0, i, s0, s1, s2, n1, n2, M0, M1, M2)
        _j_in, j_there = _places(0, j, s0, s1, s2, n1, n2, M0, M1, M2)
        row = _load(qkv, first, queries, i_there, d, 3 * C, HEAD)
        q, _inverse_q = _directions(row, s * _LOG2_E)
        q = q.to(row.dtype)
        k, _inverse_k = _directions(_load(qkv + C, first, keys, j_there, d, 3 * C, HEAD))
        v = _load(qkv + 2 * C, first, keys, j_there, d, 3 * C, HEAD)
        g = _load(grad + head * HEAD, first, queries, i_there, d, C, HEAD)
        at_q = head * tokens + first + queries
        products = tl.load(delta + at_q, mask=i_there, other=0.0)
        log_sum = tl.load(lse + at_q, mask=i_there, other=float('inf'))
        bias = b + tl.where(j_there, 0.0, -float('inf'))[None, :]
        scores = tl.dot(q, tl.trans(k.to(q.dtype)), bias, input_precision=PRECISION)
        p = tl.exp2(scores - log_sum[:, None])
        d_p = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        if DROP:
            d_p *= _kept(seed, first + queries, first + keys, heads, head, tokens, dropout)
        acc += p * (d_p - products[:, None])
    row = (share * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * n + i
    tl.store(pairs + row[:, None] * n + j[None, :], acc, mask=(i < n)[:, None] & (j < n)[None, :])


@triton.jit(do_not_specialize=(*OFFSETS, 'shares', 'first_head'))
def fold_pairs(
    pairs, d_table, t0, t1, t2, shares, first_head,
    M1: tl.constexpr, M2: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program: some offsets along the last axis, one offset along each other axis, one head.

    It sums `pairs` ``(shares, heads, n, n)`` over the pairs of tokens at each of these offsets.
    """
    e0, e1, e2 = (t0 + 1) // 2, (t1 + 1) // 2, (t2 + 1) // 2
    n, heads = _numbered(e0, e1, M1, M2), tl.num_programs(1)
    d0, d1 = tl.program_id(0) // t1 - t0 // 2, tl.program_id(0) % t1 - t1 // 2
    c0, c1 = e0 - tl.abs(d0), e1 - tl.abs(d1)  # rows of queries with a row of keys at this offset
    offsets = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    queries = shares * c0 * c1 * e2
    acc = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(0, queries, ROWS):
        t = begin + tl.arange(0, ROWS)
        r, i2 = t // e2, t % e2
        i0, i1 = tl.maximum(d0, 0) + r // c1 % c0, tl.maximum(d1, 0) + r % c1
        i = (i0 * M1 + i1) * M2 + i2
        j = ((i0 - d0) * M1 + i1 - d1) * M2
        j2 = i2[:, None] - (offsets - t2 // 2)[None, :]
        at = (((r // (c0 * c1)) * heads + tl.program_id(1)).to(tl.int64) * n + i) * n + j
        there = (t < queries)[:, None] & (j2 >= 0) & (j2 < e2)
        acc += tl.load(pairs + at[:, None] + j2, mask=there, other=0.0)
    d_table += ((first_head + tl.program_id(1)) * t0 * t1 + tl.program_id(0)) * t2
    tl.store(d_table + offsets, tl.sum(acc, 0), mask=offsets < t2)
