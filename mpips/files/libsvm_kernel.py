"""Parse and print libsvm text a block at a time, in compiled loops over bytes."""

import numpy as np
import numpy.typing as npt

from mpips.compiler import njit

# Why a block could not be parsed.
OK, BAD_LABEL, NO_COLON, BAD_INDEX, BAD_VALUE, BELOW_FIRST, FALLING, TWICE, QUERY = range(9)

# What became of a number: its value is exact; it needs the slow, exact way; it is no number.
EXACT, ODD, WRONG = range(3)

# A number with more characters is taken for a mistake.
LONGEST_NUMBER = 400

# Powers of ten that a double holds exactly: one product or quotient by them is rounded once.
POWERS = 10.0 ** np.arange(23)

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NAN_WORD = np.frombuffer(b"nan", np.uint8)
INF_WORD = np.frombuffer(b"inf", np.uint8)
INFINITY_WORD = np.frombuffer(b"infinity", np.uint8)

SPACE, NEWLINE, HASH, COLON, DOT, MINUS, PLUS = 32, 10, 35, 58, 46, 45, 43


@njit(cache=True, nogil=True, inline="always")
def _skip_blanks(text: Bytes, i: int) -> int:
    """Return the first position from `i` on that is no blank within a line."""
    while i < len(text) and (text[i] == SPACE or (text[i] != NEWLINE and 9 <= text[i] <= 13)):
        i += 1
    return i


@njit(cache=True, nogil=True, inline="always")
def _next_line(text: Bytes, i: int) -> int:
    """Return the first position of the next line."""
    while i < len(text) and text[i] != NEWLINE:
        i += 1
    return i + 1


@njit(cache=True, nogil=True, inline="always")
def _is_end(text: Bytes, i: int) -> bool:
    """Return whether a word ends before position `i`."""
    return i >= len(text) or text[i] <= SPACE or text[i] == HASH


@njit(cache=True, nogil=True)
def _word(text: Bytes, i: int, word: Bytes) -> bool:
    """Return whether the bytes at `i`, in lower case, are this word, and it ends there."""
    for k in range(len(word)):
        if i + k >= len(text) or (text[i + k] | SPACE) != word[k]:
            return False
    return _is_end(text, i + len(word))


@njit(cache=True, nogil=True)
def _named_number(text: Bytes, i: int, negative: bool) -> tuple[float, int, int]:
    """Read one of the words nan, inf and infinity; return the same as `_number`."""
    infinity = -np.inf if negative else np.inf
    if _word(text, i, NAN_WORD):
        return np.nan, i + 3, EXACT
    if _word(text, i, INF_WORD):
        return infinity, i + 3, EXACT
    if _word(text, i, INFINITY_WORD):
        return infinity, i + 8, EXACT
    return 0.0, i, WRONG


@njit(cache=True, nogil=True)
def _number(text: Bytes, i: int) -> tuple[float, int, int]:
    """Read a number at `i`; return it, the position after it, and EXACT, ODD or WRONG.

    A decimal with 15 digits or so and a power of ten up to 22 comes out correctly rounded by
    one product (Clinger, 1990); others are left to the caller.
    """
    n, begin = len(text), i
    negative = i < n and text[i] == MINUS
    if i < n and (text[i] == MINUS or text[i] == PLUS):
        i += 1
    if i < n and text[i] > 57:
        return _named_number(text, i, negative)
    # Gather the digits.
    mantissa, digits, power, seen = np.uint64(0), 0, 0, False
    fraction = False
    while i < n:
        byte = text[i]
        if 48 <= byte <= 57:
            seen = True
            if mantissa > 0 or byte > 48:
                digits += 1
            if digits <= 19:
                mantissa = mantissa * np.uint64(10) + np.uint64(byte - 48)
            if fraction:
                power -= 1
        elif byte == DOT and not fraction:
            fraction = True
        else:
            break
        i += 1
    if not seen:
        return 0.0, i, WRONG
    # Read the exponent.
    if i < n and (text[i] | SPACE) == 101:
        i += 1
        down = i < n and text[i] == MINUS
        if i < n and (text[i] == MINUS or text[i] == PLUS):
            i += 1
        start, exponent = i, 0
        while i < n and 48 <= text[i] <= 57:
            exponent = min(exponent * 10 + (text[i] - 48), 100_000)
            i += 1
        if i == start:
            return 0.0, i, WRONG
        power += -exponent if down else exponent
    if not _is_end(text, i) or i - begin > LONGEST_NUMBER:
        return 0.0, i, WRONG
    # Put them together, if one rounding does it.
    value = float(mantissa)
    if digits > 19 or mantissa > np.uint64(2**53):
        return 0.0, i, ODD
    if mantissa > 0 and power != 0:
        if power < -22 or power > 22:
            return 0.0, i, ODD
        value = value * POWERS[power] if power > 0 else value / POWERS[-power]
    return (-value if negative else value), i, EXACT


@njit(cache=True, nogil=True)
def _index(text: Bytes, i: int) -> tuple[int, int, int]:
    """Read an index and its colon at `i`; return it, the position after the colon, and a code."""
    n, start, index = len(text), i, 0
    while i < n and 48 <= text[i] <= 57 and i - start < 18:
        index = index * 10 + (text[i] - 48)
        i += 1
    if i == start or (i < n and 48 <= text[i] <= 57):
        return 0, i, QUERY if text[start] == 113 else BAD_INDEX
    if i >= n or text[i] != COLON:
        return 0, i, NO_COLON
    return index, i + 1, OK


