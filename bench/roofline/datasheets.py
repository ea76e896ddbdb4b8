"""Peak rates from data sheets: dense matrix products, without sparsity, and memory bandwidth.

By the driver's full name of a device: an "NVIDIA H100 NVL" is not an "NVIDIA H100 PCIe". A device without an entry has
no data-sheet ceiling (None, printed as n/a). To add one, copy its numbers and name the source.

Sources: NVIDIA's data sheets of the A100, H100, H200 and L4 Tensor Core GPUs; numbers with sparsity are halved. CPUs
are missing: no maker publishes their clock under matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSheet:
    """FLOP/s by precision, and bytes/s."""

    operations: dict[str, float]
    bandwidth: float


A100 = {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12}
H100_SXM = {"bfloat16": 989e12, "tf32": 494e12, "float32": 67e12}
H100_PCIE = {"bfloat16": 756e12, "tf32": 378e12, "float32": 51e12}

DATA_SHEETS: dict[str, DataSheet] = {
    "NVIDIA A100-SXM4-40GB": DataSheet(A100, 1555e9),
    "NVIDIA A100-PCIE-40GB": DataSheet(A100, 1555e9),
    "NVIDIA A100-SXM4-80GB": DataSheet(A100, 2039e9),
    "NVIDIA A100 80GB PCIe": DataSheet(A100, 1935e9),
    "NVIDIA H100 80GB HBM3": DataSheet(H100_SXM, 3350e9),
    "NVIDIA H100 PCIe": DataSheet(H100_PCIE, 2000e9),
    "NVIDIA H200": DataSheet(H100_SXM, 4800e9),
    "NVIDIA L4": DataSheet({"bfloat16": 121e12, "tf32": 60e12, "float32": 30.3e12}, 300e9),
}


def data_sheet_rate(device_name: str, precision: str) -> float | None:
    """Peak FLOP/s; None if unknown."""
    sheet = DATA_SHEETS.get(device_name)
    return None if sheet is None else sheet.operations.get(precision)


def data_sheet_bandwidth(device_name: str) -> float | None:
    """Peak bytes/s; None if unknown."""
    sheet = DATA_SHEETS.get(device_name)
    return None if sheet is None else sheet.bandwidth
