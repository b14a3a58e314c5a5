"""What the data path costs: covey beside the routers that people use, in one run. See docs/benchmarks/datapath.md."""
