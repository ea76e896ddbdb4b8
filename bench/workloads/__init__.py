"""Workloads, and their FLOPs and bytes."""
