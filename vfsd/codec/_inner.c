/* vfsd.codec._inner: the inner loops that Python is too slow for.
 *
 * This file only carries buffers between Python and plain C: it takes them by the buffer protocol, lets go of the
 * GIL while it works on them, and turns a status into an exception. The work is done in the headers beside it,
 * which know nothing of Python. No global state; every function may run in any number of threads at once.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "blosc_decode.h"
#include "halve.h"
#include "lzw.h"

typedef struct {
    PyObject *frame_error;
    PyObject *lzw_error;
} inner_state;

static const char *describe_status(blosc_status status)
{
    switch (status) {
    case BLOSC_TOO_SHORT:
        return "it is shorter than a header";
    case BLOSC_IS_BLOSC2:
        return "it is a Blosc 2 frame; only Blosc 1 is read";
    case BLOSC_BAD_VERSION:
        return "its version is not that of a Blosc 1 frame";
    case BLOSC_BAD_FLAGS:
        return "its header has a reserved flag set";
    case BLOSC_BAD_TYPESIZE:
        return "its type size is 0";
    case BLOSC_BAD_NBYTES:
        return "it claims more bytes than a Blosc frame can hold";
    case BLOSC_BAD_BLOCKSIZE:
        return "its block size is 0, or larger than its content";
    case BLOSC_BAD_CBYTES:
        return "its compressed size does not fit its content";
    case BLOSC_CUT_OFF:
        return "it ends before the size that its header gives";
    case BLOSC_BAD_CODEC_VERSION:
        return "its streams are of an unknown version of LZ4";
    case BLOSC_WRONG_SIZE:
        return "its content is not of the size that was expected";
    case BLOSC_BAD_RANGE:
        return "the range lies outside its content";
    case BLOSC_BAD_SPLIT:
        return "its block size is no multiple of its type size";
    case BLOSC_BAD_START:
        return "a block begins outside the frame";
    case BLOSC_BAD_STREAM_SIZE:
        return "a stream ends outside the frame";
    case BLOSC_BAD_STREAM:
        return "an LZ4 stream is damaged";
    default:
        return "it cannot be decoded";
    }
}

/* NULL with FrameError (or MemoryError) set; `block` is negative where no block is at fault. */
static PyObject *raise_status(PyObject *module, blosc_status status, long long block)
{
    inner_state *state = PyModule_GetState(module);

    if (status == BLOSC_NO_MEMORY)
        return PyErr_NoMemory();
    if (block >= 0)
        PyErr_Format(state->frame_error, "damaged Blosc frame: %s (block %lld)", describe_status(status), block);
    else
        PyErr_Format(state->frame_error, "damaged Blosc frame: %s", describe_status(status));
    return NULL;
}

static int buffers_overlap(const Py_buffer *a, const Py_buffer *b)
{
    const uintptr_t a_from = (uintptr_t)a->buf, b_from = (uintptr_t)b->buf;
    return a->len > 0 && b->len > 0 && a_from < b_from + (size_t)b->len && b_from < a_from + (size_t)a->len;
}

