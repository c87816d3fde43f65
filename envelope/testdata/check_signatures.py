#!/usr/bin/env python3
"""A third implementation of envelope signatures, with nothing but the standard
library: reads signatures.json beside it and says where it disagrees.

    python3 envelope/testdata/check_signatures.py
"""

import hashlib
import hmac
import json
import pathlib


class Refused(Exception):
    pass


def varint(data, pos):
    value = 0
    for i in range(10):
        if pos >= len(data):
            raise Refused("envelope")
        byte = data[pos]
        value |= (byte & 0x7F) << (7 * i)
        pos += 1
        if byte < 0x80:
            if value >= 1 << 64:
                raise Refused("envelope")
            return value, pos
    raise Refused("envelope")


def fields(data, types, repeated=()):
    """Yields (number, raw bytes with the tag, value), and checks."""
    pos, seen = 0, set()
    while pos < len(data):
        start = pos
        tag, pos = varint(data, pos)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag >= 1 << 32:
            raise Refused("envelope")
        want = types.get(number)
        if wire == 0:
            value, pos = varint(data, pos)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, pos = data[pos : pos + size], pos + size
        elif wire == 2:
            size, pos = varint(data, pos)
            value, pos = data[pos : pos + size], pos + size
        else:
            raise Refused("envelope")
        if pos > len(data):
            raise Refused("envelope")
        if want is not None:
            if wire != (0 if want == "number" else 2):
                raise Refused("envelope")
            if number in seen and number not in repeated:
                raise Refused("envelope")
            seen.add(number)
            if want == "text":
                try:
                    value.decode("utf-8")
                except UnicodeDecodeError:
                    raise Refused("envelope") from None
        yield number, data[start:pos], value


ENVELOPE = {1: "bytes", 2: "bytes", 3: "bytes", 4: "bytes", 97: "bytes", 99: "bytes"}
METADATA = {n: "text" for n in (1, 2, 3, 6, 10, 11, 14)} | {n: "number" for n in (4, 5, 7, 8, 9, 13)} | {12: "bytes"}
SECURITY = {n: "text" for n in (1, 2, 3, 4, 5, 6, 7, 10)} | {8: "bytes", 9: "number", 11: "bytes", 12: "number", 13: "number"}

ENCRYPTION = {1: "number", 2: "text", 3: "bytes"}
TEXTS = {1: "text", 2: "text"}
OTHERS = {
    3: {1: "text", 2: "text", 3: "text", 4: "number", 5: "bytes", 6: "bytes"},
    4: {1: "text", 2: "number", 3: "text", 4: "number", 5: "bytes"},
    97: {1: "text", 2: "bytes"},
}


def check(data, types):
    """Checks a message in which a field may be there twice; the last one counts."""
    for number, _, value in fields(data, types, types):
        if types is OTHERS[3] and number in (5, 6):
            check(value, TEXTS)


def minimal(n):
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def verify(wire, keys):
    """Returns (verdict, covered bytes, expected signature)."""
    covered, payload, security = b"prism-envelope-1\0", b"", {}
    for number, raw, value in fields(wire, ENVELOPE, {97}):
        if number == 99:
            payload = value
        elif number == 2:
            kept = b""
            for inner, inner_raw, inner_value in fields(value, SECURITY, {5}):
                security[inner] = inner_value
                if inner == 11:
                    check(inner_value, ENCRYPTION)
                if inner not in (7, 8):
                    kept += inner_raw
            covered += b"\x12" + minimal(len(kept)) + kept
        else:
            if number == 1:
                check(value, METADATA)
            elif number in OTHERS:
                check(value, OTHERS[number])
            covered += raw
    covered += hashlib.sha256(payload).digest()
    if not security.get(8):
        return "security.signature", covered, None
    if security.get(9) != 1:
        return "security.signature_algorithm", covered, None
    key = keys.get(security.get(10, b"").decode())
    if key is None:
        return "security.signing_key_id", covered, None
    want = hmac.new(key, covered, hashlib.sha256).digest()
    good = hmac.compare_digest(want, security[8])
    return "good" if good else "security.signature", covered, want


def main():
    path = pathlib.Path(__file__).with_name("signatures.json")
    file = json.loads(path.read_text())
    keys = {name: bytes.fromhex(key) for name, key in (file["current"] | file["previous"]).items()}
    wrong = 0
    for v in file["vectors"]:
        try:
            verdict, covered, want = verify(bytes.fromhex(v["wire"]), keys)
        except Refused as refused:
            verdict, covered, want = str(refused), None, None
        problems = []
        if verdict != v["verdict"]:
            problems.append(f"{verdict}, not {v['verdict']}")
        if covered is not None and hashlib.sha256(covered).hexdigest() != v["signed"]:
            problems.append("other bytes are covered")
        if want is not None and want.hex() != v["mac"]:
            problems.append("another signature")
        wrong += bool(problems)
        if problems:
            print(f"{v['name']}: {'; '.join(problems)}")
    print(f"{len(file['vectors'])} vectors, {wrong} disagreements")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
