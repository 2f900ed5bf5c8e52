"""Ed25519 signatures that must be refused, each one valid for some lax verifier, and two that pass."""

import hashlib

from ed25519_strict import (
    BASE, L, P, ZERO, add, challenge, encode, order_eight, passes_lax, secret_scalar, times, verify,
)
from primitives import Refused, det, ed25519_public, ed25519_sign

SEED = det("strict/seed", 32)
MESSAGE = b"\x0dkith/v1/login" + det("strict/message", 60)


def nonce(name, counter=0):
    return int.from_bytes(hashlib.sha512(f"kith {name} {counter}".encode()).digest(), "little") % L


def case(name, about, key, message, signature, lax) -> dict:
    """`lax`: which lax verifier takes it, as an assertion that the case tests something."""
    try:
        verify(key, message, signature)
        expect, reason = "accepted", None
    except Refused as refusal:
        expect, reason = "refused", str(refusal)
    if lax is not None:
        assert passes_lax(key, message, signature, lax == "cofactored"), name
    return {"name": name, "kind": "signature", "about": about, "key": key, "message": message, "signature": signature,
            "expect": expect, "reason": reason}


def sign_with(key, scalar, r_point_bytes, r_scalar, message):
    s = (r_scalar + challenge(r_point_bytes, key, message) * scalar) % L
    return r_point_bytes + s.to_bytes(32, "little")


def small_order_key(name, about, key, multiple):
    """A signature by nobody: k·A is the identity when k is a multiple of A's order."""
    counter = 0
    while True:
        r = nonce(name, counter)
        r_bytes = encode(times(r, BASE))
        if challenge(r_bytes, key, MESSAGE) % multiple == 0:
            return case(name, about, key, MESSAGE, r_bytes + r.to_bytes(32, "little"), "cofactorless")
        counter += 1


def mixed_key(name, about, wanted):
    """A = aB + T with T of order 8, and a challenge that is a multiple of 8 or not."""
    scalar = secret_scalar(SEED)
    key = encode(add(times(scalar, BASE), order_eight()))
    counter = 0
    while True:
        r = nonce(name, counter)
        r_bytes = encode(times(r, BASE))
        if (challenge(r_bytes, key, MESSAGE) % 8 == 0) == wanted:
            signature = sign_with(key, scalar, r_bytes, r, MESSAGE)
            return case(name, about, key, MESSAGE, signature, "cofactorless" if wanted else "cofactored")
        counter += 1


def cases() -> list:
    scalar, key = secret_scalar(SEED), ed25519_public(SEED)
    good = ed25519_sign(SEED, MESSAGE)
    s = int.from_bytes(good[32:], "little")
    identity, negative_zero = encode(ZERO), (1 | 1 << 255).to_bytes(32, "little")
    eight = order_eight()
    r = nonce("mixed-r")
    mixed_r = encode(add(times(r, BASE), eight))
    made = [
        case("good", "an ordinary signature", key, MESSAGE, good, "cofactorless"),
        case("s-plus-l", "S + L in place of S", key, MESSAGE, good[:32] + (s + L).to_bytes(32, "little"), "cofactorless"),
        case("s-equals-l", "S = L with R and A of small order", identity, MESSAGE, identity + L.to_bytes(32, "little"),
             "cofactorless"),
        case("r-identity", "R is the identity", key, MESSAGE, sign_with(key, scalar, identity, 0, MESSAGE), "cofactorless"),
        case("r-identity-not-canonical", "R is the identity written as y = p + 1", key, MESSAGE,
             sign_with(key, scalar, (P + 1).to_bytes(32, "little"), 0, MESSAGE), "cofactorless"),
        case("r-negative-zero", "R is the identity with a sign bit", key, MESSAGE,
             sign_with(key, scalar, negative_zero, 0, MESSAGE), "cofactorless"),
        case("r-mixed", "R has a part of order 8: the cofactored equation alone holds", key, MESSAGE,
             sign_with(key, scalar, mixed_r, r, MESSAGE), "cofactored"),
        small_order_key("a-identity", "A is the identity: anything verifies", identity, 1),
        small_order_key("a-identity-not-canonical", "A is the identity written as y = p + 1", (P + 1).to_bytes(32, "little"), 1),
        small_order_key("a-negative-zero", "A is the identity with a sign bit", negative_zero, 1),
        small_order_key("a-order-two", "A is of order 2", encode(times(4, eight)), 2),
        small_order_key("a-order-four", "A is of order 4", encode(times(2, eight)), 4),
        small_order_key("a-order-eight", "A is of order 8", encode(eight), 8),
        mixed_key("a-mixed-cofactored", "A has a part of order 8 and only the cofactored equation holds", False),
        mixed_key("a-mixed-cofactorless", "A has a part of order 8 but the cofactorless equation holds: not of small order, so taken", True),
        case("other-message", "one bit of the message differs", key, MESSAGE[:-1] + bytes([MESSAGE[-1] ^ 1]), good, None),
        case("other-key", "another key", ed25519_public(det("strict/other", 32)), MESSAGE, good, None),
        case("short", "63 bytes", key, MESSAGE, good[:63], None),
    ]
    assert [c["name"] for c in made if c["expect"] == "accepted"] == ["good", "a-mixed-cofactorless"]
    return made
