"""Problems, peers and timings, one module per system: `python -m benchmarks market`."""
