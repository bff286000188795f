"""Memory for the sites that a trace keeps."""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

_HUGE_PAGE = 2 * 2**20


def empty_buffer(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An empty tensor of this shape, in huge pages where the system has them.

    The system causes most of the cost of a large site: it hands out fresh memory in pages of 4 KB, each at its first touch.
    With pages of 2 MB it does so 512 times less often. The last page is a huge one only if at least half of it is used.
    """
    count = torch.Size(shape).numel()
    size = count * like.element_size()
    pages, rest = divmod(size, _HUGE_PAGE)
    # A huge page that is less than half used would waste more memory than it saves time.
    pages += 2 * rest >= _HUGE_PAGE
    if like.device.type != "cpu" or pages < 2 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return like.new_empty(shape)
    # Linux puts a mapping where its huge pages can lie only if its length is a multiple of theirs.
    length = -(-size // _HUGE_PAGE) * _HUGE_PAGE
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel built without huge pages: the memory is as good, only slower to get
        memory.madvise(mmap.MADV_HUGEPAGE, 0, pages * _HUGE_PAGE)
    return torch.frombuffer(memory, dtype=like.dtype, count=count).view(shape)
