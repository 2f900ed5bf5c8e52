"""The frames of proto/kith/v1, compiled when this is imported, and their two encodings."""

import base64
import pathlib
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


def _compile():
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "set"
        files = [str(path) for path in sorted((PROTO / "kith/v1").glob("*.proto"))]
        if protoc.main(["protoc", f"-I{PROTO}", "--include_imports", f"--descriptor_set_out={out}", *files]) != 0:
            raise RuntimeError("the .proto files do not compile")
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


POOL = _compile()


def message_class(name):
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"kith.v1.{name}"))


ClientFrame = message_class("ClientFrame")
ServerFrame = message_class("ServerFrame")
Send = message_class("Send")


def _enum(name):
    return {value.name: value.number for value in POOL.FindEnumTypeByName(f"kith.v1.{name}").values}


ERROR = _enum("ErrorCode")
RETRY = _enum("Retry")
ABSENT = _enum("AbsentReason")
ERROR_NAME = {number: name for name, number in ERROR.items()}


def to_json(frame):
    """The text of a frame as the page prints it: one line, no spaces."""
    return json_format.MessageToJson(frame, indent=None).replace('": ', '":').replace(', "', ',"').replace("}, {", "},{")


def from_json(text, message):
    """Refuses fields that the .proto does not name: a server sends none."""
    return json_format.Parse(text, message)


def frame(kind, request_id=0, **fields):
    """A ClientFrame of one kind; an empty message still sets the kind."""
    out = ClientFrame(id=request_id)
    part = getattr(out, kind)
    part.SetInParent()
    part.MergeFrom(type(part)(**fields))
    return out


def b64(data):
    return base64.b64encode(data).decode()


def unb64(text):
    return base64.b64decode(text, validate=True)
