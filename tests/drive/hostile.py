"""Puts the checksums of a changed .scenes file right, as somebody who means harm would."""
import struct
import zlib

import numpy as np

from fastvec.drive.scenes import compact


def with_checksums(data):
    """Changes a bytearray in place; what its header and index point to is summed as far as it is there."""
    header, size = compact._HEADER, len(data)
    *fields, _, _ = header.unpack_from(data)
    count, offset = fields[3], fields[4]
    if offset + count * compact._INDEX.itemsize <= size:
        index = np.frombuffer(data, compact._INDEX, count, offset).copy()
        for row in index:
            begin, nbytes = min(int(row["offset"]), size), min(int(row["nbytes"]), size)
            row["checksum"] = zlib.crc32(bytes(data[begin:begin + nbytes]))
        data[offset:offset + index.nbytes] = index.tobytes()
    head = header.pack(*fields, zlib.crc32(bytes(data[offset:])), 0)[:-4]
    data[:header.size] = head + struct.pack("=I", zlib.crc32(head))
