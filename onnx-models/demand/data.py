"""Reads the traces."""

import numpy as np
import pyarrow.parquet as pq

BITBRAINS = ("bitbrains_rnd_2013-08_120vms.parquet", "vm")
ASD = ("asd_12servers.parquet", "server")
BITBRAINS_METRICS = ["cpu_pct", "mem_mib", "net_rx_kbs", "net_tx_kbs", "disk_r_kbs", "disk_w_kbs"]
ASD_METRICS = [f"m{i:02}" for i in range(19)]
BITBRAINS_START = 1_375_308_000 + 7_200  # step 0, local time of the data centre (CEST)
# Another series of the same VM that stands in for what its users do.
COMPANION = {m: "cpu_pct" if m == "net_rx_kbs" else "net_rx_kbs" for m in BITBRAINS_METRICS}


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


def planetlab(folder):
    """VM-days [n, 288] of CPU per cent, float32."""
    table = pq.read_table(folder / "planetlab_cpu.parquet")
    names = [f"s{i:03}" for i in range(288)]
    return np.column_stack([table[name].to_numpy() for name in names]).astype(np.float32)
