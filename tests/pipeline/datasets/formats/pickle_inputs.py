"""Pickles written opcode by opcode, as somebody who attacks the reader would write them."""

import pickle
import struct

import numpy as np

STOP = pickle.STOP


def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def raw(data):
    return pickle.BINBYTES + struct.pack("<I", len(data)) + data


def whole(value):
    data = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(data)]) + data if value else pickle.BININT1 + b"\0"


def tuple_of(*parts):
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def list_of(*parts):
    return pickle.MARK + b"".join(parts) + pickle.LIST


def name(dotted):
    module, _, last = dotted.rpartition(".")
    return text(module) + text(last) + pickle.STACK_GLOBAL


def call(dotted, *arguments):
    return name(dotted) + tuple_of(*arguments) + pickle.REDUCE


def put(key):
    return pickle.LONG_BINPUT + struct.pack("<I", key)


def get(key):
    return pickle.LONG_BINGET + struct.pack("<I", key)


NONE, TRUE, FALSE = pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE
SCALAR = "numpy._core.multiarray.scalar"
RECONSTRUCT = "numpy._core.multiarray._reconstruct"
FROM_BUFFER = "numpy._core.numeric._frombuffer"
TENSOR = "torch._utils._rebuild_tensor_v2"
STORAGE = "torch.storage._load_from_bytes"


def dtype_state(order="<", subtype=NONE, names=NONE, fields=NONE, size=-1, flags=0):
    parts = whole(3), text(order), subtype, names, fields, whole(size), whole(-1), whole(flags)
    return tuple_of(*parts) + pickle.BUILD


def dtype(kind="f8", state=None):
    made = call("numpy.dtype", text(kind), FALSE, TRUE)
    return made + (dtype_state() if state is None else state)


def array(shape, data, kind=None, number=RECONSTRUCT):
    """An array whose shape and bytes are as given, right or wrong."""
    made = call(number, name("numpy.ndarray"), tuple_of(whole(0)), raw(b"b"))
    state = tuple_of(whole(1), tuple_of(*map(whole, shape)), kind or dtype(), FALSE, data)
    return made + state + pickle.BUILD


def saved_storage(values, program=None, *, count=None, kind="FloatStorage"):
    """Bytes of a storage of float32 as torch writes them into a pickle, or with a program in it."""
    parts = (
        text("storage"),
        f"ctorch\n{kind}\n".encode(),
        text("0"),
        text("cpu"),
        whole(len(values)),
        NONE,
    )
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    heads = [pickle.dumps(head, 2) for head in (0x1950A86A20F9469CFC6C, 1001, system)]
    storage = (program or tuple_of(*parts) + pickle.BINPERSID) + STOP
    numbers = struct.pack("<q", len(values) if count is None else count)
    numbers += np.array(values, "<f4" if kind == "FloatStorage" else "u1").tobytes()
    return b"".join([*heads, storage, pickle.dumps(["0"], 2), numbers])


def tensor(data, offset, shape, strides):
    shape, strides = tuple_of(*map(whole, shape)), tuple_of(*map(whole, strides))
    return call(TENSOR, call(STORAGE, raw(data)), whole(offset), shape, strides, FALSE)


def bomb(levels):
    """A list of two lists of two lists ...: 2**levels values in 12 bytes a level."""
    parts = [list_of(NONE, NONE) + put(0)]
    parts += [list_of(get(i), get(i)) + put(i + 1) for i in range(levels)]
    return b"".join(parts)


LARGE = bytes(2**16)
DEEP = 20_000
FIELDS = pickle.EMPTY_DICT

