"""`nox -s bench`: measure all workloads and contenders on each device; one result file per device."""
