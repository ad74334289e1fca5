"""The members of an uncompressed zip file, as torch.save writes it: where each lies, and nothing
hidden between.

Not a general zip reader. The container is accepted only if it is data through and through: members
stored as they are (no compression, no encryption), one after another from byte 0, no comment, no
byte behind the end, the same name in the directory and in front of the data. Format: PKWARE
APPNOTE 6.3.10.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bobot.checkpoints.mapped import MappedFile
from bobot.checkpoints.stored import shown
from bobot.errors import CheckpointError, UnsafeFileError

MAX_DIRECTORY_BYTES = 16 << 20
CRC_CHUNK_BYTES = 16 << 20

_END = struct.Struct("<4s4H2IH")
_LOCATOR_64 = struct.Struct("<4sIQI")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_MAX_16, _MAX_32 = 0xFFFF, 0xFFFFFFFF
_MAX_DESCRIPTOR_BYTES = 24
_HAS_DESCRIPTOR, _IS_UTF8 = 1 << 3, 1 << 11


@dataclass(frozen=True)
class Member:
    name: str
    crc: int
    num_bytes: int
    header_start: int
    start: int


def read_members(file: MappedFile) -> dict[str, Member]:
    """Every member by name. Raises CheckpointError for damage, UnsafeFileError for what is odd."""
    position, stop, count = _directory(file)
    members: dict[str, Member] = {}
    for member in _entries(file, position, stop):
        if member.name in members:
            raise UnsafeFileError(
                "{file}: two members are called {name}", file=file.path, name=shown(member.name)
            )
        members[member.name] = member
    if len(members) != count:
        raise _damaged(file, f"{len(members)} members in the directory, {count} announced")
    _check_order(file, list(members.values()), position)
    return members


def verify(file: MappedFile, member: Member) -> None:
    """Compare the member's bytes with its checksum."""
    crc = 0
    for start in range(0, member.num_bytes, CRC_CHUNK_BYTES):
        stop = min(start + CRC_CHUNK_BYTES, member.num_bytes)
        crc = zlib.crc32(file.buffer()[member.start + start : member.start + stop], crc)
    if crc != member.crc:
        raise CheckpointError(
            "{file}: the checksum of {name} is {found:08x}, but {wanted:08x} is written there",
            hint="The file is damaged; download it again.",
            file=file.path,
            name=shown(member.name),
            found=crc,
            wanted=member.crc,
        )


def _directory(file: MappedFile) -> tuple[int, int, int]:
    """Where the central directory starts and stops, and how many entries it should have."""
    end = max(file.size - _END.size, 0)
    fields = _unpack(file, _END, end, b"PK\5\6")
    _, disk, start_disk, count_here, count, num_bytes, start, comment_bytes = fields
    if comment_bytes or disk or start_disk or count_here != count:
        raise _damaged(file, "it has a comment or is one of several volumes")
    if file.read(end - _LOCATOR_64.size, end - _LOCATOR_64.size + 4) == b"PK\6\7":
        _, _, end_64, _ = _unpack(file, _LOCATOR_64, end - _LOCATOR_64.size, b"PK\6\7")
        if end_64 + _END_64.size + _LOCATOR_64.size != end:
            raise _damaged(file, "there are bytes after its directory")
        end = end_64
        narrow = [(count, _MAX_16), (num_bytes, _MAX_32), (start, _MAX_32)]
        count, num_bytes, start = _unpack(file, _END_64, end, b"PK\6\6")[7:]
        wide = (count, num_bytes, start)
        if any(a not in (b, top) for (a, top), b in zip(narrow, wide, strict=True)):
            raise _damaged(
                file,
                f"its two directory ends say different things: {narrow[0][0]} entries and {count}",
            )
    if start + num_bytes != end or num_bytes > MAX_DIRECTORY_BYTES:
        raise _damaged(file, f"a directory of {num_bytes} bytes at {start} can't end at {end}")
    return start, end, count


def _entries(file: MappedFile, position: int, stop: int) -> Iterator[Member]:
    while position < stop:
        fields = _unpack(file, _ENTRY, position, b"PK\1\2")
        flags, method, crc, packed, size = fields[3], fields[4], *fields[7:10]
        name_bytes, extra_bytes, comment_bytes, header_start = *fields[10:13], fields[16]
        name_start = position + _ENTRY.size
        extra_start = name_start + name_bytes
        position = extra_start + extra_bytes + comment_bytes
        if position > stop:
            raise _damaged(file, "an entry of its directory is cut off")
        raw_name = file.read(name_start, extra_start)
        extra = file.read(extra_start, extra_start + extra_bytes)
        size, packed, header_start = _wide(extra, [size, packed, header_start])
        name = raw_name.decode("utf-8", errors="replace")
        if flags & ~(_HAS_DESCRIPTOR | _IS_UTF8) or method != 0 or packed != size:
            raise UnsafeFileError(
                "{file}: member {name} is compressed or encrypted; allowed: stored as it is",
                file=file.path,
                name=shown(name),
            )
        start = _data_start(file, header_start, raw_name, flags, method)
        yield Member(name, crc, size, header_start, start)


def _data_start(
    file: MappedFile, header_start: int, raw_name: bytes, flags: int, method: int
) -> int:
    fields = _unpack(file, _LOCAL, header_start, b"PK\3\4")
    name_start = header_start + _LOCAL.size
    name_stop = name_start + fields[9]
    same = (fields[2], fields[3]) == (flags, method)
    if not same or file.read(name_start, name_stop) != raw_name:
        raise UnsafeFileError(
            "{file}: member {name} is called or packed otherwise in front of its data",
            file=file.path,
            name=shown(raw_name.decode("utf-8", errors="replace")),
        )
    return name_stop + fields[10]


def _wide(extra: bytes, values: list[int]) -> list[int]:
    """`values` with those that do not fit 32 bits taken from the zip64 extra field (id 1)."""
    position = 0
    while position + 4 <= len(extra):
        kind, num_bytes = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == 1:
            numbers = iter(
                struct.iter_unpack("<Q", extra[position : position + num_bytes // 8 * 8])
            )
            return [next(numbers, (v,))[0] if v == _MAX_32 else v for v in values]
        position += num_bytes
    return values


def _check_order(file: MappedFile, members: list[Member], directory_start: int) -> None:
    """From byte 0 to the directory there are only members and their data descriptors."""
    position = 0
    for member in sorted(members, key=lambda member: member.header_start):
        gap = member.header_start - position
        if not 0 <= gap <= (_MAX_DESCRIPTOR_BYTES if position else 0):
            raise UnsafeFileError(
                "{file}: member {name} overlaps another one, or bytes are hidden in front of it",
                file=file.path,
                name=shown(member.name),
            )
        position = member.start + member.num_bytes
    if not 0 <= directory_start - position <= _MAX_DESCRIPTOR_BYTES:
        raise _damaged(file, "bytes are hidden or missing in front of its directory")


def _unpack(file: MappedFile, form: struct.Struct, start: int, magic: bytes) -> tuple:
    data = file.read(start, start + form.size) if start >= 0 else b""
    if len(data) != form.size or not data.startswith(magic):
        raise _damaged(file, f"no {magic!r} at byte {start}")
    return form.unpack(data)


def _damaged(file: MappedFile, reason: str) -> CheckpointError:
    return CheckpointError(
        "{file} is not a whole zip file: {reason}",
        hint="The download is incomplete or damaged; download it again.",
        file=Path(file.path),
        reason=reason,
    )
