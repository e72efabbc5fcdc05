"""What is read out of a log of valgrind: an error counts for the image that was decoded, if a decoder made it."""

from __future__ import annotations

from memory_check import read_log

LOG = """
==12== Conditional jump or move depends on uninitialised value(s)
==12==    at 0x51: PyLong_FromLong (in /usr/bin/python3)
==12==
@@ pillow/a.tif
==12== Invalid read of size 4
==12==    at 0x4A: memcpy (in /usr/lib/libc.so.6)
==12==    by 0x4B: opj_decode (in /site/pillow.libs/libopenjp2.so.2)
==12==  Address 0x5f is 0 bytes after a block of size 10 alloc'd
==12==    at 0x4C: malloc (vg_replace_malloc.c:381)
==12==
==12== Warning: set address range perms: large range
==12==
==12== Syscall param write(buf) points to uninitialised byte(s)
==12==    at 0x51: write (in /usr/lib/libc.so.6)
==12==    by 0x52: _io_FileIO_write (in /usr/bin/python3)
==12==  Address 0x60 is 0 bytes inside a block of size 90 alloc'd
==12==    at 0x53: malloc (vg_replace_malloc.c:381)
==12==
@@
@@ pillow/b.tif
@@
"""


def test_errors_of_decoders_are_told_by_image_and_others_are_counted() -> None:
    tried, found, elsewhere = read_log((line.rstrip() for line in LOG.splitlines()), 0)
    assert (tried, elsewhere) == (2, 1)
    assert found == {
        (
            "pillow/a.tif",
            "Invalid read of size 4 at opj_decode (in /site/pillow.libs/libopenjp2.so.2)",
        ): 1,
        (
            "pillow/a.tif",
            "Syscall param write(buf) points to uninitialised byte(s) at write (in /usr/lib/libc.so.6)",
        ): 1,
    }


def test_a_process_that_ends_early_is_found_at_its_image() -> None:
    lines = [line.rstrip() for line in LOG.splitlines()]
    tried, found, _ = read_log(lines[: lines.index("@@ pillow/b.tif") + 1], 1)
    assert tried == 2
    assert found["pillow/b.tif", "the process ended with 1"] == 1