@njit(cache=True, nogil=True, inline="always")
def _note(odd: Ints, odds: int, place: int, begin: int, end: int) -> int:
    """Note a number that is left to the caller; return how many there are."""
    odd[odds, 0], odd[odds, 1], odd[odds, 2] = place, begin, end
    return odds + 1


@njit(cache=True, nogil=True)
def parse_block(
    text: Bytes,
    first_index: int,
    sort: bool,
    lengths: Ints,
    labels: Floats,
    lines: Ints,
    indices: Ints,
    values: Floats,
    odd: Ints,
) -> tuple[int, int, int, int, bool, int, int]:
    """Parse whole lines of libsvm text into arrays that the caller made large enough.

    Args:
        text: uint8; the last line may lack its newline.
        first_index: what the first column is called in the text, 0 or 1.
        sort: whether columns that do not rise are sorted later rather than refused.
        lengths, labels, lines: one element a row: nonzeros, label, number of its line from 1.
        indices, values: one element a nonzero; columns from 0.
        odd: int64 `(numbers, 3)`: numbers left to the caller: place, begin, end in `text`. Place is
            a position in `values`, or -1 - row for a label.

    Returns:
        Counts of rows, nonzeros, odd numbers and lines; whether a row needs sorting; a code, and
        where in `text` it arose.
    """
    n = len(text)
    rows = nnz = odds = line = i = start = 0
    code, falling = OK, False
    while i < n and code == OK:
        line += 1
        i = _skip_blanks(text, i)
        if i < n and text[i] != NEWLINE and text[i] != HASH:
            # Read the label.
            start = i
            labels[rows], i, state = _number(text, i)
            if state == WRONG:
                code = BAD_LABEL
                break
            if state == ODD:
                odds = _note(odd, odds, -1 - rows, start, i)
            # Read the pairs.
            row_start, previous = nnz, -1
            while True:
                start = i = _skip_blanks(text, i)
                if i >= n or text[i] == NEWLINE or text[i] == HASH:
                    break
                index, begin, code = _index(text, i)
                index -= first_index
                if code == OK and index <= previous:
                    falling = True
                    if index < 0:
                        code = BELOW_FIRST
                    elif not sort:
                        code = TWICE if index == previous else FALLING
                if code != OK:
                    break
                values[nnz], i, state = _number(text, begin)
                if state == WRONG:
                    code = BAD_VALUE
                    break
                if state == ODD:
                    odds = _note(odd, odds, nnz, begin, i)
                indices[nnz] = previous = index
                nnz += 1
            lengths[rows], lines[rows] = nnz - row_start, line
            rows += 1
        i = _next_line(text, i)
    return rows, nnz, odds, line, falling, code, start


@njit(cache=True, nogil=True)
def sort_rows(lengths: Ints, indices: Ints, values: Floats) -> int:
    """Sort each row by column in place; return the first row with a column twice, or -1."""
    begin = 0
    for row in range(len(lengths)):
        end = begin + lengths[row]
        order = np.argsort(indices[begin:end], kind="mergesort")
        indices[begin:end] = indices[begin:end][order]
        values[begin:end] = values[begin:end][order]
        for k in range(begin + 1, end):
            if indices[k] == indices[k - 1]:
                return row
        begin = end
    return -1


@njit(cache=True, nogil=True, inline="always")
def _copy_number(target: Bytes, at: int, source: Bytes) -> int:
    """Copy a number's text up to its zero bytes, without a final ".0"; return where it ends."""
    length = len(source)
    while length > 0 and source[length - 1] == 0:
        length -= 1
    if length > 2 and source[length - 1] == 48 and source[length - 2] == DOT:
        length -= 2
    for k in range(length):
        target[at + k] = source[k]
    return at + length


@njit(cache=True, nogil=True)
def print_rows(
    indptr: Ints, indices: Ints, values: Bytes, labels: Bytes, first_index: int, out: Bytes
) -> int:
    """Print rows as libsvm text; return how many bytes of `out` they take.

    Args:
        indptr: int64 `(rows + 1,)`, from 0.
        indices: int64 `(nnz,)`, from 0.
        values: uint8 `(nnz, width)`: each value's text, filled up with zero bytes.
        labels: uint8 `(rows, width)`: the same for labels.
        first_index: what to call the first column.
        out: uint8, large enough.
    """
    at = 0
    digits = np.empty(20, np.uint8)
    for row in range(len(indptr) - 1):
        at = _copy_number(out, at, labels[row])
        for k in range(indptr[row], indptr[row + 1]):
            out[at] = SPACE
            at += 1
            # Print the index from its last digit.
            index, count = indices[k] + first_index, 0
            while count == 0 or index > 0:
                digits[count] = 48 + index % 10
                index //= 10
                count += 1
            for back in range(count):
                out[at + back] = digits[count - 1 - back]
            out[at + count] = COLON
            at = _copy_number(out, at + count + 1, values[k])
        out[at] = NEWLINE
        at += 1
    return at
