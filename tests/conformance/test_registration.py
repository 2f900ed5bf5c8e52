"""Registering, and what is refused (section 3)."""

import copy
import secrets

import pytest

import curve
import statements as st
from client import Device, Person
from refusal import refused
from wire import b64, unb64


def register(rest, body):
    return rest.patient("POST", "/v1/accounts", body)


def test_answer_names_account_device_and_tokens(rest):
    person = Person()
    answer = register(rest, person.registration())
    assert (answer["account"], answer["device"]) == (person.id.hex(), person.device.id.hex())
    assert set(answer["tokens"]) == {"access_token", "access_expires_ms", "refresh_token", "refresh_expires_ms"}
    rest.get(f"/v1/users/{person.username}", answer["tokens"]["access_token"])


def test_without_recovery_key(rest, stranger):
    person = Person(recovery=False).register()
    assert stranger.device.get(f"/v1/users/{person.username}")["account"] == person.id.hex()


def test_no_one_time_prekeys_are_needed_and_a_hundred_fit(rest):
    Person().register()
    full = Person().register(one_time=100, one_time_kem=100)
    assert full.device.next_prekey == 203


def test_again_for_a_lost_answer_gives_fresh_tokens_and_changes_nothing(rest, stranger):
    person = Person().register(one_time=1)
    first = person.device.tokens
    body = person.registration()
    body["list"] = {"signed": b64(person.lists[0]), "signature": b64(person.aik.sign(person.lists[0]))}
    again = register(rest, body)["tokens"]
    assert again["refresh_token"] != first["refresh_token"]
    assert rest.get("/v1/devices", first["access_token"]) and rest.get("/v1/devices", again["access_token"])
    assert stranger.device.get(f"/v1/users/{person.username}")["list_version"] == 1


def test_the_same_bytes_again(rest):
    """The exact same request, challenge included: its answer was lost."""
    person = Person()
    body = person.registration()
    register(rest, body)
    with refused("CHALLENGE_INVALID"):
        register(rest, body)


def test_username_taken(rest, stranger):
    with refused("USERNAME_TAKEN", "never"):
        register(rest, Person(stranger.username).registration())


def test_username_is_folded(rest, stranger):
    with refused("USERNAME_TAKEN"):
        register(rest, Person(stranger.username.upper()).registration())
    name = "Up" + secrets.token_hex(6).upper()
    Person(name).register()
    assert stranger.device.get(f"/v1/users/{name.lower()}")["username"] == name.lower()


@pytest.mark.parametrize("name", ["", "ab", "a" * 33, ".abc", "abc.", "-abc", "abc_", "a bc", "äbc", "a/bc", "abc\n", "a@bc"])
def test_username_invalid(rest, name):
    with refused("USERNAME_INVALID", "never"):
        register(rest, Person(name).registration())


@pytest.mark.parametrize("shape", ["{}", "x{}.y", "{}_1", "{}-2"])
def test_username_shapes(shape):
    Person(shape.format(secrets.token_hex(5))).register()


def test_shortest_and_longest_username():
    Person(secrets.token_hex(16)).register()
    for _ in range(20):  # a name of three characters may be taken
        person = Person(secrets.token_hex(2)[:3])
        try:
            person.register()
            return
        except Exception as error:
            assert getattr(error, "code", None) == "USERNAME_TAKEN", error
    pytest.fail("no free name of three characters")


def test_another_account_with_the_same_keys(rest):
    """The account id is of the keys: a second device cannot register the account once more."""
    person = Person().register()
    person.devices, person.lists = [Device(person)], []
    with refused("ACCOUNT_EXISTS"):
        register(rest, person.registration())


def flipped(text):
    data = bytearray(unb64(text))
    data[-1] ^= 1
    return b64(bytes(data))


@pytest.mark.parametrize("which", [1, 2])
def test_a_wrong_signature_of_a_certificate(rest, which):
    """The list names the certificate as it is, wrong signature and all."""
    person = Person()
    certificate = list(person.device.certificate())
    certificate[which] = person.device.mls.sign(certificate[0])
    person.device.certificate = lambda: tuple(certificate)
    with refused("SIGNATURE_INVALID", "never"):
        register(rest, person.registration())


def test_a_certificate_that_the_list_does_not_name(rest):
    person = Person()
    body = person.registration()
    body["certificate"]["accept_signature"] = flipped(body["certificate"]["accept_signature"])
    with refused({"INVALID_FRAME", "SIGNATURE_INVALID", "DEVICE_LIST_CONFLICT"}):
        register(rest, body)


@pytest.mark.parametrize("path", [("list", "signature"), ("proof", "signature")])
def test_a_wrong_signature(rest, path):
    body = Person().registration()
    body[path[0]][path[1]] = flipped(body[path[0]][path[1]])
    with refused("SIGNATURE_INVALID", "never"):
        register(rest, body)


@pytest.mark.parametrize("which", ["signed", "last_resort_kem", "one_time_kem"])
def test_a_wrong_prekey_signature(rest, which):
    body = Person().registration(one_time_kem=1)
    prekey = body["prekeys"][which]
    prekey = prekey[0] if isinstance(prekey, list) else prekey
    prekey["signature"] = flipped(prekey["signature"])
    with refused("SIGNATURE_INVALID"):
        register(rest, body)


