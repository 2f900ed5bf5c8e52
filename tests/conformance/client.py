"""A small Kith client over REST: accounts, devices, tokens and keys. Written from docs/protocol.md alone."""

import os
import secrets
import threading
import time
import urllib.parse

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import page
import statements as st
import wire
from contract import Contract
from wire import b64, unb64

SERVER = os.environ.get("KITH_SERVER", "").rstrip("/")
DEADLINE = 15.0  # seconds, for every answer
PATIENCE = 90.0  # seconds that setting up may spend obeying Retry-After


def origin():
    """`scheme://host:port` of what is dialled, the port always written."""
    url = urllib.parse.urlsplit(SERVER.lower())
    return f"{url.scheme}://{url.hostname}:{url.port or {'http': 80, 'https': 443}[url.scheme]}"


def now_ms():
    return int(time.time() * 1000)


class ApiError(Exception):
    """A REST error. Making one checks that it is as section 8 of the page says: body, status, retry, header."""

    def __init__(self, answer):
        body = answer.json()
        self.status, self.headers, self.body = answer.status_code, answer.headers, body
        assert answer.headers["content-type"].startswith("application/json"), answer.headers
        assert set(body) >= {"code", "message", "retry"}, body
        self.code, self.retry, self.after_ms = body["code"], body["retry"], body.get("after_ms")
        assert self.code in page.CODES, body
        assert (self.status, self.retry) == (page.CODES[self.code].status, page.CODES[self.code].retry), (self.status, body)
        assert isinstance(body["message"], str) and body["message"], body
        if self.retry == "after":
            assert self.after_ms > 0, body
            assert int(answer.headers["retry-after"]) * 1000 >= self.after_ms, (answer.headers, body)
        super().__init__(f"{self.status} {self.code} {self.retry} {body['message']}")


# Some limits are per address of the caller. All of 127.0.0.0/8 is this machine, so that calls that are limited so come from ever new addresses there.
PER_ADDRESS = ("/v1/accounts", "/v1/login", "/v1/login/challenge")
CALLS_PER_ADDRESS = 10


class Addresses:
    """HTTP clients, each calling from an address of its own where the server is on loopback."""

    def __init__(self):
        self.lock, self.calls, self.http = threading.Lock(), 0, None
        self.loopback = urllib.parse.urlsplit(SERVER).hostname == "127.0.0.1"

    def client(self):
        with self.lock:
            if self.http is None or (self.loopback and self.calls % CALLS_PER_ADDRESS == 0):
                number = self.calls // CALLS_PER_ADDRESS + 1
                address = f"127.{1 + secrets.randbelow(250)}.{number // 250 % 250}.{number % 250 + 1}" if self.loopback else None
                transport = httpx.HTTPTransport(local_address=address)
                self.http = httpx.Client(base_url=SERVER, timeout=DEADLINE, trust_env=False, transport=transport)
            self.calls += 1
            return self.http