/* `offset` < 0: the whole content, which must have exactly the size of `out`. */
static PyObject *decode_buffers(PyObject *module, Py_buffer *frame, long long offset, Py_buffer *out)
{
    blosc_status status = BLOSC_OK;
    uint32_t bad_block = UINT32_MAX;

    if (buffers_overlap(frame, out)) {
        PyErr_SetString(PyExc_ValueError, "the output overlaps the frame");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    if (offset < 0) {
        blosc_header header;
        offset = 0;
        status = blosc_parse_header(frame->buf, (size_t)frame->len, &header);
        if (status == BLOSC_OK && header.nbytes != (uint64_t)out->len)
            status = BLOSC_WRONG_SIZE;
    }
    if (status == BLOSC_OK)
        status = blosc_decode_range(frame->buf, (size_t)frame->len, (uint64_t)offset, (uint64_t)out->len, out->buf,
                                    &bad_block);
    Py_END_ALLOW_THREADS;
    if (status == BLOSC_OK)
        Py_RETURN_TRUE;
    if (status == BLOSC_OTHER_CODEC)
        Py_RETURN_FALSE;
    return raise_status(module, status, bad_block == UINT32_MAX ? -1 : (long long)bad_block);
}

PyDoc_STRVAR(decode_frame_doc, "decode_frame(frame, out, /)\n--\n\n"
                               "Decode a whole frame into `out`, which must have exactly its size.\n\n"
                               "False: nothing was done, its codec is not LZ4. FrameError: the frame is damaged.");

static PyObject *decode_frame(PyObject *module, PyObject *args)
{
    Py_buffer frame, out;
    PyObject *result;

    if (!PyArg_ParseTuple(args, "y*w*:decode_frame", &frame, &out))
        return NULL;
    result = decode_buffers(module, &frame, -1, &out);
    PyBuffer_Release(&frame);
    PyBuffer_Release(&out);
    return result;
}

PyDoc_STRVAR(decode_range_doc, "decode_range(frame, offset, out, /)\n--\n\n"
                               "Decode the bytes from `offset` on that fill `out`, from the blocks touched only.\n\n"
                               "False: nothing was done, its codec is not LZ4. FrameError: the frame is damaged.");

static PyObject *decode_range(PyObject *module, PyObject *args)
{
    Py_buffer frame, out;
    long long offset;
    PyObject *result;

    if (!PyArg_ParseTuple(args, "y*Lw*:decode_range", &frame, &offset, &out))
        return NULL;
    if (offset < 0) {
        PyErr_SetString(PyExc_ValueError, "the offset is negative");
        result = NULL;
    } else {
        result = decode_buffers(module, &frame, offset, &out);
    }
    PyBuffer_Release(&frame);
    PyBuffer_Release(&out);
    return result;
}

PyDoc_STRVAR(parse_header_doc,
             "parse_header(frame, /)\n--\n\n"
             "(version, versionlz, flags, typesize, nbytes, blocksize, cbytes) from a frame's first 16 bytes.\n\n"
             "FrameError: they are no sound header of a Blosc 1 frame.");

static PyObject *parse_header(PyObject *module, PyObject *argument)
{
    Py_buffer frame;
    blosc_header header;
    blosc_status status;

    if (PyObject_GetBuffer(argument, &frame, PyBUF_SIMPLE) < 0)
        return NULL;
    status = blosc_parse_header(frame.buf, (size_t)frame.len, &header);
    PyBuffer_Release(&frame);
    if (status != BLOSC_OK)
        return raise_status(module, status, -1);
    return Py_BuildValue("(iiiiIII)", header.version, header.versionlz, header.flags, header.typesize, header.nbytes,
                         header.blocksize, header.cbytes);
}

static const char *describe_lzw(lzw_status status)
{
    switch (status) {
    case LZW_TOO_LARGE:
        return "the strip is larger than 2 GiB";
    case LZW_NO_CLEAR:
        return "the strip does not begin with a Clear code";
    case LZW_CUT_OFF:
        return "the strip ends too early";
    case LZW_UNKNOWN_CODE:
        return "the strip has a code that is not known yet";
    case LZW_TABLE_FULL:
        return "the strip has no Clear code where one is due";
    case LZW_WRONG_SIZE:
        return "the strip does not end where the pixels do";
    case LZW_TOO_MANY:
        return "the strip has too many Clear codes";
    case LZW_NO_ROOM:
        return "the strip's codes need more room than it had";
    case LZW_BAD_GAPS:
        return "the Clear codes do not fit the bytes";
    default:
        return "the strip is damaged";
    }
}

/* NULL with LzwError set. */
static PyObject *raise_lzw(PyObject *module, lzw_status status)
{
    inner_state *state = PyModule_GetState(module);
    PyErr_Format(state->lzw_error, "%s", describe_lzw(status));
    return NULL;
}

PyDoc_STRVAR(lzw_decode_doc, "lzw_decode(strip, out, gaps, /)\n--\n\n"
                             "Decode a strip to exactly the size of `out`, and its Clear codes into `gaps` (uint16).\n\n"
                             "(number of gaps, bits up to and with the last data code). LzwError: it cannot be.");

static PyObject *py_lzw_decode(PyObject *module, PyObject *args)
{
    Py_buffer strip, out, gaps;
    PyObject *result = NULL;

    if (!PyArg_ParseTuple(args, "y*w*w*:lzw_decode", &strip, &out, &gaps))
        return NULL;
    if (buffers_overlap(&strip, &out) || buffers_overlap(&gaps, &out) || buffers_overlap(&strip, &gaps)) {
        PyErr_SetString(PyExc_ValueError, "the buffers overlap");
    } else if ((uintptr_t)gaps.buf % sizeof(uint16_t) != 0) {
        PyErr_SetString(PyExc_ValueError, "the gaps are not aligned");
    } else {
        lzw_status status;
        size_t count = 0;
        uint64_t bits = 0;
        Py_BEGIN_ALLOW_THREADS;
        status = lzw_decode(strip.buf, (size_t)strip.len, out.buf, (size_t)out.len, gaps.buf,
                            (size_t)gaps.len / sizeof(uint16_t), &count, &bits);
        Py_END_ALLOW_THREADS;
        result = status == LZW_OK ? Py_BuildValue("(nK)", (Py_ssize_t)count, (unsigned long long)bits)
                                  : raise_lzw(module, status);
    }
    PyBuffer_Release(&strip);
    PyBuffer_Release(&out);
    PyBuffer_Release(&gaps);
    return result;
}

PyDoc_STRVAR(lzw_encode_doc, "lzw_encode(pixels, gaps, out, /)\n--\n\n"
                             "Encode bytes with Clear codes at these gaps (uint16); of the last byte only a whole one is written.\n\n"
                             "Number of bits. LzwError: they do not fit `out`, or the gaps not the bytes.");

static PyObject *py_lzw_encode(PyObject *module, PyObject *args)
{
    Py_buffer pixels, gaps, out;
    PyObject *result = NULL;

    if (!PyArg_ParseTuple(args, "y*y*w*:lzw_encode", &pixels, &gaps, &out))
        return NULL;
    if (buffers_overlap(&pixels, &out) || buffers_overlap(&gaps, &out)) {
        PyErr_SetString(PyExc_ValueError, "the output overlaps the input");
    } else if ((uintptr_t)gaps.buf % sizeof(uint16_t) != 0) {
        PyErr_SetString(PyExc_ValueError, "the gaps are not aligned");
    } else {
        lzw_status status;
        uint64_t bits = 0;
        Py_BEGIN_ALLOW_THREADS;
        status = lzw_encode(pixels.buf, (size_t)pixels.len, gaps.buf, (size_t)gaps.len / sizeof(uint16_t), out.buf,
                            (size_t)out.len, &bits);
        Py_END_ALLOW_THREADS;
        result = status == LZW_OK ? PyLong_FromUnsignedLongLong(bits) : raise_lzw(module, status);
    }
    PyBuffer_Release(&pixels);
    PyBuffer_Release(&gaps);
    PyBuffer_Release(&out);
    return result;
}

typedef void (*halve_function)(const void *, void *, size_t, size_t, size_t);

/* For items of `kind` ('u', 'i', 'f') and `size` bytes; NULL where there is none. */
static halve_function find_halve(int kind, Py_ssize_t size)
{
    switch (kind << 4 | (int)(size & 15)) {
    case 'u' << 4 | 1:
        return halve_u8;
    case 'i' << 4 | 1:
        return halve_i8;
    case 'u' << 4 | 2:
        return halve_u16;
    case 'i' << 4 | 2:
        return halve_i16;
    case 'u' << 4 | 4:
        return halve_u32;
    case 'i' << 4 | 4:
        return halve_i32;
    case 'f' << 4 | 4:
        return halve_f32;
    case 'f' << 4 | 8:
        return halve_f64;
#if defined(__SIZEOF_INT128__)
    case 'u' << 4 | 8:
        return halve_u64;
    case 'i' << 4 | 8:
        return halve_i64;
#endif
    default:
        return NULL;
    }
}

PyDoc_STRVAR(halve_doc, "halve(plane, out, height, width, samples, kind, itemsize, /)\n--\n\n"
                        "Fill `out` with the means of 2 by 2 pixels of a plane of `height` by `width` pixels.\n\n"
                        "False: nothing was done, there is no code for such items.");

static PyObject *py_halve(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer plane, out;
    Py_ssize_t height, width, samples, itemsize;
    int kind;
    PyObject *result = NULL;

    if (!PyArg_ParseTuple(args, "y*w*nnnCn:halve", &plane, &out, &height, &width, &samples, &kind, &itemsize))
        return NULL;
    const halve_function halve = itemsize > 0 && itemsize <= 8 ? find_halve(kind, itemsize) : NULL;
    /* by division first, so that no product can wrap */
    const int fits = height >= 2 && width >= 2 && samples >= 1 && itemsize >= 1 &&
                     plane.len / height / width / samples == itemsize &&
                     plane.len == height * width * samples * itemsize &&
                     out.len == (height / 2) * (width / 2) * samples * itemsize;
    if (halve == NULL) {
        result = Py_NewRef(Py_False);
    } else if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the buffers are not the planes' sizes");
    } else if (buffers_overlap(&plane, &out)) {
        PyErr_SetString(PyExc_ValueError, "the output overlaps the plane");
    } else {
        Py_BEGIN_ALLOW_THREADS;
        halve(plane.buf, out.buf, (size_t)height, (size_t)width, (size_t)samples);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_True);
    }
    PyBuffer_Release(&plane);
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef inner_methods[] = {
    {"decode_frame", decode_frame, METH_VARARGS, decode_frame_doc},
    {"decode_range", decode_range, METH_VARARGS, decode_range_doc},
    {"halve", py_halve, METH_VARARGS, halve_doc},
    {"lzw_decode", py_lzw_decode, METH_VARARGS, lzw_decode_doc},
    {"lzw_encode", py_lzw_encode, METH_VARARGS, lzw_encode_doc},
    {"parse_header", parse_header, METH_O, parse_header_doc},
    {NULL, NULL, 0, NULL},
};

