"""The people, devices and conversations that all vector files share, derived from their names."""

from identity import Account, Device
from primitives import det
from pqxdh import make_handshake

ALICE, BOB = Account("alice"), Account("bob")
ALICE_1 = Device("alice/1", ALICE)
ALICE_2 = Device("alice/2", ALICE, since_version=2)
BOB_1 = Device("bob/1", BOB)
BOB_2 = Device("bob/2", BOB, since_version=3)
CONVERSATION = det("conversation", 16)


def handshake(name: str, initiator=ALICE_1, responder=BOB_1, **choices):
    return make_handshake(name, CONVERSATION, initiator, responder, **choices)