HOSTILE = {  # what is wrong -> (program without its STOP, words of the message)
    "an object dtype": (call(SCALAR, dtype("O8"), raw(b"A" * 8)), "arrays of 'O8'"),
    "an object dtype by its long name": (dtype("object"), "arrays of 'object'"),
    "an object dtype by the state of another": (
        call(SCALAR, dtype("f8", dtype_state("|", flags=63)), raw(b"A" * 8)),
        "alters the type f8",
    ),
    "a dtype of numbers with the flags of objects": (
        call(SCALAR, dtype("f8", dtype_state(flags=63)), raw(b"A" * 8)),
        "alters the type f8",
    ),
    "a dtype of fields": (
        dtype("f8", dtype_state(names=tuple_of(text("a")), fields=FIELDS)),
        "alters the type f8",
    ),
    "a dtype of sub-arrays": (
        dtype("f8", dtype_state(subtype=tuple_of(dtype("O8"), whole(2)))),
        "arrays of 'O8'",
    ),
    "a dtype with a sub-array of numbers": (
        dtype("f8", dtype_state(subtype=tuple_of(dtype("f8"), tuple_of(whole(2))))),
        "alters the type f8",
    ),
    "a dtype of another size": (dtype("f8", dtype_state(size=1 << 40)), "alters the type f8"),
    "a dtype with two states": (dtype("f8") + dtype_state(), "sets the state of an object"),
    "a dtype of times": (dtype("M8"), "arrays of 'M8'"),
    "a void dtype": (dtype("V8"), "arrays of 'V8'"),
    "a dtype of several fields by text": (dtype("O,f8"), "arrays of 'O,f8'"),
    "a dtype that depends on the machine": (dtype("f16"), "arrays of 'f16'"),
    "a dtype of a list": (
        call("numpy.dtype", list_of(tuple_of(text("a"), text("O")))),
        "arrays of an unknown type",
    ),
    "text of a gigabyte a value": (dtype("U999999999"), "arrays of 'U999999999'"),
    "an array of objects": (
        array((1,), list_of(NONE), dtype("f8")),
        "fills an array with what is not bytes",
    ),
    "an array of another class": (
        call(RECONSTRUCT, name("numpy.matrix"), tuple_of(whole(0)), raw(b"b")),
        "asks for numpy.matrix",
    ),
    "an array of 10^12 values": (array((10**12,), raw(b"A" * 8)), "impossible shape"),
    "an array of more values than bytes": (
        array((10**6,), raw(b"A" * 8)),
        "asks for 1000000 values of 8 bytes and holds 8",
    ),
    "an array of fewer values than bytes": (
        array((1,), raw(b"A" * 16)),
        "asks for 1 values of 8 bytes and holds 16",
    ),
    "an array of a negative length": (array((-1,), raw(b"A" * 8)), "impossible shape"),
    "an array whose size overflows": (
        array((2**31 - 1,) * 16, raw(b"")),
        "values of 8 bytes and holds 0",
    ),
    "an array of no values in a shape too large": (
        array((0, *(2**31 - 1,) * 8), raw(b"")),
        "not a pickle that can be read",
    ),
    "an array of 100 dimensions": (array((1,) * 100, raw(b"A" * 8)), "impossible shape"),
    "an array of a shape of fractions": (
        array((), raw(b"A" * 8)).replace(tuple_of(), tuple_of(pickle.BINFLOAT + bytes(8)), 1),
        "impossible shape",
    ),
    "an array without its state": (
        call(RECONSTRUCT, name("numpy.ndarray"), tuple_of(whole(0)), raw(b"b")),
        "is not data",
    ),
    "an array made at full size at once": (
        call(RECONSTRUCT, name("numpy.ndarray"), tuple_of(whole(2**45)), raw(b"b")),
        "no plain array",
    ),
    "the constructor of arrays": (
        call("numpy.ndarray", tuple_of(whole(2**45))),
        "calls what is not a function",
    ),
    "the constructor of arrays over memory of another": (
        call("numpy.ndarray", tuple_of(whole(8)), dtype(), raw(bytes(64)), whole(-4096)),
        "calls what is not a function",
    ),
    "a number of too few bytes": (call(SCALAR, dtype(), raw(b"A" * 4)), "values of 8 bytes"),
    "a number without bytes": (call(SCALAR, dtype()), "not type and bytes"),
    "protocol 5: more values than bytes": (
        call(FROM_BUFFER, raw(bytes(8)), dtype(), tuple_of(whole(4)), text("C")),
        "asks for 4 values of 8 bytes and holds 8",
    ),
    "protocol 5: axes that are none": (
        call(
            FROM_BUFFER, raw(bytes(8)), dtype(), tuple_of(whole(1)), text("K"), tuple_of(whole(7))
        ),
        "what is not bytes, type and shape",
    ),
    "text of no characters": (
        call(SCALAR, dtype("U1", dtype_state(flags=8)), raw(b"\xff\xff\xff\xff")),
        "numbers that are no characters",
    ),
    "text of half a character": (text("\ud800"), "text that is not UTF-8"),
    "text that is longer than memory": (
        pickle.BINUNICODE8 + b"\xff" * 8,
        "not a pickle that can be read",
    ),
    "bytes that are longer than memory": (
        pickle.BINBYTES8 + struct.pack("<Q", 2**62),
        "not a pickle that can be read",
    ),
    "a bytearray that is longer than memory": (
        pickle.BYTEARRAY8 + struct.pack("<Q", 2**62),
        "not a pickle that can be read",
    ),
    "a number of 10,000 digits": (b"I" + b"9" * 10_000 + b"\n", "not a pickle that can be read"),
    "a number of 8,000 bits": (pickle.LONG4 + struct.pack("<i", 1000) + b"7" * 1000, "128 bits"),
    "a memo bomb": (bomb(45), "repeats its parts until they are too many"),
    "a memo bomb of an array": (
        array((8192,), raw(LARGE)) + put(0) + list_of(*[get(0)] * 400),
        "repeats its parts until they are too many",
    ),
    "a list that holds itself": (
        pickle.EMPTY_LIST + put(0) + get(0) + pickle.APPEND,
        "a part that holds itself",
    ),
    "a dictionary that holds itself": (
        pickle.EMPTY_DICT + put(0) + text("a") + tuple_of(get(0)) + pickle.SETITEM,
        "a part that holds itself",
    ),
    "lists in lists": (pickle.EMPTY_LIST * DEEP + pickle.APPEND * (DEEP - 1), "nested too deep"),
    "tuples in tuples": (NONE + pickle.TUPLE1 * DEEP, "nested too deep"),
    "depth by shared parts": (
        (NONE + pickle.TUPLE1 * 40 + put(0)) + tuple_of(get(0), get(0) + pickle.TUPLE1 * 20),
        "nested too deep",
    ),
    "keys of one hash": (b"}\x8a\x09" + (2**64).to_bytes(9, "little") + b"Ns", "more than 64 bits"),
    "a key of tuples in tuples": (
        pickle.EMPTY_DICT + NONE + pickle.TUPLE1 * DEEP + NONE + pickle.SETITEM,
        "keys are not text and numbers",
    ),
    "a part of a set that is a tuple": (
        pickle.EMPTY_SET + pickle.MARK + tuple_of(NONE) + pickle.ADDITEMS,
        "keys are not text and numbers",
    ),
    "copies of one array": (
        raw(LARGE) + put(0) + list_of(*[array((8192,), get(0))] * 300),
        "far larger than the file",
    ),
    "copies of one text": (
        text("a" * 2**16)
        + put(0)
        + list_of(*[call("_codecs.encode", get(0), text("latin1"))] * 300),
        "far larger than the file",
    ),
    "an encoding that runs code": (
        call("_codecs.encode", text("a"), text("rot13")),
        "not as latin1",
    ),
    "a tensor beyond its storage": (
        tensor(saved_storage([1.0, 2.0]), 1, (2,), (1,)),
        "leaves its storage",
    ),
    "a tensor before its storage": (
        tensor(saved_storage([1.0, 2.0]), -1, (1,), (1,)),
        "leaves its storage",
    ),
    "a tensor that runs backwards": (
        tensor(saved_storage([1.0, 2.0]), 1, (2,), (-1,)),
        "impossible shape",
    ),
    "a tensor of one value repeated": (
        tensor(saved_storage([1.0]), 0, (2**30,), (0,)),
        "far larger than the file",
    ),
    "a storage that runs code": (
        call(STORAGE, raw(saved_storage([1.0], call("os.system", text("true"))))),
        "asks for os.system in a tensor",
    ),
    "a storage that tells more values than it has": (
        call(STORAGE, raw(saved_storage([1.0, 2.0])[:-4])),
        "a tensor that is damaged",
    ),
    "a storage that tells two numbers of values": (
        call(STORAGE, raw(saved_storage([1.0, 2.0], count=1))),
        "a tensor that is damaged",
    ),
    "a storage with values that it does not tell": (
        call(STORAGE, raw(saved_storage([1.0, 2.0]) + bytes(4))),
        "a tensor that is damaged",
    ),
    "a storage whose key is another's": (
        call(STORAGE, raw(text("1").join(saved_storage([1.0]).rsplit(text("0"), 1)))),
        "a tensor that is damaged",
    ),
    "a storage read again and again": (
        raw(saved_storage(list(range(1000)))) + put(0) + list_of(*[call(STORAGE, get(0))] * 20),
        "reads the same bytes again and again",
    ),
    "a storage that is a zip archive": (
        call(STORAGE, raw(b"PK\x03\x04" + bytes(30))),
        "not a pickle that can be read",
    ),
    "the state of a list": (
        pickle.EMPTY_LIST + pickle.EMPTY_DICT + pickle.BUILD,
        "sets the state of an object",
    ),
    "the state of an ordered dictionary": (
        call("collections.OrderedDict") + pickle.EMPTY_DICT + pickle.BUILD,
        "sets the state of an object",
    ),
    "an instance": (b"(ios\nsystem\n", "uses the opcode INST"),
    "an object": (pickle.MARK + name("numpy.ndarray") + pickle.OBJ, "uses the opcode OBJ"),
    "a new object": (
        name("numpy.ndarray") + tuple_of() + pickle.NEWOBJ,
        "uses the opcode NEWOBJ",
    ),
    "an extension code": (pickle.EXT1 + b"\1", "uses the opcode EXT1"),
    "data beside the file": (text("key") + pickle.BINPERSID, "asks for data beside the file"),
    "a buffer beside the file": (pickle.NEXT_BUFFER, "uses the opcode NEXT_BUFFER"),
    "a function of Python": (
        call("builtins.getattr", text("a"), text("upper")),
        "builtins.getattr",
    ),
    "a class of Python": (call("builtins.bytearray", whole(2**45)), "builtins.bytearray"),
    "a name in a name": (name("numpy.ndarray.tofile"), "asks for numpy.ndarray.tofile"),
    "a name that is not printable": (name("o\x1b[2Js.system"), r"'o\x1b[2Js.system'"),
    "a name of a megabyte": (name("a." + "b" * 10**6), "b..."),
    "a name that is a number": (
        whole(1) + text("a") + pickle.STACK_GLOBAL,
        "name that is not text",
    ),
    "a call of a text": (text("a") + tuple_of() + pickle.REDUCE, "calls what is not a function"),
    "a class as a value": (name("numpy.ndarray"), "is not data"),
    "a protocol to come": (pickle.PROTO + b"\x63", "protocol 99, known is up to 5"),
    "the next protocol": (pickle.PROTO + b"\x06", "protocol 6, known is up to 5"),
    "bytes of a list": (call("builtins.bytes", list_of(whole(1))), "makes bytes of something else"),
    "a very negative number": (whole(-(2**200)), "a number of more than 128 bits"),
    "an item of nothing": (NONE + pickle.APPEND, "a list is missing"),
    "a key without a value": (
        pickle.EMPTY_DICT + pickle.MARK + NONE + pickle.SETITEMS,
        "a key without",
    ),
    "a mark that is missing": (pickle.APPENDS, "a mark is missing"),
    "a value that nobody kept": (get(7), "no value was kept as 7"),
    "nothing": (b"", "a value is missing"),
}


