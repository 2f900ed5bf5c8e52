"""Strict Ed25519 verification over plain integers (rule 10), and signatures that only a lax verifier takes."""

import hashlib

from primitives import Refused

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
I = pow(2, (P - 1) // 4, P)
ZERO = (0, 1)


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2 % P
    return ((x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P)


def times(k, point):
    result = ZERO
    while k:
        if k & 1:
            result = add(result, point)
        point, k = add(point, point), k >> 1
    return result


def root(y, sign):
    """The x of a y, or None; x = 0 with a sign bit is given back as 0 (the caller calls it non-canonical)."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * I % P
    if (x * x - square) % P:
        return None
    return (P - x) % P if x & 1 != sign and x else x


def encode(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def decode_lax(data):
    number = int.from_bytes(data, "little")
    y, sign = (number & (1 << 255) - 1) % P, number >> 255
    x = root(y, sign)
    return None if x is None else (x, y)


def decode_strict(data, what):
    point = decode_lax(data)
    if point is None:
        raise Refused(f"{what} is not a point")
    if encode(point) != data:
        raise Refused(f"{what} is not canonical")
    if times(8, point) == ZERO:
        raise Refused(f"{what} is of small order")
    return point


def challenge(r, key, message):
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L


BASE = (root(4 * pow(5, -1, P) % P, 0), 4 * pow(5, -1, P) % P)


def verify(key, message, signature):
    """Raises Refused unless the signature passes every strict check."""
    if len(signature) != 64:
        raise Refused("not 64 bytes")
    a, r = decode_strict(key, "A"), decode_strict(signature[:32], "R")
    s = int.from_bytes(signature[32:], "little")
    if s >= L:
        raise Refused("S is not below L")
    if times(s, BASE) != add(r, times(challenge(signature[:32], key, message), a)):
        raise Refused("the cofactorless equation does not hold")


def passes_lax(key, message, signature, cofactored):
    """What a verifier without the strict checks says, with or without the factor 8."""
    a, r = decode_lax(key), decode_lax(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    factor = 8 if cofactored else 1
    right = add(r, times(challenge(signature[:32], key, message) % L, a))
    return times(factor * s, BASE) == times(factor, right)


def secret_scalar(seed):
    digest = bytearray(hashlib.sha512(seed).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 63 | 64
    return int.from_bytes(digest, "little")


def order_eight():
    """A point of order 8: L times a point that lies outside the prime-order subgroup."""
    y = 2
    while True:
        x = root(y, 0)
        if x is not None and times(4, point := times(L, (x, y))) != ZERO:
            return point
        y += 1
