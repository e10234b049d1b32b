"""The cache of keys and values in blocks: who holds which, attention over them, and a decoder that runs on them.

`blocks` counts, `attention` multiplies, `runner` joins both with a model. Scheduling is `edgeinfer.memory.serving`.
"""

from typing import TYPE_CHECKING, Any

from edgeinfer.memory.paging.blocks import BlockManager, Copy, OutOfBlocks

if TYPE_CHECKING:
    from edgeinfer.memory.paging.attention import paged_attention
    from edgeinfer.memory.paging.runner import PagedRunner, Work

__all__ = ["BlockManager", "Copy", "OutOfBlocks", "PagedRunner", "Work", "paged_attention"]


def __getattr__(name: str) -> Any:
    # Counting blocks needs neither torch nor a compiler.
    if name in ("PagedRunner", "Work"):
        from edgeinfer.memory.paging import runner

        return getattr(runner, name)
    if name == "paged_attention":
        from edgeinfer.memory.paging.attention import paged_attention

        return paged_attention
    raise AttributeError(name)
