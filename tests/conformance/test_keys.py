"""Prekeys: topping up, and handing each one-time key out once (section 3)."""

import concurrent.futures

import pytest

import statements as st
from client import Person
from refusal import refused
from wire import unb64


def bundle(asking, person, **body):
    answer = asking.post(f"/v1/accounts/{person.id.hex()}/bundles", body)
    assert answer["account"] == person.id.hex() and answer["list_version"] == person.version
    return answer["bundles"]


def has_one_time(one):
    """The field is left out or null where there is no key."""
    return one.get("one_time") is not None


def check_signed(device, prekey, kind):
    key = unb64(prekey["key"])
    assert len(key) == (32 if kind == st.KIND_SIGNED else 1184)
    signed = st.prekey_string(device.person.id, device.id, kind, prekey["id"], prekey["created_ms"], key)
    st.verify(device.ed.public_key().public_bytes_raw(), unb64(prekey["signature"]), signed)
    assert device.prekeys[prekey["id"]] == key


def test_a_bundle_verifies(alice):
    bob = Person().register(one_time=1, one_time_kem=1)
    (one,) = bundle(alice.device, bob)
    assert one["device"] == bob.device.id.hex() and one["limited"] is False
    check_signed(bob.device, one["signed"], st.KIND_SIGNED)
    assert one["kem_kind"] == st.KIND_ONE_TIME_KEM
    check_signed(bob.device, one["kem"], st.KIND_ONE_TIME_KEM)
    assert bob.device.prekeys[one["one_time"]["id"]] == unb64(one["one_time"]["key"])


def test_each_one_time_key_once_then_the_last_resort(alice):
    bob = Person().register(one_time=3, one_time_kem=2)
    got = [bundle(alice.device, bob)[0] for _ in range(4)]
    assert [one["kem_kind"] for one in got] == [2, 2, 3, 3]
    assert [has_one_time(one) for one in got] == [True, True, True, False]
    assert len({one["kem"]["id"] for one in got[:2]}) == 2 and len({one["one_time"]["id"] for one in got[:3]}) == 3
    assert got[2]["kem"] == got[3]["kem"]
    check_signed(bob.device, got[2]["kem"], st.KIND_LAST_RESORT_KEM)
    assert not any(one["limited"] for one in got)


def test_once_among_several_at_the_same_time(alice):
    bob = Person().register(one_time=8, one_time_kem=8)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        got = [answer[0] for answer in pool.map(lambda _: bundle(alice.device, bob), range(10))]
    one_time = [one["one_time"]["id"] for one in got if has_one_time(one)]
    kem = [one["kem"]["id"] for one in got if one["kem_kind"] == 2]
    assert len(one_time) == len(set(one_time)) and len(kem) == len(set(kem))
    assert len(one_time) <= 8 and len(kem) <= 8 and max(len(one_time), len(kem)) > 0


def test_fetching_too_often_is_limited(alice):
    """One who fetches again and again gets last-resort keys only, and the others' keys are left."""
    bob = Person().register(one_time=100, one_time_kem=100)
    for _ in range(101):
        (one,) = bundle(alice.device, bob)
        if one["limited"]:
            break
    assert one["limited"], "a hundred bundles for one caller"
    assert one["kem_kind"] == st.KIND_LAST_RESORT_KEM and not has_one_time(one)
    assert bob.device.get("/v1/keys")


def test_every_device_of_the_list(alice, bob):
    second = bob.link(one_time=1, one_time_kem=1)
    got = {one["device"]: one for one in bundle(alice.device, bob)}
    assert set(got) == {device.id.hex() for device in bob.devices}
    check_signed(second, got[second.id.hex()]["signed"], st.KIND_SIGNED)
    assert has_one_time(got[second.id.hex()]) and not has_one_time(got[bob.device.id.hex()])


def test_only_the_devices_asked_for(alice, bob):
    second = bob.link()
    (one,) = bundle(alice.device, bob, devices=[second.id.hex()])
    assert one["device"] == second.id.hex()


def test_of_nobody(alice):
    with refused("UNKNOWN_ACCOUNT"):
        alice.device.post(f"/v1/accounts/{Person().id.hex()}/bundles", {})


