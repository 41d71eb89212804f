"""Speed of the simulator beside other libraries, all in one run: `python -m benchmarks.simulator`."""
