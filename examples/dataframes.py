"""Tables and arrays at another site, read and written by pandas and xarray.

    python examples/dataframes.py --config FILE dwcp://PEER/EXPORT/DIRECTORY

Writes a table as CSV and a data set as NetCDF there, then reads some of each back: of the NetCDF file only the parts
that are used. Needs pandas, xarray, h5netcdf with h5py, and the extra fsspec.
"""

from __future__ import annotations

import argparse
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import xarray as xr


def table(url: str, **options: Any) -> None:
    frame = pd.DataFrame({"station": ["a", "b", "c"] * 100, "level": np.arange(300.0)})
    frame.to_csv(url, index=False, storage_options=options)
    again = pd.read_csv(url, storage_options=options)
    for station, level in again.groupby("station")["level"].mean().items():
        print(f"station {station}: {level:g}")


def arrays(url: str, **options: Any) -> None:
    fs, path = fsspec.url_to_fs(url, **options)
    field = np.random.default_rng(1).random((100, 200, 200))
    made = xr.Dataset({"field": (("time", "y", "x"), field)})
    with fs.open(path, "wb") as file:
        file.write(bytes(made.to_netcdf(engine="h5netcdf", encoding={"field": {"chunksizes": (1, 200, 200)}})))
    with fs.open(path, "rb", cache_type="none") as file, xr.open_dataset(file, engine="h5netcdf") as found:
        day = found["field"].isel(time=42).load()
        print(f"one of {found.sizes['time']} steps is as it was: {np.array_equal(day.values, field[42])}")


def main(url: str, **options: Any) -> None:
    table(f"{url}/levels.csv", **options)
    arrays(f"{url}/field.nc", **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write and read tables and arrays at a peer.")
    parser.add_argument("--config", help="as of dwcp")
    parser.add_argument("url", metavar="dwcp://PEER/EXPORT/DIRECTORY")
    arguments = parser.parse_args()
    main(arguments.url, config=arguments.config)
