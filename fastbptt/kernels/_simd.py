"""SIMD vocabulary: pointers and vectors as Numba types, and the LLVM IR behind them.

Two layers.  `Vec` wraps an IR value with operators, so that formulas (activations, the register
tile) are written down as formulas.  The intrinsics below it are what compiled Python calls: a
pointer from an array, scalars and vectors in and out of memory, arithmetic on vectors, atomics.

Everything is sized by the vector registers of the CPU that Numba generates code for.
"""

import os

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from fastbptt.kernels._machine import LINE, architecture, lanes, target

INT32, INT64 = ir.IntType(32), ir.IntType(64)


class Vec:
    """A vector of floats or of integers of the same width, as LLVM IR at a builder's position."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value
        self.type = value.type

    def _wrap(self, value):
        return Vec(self.builder, value)

    def constant(self, number):
        if isinstance(self.type.element, ir.IntType):
            number = int(number)
        return self._wrap(ir.Constant(self.type, [number] * self.type.count))

    def _operand(self, other):
        return other if isinstance(other, Vec) else self.constant(other)

    @property
    def _int_type(self):
        bits = 64 if isinstance(self.type.element, ir.DoubleType) else 32
        return ir.VectorType(ir.IntType(bits), self.type.count)

    def __add__(self, other):
        return self._wrap(self.builder.fadd(self.value, self._operand(other).value))

    def __sub__(self, other):
        return self._wrap(self.builder.fsub(self.value, self._operand(other).value))

    def __rsub__(self, other):
        return self._operand(other) - self

    def __mul__(self, other):
        return self._wrap(self.builder.fmul(self.value, self._operand(other).value))

    def __truediv__(self, other):
        return self._wrap(self.builder.fdiv(self.value, self._operand(other).value))

    def __and__(self, other):
        return self._wrap(self.builder.and_(self.value, self._operand(other).value))

    def __or__(self, other):
        return self._wrap(self.builder.or_(self.value, self._operand(other).value))

    def __xor__(self, other):
        return self._wrap(self.builder.xor(self.value, self._operand(other).value))

    def __rshift__(self, bits):
        """The sign comes in."""
        return self._wrap(self.builder.ashr(self.value, self.constant(bits).value))

    def shifted_right(self, bits):
        """Zeros come in."""
        return self._wrap(self.builder.lshr(self.value, self.constant(bits).value))

    def __lshift__(self, bits):
        return self._wrap(self.builder.shl(self.value, self.constant(bits).value))

    def plus_int(self, other):
        return self._wrap(self.builder.add(self.value, self._operand(other).value))

    def minus_int(self, other):
        return self._wrap(self.builder.sub(self.value, self._operand(other).value))

    def times_int(self, other):
        return self._wrap(self.builder.mul(self.value, self._operand(other).value))

    def __gt__(self, other):
        return self._wrap(self.builder.fcmp_ordered(">", self.value, self._operand(other).value))

    def __ge__(self, other):
        return self._wrap(self.builder.fcmp_ordered(">=", self.value, self._operand(other).value))

    def where(self, then, otherwise):
        """`then` where this comparison holds, else `otherwise`."""
        return self._wrap(self.builder.select(self.value, then.value, otherwise.value))

    def bits(self):
        return self._wrap(self.builder.bitcast(self.value, self._int_type))

    def as_float(self, like):
        return self._wrap(self.builder.bitcast(self.value, like.type))

    def fma(self, times, plus):
        """self * times + plus, rounded once where the CPU has a fused multiply-add."""
        times, plus = self._operand(times), self._operand(plus)
        if not target()[1]:
            return self * times + plus
        bits = 64 if isinstance(self.type.element, ir.DoubleType) else 32
        f = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(self.type, [self.type] * 3),
            f"llvm.fma.v{self.type.count}f{bits}",
        )
        return self._wrap(self.builder.call(f, [self.value, times.value, plus.value]))


def ir_vector(dtype):
    """LLVM type of a vector full of a Numba float type."""
    scalar = ir.DoubleType() if dtype.bitwidth == 64 else ir.FloatType()
    return ir.VectorType(scalar, lanes(dtype.bitwidth // 8))


def emit_load(builder, pointer, vector_type):
    """Vector at a scalar pointer of any alignment."""
    value = builder.load(builder.bitcast(pointer, vector_type.as_pointer()))
    value.align = 1
    return Vec(builder, value)


def emit_store(builder, vec, pointer):
    builder.store(vec.value, builder.bitcast(pointer, vec.type.as_pointer()), align=1)


def emit_splat(builder, scalar, vector_type):
    undefined = ir.Constant(vector_type, ir.Undefined)
    one = builder.insert_element(undefined, scalar, INT32(0))
    index = ir.Constant(ir.VectorType(INT32, vector_type.count), [0] * vector_type.count)
    return Vec(builder, builder.shuffle_vector(one, undefined, index))


def emit_first(builder, count, vector_type):
    """Mask of the first `count` lanes."""
    n = vector_type.count
    limit = builder.trunc(count, INT32)
    limit = emit_splat(builder, limit, ir.VectorType(INT32, n)).value
    index = ir.Constant(ir.VectorType(INT32, n), list(range(n)))
    return builder.icmp_signed("<", index, limit)


def emit_store_masked(builder, vec, pointer, mask):
    """Store the lanes that the mask says."""
    raw = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    _masked(builder, "store", vec.type, [vec.value, raw, INT32(1), mask], ir.VoidType())


def _masked(builder, operation, vector_type, arguments, result):
    bits = 64 if isinstance(vector_type.element, ir.DoubleType) else 32
    name = f"llvm.masked.{operation}.v{vector_type.count}f{bits}.p0"
    types_ = [a.type for a in arguments]
    f = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, types_), name)
    return builder.call(f, arguments)


class VectorType(types.Type):
    """Numba type of a vector register full of `dtype`."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir_vector(fe_type.dtype))


