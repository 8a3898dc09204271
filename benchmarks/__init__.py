"""Every figure in the documentation, measured on this machine: ``python -m benchmarks [NAME ...]``."""