def test_account_id_of_other_keys(rest):
    """Everything is signed right, but for an id that is not the hash of the keys."""
    person = Person()
    person.id = secrets.token_bytes(16)
    with refused({"SIGNATURE_INVALID", "INVALID_FRAME"}):
        register(rest, person.registration())


def test_first_list_must_be_version_one(rest):
    person = Person()
    body = person.registration()
    body["list"] = person.sign_list(person.devices, version=2)
    with refused({"DEVICE_LIST_CONFLICT", "SIGNATURE_INVALID", "INVALID_FRAME"}):
        register(rest, body)


def test_first_list_must_follow_nothing(rest):
    person = Person()
    body = person.registration()
    body["list"] = person.sign_list(person.devices, prev_hash=secrets.token_bytes(32))
    with refused({"DEVICE_LIST_CONFLICT", "SIGNATURE_INVALID", "INVALID_FRAME"}):
        register(rest, body)


def test_first_list_must_name_the_device_only(rest):
    person = Person()
    body = person.registration()
    for devices in ([], [Device(person)], [person.device, Device(person)]):
        changed = {**body, "list": person.sign_list(devices), "proof": person.device.proof()}
        with refused({"DEVICE_LIST_CONFLICT", "SIGNATURE_INVALID", "INVALID_FRAME"}):
            register(rest, changed)


def test_prekey_ids(rest):
    """0 is never used, and no id twice: all prekeys of a device share one id space."""
    for broken in ("zero", "twice"):
        person = Person()
        body = person.registration()
        device = person.device
        body["prekeys"]["one_time"] = [device.one_time_key(0)] if broken == "zero" else [device.one_time_key(1)]
        with refused("PREKEY_INVALID"):
            register(rest, body)


def test_prekey_length(rest):
    person = Person()
    body = person.registration()
    body["prekeys"]["last_resort_kem"] = person.device.signed_key(st.KIND_LAST_RESORT_KEM, key=secrets.token_bytes(1183))
    with refused("PREKEY_INVALID"):
        register(rest, body)


def test_prekey_kind_is_signed(rest):
    """A one-time KEM key in the place of the last resort: the signature is over another kind."""
    person = Person()
    body = person.registration()
    body["prekeys"]["last_resort_kem"] = person.device.signed_key(st.KIND_ONE_TIME_KEM)
    with refused("SIGNATURE_INVALID"):
        register(rest, body)


@pytest.mark.parametrize("broken", ["unknown field", "unknown field deep", "missing field", "base64", "unpadded", "length", "type", "not json"])
def test_body_that_does_not_fit(rest, broken):
    body = Person().registration()
    good = copy.deepcopy(body)
    if broken == "unknown field":
        body["surprise"] = 1
    elif broken == "unknown field deep":
        body["proof"]["surprise"] = 1
    elif broken == "missing field":
        del body["list"]
    elif broken == "base64":
        body["aik"] = "***"
    elif broken == "unpadded":
        body["aik"] = body["aik"].rstrip("=")
    elif broken == "length":
        body["aik"] = b64(bytes(31))
    elif broken == "type":
        body["username"] = 7
    if broken == "not json":
        answer = rest.raw("POST", "/v1/accounts", content=b"{", headers={"content-type": "application/json"})
        assert answer.status_code == 400 and answer.json()["code"] == "INVALID_FRAME", answer.text
    else:
        with refused("INVALID_FRAME", "never", 400):
            register(rest, body)
    register(rest, good)  # nothing of it was taken, and the challenge not used up


def test_proof_for_another_device(rest):
    """A challenge works only for the device that asked for it."""
    person, other = Person(), Person()
    body = person.registration()
    body["proof"] = person.device.proof(challenge=rest.challenge(other.id, other.device.id))
    with refused("CHALLENGE_INVALID"):
        register(rest, body)


def test_proof_for_another_origin(rest):
    body = Person().registration(signed_origin="https://elsewhere.example:443")
    with refused("ORIGIN_MISMATCH", "never"):
        register(rest, body)


def test_identity_key_of_small_order(rest):
    """With the identity as key, one constant signs everything: it must not be taken for an account's key."""
    person = Person()
    honest = person.aik.public_key().public_bytes_raw()
    body = person.registration()
    person.id = st.account_id(curve.SMALL_KEY, person.recovery)
    device = person.device
    keys = (device.ed.public_key(), device.x.public_key(), device.mls.public_key())
    fields = (person.id, curve.SMALL_KEY, device.id, *(key.public_bytes_raw() for key in keys), 1)
    small = curve.SIGNATURE_OF_SMALL_KEY
    certificate = (st.device_string(*fields), small, device.ed.sign(st.accept_string(*fields)))
    row = [(device.id, st.certificate_hash(*certificate))]
    signed = st.list_string(person.id, curve.SMALL_KEY, person.recovery, 1, st.NO_HASH, 1, row)
    assert honest not in signed
    body |= {"aik": b64(curve.SMALL_KEY), "list": {"signed": b64(signed), "signature": b64(small)}, "prekeys": device.first_prekeys()}
    body["certificate"] = dict(zip(("signed", "aik_signature", "accept_signature"), map(b64, certificate)))
    body["proof"] = device.proof()
    with refused("SIGNATURE_INVALID"):
        register(rest, body)