# Pointers.  `pointer(array)` is where its data start; all else counts in elements.


@intrinsic
def pointer(typingctx, array):
    """Pointer to an array's first element."""

    def emit(context, builder, signature, args):
        return context.make_array(signature.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), emit


@intrinsic
def pointer_to(typingctx, address, dtype):
    """Pointer to elements of a type at an address, an integer."""
    to = types.CPointer(dtype.dtype)

    def emit(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(to))

    return to(address, dtype), emit


@intrinsic
def offset(typingctx, p, n):
    """p + n elements."""

    def emit(context, builder, signature, args):
        return builder.gep(args[0], [args[1]])

    return p(p, types.intp), emit


@intrinsic
def offset_bytes(typingctx, p, n):
    """p + n bytes."""

    def emit(context, builder, signature, args):
        raw = builder.bitcast(args[0], ir.IntType(8).as_pointer())
        return builder.bitcast(builder.gep(raw, [args[1]]), args[0].type)

    return p(p, types.intp), emit


@intrinsic
def cast(typingctx, p, dtype):
    """The same address as a pointer to another type."""
    to = types.CPointer(dtype.dtype)

    def emit(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(to))

    return to(p, dtype), emit


@intrinsic
def cast_like(typingctx, p, q):
    """The address p as a pointer of the type of q."""

    def emit(context, builder, signature, args):
        return builder.bitcast(args[0], args[1].type)

    return q(p, q), emit


@intrinsic
def align(typingctx, p):
    """p moved up to the next multiple of 64 bytes, a cache line."""

    def emit(context, builder, signature, args):
        address = builder.add(builder.ptrtoint(args[0], INT64), INT64(63))
        forward = builder.sub(builder.and_(address, INT64(-64)), builder.ptrtoint(args[0], INT64))
        raw = builder.bitcast(args[0], ir.IntType(8).as_pointer())
        return builder.bitcast(builder.gep(raw, [forward]), args[0].type)

    return p(p), emit


@intrinsic
def get(typingctx, p, n):
    """p[n], of any alignment."""

    def emit(context, builder, signature, args):
        return builder.load(builder.gep(args[0], [args[1]]), align=1)

    return p.dtype(p, types.intp), emit


