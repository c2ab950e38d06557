"""The commands of `sequence-runner`, one module per concern; heavy imports wait until a command runs."""
