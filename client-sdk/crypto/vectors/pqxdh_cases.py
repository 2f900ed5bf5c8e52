"""pqxdh.json: first contacts with every choice of prekeys, the KEM alone, and keys that must be refused."""

from kyber_py.ml_kem import ML_KEM_768

from primitives import Refused, ZERO32, det, hkdf, kem_decapsulate, kem_encapsulate, kem_public, x25519
from pqxdh import CREATED, INFO, KEM_LAST_RESORT, KEM_ONE_TIME, x3dh_secret
from world import ALICE_1, ALICE_2, BOB_1, BOB_2, handshake

# Every u-coordinate below p of a point of order 1, 2, 4 or 8 on the curve or its twist, and the same not reduced.
LOW_ORDER = [
    bytes(32).hex(),
    (1).to_bytes(32, "little").hex(),
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    (2**255 - 20).to_bytes(32, "little").hex(),
    (2**255 - 19).to_bytes(32, "little").hex(),
    (2**255 - 18).to_bytes(32, "little").hex(),
    (2**255 + 2**255 - 19).to_bytes(32, "little").hex(),
]


def party(device) -> dict:
    return {
        "account_id": device.account.account_id, "aik": device.account.aik, "device_id": device.device_id,
        "ed25519": device.ed25519, "x25519": device.x25519, "x25519_private": device.x25519_private,
        "party": device.party(),
    }


def handshake_case(name, about, **choices) -> dict:
    made = handshake(f"pqxdh/{name}", **choices)
    keys = made.prekeys
    classical = hkdf(ZERO32, b"\xff" * 32 + b"".join(made.dh), INFO, 32)
    assert classical == x3dh_secret(made)
    signed = made.responder.prekey(1, keys.signed_id, CREATED, keys.signed)
    kem = made.responder.prekey(keys.kem_kind, keys.kem_id, CREATED, keys.kem)
    return {
        "name": name, "kind": "handshake", "about": about, "conversation": made.conversation,
        "initiator": party(made.initiator), "responder": party(made.responder),
        "ephemeral_private": made.ephemeral_private, "ephemeral": made.ephemeral,
        "signed_prekey": {"id": keys.signed_id, "private": keys.signed_private, "key": keys.signed,
                          "created": CREATED, "signature": signed["signature"]},
        "one_time_prekey": keys.one_time and {"id": keys.one_time_id, "private": keys.one_time_private, "key": keys.one_time},
        "kem_prekey": {"kind": keys.kem_kind, "id": keys.kem_id, "seed": keys.kem_seed, "key": keys.kem,
                       "created": CREATED, "signature": kem["signature"]},
        "kem_randomness": made.kem_randomness, "kem_ciphertext": made.ciphertext, "kem_secret": made.kem_secret,
        "dh": made.dh, "x3dh_secret": classical, "sk": made.sk, "transcript": made.transcript, "th": made.th,
        "session_id": made.th[:8], "rk": made.rk, "first_extra": made.first_extra,
    }


def kem_case(name, about, damage) -> dict:
    seed, randomness = det(f"kem/{name}/seed", 64), det(f"kem/{name}/m", 32)
    key = kem_public(seed)
    secret, ciphertext = kem_encapsulate(key, randomness)
    if damage is not None:
        ciphertext = ciphertext[:damage] + bytes([ciphertext[damage] ^ 1]) + ciphertext[damage + 1:]
    decapsulated = kem_decapsulate(seed, ciphertext)
    assert (decapsulated == secret) == (damage is None)
    return {"name": name, "kind": "kem", "about": about, "seed": seed, "key": key, "randomness": randomness,
            "ciphertext": ciphertext, "encapsulated_secret": secret, "decapsulated_secret": decapsulated}


def refused_kem_key() -> dict:
    """A first coefficient of 3,329, which the modulus check of FIPS 203 section 7.2 refuses."""
    good = kem_public(det("kem/modulus/seed", 64))
    bad = bytes([3329 & 0xFF, (good[1] & 0xF0) | 3329 >> 8]) + good[2:]
    try:
        ML_KEM_768.encaps(bad)
    except ValueError:
        return {"name": "kem-key-not-reduced", "kind": "refused_kem_key", "about": "a coefficient is q", "key": bad}
    raise AssertionError("the modulus check is missing")


def refused_dh(index, point) -> dict:
    private, point = det("low-order/private", 32), bytes.fromhex(point)
    try:
        x25519(private, point)
    except Refused:
        return {"name": f"low-order-{index}", "kind": "refused_dh", "about": "the X25519 result is all zero, whoever sent the point",
                "private": private, "public": point}
    raise AssertionError("not of low order")


def cases() -> list:
    made = [
        handshake_case("full", "one-time X25519 key and one-time KEM key", one_time=True, kem_kind=KEM_ONE_TIME),
        handshake_case("no-one-time", "no one-time X25519 key", one_time=False, kem_kind=KEM_ONE_TIME, first_id=7),
        handshake_case("last-resort", "last-resort KEM key", one_time=True, kem_kind=KEM_LAST_RESORT, first_id=65_535),
        handshake_case("neither", "no one-time key and the last-resort KEM key", one_time=False, kem_kind=KEM_LAST_RESORT,
                       first_id=0xFFFF_FF00),
        handshake_case("own-device", "between two devices of one account", initiator=ALICE_1, responder=ALICE_2),
        handshake_case("other-way", "the same two devices, the other way round", initiator=BOB_1, responder=ALICE_1),
        handshake_case("second-device", "to the responder's second device", initiator=ALICE_1, responder=BOB_2),
        kem_case("kem-plain", "encapsulation and decapsulation", None),
        kem_case("kem-damaged-start", "implicit rejection: a damaged ciphertext gives another secret", 0),
        kem_case("kem-damaged-end", "implicit rejection, last byte", 1087),
        refused_kem_key(),
    ]
    return made + [refused_dh(index, point) for index, point in enumerate(LOW_ORDER)]
