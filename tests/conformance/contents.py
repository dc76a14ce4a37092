"""Fixtures of the suite that return content which no tool of ours returns."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

Json = dict[str, Any]


def _chunk(name: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def _png() -> bytes:
    """One red pixel."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\x00\xff\x00\x00")
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", pixel) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _wav() -> bytes:
    """Eight samples of silence."""
    samples = bytes([128] * 8)
    form = struct.pack("<HHIIHH", 1, 1, 8_000, 8_000, 1, 8)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


PNG = base64.b64encode(_png()).decode()
WAV = base64.b64encode(_wav()).decode()
IMAGE: Json = {"type": "image", "data": PNG, "mimeType": "image/png"}


def text(said: str) -> Json:
    """A block of text."""
    return {"type": "text", "text": said}


def embedded(uri: str, kind: str, said: str) -> Json:
    """A resource inside a message."""
    return {"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": said}}


def complete(*blocks: Json) -> Json:
    """A tool's result."""
    return {"content": list(blocks), "isError": False, "resultType": "complete"}


SCHEMA_TOOL = "json_schema_2020_12_tool"
# All that the suite looks for in a list; ours keep to less, so that every host takes them.
SCHEMA: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
CONTENTS: dict[str, Json] = {
    SCHEMA_TOOL: complete(text("a schema was listed")),
    "test_image_content": complete(IMAGE),
    "test_audio_content": complete({"type": "audio", "data": WAV, "mimeType": "audio/wav"}),
    "test_embedded_resource": complete(embedded("test://embedded", "text/plain", "inside")),
    "test_multiple_content_types": complete(
        text("three kinds"), IMAGE, embedded("test://mixed", "application/json", '{"value": 1}')
    ),
    "test_logging_tool": complete(text("nothing was logged")),
    "test_streaming_elicitation": complete(text("nobody was asked")),
}
