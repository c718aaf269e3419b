"""The register tile: the one place where multiply-adds happen.

    c[i, n] = sum_k a(i, k) b[k, n]        i < m <= MR or MT,  n < NR

    a   m rows, elements broadcast            b   a panel: k rows of NR columns
    c   a panel: m rows of NR columns

               NR                  The m x NR/lanes accumulators stay in registers for all of k;
          k [ b    ]               each step loads NR/lanes vectors of b, broadcasts m elements of
       m [a][  c   ]               a, and does m x NR/lanes fused multiply-adds.

`tile_rows` is for states: a(i, k) = a[i * lda + k], the rows of b follow each other without a gap,
and the sums begin with start[n], a row of NR.
A single row has only two chains of sums and would wait for each multiply-add, so it may take two or
four panels at once, `stride` elements apart; c is then a row of two or four times NR columns.
`tile_columns` is for weight gradients, sums over many rows: a(i, k) = a[k * lanes + i], columns
packed side by side, the rows of b lie ldb elements apart, and after every `run` of terms the
accumulators are added to c and begin anew.

There is code for every m, and for panels of which only the first vector counts; the caller handles
other edges in n, and pads its panels with zeros.  A sum runs over k in the same order for any m, so
a row's result does not depend on its neighbours, to the bit.

A tile never loops over tiles, never threads, never validates.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbptt.kernels._machine import (
    VECTORS,
    WIDE,
    panel_columns,
    tile_columns_count,
    tile_rows_count,
)
from fastbptt.kernels._simd import (
    INT64,
    Vec,
    emit_load,
    emit_number,
    emit_splat,
    emit_store,
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


def _emit_products(builder, vector, begin, end, element, b, ldb, initial, stride=None):
    """One loop over k from begin to end, every accumulator a phi node; the sums after it."""
    n = vector.count
    m, vectors = len(initial), len(initial[0])
    before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.cbranch(builder.icmp_signed("<", begin, end), loop, after)

    builder.position_at_end(loop)
    step = builder.phi(INT64)
    acc = [[builder.phi(vector) for _ in range(vectors)] for _ in range(m)]
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
    return results


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


def _emit_columns(builder, vector, m, vectors, arguments):
    """Body of `tile_columns` for one m."""
    _, _, k, run, a, b, ldb, c = arguments

    def element(i, step):
        at = builder.add(builder.mul(step, INT64(vector.count)), INT64(i))
        return builder.gep(a, [at])

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


def _emit_call(context, builder, name, dtype, rows, wide, args, emit_one):
    """Call the tile, one LLVM function in each module that uses it.

    Its body is a jump to the loop for this m and for the vectors that n columns need.
    """
    name = f"{name}_{dtype}"
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
        function = ir.Function(builder.module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        _emit_body(function, ir_vector(dtype), rows, wide, emit_one)
    builder.call(function, args)
    return context.get_dummy_value()


def _emit_body(function, vector, rows, wide, emit_one):
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


@intrinsic
def tile_rows(typingctx, m, n, k, lda, a, b, start, stride, c):
    """c = start + a b for m rows and n columns, as the module says; a(i, k) = a[i * lda + k].

    With m = 1, n may be up to NR times the last of WIDE; then two or four whole panels are read.
    """

    def emit(context, builder, signature, args):
        dtype = signature.args[4].dtype
        rows = tile_rows_count()
        return _emit_call(context, builder, "tile_rows", dtype, rows, WIDE, args, _emit_rows)

    size = types.intp
    return types.void(size, size, size, size, a, b, start, size, c), emit


@intrinsic
def tile_columns(typingctx, m, n, k, run, a, b, ldb, c):
    """c = a b for m rows and n columns, as the module says; a(i, k) = a[k * lanes + i]."""

    def emit(context, builder, signature, args):
        dtype = signature.args[4].dtype
        rows = tile_columns_count(dtype.bitwidth // 8)
        return _emit_call(context, builder, "tile_columns", dtype, rows, (), args, _emit_columns)

    size = types.intp
    return types.void(size, size, size, size, a, b, size, c), emit