def sound():
    """Values as data sets hold them, and more, that must be read as they are."""
    numbers = np.arange(6)
    kinds = ("b1", "i1", "i2", "<i4", ">i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", ">f8", "c8")
    return {
        "plain": [
            1,
            -1,
            2**40,
            2.5,
            float("inf"),
            "text\u00e9\n",
            None,
            True,
            b"\xff",
            (),
            ((1,), []),
        ],
        "dictionary": {"a": {1: "b", None: 2.5, b"c": [True]}},
        "sets": [{1, 2}, frozenset({"a"}), set()],
        "bytearray": bytearray(b"abc"),
        "carl": ([{"name": "0001_squat", "frame_label": numbers.tolist(), "seq_len": 6}], [[0]]),
        "shared": [numbers] * 3,
        **{f"array of {kind}": numbers.astype(kind) for kind in kinds},
        "array of text": np.array(["a", "b\u00e9", ""]),
        "array of bytes": np.array([b"a", b"bc"]),
        "array in columns": np.asfortranarray(numbers.reshape(2, 3)),
        "array with its axes turned": numbers.reshape(1, 2, 3).transpose(1, 0, 2),
        "part of an array": numbers.reshape(2, 3)[:, ::2],
        "array of none": np.zeros((0, 3), np.float32),
        "array of one": np.array(3.5),
        "numbers of numpy": [
            np.float32(1.5),
            np.int64(-3),
            np.bool_(True),
            np.str_("ab"),
            np.str_(""),
        ],
    }
