"""`python -m raidhub_dagster`: the command line for processes that know their interpreter only."""

from raidhub_dagster.cli import main

main()
