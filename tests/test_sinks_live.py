"""What other processes see of a store that is being written, or ran into a limit."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from opm_engine.writers.shards import file as shard_file
from opm_engine.writers.shards.sink import Codec
from opm_engine.writers.shards.sinks import open_sink
from sharding import (
    Lines,
    new_array,
    places_of,
    planes_layout,
    put_planes,
    readings,
    truth,
)

TESTS = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shard_file.pwrite is None, reason="nothing can be appended on this platform"
    ),
]

READER = """
import json, mmap, random, sys
import numpy as np, tensorstore, zarr
from sharding import places_of, planes_layout, truth

folder, counter, layout, order = sys.argv[1], sys.argv[2], *json.loads(sys.argv[3])
layout = planes_layout(*layout)
pixels, places = truth(layout), places_of(layout, order)
array = zarr.open_array(folder, mode="r")
kvstore = {"driver": "file", "path": folder + "/"}

def by_zarr(where):
    return array[where]

def by_tensorstore(where):
    spec = {"driver": "zarr3", "kvstore": kvstore}
    store = tensorstore.open(spec, recheck_cached_data=True).result()
    return store[where].read().result()

def right(reader, where):
    for attempt in range(2):
        try:
            return bool((reader(where) == pixels[where]).all())
        except ValueError as error:
            if attempt or "hecksum" not in str(error):
                raise

print("ready", flush=True)
reads = 0
with open(counter, "rb") as file:
    count = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    while (n := int.from_bytes(count[:8], "little")) < len(places):
        if n:
            for number in (n - 1, random.randrange(n)):
                place = places[number]
                where = place.t, place.channel, place.plane
                reader = (by_zarr, by_tensorstore)[reads % 2]
                assert right(reader, where), (number, n, reader)
                reads += 1
print(reads)
"""


@pytest.mark.parametrize("y", [40, 128], ids=["buffered", "direct"])
def test_another_process_reads_every_acknowledged_frame(tmp_path: Path, y: int) -> None:
    sizes = (2, 2, 40, 16, y, 600)
    layout = planes_layout(*sizes)
    folder, counter = new_array(tmp_path / "0", layout, "lz4"), tmp_path / "counter"
    counter.write_bytes(bytes(8))
    command = [sys.executable, "-c", READER, folder, counter]
    command.append(json.dumps([sizes, "interleaved"]))
    with (
        subprocess.Popen(
            command,
            cwd=TESTS,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as reader,
        counter.open("r+b") as file,
    ):
        count = mmap.mmap(file.fileno(), 8)
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        sink = open_sink([folder], [layout], "lz4", Lines(), backend="append")
        pixels = truth(layout)
        for place in places_of(layout, "interleaved"):
            put_planes(sink, pixels, [place])
            count[:8] = sink.acknowledged.to_bytes(8, "little")
            time.sleep(0.005)
        sink.close()
        count[:8] = sink.acknowledged.to_bytes(8, "little")
        reads, errors = reader.communicate(timeout=30)
        count.close()
    assert reader.returncode == 0, errors
    assert int(reads) > 10


LIMITED = """
import json, resource, sys
from pathlib import Path
from opm_engine.writers.shards.sinks import open_sink
from sharding import Lines, places_of, planes_layout, put_planes, truth

folder, codec, sizes, limit = Path(sys.argv[1]), *json.loads(sys.argv[2])
layout, lines = planes_layout(*sizes), Lines()
sink = open_sink([folder], [layout], codec, lines, backend="append")
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    put_planes(sink, truth(layout), places_of(layout, "interleaved"))
    sink.flush()
except OSError as error:
    number = error.errno
try:
    sink.close()
except OSError as error:
    assert error.errno == number
print(json.dumps([number, lines.places]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_a_limit_of_the_system_costs_nothing_that_was_acknowledged(
    tmp_path: Path, codec: Codec
) -> None:
    sizes = (1, 1, 40, 40, 64, 600)
    layout = planes_layout(*sizes)
    folder = new_array(tmp_path / "0", layout, codec)
    limit = 2_000_001 if codec == "none" else 81_921
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, folder, json.dumps([codec, sizes, limit])],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    number, places = json.loads(done.stdout)
    assert number > 0
    assert 0 < len(places) < 40
    expected = np.zeros_like(truth(layout))
    expected[0, 0, : len(places)] = truth(layout)[0, 0, : len(places)]
    for pixels in readings(folder).values():
        assert np.array_equal(pixels, expected)