class Rest:
    """The calls under /v1. A refusal is an `ApiError`."""

    def __init__(self):
        self.http = httpx.Client(base_url=SERVER, timeout=DEADLINE, trust_env=False)
        self.addresses, self.described = Addresses(), None

    def contract(self):
        if self.described is None:
            self.described = Contract(self.raw("GET", "/v1/openapi.json").raise_for_status().json())
        return self.described

    def raw(self, method, path, **how):
        http = self.addresses.client() if path in PER_ADDRESS else self.http
        return http.request(method, path, **how)

    def call(self, method, path, body=None, token=None):
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        answer = self.raw(method, path, headers=headers, **({} if body is None else {"json": body}))
        self.contract().check(method, path, answer.status_code, answer.json() if answer.content else None)
        if not answer.is_success:
            raise ApiError(answer)
        return answer.json() if answer.content else None

    def patient(self, method, path, body=None, token=None):
        """As `call`, but does as a RATE_LIMITED answer says, for setting up."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self.call(method, path, body, token)
            except ApiError as error:
                if error.code != "RATE_LIMITED" or time.monotonic() + error.after_ms / 1000 > until:
                    raise
                time.sleep(error.after_ms / 1000)

    def get(self, path, token=None):
        return self.call("GET", path, token=token)

    def post(self, path, body=None, token=None):
        return self.call("POST", path, body, token)

    def challenge(self, account, device):
        answer = self.patient("POST", "/v1/login/challenge", {"account": account.hex(), "device": device.hex()})
        assert set(answer) >= {"challenge", "expires_ms"}, answer
        assert len(unb64(answer["challenge"])) == 32
        return answer


REST = Rest()


class Device:
    """A device's keys and what its store has to remember."""

    def __init__(self, person, since_version=1):
        self.person, self.since_version = person, since_version
        self.id = secrets.token_bytes(16)
        self.seed = secrets.token_bytes(32)
        self.ed = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.x, self.mls = X25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.next_prekey, self.epoch, self.counter = 1, 0, 0
        self.tokens = None
        self.prekeys = {}

    @property
    def token(self):
        """A current access token."""
        if self.tokens["access_expires_ms"] < now_ms() + 30_000:
            self.login()
        return self.tokens["access_token"]

    def fields(self):
        p = self.person
        keys = (key.public_key().public_bytes_raw() for key in (self.ed, self.x, self.mls))
        return (p.id, p.aik.public_key().public_bytes_raw(), self.id, *keys, self.since_version)

    def certificate(self):
        """(signed string, identity key's signature, device's signature); Ed25519 is deterministic, so always the same."""
        signed = st.device_string(*self.fields())
        return signed, self.person.aik.sign(signed), self.ed.sign(st.accept_string(*self.fields()))

    def certificate_json(self):
        return dict(zip(("signed", "aik_signature", "accept_signature"), map(b64, self.certificate())))

    def new_id(self):
        self.next_prekey += 1
        return self.next_prekey - 1

    def signed_key(self, kind, key_id=None, key=None, created=None):
        key_id = self.new_id() if key_id is None else key_id
        fresh = X25519PrivateKey if kind == st.KIND_SIGNED else MLKEM768PrivateKey
        key = fresh.generate().public_key().public_bytes_raw() if key is None else key
        created = now_ms() if created is None else created
        signature = self.ed.sign(st.prekey_string(self.person.id, self.id, kind, key_id, created, key))
        self.prekeys[key_id] = key
        return {"id": key_id, "created_ms": created, "key": b64(key), "signature": b64(signature)}

    def one_time_key(self, key_id=None):
        key_id = self.new_id() if key_id is None else key_id
        self.prekeys[key_id] = X25519PrivateKey.generate().public_key().public_bytes_raw()
        return {"id": key_id, "key": b64(self.prekeys[key_id])}

    def first_prekeys(self, one_time=0, one_time_kem=0):
        return {
            "signed": self.signed_key(st.KIND_SIGNED),
            "last_resort_kem": self.signed_key(st.KIND_LAST_RESORT_KEM),
            "one_time": [self.one_time_key() for _ in range(one_time)],
            "one_time_kem": [self.signed_key(st.KIND_ONE_TIME_KEM) for _ in range(one_time_kem)],
        }

    def prekeys_json(self, one_time=0, one_time_kem=0):
        """First prekeys as publishing a list takes them."""
        return {"device": self.id.hex(), "prekeys": self.first_prekeys(one_time, one_time_kem)}

    def proof(self, challenge=None, sign=None, signed_origin=None):
        challenge = challenge or REST.challenge(self.person.id, self.id)
        nonce, name = secrets.token_bytes(32), signed_origin or origin()
        signed = st.login_string(name, self.person.id, self.id, unb64(challenge["challenge"]), nonce, challenge["expires_ms"])
        signature = (sign or self.ed.sign)(signed)
        return {"challenge": challenge["challenge"], "client_nonce": b64(nonce), "origin": name, "signature": b64(signature)}

    def login_body(self, **how):
        return {"account": self.person.id.hex(), "device": self.id.hex(), "proof": self.proof(**how)}

    def login(self):
        """Logs in and keeps the tokens."""
        self.tokens = tokens_of(REST.patient("POST", "/v1/login", self.login_body()))
        return self.tokens

    def get(self, path):
        return REST.get(path, self.token)

    def post(self, path, body=None):
        return REST.post(path, body, self.token)

    def compose(self, peer, body=None, **changes):
        """A Send with everything right, for all devices of the peer and the own others. Takes the next counter."""
        self.counter += 1
        own = [device for device in self.person.devices if device is not self]
        out = wire.Send(
            conversation=st.direct_conversation(self.person.id, peer.id), recipient=peer.id, client_msg_id=secrets.token_bytes(16),
            body=secrets.token_bytes(24) if body is None else body, device_counter=self.counter,
            slices=[{"device": device.id, "data": b"slice for " + device.id} for device in peer.devices],
            own_slices=[{"device": device.id, "data": b"slice for " + device.id} for device in own],
            sender_list_version=self.person.version, recipient_list_version=peer.version,
        )
        for name, value in changes.items():
            setattr(out, name, value)
        return out


