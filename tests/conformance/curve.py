"""Just enough Ed25519 arithmetic to make signatures that a strict check refuses and a lax one takes."""

import hashlib

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
IDENTITY = (0, 1)


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + k, P - 2, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - k, P - 2, P)
    return x % P, y % P


def multiply(n, point):
    out = IDENTITY
    while n:
        if n & 1:
            out = add(out, point)
        point = add(point, point)
        n >>= 1
    return out


def root(square):
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return None if (x * x - square) % P else x


def from_y(y, odd):
    x = root((y * y - 1) * pow(D * y * y + 1, P - 2, P) % P)
    if x is None:
        return None
    return (P - x if x % 2 != odd else x), y % P


def encode(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


BASE = from_y(4 * pow(5, P - 2, P) % P, 0)


def order_eight():
    """A point of order 8, found by clearing the large part of one that is not in the prime-order group."""
    y = 2
    while True:
        point = from_y(y, 0)
        if point and multiply(4, small := multiply(ORDER, point)) != IDENTITY:
            return small
        y += 1


def _scalars(seed):
    digest = hashlib.sha512(seed).digest()
    secret = bytearray(digest[:32])
    secret[0] &= 248
    secret[31] = secret[31] & 127 | 64
    return int.from_bytes(secret, "little"), digest[32:]


def _challenge(r, public, message):
    return int.from_bytes(hashlib.sha512(r + public + message).digest(), "little") % ORDER


def sign(seed, message, nudge=IDENTITY):
    """An ordinary signature, or with `nudge` a small point added to R: then only the cofactored equation holds."""
    secret, prefix = _scalars(seed)
    public = encode(multiply(secret, BASE))
    r = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % ORDER
    point = encode(add(multiply(r, BASE), nudge))
    s = (r + _challenge(point, public, message) * secret) % ORDER
    return point + s.to_bytes(32, "little")


def with_large_s(signature):
    """The same signature with the group order added to S."""
    s = int.from_bytes(signature[32:], "little") + ORDER
    return signature[:32] + s.to_bytes(32, "little")


SMALL_KEY = encode(IDENTITY)
# With the identity as key and as R, and S zero, the equation holds for every message.
SIGNATURE_OF_SMALL_KEY = encode(IDENTITY) + bytes(32)


def small_r(seed, message):
    """A signature whose R is the identity: r = 0."""
    secret, _ = _scalars(seed)
    public = encode(multiply(secret, BASE))
    point = encode(IDENTITY)
    s = _challenge(point, public, message) * secret % ORDER
    return point + s.to_bytes(32, "little")