@intrinsic
def put(typingctx, p, n, value):
    """p[n] = value."""

    def emit(context, builder, signature, args):
        value = context.cast(builder, args[2], signature.args[2], p.dtype)
        builder.store(value, builder.gep(args[0], [args[1]]), align=1)
        return context.get_dummy_value()

    return types.void(p, types.intp, value), emit


def emit_number(p, n):
    """For an intrinsic that returns a number which the type of its pointer decides."""
    return types.intp(p), lambda context, builder, signature, args: INT64(n)


@intrinsic
def LANES(typingctx, p):
    """Elements of one vector, a constant where compiled."""
    return emit_number(p, ir_vector(p.dtype).count)


@intrinsic
def ITEMSIZE(typingctx, p):
    """Bytes of an element, a constant where compiled."""
    return emit_number(p, p.dtype.bitwidth // 8)


# Vectors.


@intrinsic
def load(typingctx, p):
    def emit(context, builder, signature, args):
        return emit_load(builder, args[0], ir_vector(p.dtype)).value

    return VectorType(p.dtype)(p), emit


@intrinsic
def store(typingctx, p, v):
    def emit(context, builder, signature, args):
        emit_store(builder, Vec(builder, args[1]), args[0])
        return context.get_dummy_value()

    return types.void(p, v), emit


@intrinsic
def load_first(typingctx, p, count):
    """The first min(count, lanes) elements at p, zeros behind them; the rest is not touched."""

    def emit(context, builder, signature, args):
        p_, count_ = args
        type_ = ir_vector(p.dtype)
        result = cgutils.alloca_once(builder, type_)
        whole = builder.icmp_signed(">=", count_, INT64(type_.count))
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                builder.store(emit_load(builder, p_, type_).value, result)
            with otherwise:
                mask = emit_first(builder, count_, type_)
                raw = builder.bitcast(p_, ir.IntType(8).as_pointer())
                zeros = ir.Constant(type_, [0.0] * type_.count)
                value = _masked(builder, "load", type_, [raw, INT32(1), mask, zeros], type_)
                builder.store(value, result)
        return builder.load(result)

    return VectorType(p.dtype)(p, types.intp), emit


@intrinsic
def store_first(typingctx, p, v, count):
    """Store the first min(count, lanes) elements of v at p."""

    def emit(context, builder, signature, args):
        p_, v_, count_ = args
        whole = builder.icmp_signed(">=", count_, INT64(v_.type.count))
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                emit_store(builder, Vec(builder, v_), p_)
            with otherwise:
                mask = emit_first(builder, count_, v_.type)
                emit_store_masked(builder, Vec(builder, v_), p_, mask)
        return context.get_dummy_value()

    return types.void(p, v, types.intp), emit


@intrinsic
def prefetch(typingctx, p):
    """Bring the cache line at p into the cache, if the address is one that may be read."""

    def emit(context, builder, signature, args):
        raw = builder.bitcast(args[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [raw.type, INT32, INT32, INT32])
        f = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data = INT32(0), INT32(3), INT32(1)
        builder.call(f, [raw, read, keep, data])
        return context.get_dummy_value()

    return types.void(p), emit


@intrinsic
def zeros(typingctx, p):
    """A vector of zeros, of the type p points to."""

    def emit(context, builder, signature, args):
        type_ = ir_vector(p.dtype)
        return ir.Constant(type_, [0.0] * type_.count)

    return VectorType(p.dtype)(p), emit


@intrinsic
def one_at(typingctx, p, lane):
    """A vector of zeros with a one in the given lane, of the type p points to."""

    def emit(context, builder, signature, args):
        type_ = ir_vector(p.dtype)
        none = ir.Constant(type_, [0.0] * type_.count)
        return builder.insert_element(none, ir.Constant(type_.element, 1.0), args[1])

    return VectorType(p.dtype)(p, types.intp), emit


@intrinsic
def add(typingctx, v, w):
    def emit(context, builder, signature, args):
        return (Vec(builder, args[0]) + Vec(builder, args[1])).value

    return v(v, w), emit


@intrinsic
def mul(typingctx, v, w):
    def emit(context, builder, signature, args):
        return (Vec(builder, args[0]) * Vec(builder, args[1])).value

    return v(v, w), emit


@intrinsic
def multiply_add(typingctx, v, w, plus):
    """v * w + plus."""

    def emit(context, builder, signature, args):
        return Vec(builder, args[0]).fma(Vec(builder, args[1]), Vec(builder, args[2])).value

    return v(v, w, plus), emit


def _emit_dots(builder, p, qs, n):
    """The sums over k < n of p[k] q[k] for each q.

    Summed by as many lanes as a line has elements, then halves are added to halves: in the same
    order whatever vectors the CPU has.
    """
    bits = 64 if isinstance(p.type.pointee, ir.DoubleType) else 32
    lanes = LINE * 8 // bits
    vector = ir.VectorType(p.type.pointee, lanes)
    before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    none = ir.Constant(vector, [0.0] * lanes)
    builder.cbranch(builder.icmp_signed(">", n, INT64(0)), loop, after)

    builder.position_at_end(loop)
    k, products = builder.phi(INT64), [builder.phi(vector) for _ in qs]
    counts = Vec(builder, emit_first(builder, builder.sub(n, k), vector))
    v = counts.where(emit_load(builder, builder.gep(p, [k]), vector), Vec(builder, none))
    more = [
        v.fma(emit_load(builder, builder.gep(q, [k]), vector), Vec(builder, so_far)).value
        for q, so_far in zip(qs, products, strict=True)
    ]
    following = builder.add(k, INT64(lanes))
    k.add_incoming(INT64(0), before)
    k.add_incoming(following, loop)
    for so_far, then in zip(products, more, strict=True):
        so_far.add_incoming(none, before)
        so_far.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", following, n), loop, after)

    builder.position_at_end(after)
    found = []
    for then in more:
        v = builder.phi(vector)
        v.add_incoming(none, before)
        v.add_incoming(then, loop)
        found.append(v)
    while lanes > 1:
        lanes //= 2
        index = [
            ir.Constant(ir.VectorType(INT32, lanes), [half * lanes + i for i in range(lanes)])
            for half in range(2)
        ]
        found = [
            builder.fadd(*(builder.shuffle_vector(v, v, half) for half in index)) for v in found
        ]
    return [builder.extract_element(v, INT32(0)) for v in found]


DOTS = 4  # dot products at once: one alone waits for each multiply-add


@intrinsic
def dots(typingctx, out, p, q, ldq, n):
    """out[j] = sum of p[k] q[j, k] over k < n, for j < DOTS; rows of q are ldq elements apart.

    Whole lines of memory are read, and what is behind ignored.
    """

    def emit(context, builder, signature, args):
        out, p, q, ldq, n = args
        qs = [builder.gep(q, [builder.mul(ldq, INT64(j))]) for j in range(DOTS)]
        for j, value in enumerate(_emit_dots(builder, p, qs, n)):
            builder.store(value, builder.gep(out, [INT64(j)]))
        return context.get_dummy_value()

    return types.void(out, p, q, types.intp, types.intp), emit


@intrinsic
def dot(typingctx, p, q, n):
    """One of them, with the same bits."""

    def emit(context, builder, signature, args):
        p, q, n = args
        return _emit_dots(builder, p, [q], n)[0]

    return p.dtype(p, q, types.intp), emit


@intrinsic
def transpose(typingctx, to, ldt, a, lda):
    """to[j, i] = a[i, j] for i, j < LANES; rows are ldt and lda elements apart."""

    def emit(context, builder, signature, args):
        to, ldt, a, lda = args
        vector = ir_vector(signature.args[0].dtype)
        n = vector.count
        rows = [
            emit_load(builder, builder.gep(a, [builder.mul(lda, INT64(i))]), vector).value
            for i in range(n)
        ]
        # Element (i, j) is number i n + j of all; each round shifts the bits of these numbers
        # round by one place.
        mixed = [i // 2 + i % 2 * n for i in range(2 * n)]
        halves = [ir.Constant(ir.VectorType(INT32, n), mixed[i : i + n]) for i in (0, n)]
        done = 1
        while done < n:
            pairs = zip(rows[: n // 2], rows[n // 2 :], strict=True)
            rows = [builder.shuffle_vector(u, v, half) for u, v in pairs for half in halves]
            done *= 2
        for j, row in enumerate(rows):
            place = builder.gep(to, [builder.mul(ldt, INT64(j))])
            emit_store(builder, Vec(builder, row), place)
        return context.get_dummy_value()

    return types.void(to, types.intp, a, types.intp), emit


# Atomics, on int64 counters shared by threads.


@intrinsic
def fetch_add(typingctx, p, n):
    """Add n to the counter at p; return what it held.  Orders all earlier writes before it."""

    def emit(context, builder, signature, args):
        return builder.atomic_rmw("add", args[0], args[1], "acq_rel")

    return types.int64(p, types.int64), emit


@intrinsic
def read_counter(typingctx, p):
    """The counter at p; all that its writers wrote before they raised it is visible afterwards."""

    def emit(context, builder, signature, args):
        return builder.load_atomic(args[0], "acquire", 8)

    return types.int64(p), emit


@intrinsic
def exchange_if(typingctx, p, expected, value):
    """Whether the counter at p held what was expected; it holds the value now."""

    def emit(context, builder, signature, args):
        found = builder.cmpxchg(*args, "acq_rel", "acquire")
        return builder.extract_value(found, 1)

    return types.boolean(p, types.int64, types.int64), emit


@intrinsic
def put_counter(typingctx, p, value):
    """Set the counter at p.  Orders all earlier writes before it."""

    def emit(context, builder, signature, args):
        builder.store_atomic(args[1], args[0], "release", 8)
        return context.get_dummy_value()

    return types.void(p, types.int64), emit


@intrinsic
def pause(typingctx):
    """Tell the core that this is a spinning loop."""

    def emit(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [])
        if architecture() == "x86_64":
            builder.call(
                cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), []
            )
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def cycles(typingctx):
    """A clock that counts CPU cycles, about; 0 where there is none for everybody to read."""

    def emit(context, builder, signature, args):
        if architecture() != "x86_64":
            return INT64(0)
        kind = ir.FunctionType(INT64, [])
        f = cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter")
        return builder.call(f, [])

    return types.int64(), emit


@intrinsic
def give_way(typingctx):
    """Offer this core to another thread that is ready to run on it."""

    def emit(context, builder, signature, args):
        if hasattr(os, "sched_yield"):
            kind = ir.FunctionType(INT32, [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def sleep(typingctx, microseconds):
    """Leave this core to whoever wants it for a while."""

    def emit(context, builder, signature, args):
        if hasattr(os, "sched_yield"):
            kind = ir.FunctionType(INT32, [INT32])
            usleep = cgutils.get_or_insert_function(builder.module, kind, "usleep")
            builder.call(usleep, [builder.trunc(args[0], INT32)])
        return context.get_dummy_value()

    return types.void(types.int64), emit


# The floating-point modes of a thread: rounding, and whether subnormals count as zero.


@intrinsic
def float_modes(typingctx):
    """This thread's modes, as a number."""

    def emit(context, builder, signature, args):
        if architecture() == "x86_64":
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
            store = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse.stmxcsr")
            place = cgutils.alloca_once(builder, INT32)
            builder.call(store, [builder.bitcast(place, ir.IntType(8).as_pointer())])
            return builder.zext(builder.load(place), INT64)
        if architecture() in ("aarch64", "arm64"):
            kind = ir.FunctionType(INT64, [])
            read = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.get.fpcr")
            return builder.call(read, [])
        return INT64(0)

    return types.int64(), emit


@intrinsic
def set_float_modes(typingctx, modes):
    """Set this thread's modes to what `float_modes` returned, here or in another thread."""

    def emit(context, builder, signature, args):
        if architecture() == "x86_64":
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
            load = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse.ldmxcsr")
            place = cgutils.alloca_once(builder, INT32)
            builder.store(builder.trunc(args[0], INT32), place)
            builder.call(load, [builder.bitcast(place, ir.IntType(8).as_pointer())])
        if architecture() in ("aarch64", "arm64"):
            kind = ir.FunctionType(ir.VoidType(), [INT64])
            write = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.set.fpcr")
            builder.call(write, [args[0]])
        return context.get_dummy_value()

    return types.void(types.int64), emit
