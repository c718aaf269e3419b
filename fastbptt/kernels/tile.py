"""The register tile: the one place where multiply-adds happen.

    c[i, n] = start[n] + sum_k a(i, k) b[k, n]        i < m <= MR,  n < NR

    a   m rows, elements broadcast            b   a panel: k rows of NR columns, contiguous
    c   a panel: m rows of NR columns         start   NR elements

               NR                  The m x NR/lanes accumulators stay in registers for all of k;
          k [ b    ]               each step loads NR/lanes vectors of b, broadcasts m elements of
       m [a][  c   ]               a, and does m x NR/lanes fused multiply-adds.

`tile_rows` reads a(i, k) = a[i * lda + k], rows of states; `tile_columns` a(i, k) = a[k * lanes + i],
columns packed side by side, for products that sum over rows.  There is code for every m and for
panels of which only the first vector counts; edges in n beyond that are the caller's, whose panels
are padded with zeros.  A sum runs over k in order, one accumulator an element, whatever m is: a
row's result does not depend on its neighbours, to the bit.

A tile never loops over tiles, never threads, never validates.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from fastbptt.kernels.simd import (
    INT64,
    Vec,
    emit_load,
    emit_splat,
    emit_store,
    ir_vector,
    lanes,
    target,
)

# 8 x 2 accumulators keep two 512-bit FMA units busy (2 units x 4 cycles of latency = 8 at least)
# within 32 registers; 6 x 2 fill 12 of the 16 that AVX2 has.
VECTORS = 2


def tile_rows_count():
    return 8 if target()[0] == 64 else 6


def tile_columns_count(dtype):
    return min(8 if target()[0] == 64 else 4, lanes(dtype))


def NR(p):
    """Columns of a panel, a constant where compiled."""
    raise NotImplementedError("for compiled code")


@overload(NR, inline="always")
def _nr(p):
    n = VECTORS * lanes(p.dtype)
    return lambda p: n


def MR(p):
    """Rows of `tile_rows`, a constant where compiled."""
    raise NotImplementedError("for compiled code")


@overload(MR, inline="always")
def _mr(p):
    n = tile_rows_count()
    return lambda p: n


def MC(p):
    """Rows of `tile_columns`, a constant where compiled; divides the lanes of a vector."""
    raise NotImplementedError("for compiled code")


@overload(MC, inline="always")
def _mc(p):
    n = tile_columns_count(p.dtype)
    return lambda p: n


def _emit_loop(builder, vector, m, vectors, k, element, b, start, c):
    """The tile for one m: a single loop over k, every accumulator a phi node."""
    lanes = vector.count
    panel = VECTORS * lanes
    first = [emit_load(builder, builder.gep(start, [INT64(j * lanes)]), vector).value
             for j in range(vectors)]  # fmt: skip
    before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.cbranch(builder.icmp_signed(">", k, INT64(0)), loop, after)

    builder.position_at_end(loop)
    step = builder.phi(INT64)
    acc = [[builder.phi(vector) for _ in range(vectors)] for _ in range(m)]
    row = builder.gep(b, [builder.mul(step, INT64(panel))])
    bs = [emit_load(builder, builder.gep(row, [INT64(j * lanes)]), vector) for j in range(vectors)]
    sums = []
    for i in range(m):
        a = emit_splat(builder, builder.load(element(i, step), align=1), vector)
        sums.append([a.fma(bs[j], Vec(builder, acc[i][j])).value for j in range(vectors)])
    next_step = builder.add(step, INT64(1), flags=("nsw", "nuw"))
    step.add_incoming(INT64(0), before)
    step.add_incoming(next_step, loop)
    builder.cbranch(builder.icmp_signed("<", next_step, k), loop, after)

    builder.position_at_end(after)
    for i in range(m):
        for j in range(vectors):
            acc[i][j].add_incoming(first[j], before)
            acc[i][j].add_incoming(sums[i][j], loop)
            result = builder.phi(vector)
            result.add_incoming(first[j], before)
            result.add_incoming(sums[i][j], loop)
            sums[i][j] = result
    for i in range(m):
        for j in range(vectors):
            pointer = builder.gep(c, [INT64(i * panel + j * lanes)])
            emit_store(builder, Vec(builder, sums[i][j]), pointer)


def _emit_call(context, builder, name, dtype, rows, sizes, pointers, element_of):
    """Call the tile, one LLVM function in each module that uses it.

    Its arguments are (m, n, k, *sizes, a, b, start, c); `element_of` says where a(i, k) lies.
    """
    vector = ir_vector(dtype)
    floats = vector.element.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [INT64] * len(sizes) + [floats] * 4)
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        _emit_body(function, vector, rows, element_of)
    builder.call(function, [*sizes, *pointers])
    return context.get_dummy_value()


def _emit_body(function, vector, rows, element_of):
    """A jump to the loop for this m and for the vectors that n columns need."""
    m, n, k, *_ = function.args
    a, b, start, c = function.args[-4:]
    builder = ir.IRBuilder(function.append_basic_block())
    impossible = builder.append_basic_block()
    # case = (m - 1) * VECTORS + vectors - 1
    vectors = builder.zext(builder.icmp_signed(">", n, INT64(vector.count)), INT64)
    case = builder.add(builder.mul(builder.sub(m, INT64(1)), INT64(VECTORS)), vectors)
    switch = builder.switch(case, impossible)
    for number in range(rows * VECTORS):
        block = builder.append_basic_block()
        switch.add_case(INT64(number), block)
        builder.position_at_end(block)
        m_, vectors_ = number // VECTORS + 1, number % VECTORS + 1
        element = element_of(builder, function, m_)
        _emit_loop(builder, vector, m_, vectors_, k, element, b, start, c)
        builder.ret_void()
    builder.position_at_end(impossible)
    builder.unreachable()


@intrinsic
def tile_rows(typingctx, m, n, k, lda, a, b, start, c):
    """c = start + a b for m rows and n columns, as the module says; a(i, k) = a[i * lda + k]."""

    def element_of(builder, function, m):
        lda, a = function.args[3:5]
        rows = [builder.gep(a, [builder.mul(lda, INT64(i))]) for i in range(m)]
        return lambda i, step: builder.gep(rows[i], [step])

    def emit(context, builder, signature, args):
        dtype = signature.args[4].dtype
        name, rows = f"tile_rows_{dtype}", tile_rows_count()
        return _emit_call(context, builder, name, dtype, rows, args[:4], args[4:], element_of)

    size = types.intp
    return types.void(size, size, size, size, a, b, start, c), emit


@intrinsic
def tile_columns(typingctx, m, n, k, a, b, start, c):
    """c = start + a b for m rows and n columns, as the module says; a(i, k) = a[k * lanes + i]."""
    stride = lanes(a.dtype)

    def element_of(builder, function, m):
        a = function.args[3]
        return lambda i, step: builder.gep(
            a, [builder.add(builder.mul(step, INT64(stride)), INT64(i))]
        )

    def emit(context, builder, signature, args):
        dtype = signature.args[3].dtype
        name, rows = f"tile_columns_{dtype}", tile_columns_count(dtype)
        return _emit_call(context, builder, name, dtype, rows, args[:3], args[3:], element_of)

    size = types.intp
    return types.void(size, size, size, a, b, start, c), emit
