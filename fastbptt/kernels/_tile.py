"""The register tile: the one place where multiply-adds happen.

    c[i, n] = sum_k a(i, k) b[k, n]        i < m <= MR or MT,  n < NR

    a   m rows, elements broadcast            b   a panel: k rows of NR columns
    c   a panel: m rows of NR columns

               NR                  The m x NR/lanes accumulators stay in registers for all of k;
          k [ b    ]               each step loads NR/lanes vectors of b, broadcasts m elements of
       m [a][  c   ]               a, and does m x NR/lanes fused multiply-adds.

`tile_rows` is for gradients of states and inputs: a(i, k) = a[i * lda + k], the rows of b follow
each other without a gap, and the sums begin with start[n], a row of NR.
`tile_states` is for states: a row of a is h_{t-1}, then x_t, each where it lies, then 1.  Small
layers take as long for tanh as for the products, since each waits for the other, and most of tanh
is not multiply-adds.  So beside its products a tile takes tanh of the one before; in each step over
k, the longer part of one vector's, and the rest of the one before, which have nothing to wait for.
That takes 10 cycles a vector, where it takes 18 between the tiles.
A single row has only two chains of sums and would wait for each multiply-add, so it may take two or
four panels at once, `stride` elements apart; c is then a row of two or four times NR columns.
`tile_columns` is for weight gradients, sums over many rows: a(i, k) = a[index[k] * lda + i], the
rows of b lie ldb elements apart, and after every `run` of terms the accumulators are added to c and
begin anew.

`scatter_rows` stores columns of c into rows that lie anywhere.

There is code for every m, and for panels of which only the first vector counts; the caller handles
other edges in n, and pads its panels with zeros.  A sum runs over k in the same order for any m, so
a row's result does not depend on its neighbours, to the bit.

A tile never loops over tiles, never threads, never validates.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbptt.kernels._activation import tanh_begin, tanh_end
from fastbptt.kernels._machine import (
    VECTORS,
    WIDE,
    panel_columns,
    spare_registers,
    tile_columns_count,
    tile_rows_count,
)
from fastbptt.kernels._simd import (
    INT64,
    Vec,
    emit_first,
    emit_load,
    emit_number,
    emit_splat,
    emit_store,
    emit_store_masked,
    ir_vector,
)


@intrinsic
def NR(typingctx, p):
    """Columns of a panel, a constant where compiled."""
    return emit_number(p, panel_columns(p.dtype.bitwidth // 8))


@intrinsic
def MR(typingctx, p):
    """Rows of `tile_rows`, a constant where compiled."""
    return emit_number(p, tile_rows_count())


@intrinsic
def MT(typingctx, p):
    """Rows of `tile_columns`, a constant where compiled."""
    return emit_number(p, tile_columns_count(p.dtype.bitwidth // 8))


def _emit_products(
    builder, vector, begin, end, element, b, ldb, initial, stride=None, beside=None, values=()
):
    """One loop over k from begin to end, every accumulator a phi node; the sums after it.

    `beside` emits what is done beside the products of a step: a function of values, at first those
    given, that returns those for the next step.  If there is one, the last follow the sums.
    """
    n = vector.count
    m, vectors = len(initial), len(initial[0])
    before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.cbranch(builder.icmp_signed("<", begin, end), loop, after)

    builder.position_at_end(loop)
    step = builder.phi(INT64)
    acc = [[builder.phi(vector) for _ in range(vectors)] for _ in range(m)]
    carried = [builder.phi(value.type) for value in values]
    following = beside(*carried) if beside else ()
    row = builder.gep(b, [builder.mul(step, ldb)])
    bs = []
    for j in range(vectors):
        if j and j % VECTORS == 0:  # the next panel
            row = builder.gep(row, [stride])
        bs.append(emit_load(builder, builder.gep(row, [INT64(j % VECTORS * n)]), vector))
    sums = []
    for i in range(m):
        a = emit_splat(builder, builder.load(element(i, step), align=1), vector)
        sums.append([a.fma(bs[j], Vec(builder, acc[i][j])).value for j in range(vectors)])
    next_step = builder.add(step, INT64(1), flags=("nsw", "nuw"))
    step.add_incoming(begin, before)
    step.add_incoming(next_step, loop)
    builder.cbranch(builder.icmp_signed("<", next_step, end), loop, after)

    builder.position_at_end(after)
    results = [[builder.phi(vector) for _ in range(vectors)] for _ in range(m)]
    for i in range(m):
        for j in range(vectors):
            acc[i][j].add_incoming(initial[i][j], before)
            acc[i][j].add_incoming(sums[i][j], loop)
            results[i][j].add_incoming(initial[i][j], before)
            results[i][j].add_incoming(sums[i][j], loop)
    last = [builder.phi(value.type) for value in values]
    for now, at_last, value, then in zip(carried, last, values, following, strict=True):
        for phi in now, at_last:
            phi.add_incoming(value, before)
            phi.add_incoming(then, loop)
    return (results, last) if beside else results


def _each(builder, c, vector, accumulators):
    """Every accumulator with the pointer to its place in c."""
    for i, row in enumerate(accumulators):
        for j, value in enumerate(row):
            yield builder.gep(c, [INT64((i * VECTORS + j) * vector.count)]), Vec(builder, value)


def _emit_rows(builder, vector, m, vectors, arguments):
    """Body of `tile_rows` for one m."""
    _, _, k, lda, a, b, start, stride, c = arguments
    rows = [builder.gep(a, [builder.mul(lda, INT64(i))]) for i in range(m)]

    def element(i, step):
        return builder.gep(rows[i], [step])

    first = [
        emit_load(builder, builder.gep(start, [INT64(j % VECTORS * vector.count)]), vector).value
        for j in range(vectors)
    ]
    ldb = INT64(VECTORS * vector.count)
    sums = _emit_products(builder, vector, INT64(0), k, element, b, ldb, [first] * m, stride)
    for place, value in _each(builder, c, vector, sums):
        emit_store(builder, value, place)


def _emit_states(builder, vector, m, vectors, arguments):
    """Body of `tile_states` for one m."""
    _, _, R, I, h, ldh, x, ldx, index, b, stride, z, count, left, waiting, out, ldo = arguments
    ldb = INT64(VECTORS * vector.count)

    def element_of(rows):
        return lambda i, step: builder.gep(rows[i], [step])

    hs = element_of([builder.gep(h, [builder.mul(ldh, INT64(i))]) for i in range(m)])
    done, sums = INT64(0), [[ir.Constant(vector, [0.0] * vector.count)] * vectors] * m
    if m >= tile_rows_count() // 2 and spare_registers():
        values, beside, end = _tanh_of_rows(builder, vector, waiting, ldh, out, ldo, left)
        done = count
        sums, last = _emit_products(
            builder, vector, INT64(0), done, hs, b, ldb, sums, stride, beside, values
        )
        end(*last)
    sums = _emit_products(builder, vector, done, R, hs, b, ldb, sums, stride)

    raw, xs = builder.bitcast(x, ir.IntType(8).as_pointer()), []
    for i in range(m):
        at = builder.mul(builder.load(builder.gep(index, [INT64(i)])), ldx)
        xs.append(builder.bitcast(builder.gep(raw, [at]), x.type))
    b = builder.gep(b, [builder.mul(ldb, R)])
    xs = element_of(xs)
    sums = _emit_products(builder, vector, INT64(0), I, xs, b, ldb, sums, stride)

    row = builder.gep(b, [builder.mul(ldb, I)])
    for j in range(vectors):
        if j and j % VECTORS == 0:  # the next panel
            row = builder.gep(row, [stride])
        bias = emit_load(builder, builder.gep(row, [INT64(j % VECTORS * vector.count)]), vector)
        for i in range(m):
            at = builder.add(builder.mul(ldh, INT64(i)), INT64(j * vector.count))
            emit_store(builder, Vec(builder, sums[i][j]) + bias, builder.gep(z, [at]))


class _Begun(NamedTuple):
    """A vector of which `tanh_begin` is done, and where the next one lies."""

    place: Any  # of the next
    leap: Any  # from there to the one after
    other_leap: Any  # from there back to this one, and from the one after to what follows
    to: Any  # likewise, where they are stored a second time
    leap_to: Any
    other_leap_to: Any
    mask: Any  # lanes that are stored, none if there is no such vector
    next_mask: Any
    mask_after: Any
    x: Any
    p: Any
    total: Any


def _tanh_of_rows(builder, vector, waiting, ldz, out, ldo, left):
    """What emits tanh of rows of z, a vector at a time: initial values, a step, and the end.

    A vector is begun in one step, and ended and stored in the next, so that what follows each
    other need not wait.  Of the rows' vectors, the first `left` numbers count: of one vector a row,
    or of two in turn.
    """
    lanes = INT64(vector.count)
    two = builder.icmp_signed(">", left, lanes)
    bits = ir.IntType(vector.count)  # masks as numbers: more of them fit

    def leaps(ld):
        """To the next vector, and from there to the one after."""
        return builder.select(two, lanes, ld), builder.select(two, builder.sub(ld, lanes), ld)

    first = builder.bitcast(emit_first(builder, left, vector), bits)
    second = builder.bitcast(emit_first(builder, builder.sub(left, lanes), vector), bits)
    second = builder.select(two, second, first)
    none = ir.Constant(vector, [0.0] * vector.count)
    values = _Begun(
        waiting, *leaps(ldz), out, *leaps(ldo), bits(0), first, second, none, none, none
    )

    def end(*values):
        v = _Begun(*values)
        f = tanh_end(*(Vec(builder, value) for value in (v.x, v.p, v.total)))
        mask = builder.bitcast(v.mask, ir.VectorType(ir.IntType(1), vector.count))
        for place, leap in (v.place, v.other_leap), (v.to, v.other_leap_to):
            emit_store_masked(builder, f, builder.gep(place, [builder.neg(leap)]), mask)

    def step(*values):
        end(*values)
        v = _Begun(*values)
        x = emit_load(builder, v.place, vector)
        p, total = tanh_begin(x)
        return _Begun(
            builder.gep(v.place, [v.leap]), v.other_leap, v.leap,
            builder.gep(v.to, [v.leap_to]), v.other_leap_to, v.leap_to,
            v.next_mask, v.mask_after, v.next_mask, x.value, p.value, total.value,
        )  # fmt: skip

    return values, step, end


def _emit_columns(builder, vector, m, vectors, arguments):
    """Body of `tile_columns` for one m."""
    _, _, k, run, a, lda, index, b, ldb, c = arguments

    def element(i, step):
        row = builder.load(builder.gep(index, [step]))
        return builder.gep(a, [builder.add(builder.mul(row, lda), INT64(i))])

    zeros = [[ir.Constant(vector, [0.0] * vector.count)] * vectors] * m
    for place, value in _each(builder, c, vector, zeros):
        emit_store(builder, value, place)

    before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    begin = builder.phi(INT64)
    end = builder.add(begin, run)
    end = builder.select(builder.icmp_signed("<", end, k), end, k)
    sums = _emit_products(builder, vector, begin, end, element, b, ldb, zeros)
    for place, value in _each(builder, c, vector, sums):
        emit_store(builder, emit_load(builder, place, vector) + value, place)
    begin.add_incoming(INT64(0), before)
    begin.add_incoming(end, builder.block)
    builder.cbranch(builder.icmp_signed("<", end, k), loop, after)
    builder.position_at_end(after)


def _emit_call(name, dtype, emit_body):
    """What emits calls of one LLVM function in each module that uses it."""
    name = f"{name}_{dtype}"

    def emit(context, builder, signature, args):
        function = builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
            function = ir.Function(builder.module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            # What is put on the stack for want of registers lies in whole lines.
            function.attributes.alignstack = 64
            emit_body(function, ir_vector(dtype))
        builder.call(function, args)
        return context.get_dummy_value()

    return emit


def _tile(rows, wide, emit_one):
    """What emits a tile's body: a jump to the loop for this m and the vectors of n columns."""

    def emit(function, vector):
        m, n = function.args[:2]
        builder = ir.IRBuilder(function.append_basic_block())
        impossible = builder.append_basic_block()
        for panels in reversed(wide):
            more, fewer = builder.append_basic_block(), builder.append_basic_block()
            limit = INT64(panels // 2 * VECTORS * vector.count)
            builder.cbranch(builder.icmp_signed(">", n, limit), more, fewer)
            builder.position_at_end(more)
            emit_one(builder, vector, 1, panels * VECTORS, function.args)
            builder.ret_void()
            builder.position_at_end(fewer)
        # case = (m - 1) * VECTORS + vectors - 1
        vectors = builder.zext(builder.icmp_signed(">", n, INT64(vector.count)), INT64)
        case = builder.add(builder.mul(builder.sub(m, INT64(1)), INT64(VECTORS)), vectors)
        switch = builder.switch(case, impossible)
        for number in range(rows * VECTORS):
            block = builder.append_basic_block()
            switch.add_case(INT64(number), block)
            builder.position_at_end(block)
            emit_one(builder, vector, number // VECTORS + 1, number % VECTORS + 1, function.args)
            builder.ret_void()
        builder.position_at_end(impossible)
        builder.unreachable()

    return emit


@intrinsic
def tile_rows(typingctx, m, n, k, lda, a, b, start, stride, c):
    """c = start + a b for m rows and n columns, as the module says; a(i, k) = a[i * lda + k].

    With m = 1, n may be up to NR times the last of WIDE; then two or four whole panels are read.
    """

    size = types.intp
    signature = types.void(size, size, size, size, a, b, start, size, c)
    return signature, _emit_call("tile_rows", a.dtype, _tile(tile_rows_count(), WIDE, _emit_rows))


@intrinsic
def tile_states(
    typingctx, m, n, R, I, h, ldh, x, ldx, index, b, stride, z, count, left, waiting, out, ldo
):
    """z = h b[:R] + x b[R:R + I] + b[R + I] for m rows and n columns, as the module says.

    h, z : (m, ldh)
    x : row i begins index[i] * ldx bytes behind x
    waiting, out : rows of z of another tile, ldh and ldo elements apart.  tanh of `count` <= R of
        their vectors goes to where they are, and to `out`.  There are as many in a row as `left`,
        the columns from here on, needs, or two.  None (0), if m is less than half of MR, which
        would not be worth its code, or there are no `spare_registers`.

    With m = 1, n may be up to NR times the last of WIDE; then two or four whole panels are read.
    """

    size = types.intp
    signature = types.void(
        size, size, size, size, h, size, x, size, index, b, size, z, size, size, waiting, out, size
    )
    body = _tile(tile_rows_count(), WIDE, _emit_states)
    return signature, _emit_call("tile_states", h.dtype, body)


@intrinsic
def tile_columns(typingctx, m, n, k, run, a, lda, index, b, ldb, c):
    """c = a b for m rows and n columns, as the module says; a(i, k) = a[index[k] * lda + i]."""

    size, rows = types.intp, tile_columns_count(a.dtype.bitwidth // 8)
    signature = types.void(size, size, size, size, a, size, index, b, size, c)
    return signature, _emit_call("tile_columns", a.dtype, _tile(rows, (), _emit_columns))


@intrinsic
def scatter_rows(typingctx, m, c, begin, end, index, out, size):
    """out[index[i], j - begin] = c[i, j] for i < m and begin <= j < end; rows of out have `size`.

    A function of its own: what is about it has no registers to spare.
    """
    INT = types.intp
    signature = types.void(INT, c, INT, INT, index, out, INT)
    return signature, _emit_call("scatter_rows", c.dtype, _emit_scatter)


def _emit_scatter(function, vector):
    """Body of `scatter_rows`: a loop for each set of vectors that the columns may lie in.

    Whole vectors are stored as such: they may be lines that need not be read before.
    """
    m, c, begin, end, index, out, size = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    lanes = vector.count

    def mask(j):
        """The lanes of vector j that are stored."""
        first, last = (
            emit_first(builder, builder.sub(limit, INT64(j * lanes)), vector)
            for limit in (begin, end)
        )
        return builder.and_(last, builder.not_(first))

    def store_rows(masks):
        """Store the vectors in `masks`, whole where there is None."""
        before, loop = builder.block, builder.append_basic_block()
        after = builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        i = builder.phi(INT64)
        row = builder.gep(c, [builder.mul(i, INT64(VECTORS * lanes))])
        to = builder.mul(builder.load(builder.gep(index, [i])), size)
        to = builder.gep(out, [builder.sub(to, begin)])
        for j, some in masks.items():
            at = INT64(j * lanes)
            value, place = emit_load(builder, builder.gep(row, [at]), vector), builder.gep(to, [at])
            if some is None:
                emit_store(builder, value, place)
            else:
                emit_store_masked(builder, value, place, some)
        following = builder.add(i, INT64(1))
        i.add_incoming(INT64(0), before)
        i.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, m), loop, after)
        builder.position_at_end(after)

    for first in range(VECTORS):
        for last in range(first, VECTORS):
            low, high = INT64(first * lanes), INT64((last + 1) * lanes)
            here = builder.and_(
                builder.icmp_unsigned("<", builder.sub(begin, low), INT64(lanes)),
                builder.icmp_unsigned("<", builder.sub(high, end), INT64(lanes)),
            )
            whole = builder.and_(
                builder.icmp_signed("==", begin, low), builder.icmp_signed("==", end, high)
            )
            vectors = range(first, last + 1)
            with builder.if_then(here), builder.if_else(whole) as (then, otherwise):
                with then:
                    store_rows(dict.fromkeys(vectors))
                with otherwise:
                    store_rows({j: mask(j) for j in vectors})
    builder.ret_void()
