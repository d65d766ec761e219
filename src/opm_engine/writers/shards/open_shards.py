"""`OpenShards`: the few shards that are being appended to.

Separate from the appender, which queues and encodes, so that a file's life can be seen
in one piece: opened when its first chunk comes, closed with its last, or when others
were used more recently. Knows paths; no pixels. One thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from opm_engine.writers.shards.encoding import Bytes
from opm_engine.writers.shards.file import ShardFile
from opm_engine.writers.shards.layout import Layout, ShardKey, shard_path

MIN_OPEN = 4
"""As many shards are kept open at least; one per channel, if there are more."""


class _Open(NamedTuple):
    file: ShardFile
    n_chunks: int


class OpenShards:
    """Appends to shards in any order; holds a bounded number of them open.

    Parameters
    ----------
    folders : sequence of Path
        The array's folder of each position.
    layouts : sequence of Layout
        Of each position.
    block : int
        As `file.probe` returned it.
    """

    def __init__(
        self, folders: Sequence[Path], layouts: Sequence[Layout], block: int
    ) -> None:
        self._folders = folders
        self._layouts = layouts
        self._block = block
        self._most = max(MIN_OPEN, *(layout.shape[1] for layout in layouts))
        self._open: OrderedDict[tuple[int, ShardKey], _Open] = OrderedDict()

    def append(
        self,
        position: int,
        key: ShardKey,
        buffer: Bytes,
        numbers: Sequence[int],
        sizes: Sequence[int],
    ) -> None:
        """Append chunks to a shard; see `ShardFile.append`.

        Raises
        ------
        OSError
            If they could not be written.
        ValueError
            If the shard exists and is torn.
        """
        shard = self._open.get((position, key))
        if shard is None:
            shard = self._open_shard(position, key)
        self._open.move_to_end((position, key))
        shard.file.append(buffer, numbers, sizes)
        if shard.file.n_written == shard.n_chunks:
            del self._open[position, key]
            shard.file.close()

    def close(self) -> None:
        """Close all.

        Raises
        ------
        OSError
            The last one, if there were some; all that can be closed are.
        """
        error: OSError | None = None
        while self._open:
            try:
                self._open.popitem()[1].file.close()
            except OSError as failed:
                error = failed
        if error is not None:
            raise error

    def _open_shard(self, position: int, key: ShardKey) -> _Open:
        if len(self._open) >= self._most:
            _, oldest = self._open.popitem(last=False)
            oldest.file.close()
        layout = self._layouts[position]
        path = shard_path(self._folders[position], key)
        file = ShardFile(path, layout.n_chunks, self._block)
        shard = _Open(file, layout.n_chunks_of(key))
        self._open[position, key] = shard
        return shard
