"""`python -m simulator`: the same as `raidhub simulate`."""

from simulator.cli import simulate

simulate(prog_name="python -m simulator")
