"""Programs that know nothing of this one read and write through it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support import Pair, random_file

pytest.importorskip("fsspec", reason="fsspec is not installed (extra fsspec)")


@pytest.fixture
def options(pair: Pair) -> dict[str, str]:
    path = pair.directory / "config.yaml"
    path.write_text(yaml.safe_dump(pair.config.model_dump(mode="json", exclude_unset=True)))
    return {"config": str(path)}


def test_pandas(pair: Pair, options: dict[str, str]) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"number": range(1000), "text": [f"line {n}" for n in range(1000)]})
    for name in ("table.csv", "table.csv.gz"):
        frame.to_csv(f"dwcp://b/inbox/{name}", index=False, storage_options=options)
        assert pandas.read_csv(f"dwcp://b/inbox/{name}", storage_options=options).equals(frame)
    assert pandas.read_csv(pair.inbox / "table.csv").equals(frame)


def test_xarray_reads_only_what_it_uses(pair: Pair, options: dict[str, str]) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    pytest.importorskip("h5py", reason="h5py is not installed")
    pytest.importorskip("h5netcdf", reason="h5netcdf is not installed")
    numpy = pytest.importorskip("numpy")
    import fsspec

    field = numpy.random.default_rng(1).random((200, 100, 100))
    made = xarray.Dataset({"field": (("time", "y", "x"), field)})
    made.to_netcdf(pair.inbox / "field.nc", engine="h5netcdf", encoding={"field": {"chunksizes": (1, 100, 100)}})
    fs, path = fsspec.url_to_fs("dwcp://b/inbox/field.nc", **options)
    before = pair.server.counters().bytes_sent
    with fs.open(path, cache_type="none") as file, xarray.open_dataset(file, engine="h5netcdf") as found:
        assert numpy.array_equal(found["field"].isel(time=42).values, field[42])
    assert pair.server.counters().bytes_sent - before < field.nbytes / 10
    fs.close()


def test_dask_reads_blocks_and_writes_parts(pair: Pair, options: dict[str, str]) -> None:
    pytest.importorskip("dask", reason="dask is not installed")
    import dask.bag
    from dask.bytes import read_bytes

    content = random_file(pair.inbox / "big", 3_000_000)
    _, blocks = read_bytes("dwcp://b/inbox/big", blocksize=1_000_000, sample=False, **options)
    assert b"".join(block.compute() for block in blocks[0]) == content
    lines = dask.bag.from_sequence([f"line {number}" for number in range(100)], npartitions=4)
    lines.to_textfiles("dwcp://b/inbox/parts/*.txt", storage_options=options)
    again = dask.bag.read_text("dwcp://b/inbox/parts/*.txt", storage_options=options).compute()
    assert [line.strip() for line in again] == [f"line {number}" for number in range(100)]


def test_zarr(pair: Pair, options: dict[str, str]) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    numpy = pytest.importorskip("numpy")
    field = numpy.arange(10_000.0).reshape(100, 100)
    made = zarr.create_array(
        "dwcp://b/inbox/field.zarr", shape=field.shape, chunks=(10, 100), dtype=field.dtype, storage_options=options
    )
    made[:] = field
    found = zarr.open_array("dwcp://b/inbox/field.zarr", mode="r", storage_options=options)
    assert numpy.array_equal(found[20:30], field[20:30])
    assert len(list((pair.inbox / "field.zarr" / "c").rglob("*"))) >= 10


# fsspec leaves the file of a cache to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cache_in_front_reads_each_block_once(pair: Pair, options: dict[str, str], tmp_path: Path) -> None:
    import fsspec

    content = random_file(pair.inbox / "big", 3_000_000)
    cached = fsspec.filesystem(
        "blockcache", target_protocol="dwcp", target_options=options, cache_storage=str(tmp_path / "cache")
    )
    for _ in range(2):
        with cached.open("b/inbox/big", block_size=100_000) as file:
            file.seek(1_000_000)
            assert file.read(100) == content[1_000_000:1_000_100]
        sent = pair.server.counters().bytes_sent
    with cached.open("b/inbox/big", block_size=100_000) as file:
        file.seek(1_000_050)
        assert file.read(10) == content[1_000_050:1_000_060]
    assert pair.server.counters().bytes_sent - sent < 100_000
