"""`nox -s bench`: every workload, contender and device measured, one result file for each device."""