def test_own_other_devices(alice):
    second = alice.link(one_time=1)
    assert second.id.hex() in {one["device"] for one in bundle(alice.device, alice)}


def test_top_up(alice, bob):
    device = bob.device
    device.post("/v1/keys", {"one_time": [device.one_time_key()], "one_time_kem": [device.signed_key(st.KIND_ONE_TIME_KEM)]})
    (one,) = bundle(alice.device, bob)
    assert one["kem_kind"] == 2 and has_one_time(one)
    check_signed(device, one["kem"], st.KIND_ONE_TIME_KEM)


def test_rotation(alice, bob):
    device = bob.device
    before = bundle(alice.device, bob)[0]
    device.post("/v1/keys", {"signed": device.signed_key(st.KIND_SIGNED), "last_resort_kem": device.signed_key(st.KIND_LAST_RESORT_KEM)})
    after = bundle(alice.device, bob)[0]
    assert after["signed"]["id"] > before["signed"]["id"] and after["kem"]["id"] > before["kem"]["id"]
    check_signed(device, after["signed"], st.KIND_SIGNED)
    check_signed(device, after["kem"], st.KIND_LAST_RESORT_KEM)


def test_ids_only_grow(bob):
    """At registration the device used 1 and 2."""
    device = bob.device
    device.post("/v1/keys", {"one_time": [device.one_time_key(50)]})
    for bad in (0, 1, 2, 49, 50):
        with refused("PREKEY_INVALID"):
            device.post("/v1/keys", {"one_time": [device.one_time_key(bad)]})
        with refused("PREKEY_INVALID"):
            device.post("/v1/keys", {"one_time_kem": [device.signed_key(st.KIND_ONE_TIME_KEM, bad)]})
        with refused("PREKEY_INVALID"):
            device.post("/v1/keys", {"signed": device.signed_key(st.KIND_SIGNED, bad)})
    with refused("PREKEY_INVALID"):
        device.post("/v1/keys", {"one_time": [device.one_time_key(51), device.one_time_key(51)]})
    device.post("/v1/keys", {"one_time": [device.one_time_key(51)]})


def test_an_id_handed_out_is_not_free_again(alice, bob):
    device = bob.device
    device.post("/v1/keys", {"one_time": [device.one_time_key(60)]})
    assert bundle(alice.device, bob)[0]["one_time"]["id"] == 60
    with refused("PREKEY_INVALID"):
        device.post("/v1/keys", {"one_time": [device.one_time_key(60)]})


def test_a_refused_top_up_takes_nothing(alice, bob):
    device = bob.device
    with refused("PREKEY_INVALID"):
        device.post("/v1/keys", {"one_time": [device.one_time_key(70), device.one_time_key(1)]})
    assert not has_one_time(bundle(alice.device, bob)[0])


def test_a_foreign_signature(bob, stranger):
    device = bob.device
    theirs = stranger.device.signed_key(st.KIND_SIGNED, 80)
    with refused("SIGNATURE_INVALID"):
        device.post("/v1/keys", {"signed": theirs})


@pytest.mark.parametrize("which", ["one_time", "one_time_kem"])
def test_unused_ones_are_capped(bob, which):
    device = bob.device
    make = device.one_time_key if which == "one_time" else lambda: device.signed_key(st.KIND_ONE_TIME_KEM)
    with refused("PREKEY_LIMIT"):
        for _ in range(20):
            device.post("/v1/keys", {which: [make() for _ in range(50)]})


def test_the_own_view(alice, bob):
    device = bob.device
    device.post("/v1/keys", {"one_time": [device.one_time_key() for _ in range(3)], "one_time_kem": [device.signed_key(2) for _ in range(2)]})
    text = str(device.get("/v1/keys"))
    bundle(alice.device, bob)
    assert str(device.get("/v1/keys")) != text


def test_keys_low_is_pushed(alice, opened):
    bob = Person().register(one_time=1, one_time_kem=1)
    b = opened(bob.device)
    bundle(alice.device, bob)
    low = b.push("keys_low", lambda low: low.one_time == 0 and low.one_time_kem == 0)
    assert low is not None
