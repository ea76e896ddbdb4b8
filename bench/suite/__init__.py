"""Run a plan on a device, proofs before times: the engine of `nox -s bench` and of `nox -s compare`."""