def tokens_of(answer):
    """The tokens in an answer: either the answer itself or its field `tokens`."""
    assert set(answer) >= {"access_token", "access_expires_ms", "refresh_token", "refresh_expires_ms"}, answer
    return answer


class Person:
    """An account: identity key, recovery key, devices, signed lists."""

    def __init__(self, username=None, recovery=True):
        self.username = "u" + secrets.token_hex(8) if username is None else username
        self.aik = Ed25519PrivateKey.generate()
        self.recovery_key = Ed25519PrivateKey.generate() if recovery else None
        self.recovery = self.recovery_key.public_key().public_bytes_raw() if recovery else st.NO_KEY
        self.id = st.account_id(self.aik.public_key().public_bytes_raw(), self.recovery)
        self.devices, self.lists = [Device(self)], []

    @property
    def device(self):
        return self.devices[0]

    @property
    def version(self):
        return len(self.lists)

    def sign_list(self, devices, version=None, prev_hash=None, order=sorted):
        """The list string and its signature, not yet kept."""
        version = self.version + 1 if version is None else version
        prev_hash = (st.sha256(self.lists[-1]) if self.lists else st.NO_HASH) if prev_hash is None else prev_hash
        rows = order((device.id, st.certificate_hash(*device.certificate())) for device in devices)
        signed = st.list_string(self.id, self.aik.public_key().public_bytes_raw(), self.recovery, version, prev_hash, now_ms(), rows)
        return {"signed": b64(signed), "signature": b64(self.aik.sign(signed))}

    def registration(self, one_time=0, one_time_kem=0, **proof):
        return {
            "username": self.username, "aik": b64(self.aik.public_key().public_bytes_raw()), "recovery": b64(self.recovery),
            "certificate": self.device.certificate_json(), "list": self.sign_list(self.devices),
            "prekeys": self.device.first_prekeys(one_time, one_time_kem), "proof": self.device.proof(**proof),
        }

    def register(self, body=None, **how):
        body = body or self.registration(**how)
        answer = REST.patient("POST", "/v1/accounts", body)
        assert answer["account"] == self.id.hex() and answer["device"] == self.device.id.hex()
        self.lists = [unb64(body["list"]["signed"])]
        self.device.tokens = tokens_of(answer["tokens"])
        return self

    def publish(self, devices, prekeys=None):
        """Publishes the next list, with these devices; the first device of the account speaks."""
        new = [device for device in devices if device not in self.devices]
        signed = self.sign_list(devices)
        body = {"list": signed, "certificates": [device.certificate_json() for device in new], "prekeys": prekeys or []}
        answer = self.device.post("/v1/devices/list", body)
        assert answer["version"] == self.version + 1
        self.lists.append(unb64(signed["signed"]))
        self.devices = list(devices)

    def link(self, one_time=0, one_time_kem=0):
        """Links a further device and logs it in."""
        device = Device(self, self.version + 1)
        self.publish([*self.devices, device], [device.prekeys_json(one_time, one_time_kem)])
        device.login()
        return device


def fetch_verified(asking, person_id, aik, pinned=None):
    """All statements of an account above the pinned version, followed to the end and verified."""
    since, collected = (pinned.list.version if pinned else 0), []
    while True:
        answer = asking.get(f"/v1/accounts/{person_id.hex()}/devices?since_version={since}")
        for statement in answer["statements"]:
            assert statement["kind"] == "devices" and statement["version"] > since, statement
            since = statement["version"]
            parts = [tuple(unb64(c[k]) for k in ("signed", "aik_signature", "accept_signature")) for c in statement["certificates"]]
            collected.append((unb64(statement["list"]["signed"]), unb64(statement["list"]["signature"]), parts))
        if not answer["more"]:
            assert since == answer["newest_version"], answer
            return st.verify_chain(collected, person_id, aik, pinned)
