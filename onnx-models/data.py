"""The traces, read without pandas: one mapping of metric to values per series."""

import numpy as np
import pyarrow.parquet as pq

BITBRAINS = ("bitbrains_rnd_2013-08_120vms.parquet", "vm")
ASD = ("asd_12servers.parquet", "server")


def series(folder, source, metrics):
    """Yields (key, {metric: float32 values by step, NaN where missing}), ordered by key."""
    file, key = source
    table = pq.read_table(folder / file, columns=[key, "step", *metrics])
    table = table.sort_by([(key, "ascending"), ("step", "ascending")])
    keys = table[key].to_numpy()
    columns = {metric: table[metric].to_numpy().astype(np.float32) for metric in metrics}
    edges = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1), len(keys)]
    for begin, end in zip(edges, edges[1:]):
        yield keys[begin], {metric: values[begin:end] for metric, values in columns.items()}