static int inner_exec(PyObject *module)
{
    inner_state *state = PyModule_GetState(module);

    state->frame_error = PyErr_NewExceptionWithDoc("vfsd.codec.FrameError", "These bytes are no sound Blosc 1 frame.",
                                                   PyExc_ValueError, NULL);
    if (state->frame_error == NULL)
        return -1;
    state->lzw_error = PyErr_NewExceptionWithDoc("vfsd.codec.LzwError", "This strip cannot be decoded, or not be encoded.",
                                                 PyExc_ValueError, NULL);
    if (state->lzw_error == NULL || PyModule_AddObjectRef(module, "LzwError", state->lzw_error) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "FrameError", state->frame_error);
}

static int inner_traverse(PyObject *module, visitproc visit, void *arg)
{
    inner_state *state = PyModule_GetState(module);
    Py_VISIT(state->frame_error);
    Py_VISIT(state->lzw_error);
    return 0;
}

static int inner_clear(PyObject *module)
{
    inner_state *state = PyModule_GetState(module);
    Py_CLEAR(state->frame_error);
    Py_CLEAR(state->lzw_error);
    return 0;
}

static PyModuleDef_Slot inner_slots[] = {
    {Py_mod_exec, inner_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef inner_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "vfsd.codec._inner",
    .m_doc = "The inner loops that Python is too slow for; the GIL is released while they run.",
    .m_size = sizeof(inner_state),
    .m_methods = inner_methods,
    .m_slots = inner_slots,
    .m_traverse = inner_traverse,
    .m_clear = inner_clear,
};

PyMODINIT_FUNC PyInit__inner(void)
{
    return PyModuleDef_Init(&inner_module);
}
